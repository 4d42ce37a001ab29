//! The events that the machine takes and the effects that it gives.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::wake::error::WakeError;
use crate::wake::lease::LeaseTerms;
use crate::wake::target::Target;
use hypeman::wire::InstanceState;

/// What the control plane says about the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Its name, which may have changed.
    pub name: Arc<str>,
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
    /// What the server's own health check says, where it has one.
    pub healthy: Option<bool>,
}

/// Why an operation has no [`Observation`] to show.
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
    /// The control plane refuses the token.
    Unauthorized,
    /// No connection, no answer, or one that makes no sense.
    Unreachable,
    /// A 5xx or the like.
    Failed,
    /// Too many other instances are being woken; nothing was asked.
    NoSlot,
}

/// An event that the machine reacts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request asks for the instance.
    WakeRequested {
        /// The port that it needs, and the sign that it is ready.
        target: Target,
        /// The time until which its client waits.
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
        /// The number of the epoch.
        epoch: u64,
    },
    /// The operation in flight has ended.
    Answered(Result<Observation, Fault>),
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
pub struct WakeLimits {
    /// Failed attempts in a row before the breaker opens.
    pub breaker_failures: u32,
    /// Its longest pause.
    pub breaker_max_delay: Duration,
    /// What was seen is not acted upon after this.
    pub verify_interval: Duration,
}
