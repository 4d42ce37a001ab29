//! Why an instance is not there for a request.

use std::time::Duration;

use crate::telemetry::WakePhase;

/// How far a wake had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeStage {
    /// The control plane has not said what the instance's state is.
    Asking,
    /// Other instances of its control plane are woken first.
    Queued,
    /// A restore is going on.
    Restoring,
    /// A start is going on.
    Starting,
    /// The VM runs, its program is coming up.
    Initializing,
    /// It is Running and its port is closed.
    NotListening,
    /// It is Running and its health check does not pass.
    Unhealthy,
    /// The host has no room for it.
    NoCapacity,
}

/// A request cannot be served by its instance now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WakeError {
    /// No instance has this name or id.
    #[error("no such instance")]
    NotFound,
    /// The name is an id prefix of several.
    #[error("the route's instance name is ambiguous; use the full id")]
    Ambiguous,
    /// It is Stopped and the route may not start it.
    #[error("the instance is stopped; start it, or set `wake.start_stopped` on its route")]
    Stopped,
    /// Its state allows no way to Running.
    #[error("the instance's state does not allow a wake")]
    Unusable,
    /// Not ready within the request's time.
    #[error("the instance was not ready in time")]
    TimedOut(WakeStage),
    /// The host had no room for it within the request's time.
    #[error("the host has no room for the instance; try again later")]
    NoCapacity,
    /// So many other instances were being woken that it was not its turn in time.
    #[error("too many other instances are being woken; try again later")]
    NoSlot,
    /// On its way from one state to another for too long.
    #[error("the instance was changing its state and did not come to rest in time")]
    Transitioning,
    /// Recent wakes took longer than the request can wait; one has begun, for the next request.
    #[error("the instance usually takes longer to wake than the request can wait")]
    TooSlow(Duration),
    /// Several wakes failed in a row; nothing is tried before this has passed.
    #[error("recent wakes of the instance failed; the next is tried later")]
    BreakerOpen(Duration),
    /// The control plane cannot be reached or does not answer.
    #[error("the control plane does not answer")]
    ControlPlaneDown,
    /// The control plane refuses our token.
    #[error("the control plane refuses the gateway's API key")]
    Unauthorized,
    /// The control plane failed to wake it.
    #[error("the control plane could not wake the instance")]
    Failed,
    /// The gateway is going down.
    #[error("the gateway is shutting down")]
    Draining,
}

// === impl WakeStage ===

impl WakeStage {
    /// One stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::Queued => "queued",
            Self::Restoring => "restoring",
            Self::Starting => "starting",
            Self::Initializing => "initializing",
            Self::NotListening => "not_listening",
            Self::Unhealthy => "unhealthy",
            Self::NoCapacity => "no_capacity",
        }
    }

    /// What the metrics and traces call it.
    pub const fn phase(self) -> WakePhase {
        match self {
            Self::Asking => WakePhase::Ask,
            Self::Queued => WakePhase::Queue,
            Self::Restoring => WakePhase::Restore,
            Self::Starting => WakePhase::Start,
            Self::Initializing => WakePhase::Wait,
            Self::NotListening | Self::Unhealthy => WakePhase::Probe,
            Self::NoCapacity => WakePhase::Capacity,
        }
    }
}
