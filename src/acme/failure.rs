//! Why a name has no new certificate, and when it is tried again.
//!
//! Guarantees: what is kept outlives a restart, so that a gateway that is started again and again asks
//! the CA no more often than one that runs; a time that lies too far ahead is not believed.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The longest pause that is believed: no limit of a known CA is longer than a week.
const LONGEST: SignedDuration = SignedDuration::from_hours(8 * 24);

/// A name's failed orders since the last that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) count: u32,
    pub(super) next: Timestamp,
    pub(super) error: Option<String>,
}

// === impl Failure ===

impl Failure {
    /// The same as far as it counts at `now`: the clock may have been wrong when it was kept.
    pub(super) fn believed_at(self, now: Timestamp) -> Option<Self> {
        let latest = now.checked_add(LONGEST).unwrap_or(Timestamp::MAX);
        (self.next <= latest).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_lies_too_far_ahead_is_not_believed() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let failure = |days: i64| Failure {
            count: 3,
            next: now + SignedDuration::from_hours(24 * days),
            error: Some("no".to_owned()),
        };
        assert_eq!(failure(400).believed_at(now), None);
        assert_eq!(failure(7).believed_at(now), Some(failure(7)));
        assert_eq!(failure(-9).believed_at(now), Some(failure(-9)));
    }
}
