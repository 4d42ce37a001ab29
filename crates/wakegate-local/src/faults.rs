//! Faults on demand, for tests of whoever uses this control plane.
//!
//! Guarantees: nothing of this exists unless the server was started with `--allow-faults`; a fault
//! is drawn for each call anew; what had its effect before the fault has had it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The faults to inject, in percent of calls; all zero is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// The percentage of calls that are late.
    pub slow_percent: u8,
    /// The most milliseconds by which they are late.
    pub slow_ms: u64,
    /// The percentage of calls that end with 500, half of them after they had their effect.
    pub error_percent: u8,
    /// The percentage of verbs that end with 409 `invalid_state`.
    pub conflict_percent: u8,
    /// The percentage of calls that are never answered.
    pub hang_percent: u8,
    /// The percentage of calls whose connection breaks in the middle of the answer.
    pub drop_percent: u8,
    /// The percentage of restored instances that stay Initializing for a while.
    pub initializing_percent: u8,
    /// The most milliseconds for which they do.
    pub initializing_ms: u64,
    /// The percentage of restored instances that go back to standby at once.
    pub flap_percent: u8,
    /// The percentage of copies with memory that keep their original's address inside, so that
    /// nothing answers at their own until they are started anew.
    pub stale_address_percent: u8,
}

/// The faults in force.
#[derive(Debug, Clone, Default)]
pub(crate) struct FaultBox(Arc<Mutex<Faults>>);

pub(crate) fn chance(percent: u8) -> bool {
    fastrand::u8(0..100) < percent
}

// === impl Faults ===

impl Faults {
    /// Whether each percentage is one.
    pub(crate) fn are_percentages(&self) -> bool {
        let Self {
            slow_percent,
            slow_ms: _,
            error_percent,
            conflict_percent,
            hang_percent,
            drop_percent,
            initializing_percent,
            initializing_ms: _,
            flap_percent,
            stale_address_percent,
        } = *self;
        let all = [
            slow_percent,
            error_percent,
            conflict_percent,
            hang_percent,
            drop_percent,
            initializing_percent,
            flap_percent,
            stale_address_percent,
        ];
        all.iter().all(|percent| *percent <= 100)
    }
}

// === impl FaultBox ===

impl FaultBox {
    pub(crate) fn get(&self) -> Faults {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, faults: Faults) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// The time for which a restored instance is to stay Initializing, if it is.
    pub(crate) fn initializing(&self) -> Option<Duration> {
        let faults = self.get();
        let longest = faults.initializing_ms.max(1);
        chance(faults.initializing_percent)
            .then(|| Duration::from_millis(fastrand::u64(0..longest)))
    }

    /// Whether this copy goes on with its original's address.
    pub(crate) fn keeps_address(&self) -> bool {
        chance(self.get().stale_address_percent)
    }

    /// Whether this restored instance goes back to standby at once.
    pub(crate) fn flaps(&self) -> bool {
        chance(self.get().flap_percent)
    }
}
