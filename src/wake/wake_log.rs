//! What is noted down about an instance's wakes.
//!
//! Guarantees: one count, one log line and one ledger entry for each wake that somebody asked for, and a
//! span with its phases when the request that began it is traced; an instance that keeps falling asleep
//! and being woken is told of once a minute.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

use super::error::WakeStage;
use super::history::{Ledger, Phases};
use super::instance::{Progress, Requester};
use crate::telemetry::{Attribute, Metrics, WakeOutcome};
use hypeman::InstanceId;

/// Steps of one wake that a trace shows; an instance that comes and goes has more.
const MOST_STEPS: usize = 64;
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

/// A wake that is more than a question has begun.
#[derive(Debug, Clone)]
pub struct WakeBegan {
    /// Whose.
    pub instance: InstanceId,
    /// Since when its first request waits.
    pub at: Instant,
}

struct WakeStart {
    at: Instant,
    asker: Requester,
    stage: WakeStage,
    stage_since: Instant,
    phases: Phases,
    /// Each step with its beginning and end, when a trace wants to know.
    steps: Vec<(WakeStage, Instant, Instant)>,
    /// Whether it has been told that it is more than a question.
    told: bool,
}

/// Where all instances' wakes are noted.
#[derive(Debug, Clone)]
pub(super) struct WakeLog {
    pub(super) metrics: Arc<Metrics>,
    pub(super) reports: broadcast::Sender<WakeReport>,
    pub(super) begins: broadcast::Sender<WakeBegan>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) thrash_per_minute: u32,
}

/// One instance's.
pub(super) struct Reporter {
    id: InstanceId,
    books: WakeLog,
    begun: Option<WakeStart>,
    woken: VecDeque<Instant>,
    told_of_thrash: Option<Instant>,
}

// === impl WakeStart ===

impl WakeStart {
    /// What was being done is over.
    fn step(&mut self, now: Instant) {
        self.phases.add(self.stage, now - self.stage_since);
        if self.asker.trace.is_some() && self.steps.len() < MOST_STEPS {
            self.steps.push((self.stage, self.stage_since, now));
        }
        self.stage_since = now;
    }

    fn trace(&self, id: &InstanceId, outcome: WakeOutcome, waiting: usize, now: Instant) {
        let Some(trace) = &self.asker.trace else {
            return;
        };
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        let wake = trace.span(
            "wake",
            self.at,
            now,
            &[
                ("wakegate.instance", Attribute::Text(id.as_str())),
                ("wakegate.wake.outcome", Attribute::Text(outcome.as_str())),
                ("wakegate.wake.waiting", Attribute::Number(waiting)),
            ],
        );
        for (stage, from, to) in &self.steps {
            wake.span(stage.phase().as_str(), *from, *to, &[]);
        }
    }
}

// === impl Reporter ===

impl Reporter {
    pub(super) fn new(id: InstanceId, books: WakeLog) -> Self {
        Self {
            id,
            books,
            begun: None,
            woken: VecDeque::new(),
            told_of_thrash: None,
        }
    }

    pub(super) fn begin(&mut self, asker: Requester, now: Instant) {
        self.begun.get_or_insert(WakeStart {
            at: now,
            asker,
            stage: WakeStage::Asking,
            stage_since: now,
            phases: Phases::default(),
            steps: Vec::new(),
            told: false,
        });
    }

    pub(super) fn asker(&self) -> Option<&Requester> {
        self.begun.as_ref().map(|begun| &begun.asker)
    }

    /// It was no wake after all.
    pub(super) fn abandon(&mut self) {
        self.begun = None;
    }

    pub(super) fn stage(&mut self, stage: WakeStage, now: Instant) -> Option<Progress> {
        let begun = self.begun.as_mut()?;
        if begun.stage != stage {
            begun.step(now);
            begun.stage = stage;
        }
        let waking = matches!(
            stage,
            WakeStage::Queued
                | WakeStage::Restoring
                | WakeStage::Starting
                | WakeStage::Initializing
        );
        if waking && !begun.told {
            begun.told = true;
            // Without a listener there is nobody to tell.
            let _unheard = self.books.begins.send(WakeBegan {
                instance: self.id.clone(),
                at: begun.at,
            });
        }
        Some(Progress {
            stage,
            began: begun.at,
        })
    }

    /// Returns how long it took.
    pub(super) fn finish(
        &mut self,
        outcome: WakeOutcome,
        waiting: usize,
        now: Instant,
    ) -> Option<Duration> {
        let mut begun = self.begun.take()?;
        begun.step(now);
        let (took, id) = (now - begun.at, &self.id);
        self.books.metrics.count_wake(outcome, took);
        if outcome == WakeOutcome::Woken {
            for (stage, time) in begun.phases.iter() {
                self.books.metrics.count_wake_phase(stage.phase(), time);
            }
        }
        begun.trace(id, outcome, waiting, now);
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
            self.note_thrash(now);
        }
        Some(took)
    }

    fn note_thrash(&mut self, now: Instant) {
        while self.woken.front().is_some_and(|at| now - *at >= MINUTE) {
            self.woken.pop_front();
        }
        self.woken.push_back(now);
        let wakes = self.woken.len();
        let told = self.told_of_thrash.is_some_and(|at| now - at < MINUTE);
        if wakes >= self.books.thrash_per_minute as usize && !told {
            self.told_of_thrash = Some(now);
            self.books.metrics.thrash.increment(1);
            tracing::warn!(instance = %self.id, wakes,
                "the instance falls asleep and is woken again and again; a longer idle_timeout, or \
                 stricter admission rules, would spare its users the wait");
        }
    }
}
