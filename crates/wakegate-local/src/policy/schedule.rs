//! A snapshot schedule: what is accepted, and when it runs (contract A.6, A.8), as values without
//! IO.
//!
//! Guarantees: a schedule keeps its cadence: runs lie on one grid of its interval, whatever a run
//! was late by, and a change of anything but the interval leaves the grid as it is; a kept
//! schedule never asks to delete everything.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use hypeman::GoDuration;

use crate::error::Error;
use crate::scalars::{are_tags, is_name};

/// The shortest interval, in nanoseconds.
const SHORTEST: i64 = 60_000_000_000;
/// The longest prefix, which leaves room for `-20060102-150405` in a name of 63 characters.
const LONGEST_PREFIX: usize = 47;
/// The longest time by which a first run is late so that not all instances' runs fall together, in
/// nanoseconds.
const LONGEST_JITTER: u64 = 300_000_000_000;
/// The tags by which upstream tells a schedule's snapshots from others.
const SCHEDULED: &str = "hypeman.scheduled";
const SCHEDULED_FOR: &str = "hypeman.schedule_instance_id";

/// A schedule as a caller sends it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ScheduleRequest {
    interval: String,
    retention: Retention,
    name_prefix: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Retention {
    max_count: Option<i64>,
    max_age: Option<String>,
}

/// A schedule as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Schedule {
    pub(crate) interval: GoDuration,
    pub(crate) retention: Value,
    pub(crate) name_prefix: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) next_run_at: Timestamp,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) last_run_at: Option<Timestamp>,
    #[serde(default)]
    pub(crate) last_snapshot_id: Option<String>,
    pub(crate) last_error: Option<String>,
}

fn invalid(text: impl Into<String>) -> Error {
    Error::invalid("invalid_request", text)
}

// === impl Retention ===

impl Retention {
    /// Takes a number, an age, or both; zero is "not said", as upstream has it.
    fn accept(&self) -> Result<Value, Error> {
        let count = self.max_count.filter(|count| *count != 0);
        if count.is_some_and(|count| count < 0) {
            return Err(invalid("retention.max_count must not be negative"));
        }
        let age = self.max_age.as_deref().filter(|text| !text.is_empty());
        let age = age.map(str::parse::<GoDuration>).transpose();
        let age = age.map_err(|error| invalid(format!("retention.max_age: {error}")))?;
        let age = age.filter(|age| age.nanos() != 0);
        if age.is_some_and(|age| age.nanos() < 0) {
            return Err(invalid("retention.max_age must not be negative"));
        }
        if count.is_none() && age.is_none() {
            let text = "retention.max_count or retention.max_age must be above zero";
            return Err(invalid(text));
        }
        let mut kept = Map::new();
        kept.extend(count.map(|count| ("max_count".to_owned(), json!(count))));
        kept.extend(age.map(|age| ("max_age".to_owned(), json!(age))));
        Ok(Value::Object(kept))
    }
}

// === impl Schedule ===

impl Schedule {
    /// Takes a schedule for the instance `id` in the place of the one `before`, whose grid goes on
    /// when the interval is the same.
    pub(crate) fn accept(
        request: ScheduleRequest,
        id: &str,
        before: Option<&Self>,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let ScheduleRequest {
            interval,
            retention,
            name_prefix,
            metadata,
        } = request;
        let interval = interval.parse::<GoDuration>();
        let interval = interval.map_err(|error| invalid(format!("interval: {error}")))?;
        if interval.nanos() < SHORTEST {
            return Err(invalid("interval must be at least 1m"));
        }
        let retention = retention.accept()?;
        let name_prefix = name_prefix.filter(|prefix| !prefix.is_empty());
        if let Some(prefix) = &name_prefix {
            if prefix.len() > LONGEST_PREFIX {
                return Err(invalid("name_prefix must be at most 47 characters"));
            }
            if !is_name(prefix) {
                let text = "name_prefix must be lowercase letters, digits and hyphens";
                return Err(invalid(text));
            }
        }
        let metadata = metadata.unwrap_or_default();
        if !are_tags(&metadata) {
            return Err(invalid("metadata are no valid tags"));
        }
        let same = before.filter(|before| before.interval == interval);
        let next_run_at = match same {
            Some(before) => before.next_run_at,
            None => first_run(id, interval, now).ok_or_else(|| invalid("interval is too long"))?,
        };
        Ok(Self {
            interval,
            retention,
            name_prefix,
            metadata,
            next_run_at,
            created_at: before.map_or(now, |before| before.created_at),
            updated_at: now,
            last_run_at: before.and_then(|before| before.last_run_at),
            last_snapshot_id: before.and_then(|before| before.last_snapshot_id.clone()),
            last_error: before.and_then(|before| before.last_error.clone()),
        })
    }

    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.next_run_at <= now
    }

    /// Begins a run that is due, and plans the next one: the next point of the grid, so that what
    /// was missed meanwhile is not made up for.
    pub(crate) fn begin_run(&mut self, now: Timestamp) {
        self.next_run_at = next_run(self.next_run_at, self.interval, now);
        self.last_run_at = Some(now);
        self.last_snapshot_id = None;
        self.last_error = None;
        self.updated_at = now;
    }

    /// The name of the snapshot of a run at `now`.
    pub(crate) fn snapshot_name(&self, now: Timestamp) -> String {
        let prefix = self.name_prefix.as_deref().unwrap_or("scheduled");
        format!("{prefix}-{}", now.strftime("%Y%m%d-%H%M%S"))
    }

    /// The tags of its snapshots: the caller's, and two by which they are known.
    pub(crate) fn snapshot_tags(&self, id: &str) -> BTreeMap<String, String> {
        let mut tags = self.metadata.clone();
        tags.insert(SCHEDULED.to_owned(), "true".to_owned());
        tags.insert(SCHEDULED_FOR.to_owned(), id.to_owned());
        tags
    }
}

/// The first run: one interval from now, and up to a tenth of it later, the same for the same
/// instance.
fn first_run(id: &str, interval: GoDuration, now: Timestamp) -> Option<Timestamp> {
    let step = u64::try_from(interval.nanos()).ok()?;
    let span = (step / 10).clamp(1, LONGEST_JITTER);
    let jitter = i64::try_from(fnv_1a(id.as_bytes()) % span).ok()?;
    let late = SignedDuration::from_nanos(interval.nanos())
        .checked_add(SignedDuration::from_nanos(jitter))?;
    now.checked_add(late).ok()
}

/// The hash FNV-1a of 64 bits, by which upstream spreads the runs of instances.
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The first point of the grid that is later than `now`.
fn next_run(planned: Timestamp, interval: GoDuration, now: Timestamp) -> Timestamp {
    let step = i128::from(interval.nanos().max(1));
    let late = now.as_nanosecond() - planned.as_nanosecond();
    if late < 0 {
        return planned;
    }
    let next = planned.as_nanosecond() + (late / step + 1) * step;
    Timestamp::from_nanosecond(next).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000_000 + seconds).unwrap()
    }

    fn accept(
        schedule: Value,
        before: Option<&Schedule>,
        now: Timestamp,
    ) -> Result<Schedule, Error> {
        let request = serde_json::from_value(schedule).unwrap();
        Schedule::accept(request, "tz4a98xxat96iws9zmbrgj3a", before, now)
    }

    #[test]
    fn a_change_of_anything_but_the_interval_keeps_the_next_run() {
        let hourly = json!({ "interval": "1h", "retention": { "max_count": 3 } });
        let mut schedule = accept(hourly, None, at(0)).unwrap();
        let first = schedule.next_run_at;
        assert!((at(3600)..at(3900)).contains(&first), "{first}");
        schedule.begin_run(first);
        schedule.last_snapshot_id = Some("kept".to_owned());
        let planned = schedule.next_run_at;
        assert_eq!(planned, first + SignedDuration::from_hours(1));

        let change = json!({
            "interval": "60m", "retention": { "max_age": "24h" }, "name_prefix": "nightly",
        });
        let changed = accept(change, Some(&schedule), at(5000)).unwrap();
        assert_eq!(
            changed.next_run_at, planned,
            "whoever sets it again and again gets a run"
        );
        assert_eq!((changed.created_at, changed.updated_at), (at(0), at(5000)));
        assert_eq!(changed.last_run_at, Some(first));
        assert_eq!(changed.last_snapshot_id.as_deref(), Some("kept"));

        let other = json!({ "interval": "2h", "retention": { "max_count": 3 } });
        let other = accept(other, Some(&changed), at(6000)).unwrap();
        assert!(
            other.next_run_at >= at(6000 + 7200),
            "{}",
            other.next_run_at
        );
    }

    #[test]
    fn runs_stay_on_their_grid_after_a_gap() {
        let minute = "1m".parse().unwrap();
        for (now, next) in [
            (59, 60),
            (60, 120),
            (61, 120),
            (119, 120),
            (120, 180),
            (6000, 6060),
        ] {
            assert_eq!(next_run(at(60), minute, at(now)), at(next), "{now}");
        }
    }

    #[test]
    fn instances_first_runs_are_spread_by_a_tenth_of_the_interval() {
        let minute = "1m".parse().unwrap();
        let first = |id: &str| first_run(id, minute, at(0)).unwrap();
        let runs: Vec<Timestamp> = ["a", "b", "c", "d"].map(first).to_vec();
        assert!(
            runs.iter().all(|run| (at(60)..at(66)).contains(run)),
            "{runs:?}"
        );
        assert!(runs.iter().any(|run| *run != runs[0]), "{runs:?}");
        assert_eq!(first("a"), runs[0], "the same for the same instance");
        // The published value of the hash for this text.
        assert_eq!(fnv_1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_schedule_that_would_delete_everything_or_nothing_is_refused() {
        for (retention, text) in [
            (json!({}), "above zero"),
            (json!({ "max_count": 0 }), "above zero"),
            (json!({ "max_age": "0s" }), "above zero"),
            (json!({ "max_count": 0, "max_age": "0s" }), "above zero"),
            (json!({ "max_count": -1 }), "max_count must not be negative"),
            (
                json!({ "max_count": 1, "max_age": "-1h" }),
                "max_age must not be negative",
            ),
            (json!({ "max_age": "a day" }), "is not a duration"),
        ] {
            let schedule = json!({ "interval": "1h", "retention": retention });
            let refused = accept(schedule.clone(), None, at(0)).unwrap_err();
            assert_eq!(refused.code(), "invalid_request", "{schedule}");
            assert!(refused.to_string().contains(text), "{schedule}: {refused}");
        }
        // An age of zero beside a number is "no age", and not "everything is too old".
        let both = json!({ "interval": "1h", "retention": { "max_count": 2, "max_age": "0s" } });
        let kept = accept(both, None, at(0)).unwrap().retention;
        assert_eq!(kept, json!({ "max_count": 2 }));
    }

    #[test]
    fn a_prefix_is_a_name_that_leaves_room_for_the_time() {
        let longest = "x".repeat(47);
        let with = |prefix: &str| {
            let retention = json!({ "max_count": 1 });
            json!({ "interval": "1h", "retention": retention, "name_prefix": prefix })
        };
        for prefix in ["Bad_!", "A b/..", "-a", "a-", &"x".repeat(48)] {
            assert!(accept(with(prefix), None, at(0)).is_err(), "{prefix}");
        }
        let schedule = accept(with(&longest), None, at(0)).unwrap();
        let name = schedule.snapshot_name(at(0));
        assert_eq!(name, format!("{longest}-20010909-014640"));
        assert!(is_name(&name), "{name}");
        let default = accept(with(""), None, at(0)).unwrap();
        assert_eq!(default.snapshot_name(at(0)), "scheduled-20010909-014640");
        let tags = default.snapshot_tags("me");
        assert_eq!(tags["hypeman.scheduled"], "true");
        assert_eq!(tags["hypeman.schedule_instance_id"], "me");
    }
}
