//! The count of requests at an instance, and whether anybody waits to be counted.
//!
//! Guarantees: entering is one compare-and-swap while nobody waits; whoever leaves after a crowd
//! was announced is told so, and whoever announces one sees everybody who left before: no place is
//! free while a request waits for it. `tests/it/interleavings.rs` runs this file under loom.

use super::sync::{AtomicUsize, Ordering};

const CROWDED: usize = 1 << (usize::BITS - 1);

/// The requests inside, and whether others wait.
#[derive(Debug)]
pub(super) struct AdmissionCounter(AtomicUsize);

// === impl AdmissionCounter ===

impl AdmissionCounter {
    pub(super) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Enters unless there are `limit` inside already, or a crowd waits.
    pub(super) fn try_enter(&self, limit: usize) -> bool {
        let enter = |state: usize| (state & CROWDED == 0 && state < limit).then_some(state + 1);
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::Acquire, enter)
            .is_ok()
    }

    /// Enters past the crowd, unless there are `limit` inside already. Only under the gate's lock.
    pub(super) fn enter_past_the_crowd(&self, limit: usize) -> bool {
        let enter = |state: usize| (state & !CROWDED < limit).then_some(state + 1);
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::Acquire, enter)
            .is_ok()
    }

    /// Leaves; whether a crowd waits.
    pub(super) fn leave(&self) -> bool {
        self.0.fetch_sub(1, Ordering::AcqRel) & CROWDED != 0
    }

    /// From now on nobody enters past the crowd.
    pub(super) fn announce_crowd(&self) {
        self.0.fetch_or(CROWDED, Ordering::AcqRel);
    }

    pub(super) fn dismiss_crowd(&self) {
        self.0.fetch_and(!CROWDED, Ordering::AcqRel);
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.0.load(Ordering::Acquire) & CROWDED != 0
    }

    pub(super) fn inside(&self) -> usize {
        // Sequentially consistent, like entering: see `Endpoint::is_resting`.
        self.0.load(Ordering::SeqCst) & !CROWDED
    }
}
