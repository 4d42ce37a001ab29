//! What a client tells of its calls, for metrics and logs.
//!
//! Guarantees: an observer hears of each attempt before it is sent and once when it is over, in the
//! task that makes the call. An attempt whose future is dropped is begun and never over. No report
//! has a URL, a key or a body in it.

use std::fmt;
use std::time::Duration;

/// One attempt of a call: a request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// The operation's name, such as `restore`. Each method of [`Client`](crate::Client) says its
    /// own.
    pub operation: &'static str,
    /// The number of the attempt within its call, from 1.
    pub number: u32,
}

/// How an attempt has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The server did what it was asked for, and answered with this status.
    Success {
        /// The HTTP status, 200-299.
        status: u16,
    },
    /// The server answered with an error.
    Refused {
        /// The HTTP status, 300-599.
        status: u16,
    },
    /// The server answered 401 to a key that its file no longer has. The next attempt has the new
    /// key.
    KeyReplaced,
    /// There was no connection.
    Connect,
    /// There was no answer in time.
    Timeout,
    /// The connection broke.
    Transport,
    /// The answer is not what the API says.
    Decode,
    /// The answer is longer than the client reads.
    TooLong,
}

/// Hears of a client's calls.
///
/// Both methods are called within the call itself, so they must be quick and not block.
///
/// ```
/// use std::time::Duration;
///
/// use hypeman::{Attempt, Client, Observer, Outcome};
///
/// struct Log;
///
/// impl Observer for Log {
///     fn attempt_ended(&self, attempt: Attempt, outcome: Outcome, duration: Duration) {
///         println!("{} #{}: {outcome} in {duration:?}", attempt.operation, attempt.number);
///     }
/// }
///
/// let client = Client::builder("http://localhost:4973").observer(Log).build()?;
/// # Ok::<(), hypeman::BuildError>(())
/// ```
pub trait Observer: Send + Sync + 'static {
    /// An attempt is about to be sent.
    fn attempt_began(&self, attempt: Attempt) {
        let _ = attempt;
    }

    /// An attempt is over. `duration` runs from the moment before the request is sent to the
    /// answer's last byte; of a log stream, to the end of the answer's head.
    fn attempt_ended(&self, attempt: Attempt, outcome: Outcome, duration: Duration);
}

/// Hears of calls and does nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NoObserver;

impl Observer for NoObserver {
    fn attempt_ended(&self, _: Attempt, _: Outcome, _: Duration) {}
}

impl<T: Observer + ?Sized> Observer for std::sync::Arc<T> {
    fn attempt_began(&self, attempt: Attempt) {
        (**self).attempt_began(attempt);
    }

    fn attempt_ended(&self, attempt: Attempt, outcome: Outcome, duration: Duration) {
        (**self).attempt_ended(attempt, outcome, duration);
    }
}

impl fmt::Display for Outcome {
    /// The status, or one word: what a metric's label needs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success { status } | Self::Refused { status } => write!(f, "{status}"),
            Self::KeyReplaced => f.write_str("key_replaced"),
            Self::Connect => f.write_str("connect"),
            Self::Timeout => f.write_str("timeout"),
            Self::Transport => f.write_str("transport"),
            Self::Decode => f.write_str("decode"),
            Self::TooLong => f.write_str("too_long"),
        }
    }
}
