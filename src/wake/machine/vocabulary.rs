//! The events that the machine takes and the effects that it gives.

use std::time::Duration;

use tokio::time::Instant;

use crate::wake::error::WakeError;
use crate::wake::evidence::{Evidence, Observation};
use crate::wake::target::Target;

/// An event that the machine reacts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request asks for the instance.
    WakeRequested {
        /// The port that it needs, and the sign that it is ready.
        target: Target,
        /// The end of the time that an attempt may take for it: its route's own time, however
        /// soon its client wants to leave.
        deadline: Instant,
        /// Whether a Stopped instance may be started.
        start_stopped: bool,
        /// Whether it may be booted, so that it has nothing of before in its memory.
        may_boot: bool,
        /// Whether the lease is in force.
        leased: bool,
    },
    /// The lease is old and in use, or a list no longer has the instance.
    Verify,
    /// Its workload wants it awake, and whether it is is not known.
    Look,
    /// A connection of this epoch failed, or could not be made.
    Suspect {
        /// The number of the epoch.
        epoch: u64,
    },
    /// The operation in flight has ended.
    Answered {
        /// What it shows.
        evidence: Evidence,
        /// The time for which the control plane does not want to be asked again.
        retry_after: Option<Duration>,
    },
    /// The target in question answered, or did not for a while.
    Probed {
        /// Whether it did.
        open: bool,
    },
    /// The pause is over.
    PauseOver,
}

/// A task for the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// `hold` and Get, together.
    Ask,
    /// Restore, when there is a slot for it.
    Restore {
        /// A slot is waited for until then.
        until: Instant,
    },
    /// Start, when there is a slot for it.
    Start {
        /// A slot is waited for until then.
        until: Instant,
    },
    /// Until it is no longer Initializing: `wait`, and Get every so often beside it.
    Settle {
        /// At most until then.
        until: Instant,
    },
    /// Look whether the target answers.
    Probe {
        /// The target to try.
        target: Target,
        /// Whether an HTTP request decides, or an open port does.
        http: bool,
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
        seen: Observation,
        /// Whether it was restored or started, so that nothing of before is left.
        fresh: bool,
    },
    /// The target answers: release who waits for it.
    Grant {
        /// The target that answers.
        target: Target,
        /// Whether the instance had to be woken for it.
        woken: bool,
        /// Whether it was booted then.
        booted: bool,
    },
    /// The epoch is over: whatever is open on it is dead.
    Cut,
    /// Refuse everybody who waits.
    Refuse(WakeError),
    /// The instance is gone: let go of it.
    Forget,
}

/// The breaker's and the attempt's limits.
#[derive(Debug, Clone, Copy)]
pub struct WakeLimits {
    /// Failed attempts in a row before the breaker opens.
    pub breaker_failures: u32,
    /// Its longest pause.
    pub breaker_max_delay: Duration,
    /// What was seen is not acted upon after this.
    pub verify_interval: Duration,
}

// === impl Event ===

impl From<Evidence> for Event {
    fn from(evidence: Evidence) -> Self {
        Self::Answered {
            evidence,
            retry_after: None,
        }
    }
}
