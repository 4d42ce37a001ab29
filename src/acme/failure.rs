//! Why a name has no new certificate, and when it is tried again.
//!
//! Guarantees: what is kept outlives a restart, so that a gateway that is started again and again asks
//! the CA no more often than one that runs; a time that lies too far ahead is not believed, nor one
//! that was noted later than now: the clock was wrong then.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The longest pause that is believed: no limit of a known CA is longer than a week.
const LONGEST: SignedDuration = SignedDuration::from_hours(8 * 24);
/// Clocks of gateways on one directory may differ by this.
const SLACK: SignedDuration = SignedDuration::from_mins(5);

/// A name's failed orders since the last that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) count: u32,
    /// When this was noted.
    #[serde(default)]
    pub(super) at: Option<Timestamp>,
    pub(super) next: Timestamp,
    pub(super) error: Option<String>,
}

// === impl Failure ===

impl Failure {
    /// Whether it counts at `now`: the clock may have been wrong when it was noted.
    pub(super) fn is_believed_at(&self, now: Timestamp) -> bool {
        let after = |pause| now.checked_add(pause).unwrap_or(Timestamp::MAX);
        self.next <= after(LONGEST) && self.at.is_none_or(|at| at <= after(SLACK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_by_a_wrong_clock_is_not_believed() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let days = |days: i64| now + SignedDuration::from_hours(24 * days);
        let failure = |at: Option<i64>, next: i64| Failure {
            count: 3,
            at: at.map(days),
            next: days(next),
            error: Some("no".to_owned()),
        };
        for (at, next, is_believed) in [
            (None, 400, false),
            (None, 7, true),
            (None, -9, true),
            (Some(0), 1, true),
            (Some(-2), -1, true),
            (Some(2), 3, false),
        ] {
            let failure = failure(at, next);
            assert_eq!(failure.is_believed_at(now), is_believed, "{failure:?}");
        }
    }

    #[test]
    fn what_an_earlier_release_has_kept_is_read() {
        let text = r#"{"count":2,"next":"2026-11-06T08:49:00Z","error":"no"}"#;
        let failure: Failure = serde_json::from_str(text).unwrap();
        assert_eq!((failure.count, failure.at), (2, None));
    }
}
