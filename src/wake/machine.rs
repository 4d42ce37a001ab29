//! What to do next about one instance: a state machine without IO.
//!
//! Guarantees: one operation at a time; an operation's answer leads to exactly one of: another
//! operation, a grant, or a refusal; nothing is begun after the attempt's deadline; definite
//! answers (stopped, gone, forbidden) are refusals at once, passing ones are tried again with a
//! growing pause; after several failed attempts in a row the breaker refuses for a growing, capped
//! time, then lets one attempt through.

mod vocabulary;

use std::time::Duration;

use tokio::time::Instant;

pub use self::vocabulary::{Effect, Event, Fault, Observation, WakeLimits};
use super::error::{WakeError, WakeStage};
use super::target::Target;
use crate::backoff::Backoff;
use crate::config::ReadyWhen;
use hypeman::wire::InstanceState;

/// The pauses between two questions of an attempt. The machine is deterministic: who carries out
/// [`Effect::Pause`] adds the jitter.
pub(super) const PAUSES: Backoff =
    Backoff::new(Duration::from_millis(20), Duration::from_millis(500)).with_jitter(0.25);
const BREAKER_FIRST: Duration = Duration::from_secs(1);
/// How long a lease's confirmation in the background may take.
const VERIFICATION: Duration = Duration::from_secs(10);
/// How long a port is looked at before the control plane is asked again: longest, and while the
/// instance is Initializing.
const LOOK: Duration = Duration::from_secs(1);
const INITIALIZING_LOOK: Duration = Duration::from_millis(150);
/// How often the control plane is asked whether it is healthy.
const HEALTH_LOOK: Duration = Duration::from_millis(100);

/// An attempt to get the instance ready.
#[derive(Debug, Clone)]
struct Attempt {
    deadline: Instant,
    targets: Vec<Target>,
    start_stopped: bool,
    woken: bool,
    pauses: u32,
    step: Step,
    /// The last passing trouble: the reason of the refusal when time runs out.
    trouble: Option<Fault>,
    seen: Option<Observation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Asking,
    Restoring,
    Starting,
    Settling,
    Probing(Target),
    Pausing { then_restore: bool },
}

/// One instance's state.
#[derive(Debug, Clone)]
pub struct Machine {
    limits: WakeLimits,
    attempt: Option<Attempt>,
    /// The epoch that is published and takes new requests.
    awake: Option<u64>,
    /// Whether it was Running when it was last seen, and not Initializing.
    running: bool,
    /// Whether an epoch without new requests may still have living connections.
    draining: bool,
    failures: u32,
    broken_until: Option<Instant>,
    /// What the first look-up saw, good for one decision.
    first_seen: Option<Observation>,
}

// === impl Attempt ===

impl Attempt {
    /// An attempt that begins by asking.
    fn new(deadline: Instant, targets: Vec<Target>, start_stopped: bool) -> Self {
        Self {
            deadline,
            targets,
            start_stopped,
            woken: false,
            pauses: 0,
            step: Step::Asking,
            trouble: None,
            seen: None,
        }
    }

    fn may_begin_early(&self) -> bool {
        self.targets.iter().any(|target| is_early(*target))
    }
}

/// Whether a target may be ready while its instance is Initializing.
fn is_early(target: Target) -> bool {
    target.when == ReadyWhen::Port && target.port != 0
}

/// Looks for a while, then asks again: the instance may have changed meanwhile.
fn look_at(target: Target, seen: Option<&Observation>, now: Instant, deadline: Instant) -> Effect {
    let idle = seen.and_then(|seen| seen.terms.idle_timeout);
    let slice = match seen {
        Some(seen) if seen.state == InstanceState::Initializing => INITIALIZING_LOOK,
        _ => idle.map_or(LOOK, |idle| (idle / 3).min(LOOK)),
    };
    let http = target.when == ReadyWhen::Health && seen.is_none_or(|seen| seen.healthy.is_none());
    Effect::Probe {
        target,
        http,
        until: deadline.min(now + slice.max(Duration::from_millis(50))),
    }
}

// === impl Machine ===

impl Machine {
    /// `first_seen`: what the look-up of the name said a moment ago.
    pub fn new(limits: WakeLimits, first_seen: Option<Observation>) -> Self {
        Self {
            limits,
            attempt: None,
            awake: None,
            running: false,
            draining: false,
            failures: 0,
            broken_until: None,
            first_seen,
        }
    }

    /// The driver began this epoch for the last [`Effect::Publish`].
    pub fn published(&mut self, epoch: u64) {
        self.awake = Some(epoch);
    }

    /// How often wakes failed in a row, and until when the next is not tried, if that was too
    /// often.
    pub fn breaker(&self) -> Option<(u32, Instant)> {
        Some((self.failures, self.broken_until?))
    }

    /// The next wake is tried.
    pub fn reset_breaker(&mut self) {
        (self.failures, self.broken_until) = (0, None);
    }

    /// How far the attempt is; `None` when there is none.
    pub fn stage(&self) -> Option<WakeStage> {
        self.attempt.as_ref().map(|attempt| match attempt.step {
            Step::Asking if attempt.seen.is_none() => WakeStage::Asking,
            // Looking at a closed port, or between two looks.
            Step::Asking | Step::Probing(_) => WakeStage::NotListening,
            Step::Restoring => WakeStage::Restoring,
            Step::Starting => WakeStage::Starting,
            Step::Settling => WakeStage::Initializing,
            Step::Pausing { .. } => match attempt.trouble {
                Some(Fault::NoCapacity) => WakeStage::NoCapacity,
                None if attempt.seen.is_some() => WakeStage::Unhealthy,
                _ => WakeStage::Asking,
            },
        })
    }

    /// One event in, what to do out.
    pub fn on(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        match event {
            Event::WakeRequested {
                target,
                deadline,
                start_stopped,
                leased,
            } => self.wake_requested(now, target, deadline, start_stopped, leased),
            Event::Verify => self.verify(now),
            Event::Suspect { epoch } => self.suspect(epoch),
            Event::Answered(Ok(seen)) => self.seen(now, seen),
            Event::Answered(Err(fault)) => self.fault(now, fault),
            Event::Probed { open } => self.probed(now, open),
            Event::PauseOver => self.pause_over(now),
        }
    }

    fn wake_requested(
        &mut self,
        now: Instant,
        target: Target,
        deadline: Instant,
        start_stopped: bool,
        leased: bool,
    ) -> Vec<Effect> {
        if let Some(attempt) = &mut self.attempt {
            attempt.deadline = attempt.deadline.max(deadline);
            attempt.start_stopped |= start_stopped;
            if !attempt.targets.contains(&target) {
                attempt.targets.push(target);
            }
            return Vec::new();
        }
        if let Some(until) = self.broken_until.filter(|until| *until > now) {
            return vec![Effect::Refuse(WakeError::BreakerOpen(until - now))];
        }
        let mut attempt = Attempt::new(deadline, vec![target], start_stopped);
        let is_far_enough = match target.when {
            ReadyWhen::Running => self.running,
            ReadyWhen::Port => true,
            ReadyWhen::Health => false,
        };
        if self.awake.is_some() && leased && is_far_enough {
            // Awake, and only this port has not been tried yet.
            attempt.step = Step::Probing(target);
            let look = look_at(target, None, now, deadline);
            self.attempt = Some(attempt);
            if target.port == 0 {
                return self.probed(now, true);
            }
            return vec![look];
        }
        let asleep = self
            .first_seen
            .take()
            .is_some_and(|seen| seen.state == InstanceState::Standby);
        attempt.step = if asleep {
            Step::Restoring
        } else {
            Step::Asking
        };
        self.attempt = Some(attempt);
        vec![match asleep {
            true => Effect::Restore { until: deadline },
            false => Effect::Ask,
        }]
    }

    fn verify(&mut self, now: Instant) -> Vec<Effect> {
        if self.attempt.is_some() || self.awake.is_none() {
            return Vec::new();
        }
        self.attempt = Some(Attempt::new(now + VERIFICATION, Vec::new(), false));
        vec![Effect::Ask]
    }

    fn suspect(&mut self, epoch: u64) -> Vec<Effect> {
        if self.awake != Some(epoch) {
            return Vec::new();
        }
        self.awake = None;
        self.draining = true;
        vec![Effect::Retire]
    }

    /// The instance is not where the epoch's connections lead.
    fn lost(&mut self) -> Vec<Effect> {
        let had = self.awake.take().is_some() || self.draining;
        self.draining = false;
        if had {
            vec![Effect::Retire, Effect::Sever]
        } else {
            Vec::new()
        }
    }

    fn seen(&mut self, now: Instant, seen: Observation) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        let after_verb = matches!(attempt.step, Step::Restoring | Step::Starting);
        attempt.woken |= after_verb;
        let verifying = attempt.targets.is_empty();
        match &seen.state {
            InstanceState::Running if seen.ip.is_some() => self.up(now, seen, after_verb),
            InstanceState::Running => self.pause(now, Fault::Failed, false),
            InstanceState::Initializing
                if seen.ip.is_some() && (verifying || attempt.may_begin_early()) =>
            {
                self.up(now, seen, after_verb)
            }
            InstanceState::Initializing => self.settle(now),
            // After a restore this is a race with another standby: look again a little later.
            InstanceState::Standby if after_verb => self.pause(now, Fault::InvalidState, false),
            InstanceState::Standby => self.fault(now, Fault::InStandby),
            InstanceState::Stopped if attempt.start_stopped && !after_verb => {
                attempt.step = Step::Starting;
                let until = attempt.deadline;
                let mut effects = self.lost();
                effects.extend(self.unless_late(now, Effect::Start { until }));
                effects
            }
            InstanceState::Stopped => self.refuse_lost(WakeError::Stopped),
            InstanceState::Created | InstanceState::Paused | InstanceState::Shutdown => {
                self.fault(now, Fault::InvalidState)
            }
            InstanceState::Unknown | InstanceState::Other(_) => {
                self.refuse_lost(WakeError::Unusable)
            }
        }
    }

    fn settle(&mut self, now: Instant) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        attempt.step = Step::Settling;
        let until = attempt.deadline;
        self.unless_late(now, Effect::Settle { until })
    }

    /// It is Running, or Initializing and somebody waits for no more than a port.
    fn up(&mut self, now: Instant, seen: Observation, after_verb: bool) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        self.running = seen.state == InstanceState::Running;
        attempt.trouble = None;
        let fresh = after_verb || attempt.woken && attempt.seen.is_none();
        attempt.seen = Some(seen.clone());
        let mut effects = Vec::new();
        let hold = fresh && !seen.held && seen.terms.idle_timeout.is_some();
        effects.push(Effect::Publish { seen, fresh });
        if hold {
            // Beside the probe: it must not fall asleep again before its first request.
            effects.push(Effect::Hold);
        }
        effects.extend(self.next_target(now));
        effects
    }

    /// What the next of those who wait needs, in the state that was seen last.
    fn next_target(&mut self, now: Instant) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        let initializing = attempt
            .seen
            .as_ref()
            .is_some_and(|seen| seen.state == InstanceState::Initializing);
        let healthy = attempt.seen.as_ref().and_then(|seen| seen.healthy);
        let next = match initializing {
            true => attempt.targets.iter().find(|target| is_early(**target)),
            false => attempt.targets.first(),
        };
        let Some(target) = next.copied() else {
            if attempt.targets.is_empty() {
                // Everybody has been served, or nobody waited: a verification in the background.
                self.attempt = None;
                return Vec::new();
            }
            return self.settle(now);
        };
        attempt.step = Step::Probing(target);
        if target.port == 0 {
            return self.probed(now, true);
        }
        if target.when == ReadyWhen::Health && healthy == Some(false) {
            attempt.step = Step::Pausing {
                then_restore: false,
            };
            return self.unless_late_at(now, WakeStage::Unhealthy, Effect::Pause(HEALTH_LOOK));
        }
        let deadline = attempt.deadline;
        vec![look_at(target, attempt.seen.as_ref(), now, deadline)]
    }

    fn probed(&mut self, now: Instant, open: bool) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        let Step::Probing(target) = attempt.step else {
            return Vec::new();
        };
        // An address that was another's business for so long may be another's by now.
        let seen_at = attempt.seen.as_ref().map(|seen| seen.asked_at);
        let outdated = seen_at.is_some_and(|at| now >= at + self.limits.verify_interval);
        if self.awake.is_none() || !open || outdated {
            attempt.step = Step::Asking;
            return self.unless_late_at(now, WakeStage::NotListening, Effect::Ask);
        }
        attempt.targets.retain(|other| *other != target);
        let woken = attempt.woken;
        self.reset_breaker();
        let mut effects = vec![Effect::Grant { target, woken }];
        effects.extend(self.next_target(now));
        effects
    }

    fn fault(&mut self, now: Instant, fault: Fault) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        if attempt.targets.is_empty() && !matches!(fault, Fault::NotFound) {
            // A verification in the background: what it found is acted upon when somebody asks.
            self.attempt = None;
            return match fault {
                Fault::InStandby | Fault::InvalidState => self.lost(),
                Fault::NoCapacity
                | Fault::NotFound
                | Fault::Unauthorized
                | Fault::Unreachable
                | Fault::Failed
                | Fault::NoSlot => Vec::new(),
            };
        }
        match fault {
            Fault::InStandby => {
                attempt.step = Step::Restoring;
                attempt.seen = None;
                let until = attempt.deadline;
                let mut effects = self.lost();
                effects.extend(self.unless_late(now, Effect::Restore { until }));
                effects
            }
            Fault::NotFound => {
                let mut effects = self.refuse_lost(WakeError::NotFound);
                effects.push(Effect::Forget);
                effects
            }
            Fault::Unauthorized => {
                self.attempt = None;
                vec![Effect::Refuse(WakeError::Unauthorized)]
            }
            Fault::NoCapacity | Fault::NoSlot => {
                let again = attempt.step == Step::Restoring;
                self.pause(now, fault, again)
            }
            Fault::InvalidState | Fault::Unreachable | Fault::Failed => {
                self.pause(now, fault, false)
            }
        }
    }

    /// Waits a little, longer each time, within the attempt's time.
    fn pause(&mut self, now: Instant, trouble: Fault, then_restore: bool) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        let pause = PAUSES.nth(attempt.pauses);
        attempt.pauses = (attempt.pauses + 1).min(16);
        attempt.trouble = Some(trouble);
        attempt.step = Step::Pausing { then_restore };
        if now + pause >= attempt.deadline {
            return self.give_up(now, WakeStage::Asking);
        }
        vec![Effect::Pause(pause)]
    }

    fn pause_over(&mut self, now: Instant) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        let Step::Pausing { then_restore } = attempt.step else {
            return Vec::new();
        };
        let until = attempt.deadline;
        let (step, effect) = match then_restore {
            true => (Step::Restoring, Effect::Restore { until }),
            false => (Step::Asking, Effect::Ask),
        };
        attempt.step = step;
        self.unless_late(now, effect)
    }

    fn unless_late(&mut self, now: Instant, effect: Effect) -> Vec<Effect> {
        let stage = self.stage().unwrap_or(WakeStage::Asking);
        self.unless_late_at(now, stage, effect)
    }

    fn unless_late_at(&mut self, now: Instant, stage: WakeStage, effect: Effect) -> Vec<Effect> {
        let late = self
            .attempt
            .as_ref()
            .is_none_or(|attempt| now >= attempt.deadline);
        if late {
            self.give_up(now, stage)
        } else {
            vec![effect]
        }
    }

    /// Time has run out: a failed attempt, for the reason that was last in the way.
    fn give_up(&mut self, now: Instant, stage: WakeStage) -> Vec<Effect> {
        let trouble = self.attempt.take().and_then(|attempt| attempt.trouble);
        // That others were first is no failure of this instance.
        if trouble != Some(Fault::NoSlot) {
            self.failures = self.failures.saturating_add(1);
        }
        if let Some(over) = self.failures.checked_sub(self.limits.breaker_failures) {
            let delays = Backoff::new(BREAKER_FIRST, self.limits.breaker_max_delay);
            self.broken_until = Some(now + delays.nth(over.min(16)));
        }
        vec![Effect::Refuse(match trouble {
            Some(Fault::NoCapacity) => WakeError::NoCapacity,
            Some(Fault::NoSlot) => WakeError::NoSlot,
            Some(Fault::InvalidState) => WakeError::Transitioning,
            Some(Fault::Unreachable) => WakeError::ControlPlaneDown,
            Some(Fault::Failed) => WakeError::Failed,
            Some(Fault::InStandby | Fault::NotFound | Fault::Unauthorized) | None => {
                WakeError::TimedOut(stage)
            }
        })]
    }

    /// A definite no: the instance is not awake and will not be.
    fn refuse_lost(&mut self, error: WakeError) -> Vec<Effect> {
        self.attempt = None;
        let mut effects = self.lost();
        effects.push(Effect::Refuse(error));
        effects
    }
}

#[cfg(test)]
mod tests;
