//! One attempt to get an instance ready: who it is for, how far it is, and what is in its way.

use std::time::Duration;

use tokio::time::Instant;

use super::vocabulary::Effect;
use crate::config::ReadyWhen;
use crate::wake::error::{WakeError, WakeStage};
use crate::wake::evidence::{Doubt, Observation};
use crate::wake::target::Target;

/// How long a port is looked at before the control plane is asked again: longest, and while the
/// instance is Initializing.
const LOOK: Duration = Duration::from_secs(1);
const INITIALIZING_LOOK: Duration = Duration::from_millis(150);

/// An attempt to get the instance ready.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    /// The end of the route's own time, of all that wait.
    pub(super) deadline: Instant,
    /// The attempt has failed once at this time, though others may wait for longer.
    pub(super) fails_at: Instant,
    /// How long a route gives it.
    time: Duration,
    pub(super) targets: Vec<Target>,
    pub(super) start_stopped: bool,
    pub(super) may_boot: bool,
    pub(super) woken: bool,
    pub(super) booted: bool,
    pub(super) pauses: u32,
    pub(super) step: Step,
    /// The last passing trouble: the reason of the refusal when time runs out.
    pub(super) trouble: Option<Trouble>,
    pub(super) seen: Option<Observation>,
    /// An instance that runs has had no address since then.
    pub(super) without_address: Option<Instant>,
}

/// What is in the way of an attempt, and may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The control plane or the host.
    Doubt(Doubt),
    /// The instance is on its way to another state.
    Transition,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Asking,
    Restoring,
    Starting,
    Settling,
    Probing(Target),
    Pausing { then_restore: bool },
}

// === impl Attempt ===

impl Attempt {
    /// An attempt that begins by asking.
    pub(super) fn new(
        now: Instant,
        deadline: Instant,
        targets: Vec<Target>,
        (start_stopped, may_boot): (bool, bool),
    ) -> Self {
        Self {
            deadline,
            fails_at: deadline,
            time: deadline.saturating_duration_since(now),
            targets,
            start_stopped,
            may_boot,
            woken: false,
            booted: false,
            pauses: 0,
            step: Step::Asking,
            trouble: None,
            seen: None,
            without_address: None,
        }
    }

    /// Another request waits, too.
    pub(super) fn join(
        &mut self,
        now: Instant,
        target: Target,
        deadline: Instant,
        (start_stopped, may_boot): (bool, bool),
    ) {
        if self.is_verification() {
            // Only now somebody waits for it.
            (self.deadline, self.fails_at) = (deadline, deadline);
            self.time = deadline.saturating_duration_since(now);
        }
        self.deadline = self.deadline.max(deadline);
        self.start_stopped |= start_stopped;
        self.may_boot |= may_boot;
        if !self.targets.contains(&target) {
            self.targets.push(target);
        }
    }

    /// Whether nobody waits: it confirms a lease in the background.
    pub(super) fn is_verification(&self) -> bool {
        self.targets.is_empty()
    }

    /// Whether it has had a route's whole time since it began or last failed; the next failure is
    /// counted after as long again.
    pub(super) fn has_failed_by(&mut self, now: Instant) -> bool {
        let failed = now >= self.fails_at;
        if failed {
            self.fails_at = now + self.time.max(LOOK);
        }
        failed
    }

    /// Whether its end counts as a failure: not when it was counted a while before, and those who
    /// came later had less than a route's whole time since.
    pub(super) fn ends_as_failed(&self) -> bool {
        self.fails_at <= self.deadline
    }

    /// Whether all that it still waits for are ports that requests have chosen.
    pub(super) fn waits_for_chosen_ports(&self) -> bool {
        !self.targets.is_empty() && self.targets.iter().all(|target| target.is_chosen)
    }

    pub(super) fn may_begin_early(&self) -> bool {
        self.targets.iter().any(is_early)
    }

    /// What the next of those who wait needs, in the state that was seen last.
    pub(super) fn next_target(&self) -> Option<Target> {
        let initializing = self.seen.as_ref().is_some_and(|seen| seen.initializing);
        let next = match initializing {
            true => self.targets.iter().find(|target| is_early(target)),
            false => self.targets.first(),
        };
        next.cloned()
    }

    /// A target did not answer for a while: the others have their turn before it.
    pub(super) fn put_last(&mut self, target: &Target) {
        if let Some(place) = self.targets.iter().position(|other| other == target) {
            let target = self.targets.remove(place);
            self.targets.push(target);
        }
    }

    /// How far it is.
    pub(super) fn stage(&self) -> WakeStage {
        match self.step {
            Step::Asking if self.seen.is_none() => WakeStage::Asking,
            // Looking at a closed port, or between two looks.
            Step::Asking | Step::Probing(_) => self.waits_for(),
            Step::Restoring => WakeStage::Restoring,
            Step::Starting => WakeStage::Starting,
            Step::Settling => WakeStage::Initializing,
            Step::Pausing { .. } => match self.trouble {
                Some(Trouble::Doubt(Doubt::NoCapacity)) => WakeStage::NoCapacity,
                None if self.seen.is_some() => WakeStage::Unhealthy,
                Some(_) | None => WakeStage::Asking,
            },
        }
    }

    /// What a Running instance still lacks.
    fn waits_for(&self) -> WakeStage {
        let unhealthy = self
            .seen
            .as_ref()
            .is_some_and(|seen| seen.healthy == Some(false));
        let wants_health = self
            .targets
            .first()
            .is_some_and(|target| target.when == ReadyWhen::Health);
        match unhealthy && wants_health {
            true => WakeStage::Unhealthy,
            false => WakeStage::NotListening,
        }
    }

    /// The refusal that its trouble is, when time runs out.
    pub(super) fn refusal(&self) -> Option<WakeError> {
        Some(match self.trouble? {
            Trouble::Transition | Trouble::Doubt(Doubt::InvalidState) => WakeError::Transitioning,
            Trouble::Doubt(Doubt::UnknownState) => WakeError::StateUnknown,
            Trouble::Doubt(Doubt::NoAddress { .. } | Doubt::NoNetwork) => WakeError::Unusable,
            Trouble::Doubt(Doubt::AddressRefused) => WakeError::AddressRefused,
            Trouble::Doubt(Doubt::NoCapacity) => WakeError::NoCapacity,
            Trouble::Doubt(Doubt::NoSlot) => WakeError::NoSlot,
            Trouble::Doubt(Doubt::Unauthorized) => WakeError::Unauthorized,
            Trouble::Doubt(Doubt::Unreachable) => WakeError::ControlPlaneDown,
            Trouble::Doubt(Doubt::Unreadable) => WakeError::Unreadable,
            Trouble::Doubt(Doubt::Failed) => WakeError::Failed,
        })
    }
}

/// Whether a target may be ready while its instance is Initializing.
fn is_early(target: &Target) -> bool {
    target.when == ReadyWhen::Port && target.port != 0
}

/// Looks for a while, then asks again: the instance may have changed meanwhile. The more ports there
/// are to be looked at, the shorter it is.
pub(super) fn look_at(
    target: Target,
    seen: Option<&Observation>,
    now: Instant,
    (deadline, others): (Instant, u32),
) -> Effect {
    let idle = seen.and_then(|seen| seen.terms.idle_timeout);
    let slice = match seen {
        Some(seen) if seen.initializing => INITIALIZING_LOOK,
        _ => idle.map_or(LOOK, |idle| (idle / 3).min(LOOK)) / others.max(1),
    };
    let http = target.when == ReadyWhen::Health && seen.is_none_or(|seen| seen.healthy.is_none());
    Effect::Probe {
        target,
        http,
        until: deadline.min(now + slice.max(Duration::from_millis(50))),
    }
}
