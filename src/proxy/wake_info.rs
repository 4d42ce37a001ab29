//! How a request met a wake.
//!
//! Guarantees: a request that was woken for once stays so, also when it is sent again.

use std::time::Duration;

use crate::telemetry::WakeKind;

/// The wake that a request met, if any.
#[derive(Debug, Clone, Copy)]
pub struct WakeInfo {
    /// The kind of wake, as metrics and logs name it.
    pub wake: WakeKind,
    /// The time for which it was held.
    pub held: Duration,
}

// === impl WakeInfo ===

impl Default for WakeInfo {
    fn default() -> Self {
        Self {
            wake: WakeKind::None,
            held: Duration::ZERO,
        }
    }
}

impl WakeInfo {
    /// Records another wake; the one that the request waited for stays.
    pub(super) fn record(&mut self, kind: WakeKind) {
        if !matches!(self.wake, WakeKind::Cold | WakeKind::Joined) {
            self.wake = kind;
        }
    }
}
