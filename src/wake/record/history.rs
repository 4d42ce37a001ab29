//! Who woke what, when, and where the time went.
//!
//! Guarantees: the last N wakes, bounded in number and in the length of what clients say; nothing
//! of a request but its route, client address and user agent.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
#[cfg(test)]
use utoipa::ToSchema;

use super::requester::Requester;
use crate::telemetry::WakeOutcome;
use crate::wake::error::WakeStage;
use hypeman::InstanceId;

/// The longest part of a user agent that is kept.
const AGENT: usize = 120;

/// How long a wake stayed in each stage, in the order of their first time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Phases(Vec<(WakeStage, Duration)>);

/// One wake.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct LedgerEntry {
    /// The time of its end.
    #[cfg_attr(test, schema(value_type = String, format = DateTime))]
    pub time: jiff::Timestamp,
    /// The instance's id.
    pub instance: String,
    /// The route of the request that began it.
    pub route: String,
    /// The address of that request's client.
    pub client: String,
    /// The user agent that the client named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// `woken`, `renewed`, `failed` or `timed_out`.
    pub outcome: &'static str,
    /// Milliseconds from its first request on.
    pub took_ms: f64,
    /// The milliseconds of each stage.
    #[cfg_attr(test, schema(value_type = std::collections::BTreeMap<String, f64>))]
    pub phases_ms: serde_json::Map<String, serde_json::Value>,
    /// Requests that waited for it at its end.
    pub waiting: usize,
}

/// The last wakes.
pub struct Ledger {
    capacity: usize,
    entries: Mutex<VecDeque<LedgerEntry>>,
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
        let entries = Mutex::default();
        Self { capacity, entries }
    }

    pub(in crate::wake) fn write(
        &self,
        instance: &InstanceId,
        requester: &Requester,
        outcome: WakeOutcome,
        took: Duration,
        phases: &Phases,
        waiting: usize,
    ) {
        if self.capacity == 0 {
            return;
        }
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let entry = LedgerEntry {
            time: jiff::Timestamp::now(),
            instance: instance.to_string(),
            route: requester.route.to_string(),
            client: requester.client.to_string(),
            user_agent: requester
                .user_agent
                .as_ref()
                .map(|agent| agent.chars().take(AGENT).collect()),
            outcome: outcome.as_str(),
            took_ms: ms(took),
            phases_ms: phases
                .iter()
                .map(|(stage, time)| (stage.as_str().to_owned(), ms(time).into()))
                .collect(),
            waiting,
        };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= self.capacity {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// The newest first.
    pub fn entries(&self) -> Vec<LedgerEntry> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().rev().cloned().collect()
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({} at most)", self.capacity)
    }
}
