//! What to do next about one instance: a state machine without IO.
//!
//! Guarantees: one operation at a time; an operation's answer leads to exactly one of: another
//! operation, a grant, or a refusal; nothing is begun after the attempt's deadline. It acts on
//! evidence alone: only [`Evidence::Asleep`] and [`Evidence::Gone`] end an epoch, only a definite
//! answer (stopped, gone, not allowed, no network) refuses at once, and what is unsure is asked
//! again with a growing pause. An attempt counts as failed when it has had its route's whole time,
//! whatever its clients' own limits; after several in a row the breaker refuses for a growing,
//! capped time, then lets one attempt through.

mod attempt;
mod vocabulary;

use std::time::Duration;

use tokio::time::Instant;

use self::attempt::{Attempt, Step, Trouble, look_at};
pub use self::vocabulary::{Effect, Event, WakeLimits};
use super::error::{WakeError, WakeStage};
use super::evidence::{Doubt, Evidence, Observation, Rest};
use super::target::Target;
use crate::backoff::Backoff;
use crate::config::ReadyWhen;

/// The pauses between two questions of an attempt. The machine is deterministic: who carries out
/// [`Effect::Pause`] adds the jitter.
pub(super) const PAUSES: Backoff =
    Backoff::new(Duration::from_millis(20), Duration::from_millis(500)).with_jitter(0.25);
const BREAKER_FIRST: Duration = Duration::from_secs(1);
/// How long a lease's confirmation in the background may take.
const VERIFICATION: Duration = Duration::from_secs(10);
/// How often the control plane is asked whether it is healthy.
const HEALTH_LOOK: Duration = Duration::from_millis(100);
/// How long an instance may run without an address before it counts as one that has none.
const ADDRESS: Duration = Duration::from_secs(2);

/// One instance's state.
#[derive(Debug, Clone)]
pub struct Machine {
    limits: WakeLimits,
    attempt: Option<Attempt>,
    /// The epoch that is published and takes requests.
    epoch: Option<u64>,
    /// Whether it was Running when it was last seen, and not Initializing.
    running: bool,
    /// Whether a connection of the epoch has failed since the control plane last confirmed it.
    doubted: bool,
    failures: u32,
    broken_until: Option<Instant>,
    /// What the first look-up saw, good for one decision.
    first_seen: Option<Evidence>,
    /// The control plane does not want to be asked before this, and what it could not do.
    left_alone: Option<(Instant, Trouble)>,
}

// === impl Machine ===

impl Machine {
    /// `first_seen`: what the look-up of the name said a moment ago.
    pub fn new(limits: WakeLimits, first_seen: Option<Evidence>) -> Self {
        Self {
            limits,
            attempt: None,
            epoch: None,
            running: false,
            doubted: false,
            failures: 0,
            broken_until: None,
            first_seen,
            left_alone: None,
        }
    }

    /// The driver began this epoch for the last [`Effect::Publish`].
    pub fn published(&mut self, epoch: u64) {
        self.epoch = Some(epoch);
    }

    /// The driver has ended the epoch, to put the instance to sleep.
    pub fn retired(&mut self) {
        (self.epoch, self.doubted) = (None, false);
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
        self.attempt.as_ref().map(Attempt::stage)
    }

    /// Whether nobody waits: nothing is going on, or a confirmation in the background.
    pub fn is_unasked(&self) -> bool {
        self.attempt.as_ref().is_none_or(Attempt::is_verification)
    }

    /// What is in the attempt's way now, as the refusal that it would be at the end.
    pub fn obstacle(&self) -> Option<WakeError> {
        self.attempt.as_ref()?.refusal()
    }

    /// Whether a connection has failed since the control plane last confirmed the instance.
    pub fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// One event in, what to do out.
    pub fn on(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        match event {
            Event::WakeRequested {
                target,
                deadline,
                start_stopped,
                may_boot,
                leased,
            } => self.wake_requested(now, target, deadline, (start_stopped, may_boot), leased),
            Event::Verify if self.epoch.is_none() => Vec::new(),
            Event::Verify | Event::Look => self.look(now),
            Event::Suspect { epoch } => self.suspect(now, epoch),
            Event::Answered {
                evidence,
                retry_after,
            } => self.answered(now, evidence, retry_after),
            Event::Probed { open } => self.probed(now, open),
            Event::PauseOver => self.pause_over(now),
        }
    }

    fn wake_requested(
        &mut self,
        now: Instant,
        target: Target,
        deadline: Instant,
        rules: (bool, bool),
        leased: bool,
    ) -> Vec<Effect> {
        if let Some(attempt) = &mut self.attempt {
            attempt.join(now, target, deadline, rules);
            return Vec::new();
        }
        if let Some(until) = self.broken_until.filter(|until| *until > now) {
            return vec![Effect::Refuse(WakeError::BreakerOpen(until - now))];
        }
        let mut attempt = Attempt::new(now, deadline, vec![target.clone()], rules);
        let is_far_enough = match target.when {
            ReadyWhen::Running => self.running,
            ReadyWhen::Port => true,
            ReadyWhen::Health => false,
        };
        if self.epoch.is_some() && leased && !self.doubted && is_far_enough {
            // Awake, and only this port has not been tried yet.
            let is_open = target.port == 0;
            attempt.step = Step::Probing(target.clone());
            self.attempt = Some(attempt);
            if is_open {
                return self.probed(now, true);
            }
            return vec![look_at(target, None, now, (deadline, 1))];
        }
        if let Some((until, trouble)) = self.left_alone.filter(|(until, _)| *until > now) {
            attempt.trouble = Some(trouble);
            attempt.step = Step::Pausing {
                then_restore: false,
            };
            if until >= deadline {
                let refusal = attempt.refusal();
                return refusal.map(Effect::Refuse).into_iter().collect();
            }
            self.attempt = Some(attempt);
            return vec![Effect::Pause(until - now)];
        }
        let asleep = self.first_seen.take() == Some(Evidence::Asleep(Rest::Standby));
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

    /// Asks in the background; nobody is waited for, and nothing is woken.
    fn look(&mut self, now: Instant) -> Vec<Effect> {
        if self.attempt.is_some() {
            return Vec::new();
        }
        self.attempt = Some(Attempt::new(
            now,
            now + VERIFICATION,
            Vec::new(),
            (false, false),
        ));
        vec![Effect::Ask]
    }

    /// The trouble of one connection is no verdict about the others: they stay, and the control
    /// plane is asked.
    fn suspect(&mut self, now: Instant, epoch: u64) -> Vec<Effect> {
        if self.epoch != Some(epoch) {
            return Vec::new();
        }
        self.doubted = true;
        self.look(now)
    }

    /// The instance is not where the epoch's connections lead.
    fn lost(&mut self) -> Vec<Effect> {
        self.doubted = false;
        match self.epoch.take() {
            Some(_) => vec![Effect::Cut],
            None => Vec::new(),
        }
    }

    fn answered(
        &mut self,
        now: Instant,
        evidence: Evidence,
        retry_after: Option<Duration>,
    ) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        self.left_alone = None;
        match evidence {
            Evidence::Awake(seen) => self.awake(now, seen),
            Evidence::Asleep(rest) => self.asleep(now, rest),
            Evidence::Gone => {
                let mut effects = self.refuse_lost(WakeError::Gone);
                effects.push(Effect::Forget);
                effects
            }
            Evidence::Unsure(doubt) if attempt.is_verification() => {
                // What it could not find out is asked again when somebody needs to know.
                self.attempt = None;
                self.left_alone = retry_after.map(|pause| (now + pause, Trouble::Doubt(doubt)));
                Vec::new()
            }
            Evidence::Unsure(doubt) => self.unsure(now, doubt, retry_after),
        }
    }

    /// It is Running, or Initializing and somebody waits for no more than a port.
    fn awake(&mut self, now: Instant, seen: Observation) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        let after_verb = matches!(attempt.step, Step::Restoring | Step::Starting);
        attempt.woken |= after_verb;
        if seen.initializing && !attempt.is_verification() && !attempt.may_begin_early() {
            return self.settle(now);
        }
        self.running = !seen.initializing;
        self.doubted = false;
        (attempt.trouble, attempt.without_address) = (None, None);
        let fresh = after_verb || attempt.woken && attempt.seen.is_none();
        attempt.seen = Some(seen.clone());
        let hold = fresh && !seen.held && seen.terms.idle_timeout.is_some();
        let mut effects = vec![Effect::Publish { seen, fresh }];
        if hold {
            // Beside the probe: it must not fall asleep again before its first request.
            effects.push(Effect::Hold);
        }
        effects.extend(self.next_target(now));
        effects
    }

    fn asleep(&mut self, now: Instant, rest: Rest) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        if attempt.is_verification() {
            // It is woken when somebody asks.
            self.attempt = None;
            return self.lost();
        }
        let until = attempt.deadline;
        let after_verb = matches!(attempt.step, Step::Restoring | Step::Starting);
        attempt.woken |= after_verb;
        let (step, verb) = match rest {
            Rest::Stopped if !attempt.start_stopped => return self.refuse_lost(WakeError::Stopped),
            // After a verb this is a race with another operation: look again a little later.
            Rest::Standby | Rest::WithoutMemory | Rest::Stopped if after_verb => {
                return self.pause_lost(now, Trouble::Transition);
            }
            Rest::WithoutMemory | Rest::Stopped if !attempt.may_boot => {
                return self.refuse_lost(WakeError::ColdBootRefused);
            }
            Rest::Standby | Rest::WithoutMemory => (Step::Restoring, Effect::Restore { until }),
            Rest::Stopped => (Step::Starting, Effect::Start { until }),
            Rest::Passing => return self.pause_lost(now, Trouble::Transition),
        };
        attempt.booted = rest != Rest::Standby;
        (attempt.step, attempt.seen) = (step, None);
        let mut effects = self.lost();
        effects.extend(self.unless_late(now, verb));
        effects
    }

    fn unsure(&mut self, now: Instant, doubt: Doubt, retry_after: Option<Duration>) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        let restoring = attempt.step == Step::Restoring;
        // A refusal says that nothing was carried out; after any other answer it may have been.
        let is_refused = matches!(
            doubt,
            Doubt::InvalidState | Doubt::NoCapacity | Doubt::NoSlot | Doubt::Unauthorized
        );
        attempt.woken |= !is_refused && matches!(attempt.step, Step::Restoring | Step::Starting);
        let trouble = Trouble::Doubt(doubt);
        match doubt {
            Doubt::Unauthorized => self.refuse(WakeError::Unauthorized),
            Doubt::NoNetwork => self.refuse(WakeError::Unusable),
            Doubt::AddressRefused => self.refuse(WakeError::AddressRefused),
            Doubt::NoAddress { running: true } => {
                let since = *attempt.without_address.get_or_insert(now);
                match now >= since + ADDRESS {
                    true => self.refuse(WakeError::Unusable),
                    false => self.pause(now, trouble, retry_after, false),
                }
            }
            Doubt::NoCapacity | Doubt::NoSlot => self.pause(now, trouble, retry_after, restoring),
            Doubt::NoAddress { running: false }
            | Doubt::UnknownState
            | Doubt::InvalidState
            | Doubt::Unreachable
            | Doubt::Failed
            | Doubt::Unreadable => self.pause(now, trouble, retry_after, false),
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

    /// Goes on with the next of those who wait, or ends.
    fn next_target(&mut self, now: Instant) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        let Some(target) = attempt.next_target() else {
            if attempt.targets.is_empty() {
                // Everybody has been served, or nobody waited: a verification in the background.
                self.attempt = None;
                return Vec::new();
            }
            return self.settle(now);
        };
        attempt.step = Step::Probing(target.clone());
        if target.port == 0 {
            return self.probed(now, true);
        }
        let healthy = attempt.seen.as_ref().and_then(|seen| seen.healthy);
        if target.when == ReadyWhen::Health && healthy == Some(false) {
            attempt.step = Step::Pausing {
                then_restore: false,
            };
            return self.unless_late_at(now, WakeStage::Unhealthy, Effect::Pause(HEALTH_LOOK));
        }
        let others = u32::try_from(attempt.targets.len()).unwrap_or(u32::MAX);
        let limits = (attempt.deadline, others);
        vec![look_at(target, attempt.seen.as_ref(), now, limits)]
    }

    fn probed(&mut self, now: Instant, open: bool) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        let Step::Probing(target) = &attempt.step else {
            return Vec::new();
        };
        let target = target.clone();
        // An address that was another's business for so long may be another's by now.
        let seen_at = attempt.seen.as_ref().map(|seen| seen.asked_at);
        let outdated = seen_at.is_some_and(|at| now >= at + self.limits.verify_interval);
        if self.epoch.is_none() || !open || outdated {
            let stage = attempt.stage();
            attempt.put_last(&target);
            attempt.step = Step::Asking;
            return self.unless_late_at(now, stage, Effect::Ask);
        }
        attempt.targets.retain(|other| *other != target);
        let (woken, booted) = (attempt.woken, attempt.woken && attempt.booted);
        self.reset_breaker();
        let mut effects = vec![Effect::Grant {
            target,
            woken,
            booted,
        }];
        effects.extend(self.next_target(now));
        effects
    }

    /// Waits a little, longer each time, within the attempt's time; at least for as long as the
    /// control plane wants to be left alone.
    fn pause(
        &mut self,
        now: Instant,
        trouble: Trouble,
        retry_after: Option<Duration>,
        then_restore: bool,
    ) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        let ordinary = PAUSES.nth(attempt.pauses);
        let pause = ordinary.max(retry_after.unwrap_or_default());
        self.left_alone = retry_after.map(|pause| (now + pause, trouble));
        attempt.pauses = (attempt.pauses + 1).min(16);
        attempt.trouble = Some(trouble);
        attempt.step = Step::Pausing { then_restore };
        if now + ordinary >= attempt.deadline {
            return self.give_up(now, WakeStage::Asking);
        }
        if now + pause >= attempt.deadline {
            // It was not given the time that would have made it a failure.
            let refusal = self.attempt.take().and_then(|attempt| attempt.refusal());
            return refusal.map(Effect::Refuse).into_iter().collect();
        }
        if attempt.has_failed_by(now) && self.count_failure(now) {
            return self.give_up(now, WakeStage::Asking);
        }
        vec![Effect::Pause(pause)]
    }

    fn pause_lost(&mut self, now: Instant, trouble: Trouble) -> Vec<Effect> {
        let mut effects = self.lost();
        effects.extend(self.pause(now, trouble, None, false));
        effects
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
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        let is_late = now >= attempt.deadline;
        let has_failed = !is_late && attempt.has_failed_by(now);
        if is_late || has_failed && self.count_failure(now) {
            return self.give_up(now, stage);
        }
        vec![effect]
    }

    /// An attempt that had its route's whole time has failed; whether the breaker is open now.
    fn count_failure(&mut self, now: Instant) -> bool {
        let trouble = self.attempt.as_ref().and_then(|attempt| attempt.trouble);
        // That others were first is no failure of this instance.
        if trouble == Some(Trouble::Doubt(Doubt::NoSlot)) {
            return false;
        }
        // It runs, and nothing listens where somebody has looked for something.
        let is_idle_talk = self
            .attempt
            .as_ref()
            .is_some_and(Attempt::waits_for_chosen_ports);
        if self.epoch.is_some() && self.running && is_idle_talk {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        let Some(over) = self.failures.checked_sub(self.limits.breaker_failures) else {
            return false;
        };
        let delays = Backoff::new(BREAKER_FIRST, self.limits.breaker_max_delay);
        self.broken_until = Some(now + delays.nth(over.min(16)));
        true
    }

    /// Time has run out, for the reason that was last in the way.
    fn give_up(&mut self, now: Instant, stage: WakeStage) -> Vec<Effect> {
        let counted = self.broken_until.is_some_and(|until| until > now);
        let attempt = self.attempt.as_ref();
        if !counted && attempt.is_some_and(Attempt::ends_as_failed) {
            self.count_failure(now);
        }
        let refusal = self.attempt.take().and_then(|attempt| attempt.refusal());
        vec![Effect::Refuse(
            refusal.unwrap_or(WakeError::TimedOut(stage)),
        )]
    }

    /// Nobody is served now. What is open stays: nothing is known about it.
    fn refuse(&mut self, error: WakeError) -> Vec<Effect> {
        self.attempt = None;
        vec![Effect::Refuse(error)]
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
