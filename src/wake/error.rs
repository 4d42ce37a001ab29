//! Why an instance is not there for a request.

use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::{WakeOutcome, WakePhase};

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
    /// The instance was there, and the control plane no longer has it. Its name may mean another
    /// one by now.
    #[error("the instance is gone")]
    Gone,
    /// It is Stopped and the route may not start it.
    #[error("the instance is stopped; start it, or set `wake.start_stopped` on its route")]
    Stopped,
    /// It would have to be booted, and its route wants it with its memory.
    #[error(
        "the instance has no memory to be restored; start it yourself, or leave out `wake.require_memory`"
    )]
    ColdBootRefused,
    /// Nothing can reach it: it has no network, or runs without an address.
    #[error("the instance has no network; give it one")]
    Unusable,
    /// Its address is one that is never connected to.
    #[error("the instance's address is that of no instance, or of this gateway")]
    AddressRefused,
    /// The control plane could not tell its state in time.
    #[error("the control plane does not know the instance's state")]
    StateUnknown,
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
    /// The control plane's answers cannot be read.
    #[error("the control plane's answer about the instance cannot be read")]
    Unreadable,
    /// The control plane refuses our token.
    #[error("the control plane refuses the gateway's API key")]
    Unauthorized,
    /// The control plane failed to wake it.
    #[error("the control plane could not wake the instance")]
    Failed,
    /// TLS with the instance is refused, by the gateway or by the instance, for this reason.
    #[error("{0}")]
    Tls(Arc<str>),
    /// The gateway is going down.
    #[error("the gateway is shutting down")]
    Draining,
}

// === impl WakeError ===

impl WakeError {
    /// One stable word: the `code` of the answer to whoever waited, of the ledger and of the log.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound | Self::Gone => "instance_not_found",
            Self::Stopped => "instance_stopped",
            Self::ColdBootRefused => "cold_boot_refused",
            Self::Unusable => "instance_unusable",
            Self::AddressRefused => "address_refused",
            Self::StateUnknown => "instance_state_unknown",
            Self::TimedOut(WakeStage::NotListening) => "app_not_listening",
            Self::TimedOut(WakeStage::Initializing) => "instance_initializing",
            Self::TimedOut(WakeStage::Unhealthy) => "app_unhealthy",
            Self::TimedOut(
                WakeStage::Asking
                | WakeStage::Queued
                | WakeStage::Restoring
                | WakeStage::Starting
                | WakeStage::NoCapacity,
            ) => "wake_timeout",
            Self::NoCapacity => "no_capacity",
            Self::NoSlot => "wake_queue_full",
            Self::Transitioning => "instance_transitioning",
            Self::TooSlow(_) => "wake_too_slow",
            Self::BreakerOpen(_) => "wake_failing",
            Self::ControlPlaneDown => "control_plane_unavailable",
            Self::Unreadable => "control_plane_unreadable",
            Self::Unauthorized => "control_plane_refused",
            Self::Failed => "wake_failed",
            Self::Tls(_) => "upstream_tls",
            Self::Draining => "draining",
        }
    }

    /// How a wake ended that ended with this.
    pub const fn outcome(&self) -> WakeOutcome {
        match self {
            Self::TimedOut(_) => WakeOutcome::TimedOut,
            Self::NotFound
            | Self::Gone
            | Self::Stopped
            | Self::ColdBootRefused
            | Self::Unusable
            | Self::AddressRefused
            | Self::StateUnknown
            | Self::NoCapacity
            | Self::NoSlot
            | Self::Transitioning
            | Self::TooSlow(_)
            | Self::BreakerOpen(_)
            | Self::ControlPlaneDown
            | Self::Unreadable
            | Self::Unauthorized
            | Self::Failed
            | Self::Tls(_)
            | Self::Draining => WakeOutcome::Failed,
        }
    }
}

// === impl WakeStage ===

impl WakeStage {
    /// One stable word, the same wherever a phase is named.
    pub const fn as_str(self) -> &'static str {
        self.phase().as_str()
    }

    /// The phase of the wake that it is a stage of, for its count.
    pub const fn phase(self) -> WakePhase {
        match self {
            Self::Asking => WakePhase::Asking,
            Self::Queued => WakePhase::Queued,
            Self::Restoring => WakePhase::Restoring,
            Self::Starting => WakePhase::Starting,
            Self::Initializing => WakePhase::Initializing,
            Self::NotListening => WakePhase::NotListening,
            Self::Unhealthy => WakePhase::Unhealthy,
            Self::NoCapacity => WakePhase::NoCapacity,
        }
    }
}
