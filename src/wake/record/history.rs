//! Who woke what, when, and where the time went.
//!
//! Guarantees: the last N wakes, bounded in number and in the length of what clients and control
//! planes say; nothing of a request but its route, client address and user agent; a wake that
//! failed has the code that its clients got.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
#[cfg(test)]
use utoipa::ToSchema;

use super::failure::{PlaneAnswer, WakeFailure};
use super::requester::Requester;
use crate::names::PlaneIndex;
use crate::telemetry::WakeOutcome;
use crate::wake::error::WakeStage;
use hypeman::InstanceId;

/// The longest part of a user agent that is kept.
const AGENT: usize = 120;
/// What an entry is that is no wake, and its route.
const KEPT_AWAKE: &str = "kept_awake";
const DOOR: &str = "workload";
const PARKED: &str = "parked";
const TUNNELS: &str = "tunnels";
/// Of an instance that is kept awake again and again, one entry in so many seconds.
const QUIET: i64 = 60;

/// How long a wake stayed in each stage, in the order of their first time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Phases(Vec<(WakeStage, Duration)>);

/// One wake.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct LedgerEntry {
    /// The wake's own id, which no other wake has, not one of another run of the gateway either.
    pub id: String,
    /// The time of its end.
    #[cfg_attr(test, schema(value_type = String, format = DateTime))]
    pub time: jiff::Timestamp,
    /// Its control plane: an id alone may be another's at another one.
    #[serde(skip)]
    pub(in crate::wake) plane: PlaneIndex,
    /// The instance's id.
    pub instance: String,
    /// The instance's name at that time.
    pub name: String,
    /// The route of the request that began it.
    pub route: String,
    /// The address of that request's client.
    pub client: String,
    /// The user agent that the client named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// `woken`, `booted`, `renewed`, `failed` or `timed_out`; `kept_awake`, where a hold of its
    /// workload's keeps an instance awake that none has kept before; or `parked`, where the gateway has
    /// put it to sleep under its tunnels.
    pub outcome: &'static str,
    /// What of a parked tunnel has woken it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unparked_by: Option<&'static str>,
    /// Milliseconds from its first request on.
    pub took_ms: f64,
    /// The milliseconds of each stage.
    #[cfg_attr(test, schema(value_type = std::collections::BTreeMap<String, f64>))]
    pub phases_ms: serde_json::Map<String, serde_json::Value>,
    /// Requests that waited for it at its end.
    pub waiting: usize,
    /// Why it failed: the code that its clients got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// The phase that it failed in, in the words of `phases_ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<&'static str>,
    /// What the control plane said last, when that was in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<PlaneAnswer>,
    /// What is wrong at the instance itself, when that was in the way; or by what it is kept awake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A wake that has ended, for the ledger.
pub(super) struct Ended<'a> {
    pub(super) plane: PlaneIndex,
    pub(super) instance: &'a InstanceId,
    pub(super) name: &'a str,
    pub(super) requester: &'a Requester,
    pub(super) outcome: WakeOutcome,
    pub(super) took: Duration,
    pub(super) phases: &'a Phases,
    pub(super) waiting: usize,
    pub(super) failure: Option<&'a WakeFailure>,
}

/// The last wakes.
pub struct Ledger {
    capacity: usize,
    /// The first part of each wake's id.
    run: String,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    entries: VecDeque<LedgerEntry>,
    /// The wakes so far.
    written: u64,
}

// === impl Phases ===

impl Phases {
    /// Adds time in a stage.
    pub fn add(&mut self, stage: WakeStage, time: Duration) {
        match self.0.iter_mut().find(|(noted, _)| *noted == stage) {
            Some((_, sum)) => *sum += time,
            None => self.0.push((stage, time)),
        }
    }

    /// The time of each stage.
    pub fn iter(&self) -> impl Iterator<Item = (WakeStage, Duration)> {
        self.0.iter().copied()
    }
}

// === impl Ledger ===

impl Ledger {
    pub(in crate::wake) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            run: format!("{:x}", jiff::Timestamp::now().as_microsecond()),
            kept: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A workload keeps its instance awake, which nothing has kept before. Said often, it is noted
    /// seldom: the others' wakes are to stay.
    pub fn note_held(
        &self,
        (plane, instance): (PlaneIndex, &InstanceId),
        name: &str,
        client: IpAddr,
        reason: &str,
    ) {
        let (mut kept, time) = (self.lock(), jiff::Timestamp::now());
        let is_known = kept.entries.iter().any(|entry| {
            let is_its = entry.outcome == KEPT_AWAKE && entry.is_of(plane, instance);
            is_its && time.as_second() - entry.time.as_second() < QUIET
        });
        if is_known {
            return;
        }
        self.push(&mut kept, |id| LedgerEntry {
            client: client.to_string(),
            reason: Some(reason.to_owned()),
            ..LedgerEntry::of_no_wake(id, (plane, instance), name, (KEPT_AWAKE, DOOR))
        });
    }

    /// The gateway has put an instance to sleep, with so many of its tunnels parked.
    pub fn note_parked(
        &self,
        (plane, instance): (PlaneIndex, &InstanceId),
        name: &str,
        tunnels: usize,
    ) {
        let reason = match tunnels {
            1 => "1 tunnel is parked".to_owned(),
            count => format!("{count} tunnels are parked"),
        };
        self.push(&mut self.lock(), |id| LedgerEntry {
            reason: Some(reason),
            ..LedgerEntry::of_no_wake(id, (plane, instance), name, (PARKED, TUNNELS))
        });
    }

    /// The last wake of an instance that has restored or booted it.
    pub fn last_wake(&self, plane: PlaneIndex, instance: &InstanceId) -> Option<LedgerEntry> {
        let woken = [WakeOutcome::Woken.as_str(), WakeOutcome::Booted.as_str()];
        let kept = self.lock();
        let mut newest = kept.entries.iter().rev();
        let is_meant =
            |entry: &&LedgerEntry| entry.is_of(plane, instance) && woken.contains(&entry.outcome);
        newest.find(is_meant).cloned()
    }

    fn push(&self, kept: &mut Kept, entry: impl FnOnce(String) -> LedgerEntry) {
        if self.capacity == 0 {
            return;
        }
        kept.written += 1;
        let entry = entry(format!("{}-{}", self.run, kept.written));
        if kept.entries.len() >= self.capacity {
            kept.entries.pop_front();
        }
        kept.entries.push_back(entry);
    }

    pub(super) fn write(&self, ended: &Ended<'_>) {
        if self.capacity == 0 {
            return;
        }
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let (requester, failure) = (ended.requester, ended.failure);
        let phases = ended.phases.iter();
        let phases = phases.map(|(stage, time)| (stage.as_str().to_owned(), ms(time).into()));
        let phases_ms = phases.collect();
        self.push(&mut self.lock(), |id| LedgerEntry {
            id,
            time: jiff::Timestamp::now(),
            plane: ended.plane,
            instance: ended.instance.to_string(),
            name: ended.name.to_owned(),
            route: requester.route.to_string(),
            client: requester.client.to_string(),
            user_agent: requester
                .user_agent
                .as_ref()
                .map(|agent| agent.chars().take(AGENT).collect()),
            outcome: ended.outcome.as_str(),
            unparked_by: requester.unparked_by,
            took_ms: ms(ended.took),
            phases_ms,
            waiting: ended.waiting,
            code: failure.map(|failure| failure.code),
            phase: failure.map(|failure| failure.stage.as_str()),
            control_plane: failure.and_then(|failure| failure.answer.as_deref().cloned()),
            reason: failure.and_then(|failure| Some(failure.reason.as_deref()?.to_owned())),
        });
    }

    /// The newest first.
    pub fn entries(&self) -> Vec<LedgerEntry> {
        self.lock().entries.iter().rev().cloned().collect()
    }

    /// Those that came after the wake with this id, the newest first; all of them when there is no
    /// such wake, or no longer.
    pub fn entries_after(&self, id: &str) -> Vec<LedgerEntry> {
        let kept = self.lock();
        let newer = kept.entries.iter().rev().take_while(|entry| entry.id != id);
        newer.cloned().collect()
    }
}

// === impl LedgerEntry ===

impl LedgerEntry {
    /// One that says something else of an instance than that it was woken: what it is, and its
    /// route.
    fn of_no_wake(
        id: String,
        (plane, instance): (PlaneIndex, &InstanceId),
        name: &str,
        (outcome, route): (&'static str, &str),
    ) -> Self {
        Self {
            id,
            time: jiff::Timestamp::now(),
            plane,
            instance: instance.to_string(),
            name: name.to_owned(),
            route: route.to_owned(),
            client: String::new(),
            user_agent: None,
            outcome,
            unparked_by: None,
            took_ms: 0.0,
            phases_ms: serde_json::Map::new(),
            waiting: 0,
            code: None,
            phase: None,
            control_plane: None,
            reason: None,
        }
    }

    fn is_of(&self, plane: PlaneIndex, instance: &InstanceId) -> bool {
        self.plane == plane && self.instance == instance.as_str()
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({} at most)", self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::time::Instant;

    use super::*;

    #[test]
    fn an_instance_is_not_another_control_planes_of_the_same_id() {
        let (ledger, id) = (Ledger::new(10), InstanceId::parse("a").unwrap());
        let (here, there) = (PlaneIndex(0), PlaneIndex(1));
        let requester = Requester {
            route: "r".into(),
            client: Ipv4Addr::LOCALHOST.into(),
            user_agent: None,
            unparked_by: None,
            since: Instant::now(),
            trace: None,
        };
        ledger.write(&Ended {
            plane: there,
            instance: &id,
            name: "web",
            requester: &requester,
            outcome: WakeOutcome::Booted,
            took: Duration::ZERO,
            phases: &Phases::default(),
            waiting: 0,
            failure: None,
        });
        assert!(ledger.last_wake(here, &id).is_none());
        assert_eq!(ledger.last_wake(there, &id).unwrap().outcome, "booted");
        for plane in [here, there, there] {
            ledger.note_held((plane, &id), "web", Ipv4Addr::LOCALHOST.into(), "build");
        }
        assert_eq!(ledger.entries().len(), 3, "each, and one of them once");
    }
}
