//! What a client tells about its calls, for metrics.
//!
//! Guarantees: an observer hears of each attempt exactly once, when it is over.

use std::time::Duration;

/// One attempt of a call that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallReport {
    /// The operation's name, such as `restore`.
    pub operation: &'static str,
    /// `200`, the error's status, or one word ([`ControlPlaneError::label`](crate::ControlPlaneError::label)).
    pub outcome: String,
    /// How long the attempt took.
    pub took: Duration,
}

/// Hears of a client's calls.
pub trait Observer: Send + Sync + 'static {
    /// A restore is about to be asked for.
    fn restore_requested(&self) {}

    /// An attempt is over.
    fn call_ended(&self, report: CallReport);
}

/// Hears of calls and does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn call_ended(&self, _report: CallReport) {}
}
