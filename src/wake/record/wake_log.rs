//! The record of an instance's wakes: metrics, log lines, spans and ledger entries.
//!
//! Guarantees: one count, one log line (a warning when it failed, which says why) and one ledger
//! entry for each wake that somebody asked for, and a span with its phases when the request that
//! began it is traced; one warning a minute about an instance that keeps falling asleep and being
//! woken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;

use super::failure::WakeFailure;
use super::history::{Ended, Ledger, Phases};
use super::requester::Requester;
use crate::names::PlaneIndex;
use crate::telemetry::{Attribute, Metrics, WakeOutcome};
use crate::wake::error::WakeStage;
use hypeman::InstanceId;

/// Steps of one wake that a trace shows; an instance that comes and goes has more.
const MOST_STEPS: usize = 64;
const MINUTE: Duration = Duration::from_secs(60);

/// How far a wake has come, for whoever watches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The stage that it is in.
    pub stage: WakeStage,
    /// The time at which the wake began.
    pub began: Instant,
}

/// A wake has ended; for whoever shows it to a person or measures it.
#[derive(Debug, Clone)]
pub struct WakeReport {
    /// The instance's id.
    pub instance: InstanceId,
    /// How it ended.
    pub outcome: WakeOutcome,
    /// How long it took, from the first request.
    pub took: Duration,
    /// The time of each stage.
    pub phases: Phases,
    /// Why it failed; `None` when it did not.
    pub failure: Option<WakeFailure>,
}

/// A wake that is more than a question has begun.
#[derive(Debug, Clone)]
pub struct WakeBegan {
    /// The instance's id.
    pub instance: InstanceId,
    /// The time from which its first request waits.
    pub at: Instant,
}

struct WakeStart {
    at: Instant,
    requester: Requester,
    stage: WakeStage,
    stage_since: Instant,
    phases: Phases,
    /// Each step with its beginning and end, when a trace wants to know.
    steps: Vec<(WakeStage, Instant, Instant)>,
    /// Whether its beginning has been announced.
    announced: bool,
}

/// What the records of all instances' wakes go to.
#[derive(Debug, Clone)]
pub(in crate::wake) struct WakeLog {
    /// The control plane that has the instances.
    pub(in crate::wake) plane: PlaneIndex,
    pub(in crate::wake) metrics: Arc<Metrics>,
    pub(in crate::wake) reports: broadcast::Sender<WakeReport>,
    pub(in crate::wake) begins: broadcast::Sender<WakeBegan>,
    pub(in crate::wake) ledger: Arc<Ledger>,
    pub(in crate::wake) thrash_per_minute: u32,
}

/// The record of one instance's wakes.
pub(in crate::wake) struct Reporter {
    id: InstanceId,
    log: WakeLog,
    start: Option<WakeStart>,
    woken: VecDeque<Instant>,
    thrash_warned_at: Option<Instant>,
}

/// The log's line about a wake.
fn say(ended: &Ended<'_>) {
    let (id, name, requester) = (ended.instance, ended.name, ended.requester);
    let (route, client) = (&requester.route, &requester.client);
    let (outcome, waiting) = (ended.outcome.as_str(), ended.waiting);
    let ms = (ended.took.as_secs_f64() * 1e4).round() / 10.0;
    match ended.failure {
        Some(failure) => {
            let control_plane = failure.answer.as_deref().map(tracing::field::display);
            let reason = failure.reason.as_deref();
            tracing::warn!(instance = %id, name, outcome, code = failure.code,
                phase = failure.stage.as_str(), control_plane, reason, waiting, ms, %route, %client,
                "wake");
        }
        None => {
            tracing::info!(instance = %id, name, outcome, waiting, ms, %route, %client, "wake");
        }
    }
}

// === impl WakeStart ===

impl WakeStart {
    /// What was being done is over.
    fn step(&mut self, now: Instant) {
        self.phases.add(self.stage, now - self.stage_since);
        if self.requester.trace.is_some() && self.steps.len() < MOST_STEPS {
            self.steps.push((self.stage, self.stage_since, now));
        }
        self.stage_since = now;
    }

    fn trace(
        &self,
        (id, name): (&InstanceId, &str),
        outcome: WakeOutcome,
        failure: Option<&WakeFailure>,
        waiting: usize,
        now: Instant,
    ) {
        let Some(trace) = &self.requester.trace else {
            return;
        };
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        let mut attributes = vec![
            ("wakegate.instance", Attribute::Text(id.as_str())),
            ("wakegate.instance.name", Attribute::Text(name)),
            ("wakegate.wake.outcome", Attribute::Text(outcome.as_str())),
            ("wakegate.wake.waiting", Attribute::Number(waiting)),
        ];
        attributes.extend(failure.map(|failure| ("error.type", Attribute::Text(failure.code))));
        let wake = trace.span("wake", self.at, now, &attributes);
        for (stage, from, to) in &self.steps {
            wake.span(stage.phase().as_str(), *from, *to, &[]);
        }
    }
}

// === impl Reporter ===

impl Reporter {
    pub(in crate::wake) fn new(id: InstanceId, log: WakeLog) -> Self {
        Self {
            id,
            log,
            start: None,
            woken: VecDeque::new(),
            thrash_warned_at: None,
        }
    }

    pub(in crate::wake) fn begin(&mut self, requester: Requester, now: Instant) {
        self.start.get_or_insert(WakeStart {
            at: now,
            requester,
            stage: WakeStage::Asking,
            stage_since: now,
            phases: Phases::default(),
            steps: Vec::new(),
            announced: false,
        });
    }

    pub(in crate::wake) fn requester(&self) -> Option<&Requester> {
        self.start.as_ref().map(|start| &start.requester)
    }

    /// It was no wake after all.
    pub(in crate::wake) fn abandon(&mut self) {
        self.start = None;
    }

    pub(in crate::wake) fn stage(&mut self, stage: WakeStage, now: Instant) -> Option<Progress> {
        let start = self.start.as_mut()?;
        if start.stage != stage {
            start.step(now);
            start.stage = stage;
        }
        let waking = matches!(
            stage,
            WakeStage::Queued
                | WakeStage::Restoring
                | WakeStage::Starting
                | WakeStage::Initializing
        );
        if waking && !start.announced {
            start.announced = true;
            // Without a listener there is nobody to tell.
            let _unheard = self.log.begins.send(WakeBegan {
                instance: self.id.clone(),
                at: start.at,
            });
        }
        Some(Progress {
            stage,
            began: start.at,
        })
    }

    /// The wake has ended: `failure` says why, when it failed, and `name` is the instance's. Returns
    /// how long it took, if somebody had asked for it.
    pub(in crate::wake) fn finish(
        &mut self,
        name: &str,
        outcome: WakeOutcome,
        failure: Option<&WakeFailure>,
        waiting: usize,
        now: Instant,
    ) -> Option<Duration> {
        let mut start = self.start.take()?;
        start.step(now);
        let (took, id) = (now - start.at, &self.id);
        self.log.metrics.count_wake(outcome, took);
        if let Some(failure) = failure {
            self.log.metrics.count_wake_failure(failure.code);
        }
        if matches!(outcome, WakeOutcome::Woken | WakeOutcome::Booted) {
            for (stage, time) in start.phases.iter() {
                self.log.metrics.count_wake_phase(stage.phase(), time);
            }
        }
        start.trace((id, name), outcome, failure, waiting, now);
        let ended = Ended {
            plane: self.log.plane,
            instance: id,
            name,
            requester: &start.requester,
            outcome,
            took,
            phases: &start.phases,
            waiting,
            failure,
        };
        self.log.ledger.write(&ended);
        say(&ended);
        // Without a listener there is nobody to tell.
        let _unheard = self.log.reports.send(WakeReport {
            instance: id.clone(),
            outcome,
            took,
            phases: start.phases,
            failure: failure.cloned(),
        });
        if matches!(outcome, WakeOutcome::Woken | WakeOutcome::Booted) {
            self.note_thrash(name, now);
        }
        Some(took)
    }

    fn note_thrash(&mut self, name: &str, now: Instant) {
        while self.woken.front().is_some_and(|at| now - *at >= MINUTE) {
            self.woken.pop_front();
        }
        self.woken.push_back(now);
        let wakes = self.woken.len();
        let announced = self.thrash_warned_at.is_some_and(|at| now - at < MINUTE);
        if wakes >= self.log.thrash_per_minute as usize && !announced {
            self.thrash_warned_at = Some(now);
            self.log.metrics.thrash.increment(1);
            tracing::warn!(instance = %self.id, name, wakes,
                "the instance falls asleep and is woken again and again; a longer idle_timeout, or \
                 stricter admission rules, would spare its users the wait");
        }
    }
}
