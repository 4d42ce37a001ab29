//! What an instance's task makes known: refusals, the breaker, and how far a wake is.
//!
//! Guarantees: whoever waits is told once; a wake that failed says why, with the control plane's
//! own words.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::state::Driver;
use crate::telemetry::{ShedReason, WakeOutcome};
use crate::wake::dialer::Dialer;
use crate::wake::error::{WakeError, WakeStage};
use crate::wake::instance::Breaker;
use crate::wake::record::WakeFailure;
use crate::wake::target::Target;
use hypeman::ControlPlane;

impl<P: ControlPlane, R: Dialer> Driver<P, R> {
    pub(super) fn refuse(&mut self, error: &WakeError) {
        if matches!(error, WakeError::BreakerOpen(_)) {
            self.reporter.abandon();
            for _ in 0..self.waiters.len() {
                self.common.wake_log.metrics.count_shed(ShedReason::Breaker);
            }
        } else {
            let trouble = self.trouble.take();
            let stage = match (error, &trouble) {
                (WakeError::TimedOut(stage), _) | (_, Some((stage, _))) => *stage,
                (_, None) => self.stage,
            };
            let answer = trouble.and_then(|(_, answer)| answer);
            let failure = WakeFailure::new(error, stage, answer);
            if self.finish(error.outcome(), Some(&failure)).is_some() {
                self.instance.last_failure.store(Some(Arc::new(failure)));
            }
        }
        self.waiters.refuse(error);
    }

    /// TLS with this target is refused for good: those who want it by the same name get nothing.
    pub(super) fn refuse_tls(&mut self, target: &Target, reason: &Arc<str>) {
        let error = WakeError::Tls(Arc::clone(reason));
        let failure = WakeFailure::of_tls(&error, self.stage, reason);
        if self.finish(error.outcome(), Some(&failure)).is_some() {
            self.instance.last_failure.store(Some(Arc::new(failure)));
        }
        self.waiters.refuse_one(target, &error);
        self.begin_next();
    }

    /// Accounts for the attempt that has just ended, if somebody had asked for it.
    pub(super) fn finish(
        &mut self,
        outcome: WakeOutcome,
        failure: Option<&WakeFailure>,
    ) -> Option<Duration> {
        let (name, waiting, now) = (self.instance.name(), self.waiters.len(), Instant::now());
        self.reporter.finish(&name, outcome, failure, waiting, now)
    }

    pub(super) fn publish_breaker(&mut self) {
        let breaker = self.machine.breaker();
        let breaker = breaker.map(|(failures, until)| Breaker { failures, until });
        let before = self.instance.breaker.load().as_deref().copied();
        if breaker != before {
            if breaker.is_some() {
                self.common.wake_log.metrics.breaker_openings.increment(1);
            }
            self.instance.breaker.store(breaker.map(Arc::new));
        }
    }

    pub(super) fn publish_progress(&mut self) {
        let stage = self.machine.stage().map(|stage| {
            let calling = matches!(stage, WakeStage::Restoring | WakeStage::Starting);
            if self.verb.is_some() && calling {
                WakeStage::Queued
            } else {
                stage
            }
        });
        let progress = stage.and_then(|stage| self.reporter.stage(stage, Instant::now()));
        if self.instance.progress() != progress {
            self.instance.progress.store(progress.map(Arc::new));
        }
        let obstacle = self.machine.obstacle();
        if self.instance.obstacle.load().as_deref() != obstacle.as_ref() {
            self.instance.obstacle.store(obstacle.map(Arc::new));
        }
    }
}
