//! How a request met a wake.
//!
//! Guarantees: a request that was woken for once stays so, also when it is sent again; the time in
//! which it was held, and the wake that it waited for, are recorded however the wait ends: with the
//! instance, with an error, or with its client's departure.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::WakeKind;

/// The wake that a request met, if any.
#[derive(Debug, Clone, Copy)]
pub struct WakeInfo {
    /// The kind of wake, as metrics and logs name it.
    pub wake: WakeKind,
    /// The time for which it was held.
    pub held: Duration,
    /// The kind of the wake that it waits for now.
    awaited: Option<WakeKind>,
}

/// A request's wait, which counts as held until this is dropped.
pub(super) struct Holding<'a> {
    wake: &'a mut WakeInfo,
    since: Instant,
}

// === impl WakeInfo ===

impl Default for WakeInfo {
    fn default() -> Self {
        Self {
            wake: WakeKind::None,
            held: Duration::ZERO,
            awaited: None,
        }
    }
}

impl WakeInfo {
    /// Records another wake; the one that the request waited for stays.
    pub(super) fn record(&mut self, kind: WakeKind) {
        self.awaited = None;
        if !matches!(
            self.wake,
            WakeKind::Cold | WakeKind::Joined | WakeKind::Boot
        ) {
            self.wake = kind;
        }
    }

    /// The request waits for a wake from here on. It is recorded unless the wait ends with
    /// [`Self::record`] or [`Self::dismiss`].
    pub(super) fn wait_for(&mut self, kind: WakeKind) {
        self.awaited = Some(kind);
    }

    /// There was no wake to wait for.
    pub(super) fn dismiss(&mut self) {
        self.awaited = None;
    }

    /// Counts the time from `since` on as held.
    pub(super) fn hold(&mut self, since: Instant) -> Holding<'_> {
        Holding { wake: self, since }
    }
}

// === impl Holding ===

impl Deref for Holding<'_> {
    type Target = WakeInfo;

    fn deref(&self) -> &WakeInfo {
        self.wake
    }
}

impl DerefMut for Holding<'_> {
    fn deref_mut(&mut self) -> &mut WakeInfo {
        self.wake
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        self.wake.held += self.since.elapsed();
        if let Some(kind) = self.wake.awaited {
            self.wake.record(kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn who_leaves_while_held_has_been_held_for_that_wake() {
        let mut wake = WakeInfo::default();
        {
            let mut holding = wake.hold(Instant::now());
            holding.wait_for(WakeKind::Joined);
            let left = tokio::time::timeout(SECOND, std::future::pending::<()>()).await;
            assert!(left.is_err());
        }
        assert_eq!((wake.wake, wake.held), (WakeKind::Joined, SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_engine_says_of_a_wake_is_believed() {
        for (kind, expected) in [
            (Some(WakeKind::Warm), WakeKind::Warm),
            (None, WakeKind::None),
        ] {
            let mut wake = WakeInfo::default();
            {
                let mut holding = wake.hold(Instant::now());
                holding.wait_for(WakeKind::Cold);
                match kind {
                    Some(kind) => holding.record(kind),
                    None => holding.dismiss(),
                }
            }
            assert_eq!(wake.wake, expected);
        }
    }
}
