//! What to do next about one instance: a state machine without IO.
//!
//! Guarantees: one operation at a time; an operation's answer leads to exactly one of: another
//! operation, a grant, or a refusal; nothing is begun after the attempt's deadline; definite answers
//! (stopped, gone, forbidden) are refusals at once, passing ones are tried again with a growing
//! pause; after several failed attempts in a row the breaker refuses for a growing, capped time,
//! then lets one attempt through.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::error::{WakeError, WakeStage};
use super::lease::LeaseTerms;
use crate::hypeman::wire::InstanceState;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
const BREAKER_FIRST: Duration = Duration::from_secs(1);
/// How long a lease's confirmation in the background may take.
const VERIFICATION: Duration = Duration::from_secs(10);

/// What the control plane says about the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its state.
    pub state: InstanceState,
    /// Its address.
    pub ip: Option<IpAddr>,
    /// Its policy.
    pub terms: LeaseTerms,
    /// It was seen, or a hold placed, not before this.
    pub asked_at: Instant,
    /// Whether a hold is in force since then.
    pub held: bool,
}

/// Why an operation has no [`Seen`] to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// `hold` says that it is in standby, or irrevocably on its way.
    InStandby,
    /// The verb does not fit the state.
    InvalidState,
    /// The host is full.
    NoCapacity,
    /// No such instance, or another one under its name.
    NotFound,
    /// The token.
    Unauthorized,
    /// No connection, no answer, or one that makes no sense.
    Unreachable,
    /// A 5xx or the like.
    Failed,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request asks for the instance.
    Wanted {
        /// Which port.
        port: u16,
        /// Until when its client waits.
        deadline: Instant,
        /// Whether a Stopped instance may be started.
        start_stopped: bool,
        /// Whether the lease is in force.
        leased: bool,
    },
    /// The lease is old and in use.
    Verify,
    /// A connection of this epoch failed in a way that a sleeping instance would cause.
    Suspect {
        /// Which.
        epoch: u64,
    },
    /// The operation in flight has ended.
    Answered(Result<Seen, Fault>),
    /// The port in question answered, or did not for a while.
    Probed {
        /// Whether it did.
        open: bool,
    },
    /// The pause is over.
    PauseOver,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// `hold` and Get, together.
    Ask,
    /// Restore.
    Restore,
    /// Start.
    Start,
    /// Until it is no longer Initializing: `wait`, and Get every so often beside it.
    Settle {
        /// At most until then.
        until: Instant,
    },
    /// Look whether the port is open.
    Probe {
        /// Which.
        port: u16,
        /// At most until then.
        until: Instant,
    },
    /// Wait this long.
    Pause(Duration),
    /// Place a hold beside whatever else goes on.
    Hold,
    /// It is awake: begin an epoch, or confirm the one with the same address.
    Publish {
        /// As seen.
        seen: Seen,
        /// Whether it was restored or started, so that nothing of before is left.
        fresh: bool,
    },
    /// The port answers: release who waits for it.
    Grant {
        /// Which.
        port: u16,
        /// Whether the instance had to be woken for it.
        woken: bool,
    },
    /// No more new requests on the epoch.
    Retire,
    /// The epoch's connections are dead.
    Sever,
    /// Refuse everybody who waits.
    Refuse(WakeError),
    /// The instance is gone: forget its name.
    Forget,
}

/// The breaker's and the attempt's limits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Failed attempts in a row before the breaker opens.
    pub breaker_failures: u32,
    /// Its longest pause.
    pub breaker_max_delay: Duration,
}

/// An attempt to get the instance ready.
#[derive(Debug, Clone)]
struct Attempt {
    deadline: Instant,
    ports: Vec<u16>,
    start_stopped: bool,
    woken: bool,
    pauses: u32,
    step: Step,
    /// The last passing trouble, told when time runs out.
    trouble: Option<Fault>,
    seen: Option<Seen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Asking,
    Restoring,
    Starting,
    Settling,
    Probing(u16),
    Pausing { then_restore: bool },
}

/// One instance's state.
#[derive(Debug, Clone)]
pub struct Machine {
    limits: Limits,
    attempt: Option<Attempt>,
    /// The epoch that is published and not retired.
    awake: Option<u64>,
    /// A retired epoch whose connections may still live.
    retired: bool,
    failures: u32,
    broken_until: Option<Instant>,
    /// What the first look-up saw, good for one decision.
    first_seen: Option<Seen>,
}

// === impl Attempt ===

impl Attempt {
    /// An attempt that begins by asking.
    fn new(deadline: Instant, ports: Vec<u16>, start_stopped: bool) -> Self {
        Self {
            deadline,
            ports,
            start_stopped,
            woken: false,
            pauses: 0,
            step: Step::Asking,
            trouble: None,
            seen: None,
        }
    }
}

// === impl Machine ===

impl Machine {
    /// `first_seen`: what the look-up of the name said a moment ago.
    pub fn new(limits: Limits, first_seen: Option<Seen>) -> Self {
        Self {
            limits,
            attempt: None,
            awake: None,
            retired: false,
            failures: 0,
            broken_until: None,
            first_seen,
        }
    }

    /// The driver began this epoch for the last [`Effect::Publish`].
    pub fn published(&mut self, epoch: u64) {
        self.awake = Some(epoch);
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
            Step::Pausing { .. } if attempt.trouble == Some(Fault::NoCapacity) => {
                WakeStage::NoCapacity
            }
            Step::Pausing { .. } => WakeStage::Asking,
        })
    }

    /// One event in, what to do out.
    pub fn on(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        match event {
            Event::Wanted {
                port,
                deadline,
                start_stopped,
                leased,
            } => self.wanted(now, port, deadline, start_stopped, leased),
            Event::Verify => self.verify(now),
            Event::Suspect { epoch } => self.suspect(epoch),
            Event::Answered(Ok(seen)) => self.seen(now, seen),
            Event::Answered(Err(fault)) => self.fault(now, fault),
            Event::Probed { open } => self.probed(now, open),
            Event::PauseOver => self.pause_over(now),
        }
    }

    fn wanted(
        &mut self,
        now: Instant,
        port: u16,
        deadline: Instant,
        start_stopped: bool,
        leased: bool,
    ) -> Vec<Effect> {
        if let Some(attempt) = &mut self.attempt {
            attempt.deadline = attempt.deadline.max(deadline);
            attempt.start_stopped |= start_stopped;
            if !attempt.ports.contains(&port) {
                attempt.ports.push(port);
            }
            return Vec::new();
        }
        if let Some(until) = self.broken_until.filter(|until| *until > now) {
            return vec![Effect::Refuse(WakeError::BreakerOpen(until - now))];
        }
        let mut attempt = Attempt::new(deadline, vec![port], start_stopped);
        if self.awake.is_some() && leased {
            // Awake, and only this port has not been tried yet.
            attempt.step = Step::Probing(port);
            self.attempt = Some(attempt);
            return vec![self.probe_effect(now, port)];
        }
        let asleep = self
            .first_seen
            .take()
            .is_some_and(|seen| seen.state == InstanceState::Standby);
        let effect = if asleep { Effect::Restore } else { Effect::Ask };
        attempt.step = if asleep {
            Step::Restoring
        } else {
            Step::Asking
        };
        self.attempt = Some(attempt);
        vec![effect]
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
        self.retired = true;
        vec![Effect::Retire]
    }

    /// The instance is not where the epoch's connections lead.
    fn lost(&mut self) -> Vec<Effect> {
        let had = self.awake.take().is_some() || self.retired;
        self.retired = false;
        if had {
            vec![Effect::Retire, Effect::Sever]
        } else {
            Vec::new()
        }
    }

    fn seen(&mut self, now: Instant, seen: Seen) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        let after_verb = matches!(attempt.step, Step::Restoring | Step::Starting);
        attempt.woken |= after_verb;
        match &seen.state {
            InstanceState::Running if seen.ip.is_some() => self.running(now, seen, after_verb),
            InstanceState::Running => self.pause(now, Fault::Failed, false),
            InstanceState::Initializing => {
                attempt.step = Step::Settling;
                let deadline = attempt.deadline;
                self.unless_late(now, Effect::Settle { until: deadline })
            }
            // After a restore this is a race with another standby: look again a little later.
            InstanceState::Standby if after_verb => self.pause(now, Fault::InvalidState, false),
            InstanceState::Standby => self.fault(now, Fault::InStandby),
            InstanceState::Stopped if attempt.start_stopped && !after_verb => {
                attempt.step = Step::Starting;
                let mut effects = self.lost();
                effects.extend(self.unless_late(now, Effect::Start));
                effects
            }
            InstanceState::Stopped => self.refuse_lost(WakeError::Stopped),
            InstanceState::Created | InstanceState::Paused | InstanceState::Shutdown => {
                self.pause(now, Fault::InvalidState, false)
            }
            InstanceState::Unknown | InstanceState::Other(_) => {
                self.refuse_lost(WakeError::Unusable)
            }
        }
    }

    fn running(&mut self, now: Instant, seen: Seen, fresh: bool) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        attempt.trouble = None;
        let fresh = fresh || attempt.woken && attempt.seen.is_none();
        attempt.seen = Some(seen.clone());
        let mut effects = Vec::new();
        let hold = fresh && !seen.held && seen.terms.idle_timeout.is_some();
        effects.push(Effect::Publish { seen, fresh });
        if hold {
            // Beside the probe: it must not fall asleep again before its first request.
            effects.push(Effect::Hold);
        }
        match attempt.ports.first().copied() {
            Some(port) => {
                attempt.step = Step::Probing(port);
                effects.push(self.probe_effect(now, port));
            }
            // A verification in the background: nobody waits.
            None => self.attempt = None,
        }
        effects
    }

    /// Looks for a while, then asks again: the instance may have changed meanwhile.
    fn probe_effect(&self, now: Instant, port: u16) -> Effect {
        let attempt = self.attempt.as_ref();
        let idle = attempt
            .and_then(|a| a.seen.as_ref())
            .and_then(|seen| seen.terms.idle_timeout);
        let slice = idle.map_or(Duration::from_secs(1), |idle| {
            (idle / 3).min(Duration::from_secs(1))
        });
        let until = now + slice.max(Duration::from_millis(50));
        Effect::Probe {
            port,
            until: attempt.map_or(until, |attempt| until.min(attempt.deadline)),
        }
    }

    fn probed(&mut self, now: Instant, open: bool) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        let Step::Probing(port) = attempt.step else {
            return Vec::new();
        };
        if self.awake.is_none() || !open {
            attempt.step = Step::Asking;
            return self.unless_late_at(now, WakeStage::NotListening, Effect::Ask);
        }
        attempt.ports.retain(|other| *other != port);
        let woken = attempt.woken;
        (self.failures, self.broken_until) = (0, None);
        let mut effects = vec![Effect::Grant { port, woken }];
        match attempt.ports.first().copied() {
            Some(next) => {
                attempt.step = Step::Probing(next);
                effects.push(self.probe_effect(now, next));
            }
            None => self.attempt = None,
        }
        effects
    }

    fn fault(&mut self, now: Instant, fault: Fault) -> Vec<Effect> {
        let Some(attempt) = &mut self.attempt else {
            return Vec::new();
        };
        if attempt.ports.is_empty() && !matches!(fault, Fault::NotFound) {
            // A verification in the background: what it found is acted upon when somebody asks.
            self.attempt = None;
            return match fault {
                Fault::InStandby | Fault::InvalidState => self.lost(),
                Fault::NoCapacity
                | Fault::NotFound
                | Fault::Unauthorized
                | Fault::Unreachable
                | Fault::Failed => Vec::new(),
            };
        }
        match fault {
            Fault::InStandby => {
                attempt.step = Step::Restoring;
                attempt.seen = None;
                let mut effects = self.lost();
                effects.extend(self.unless_late(now, Effect::Restore));
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
            Fault::NoCapacity => {
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
        let pause = (FIRST_PAUSE * 2_u32.saturating_pow(attempt.pauses)).min(LONGEST_PAUSE);
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
        attempt.step = if then_restore {
            Step::Restoring
        } else {
            Step::Asking
        };
        self.unless_late(
            now,
            if then_restore {
                Effect::Restore
            } else {
                Effect::Ask
            },
        )
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
        self.failures = self.failures.saturating_add(1);
        if let Some(over) = self.failures.checked_sub(self.limits.breaker_failures) {
            let delay = BREAKER_FIRST * 2_u32.saturating_pow(over.min(16));
            self.broken_until = Some(now + delay.min(self.limits.breaker_max_delay));
        }
        vec![Effect::Refuse(match trouble {
            Some(Fault::NoCapacity) => WakeError::NoCapacity,
            Some(Fault::Unreachable) => WakeError::ControlPlaneDown,
            Some(Fault::Failed) => WakeError::Failed,
            Some(
                Fault::InStandby | Fault::InvalidState | Fault::NotFound | Fault::Unauthorized,
            )
            | None => WakeError::TimedOut(stage),
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
