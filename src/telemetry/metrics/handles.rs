//! What other rooms hold of a gauge.
//!
//! Guarantees: what a guard added to a gauge is taken from it when the guard is dropped.

use metrics::Gauge;

/// Adds one to a gauge for as long as it is there.
#[must_use]
#[derive(Debug)]
pub struct Counted(Gauge);

// === impl Counted ===

impl Counted {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }

    /// Counts nowhere.
    pub(super) fn nowhere() -> Self {
        Self::new(&Gauge::noop())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
