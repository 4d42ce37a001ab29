//! What is noted down about an instance's wakes.
//!
//! Guarantees: one count, one log line and one ledger entry for each wake that somebody asked for;
//! an instance that keeps falling asleep and being woken is told of once a minute.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

use super::error::WakeStage;
use super::instance::{Asker, Progress};
use super::ledger::{Ledger, Phases};
use crate::names::InstanceId;
use crate::telemetry::{Metrics, WakeOutcome};

const MINUTE: Duration = Duration::from_secs(60);

/// A wake has ended; for whoever shows it to a person or measures it.
#[derive(Debug, Clone)]
pub struct WakeReport {
    /// Whose.
    pub instance: InstanceId,
    /// How.
    pub outcome: WakeOutcome,
    /// How long it took, from the first request.
    pub took: Duration,
    /// Where the time went.
    pub phases: Phases,
}

struct Begun {
    at: Instant,
    asker: Asker,
    stage: WakeStage,
    stage_since: Instant,
    phases: Phases,
}

/// Where all instances' wakes are noted.
#[derive(Debug, Clone)]
pub(super) struct Books {
    pub(super) metrics: Arc<Metrics>,
    pub(super) reports: broadcast::Sender<WakeReport>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) thrash_per_minute: u32,
}

/// One instance's.
pub(super) struct Reporter {
    books: Books,
    begun: Option<Begun>,
    woken: VecDeque<Instant>,
    told_of_thrash: Option<Instant>,
}

// === impl Reporter ===

impl Reporter {
    pub(super) fn new(books: Books) -> Self {
        Self {
            books,
            begun: None,
            woken: VecDeque::new(),
            told_of_thrash: None,
        }
    }

    pub(super) fn begin(&mut self, asker: Asker, now: Instant) {
        self.begun.get_or_insert(Begun {
            at: now,
            asker,
            stage: WakeStage::Asking,
            stage_since: now,
            phases: Phases::default(),
        });
    }

    pub(super) fn asker(&self) -> Option<&Asker> {
        self.begun.as_ref().map(|begun| &begun.asker)
    }

    /// It was no wake after all.
    pub(super) fn abandon(&mut self) {
        self.begun = None;
    }

    pub(super) fn stage(&mut self, stage: WakeStage, now: Instant) -> Option<Progress> {
        let begun = self.begun.as_mut()?;
        if begun.stage != stage {
            begun.phases.add(begun.stage, now - begun.stage_since);
            (begun.stage, begun.stage_since) = (stage, now);
        }
        Some(Progress {
            stage,
            began: begun.at,
        })
    }

    /// Returns how long it took.
    pub(super) fn finish(
        &mut self,
        id: &InstanceId,
        outcome: WakeOutcome,
        waiting: usize,
        now: Instant,
    ) -> Option<Duration> {
        let mut begun = self.begun.take()?;
        begun.phases.add(begun.stage, now - begun.stage_since);
        let took = now - begun.at;
        self.books.metrics.count_wake(outcome, took);
        self.books
            .ledger
            .write(id, &begun.asker, outcome, took, &begun.phases, waiting);
        let (asker, ms) = (&begun.asker, took.as_secs_f64() * 1e3);
        tracing::info!(instance = %id, outcome = outcome.as_str(), waiting, ms,
            route = %asker.route, client = %asker.client, "wake");
        // Without a listener there is nobody to tell.
        let _unheard = self.books.reports.send(WakeReport {
            instance: id.clone(),
            outcome,
            took,
            phases: begun.phases,
        });
        if outcome == WakeOutcome::Woken {
            self.note_thrash(id, now);
        }
        Some(took)
    }

    fn note_thrash(&mut self, id: &InstanceId, now: Instant) {
        while self.woken.front().is_some_and(|at| now - *at >= MINUTE) {
            self.woken.pop_front();
        }
        self.woken.push_back(now);
        let wakes = self.woken.len();
        let told = self.told_of_thrash.is_some_and(|at| now - at < MINUTE);
        if wakes >= self.books.thrash_per_minute as usize && !told {
            self.told_of_thrash = Some(now);
            self.books.metrics.thrash.increment(1);
            tracing::warn!(instance = %id, wakes,
                "the instance falls asleep and is woken again and again; a longer idle_timeout, or \
                 stricter admission rules, would spare its users the wait");
        }
    }
}
