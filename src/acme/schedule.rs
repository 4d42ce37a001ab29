//! When a certificate is ordered.
//!
//! Guarantees: a certificate is renewed at about two thirds of its life, each name at its own time, and
//! before the last tenth of it, whatever a CA suggests;
//! a failure is tried again after about a minute, twice as long each time, up to a day, and not
//! before the CA wants to be asked.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use crate::backoff::Backoff;

const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(86_400);
/// The longest that a CA is believed when it wants to be left alone: no limit of a known one is longer.
pub(super) const LONGEST_ASKED: Duration = Duration::from_secs(7 * 86_400);
const PAUSES: Backoff = Backoff::new(FIRST, LONGEST).with_jitter(0.1);

/// When a certificate is to be renewed, in seconds since 1970: at two thirds of its life, or up to a
/// thirtieth later, by its name, so that those of one day are not all renewed in one moment.
pub(super) fn renew_at(name: &str, not_before: i64, not_after: i64) -> i64 {
    let life = not_after.saturating_sub(not_before).max(0);
    let start = not_before.saturating_add(life / 3 * 2);
    within(name, start, start.saturating_add(life / 30))
}

/// The latest moment that a CA may suggest for a renewal, in seconds since 1970.
pub(super) fn latest(not_before: i64, not_after: i64) -> i64 {
    let life = not_after.saturating_sub(not_before).max(0);
    not_after.saturating_sub(life / 10)
}

/// When a certificate that was to be renewed in the moment when it came is tried again, after so many
/// seconds that it still holds: either the clock is wrong, or the CA gives old ones.
pub(super) fn pause_of_old(left: i64) -> Duration {
    let third = u64::try_from(left / 3).unwrap_or_default();
    Duration::from_secs(third).clamp(FIRST, LONGEST_ASKED)
}

/// A name's own moment between two others, in seconds since 1970.
pub(super) fn within(name: &str, start: i64, end: i64) -> i64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let share = i64::try_from(hasher.finish() % 1000).unwrap_or_default();
    let length = end.saturating_sub(start).max(0);
    start.saturating_add(length / 1000 * share)
}

/// How long after so many failures the next try is; `asked` is what the CA has asked for.
pub(super) fn pause(failures: u32, asked: Option<Duration>) -> Duration {
    let own = PAUSES.jittered(PAUSES.nth(failures.saturating_sub(1)), fastrand::f64());
    own.max(asked.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life_whatever_that_is() {
        for life in [6 * DAY, 90 * DAY, 3600] {
            let times: Vec<i64> = (0..50)
                .map(|number| renew_at(&format!("{number}.test"), 1_000_000, 1_000_000 + life))
                .collect();
            let (earliest, latest) = (1_000_000 + life / 3 * 2, 1_000_000 + life / 10 * 7 + 60);
            assert!(
                times.iter().all(|at| (earliest..=latest).contains(at)),
                "{times:?}"
            );
            let mut distinct = times.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert!(life == 3600 || distinct.len() > 40);
        }
    }

    #[test]
    fn failures_are_tried_again_after_a_minute_first_and_a_day_at_last() {
        for (failures, seconds) in [
            (1, 60.0),
            (2, 120.0),
            (3, 240.0),
            (12, 86_400.0),
            (99, 86_400.0),
        ] {
            let pause = pause(failures, None).as_secs_f64();
            assert!(
                pause >= seconds * 0.89 && pause <= seconds * 1.11,
                "{failures}: {pause}"
            );
        }
        let asked = Duration::from_secs(7200);
        assert_eq!(pause(1, Some(asked)), asked);
    }

    #[test]
    fn one_that_is_old_when_it_comes_is_not_ordered_again_and_again() {
        for (left, seconds) in [
            (-5, 60),
            (90, 60),
            (3 * 3600, 3600),
            (DAY * 365, 7 * 86_400),
        ] {
            assert_eq!(pause_of_old(left), Duration::from_secs(seconds), "{left}");
        }
    }
}
