//! A control plane with what it last said of its instances.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::telemetry::InstanceCondition;
use crate::wake::Listing;
use hypeman::wire::InstanceState;

/// A control plane and what it said last.
#[derive(Debug)]
pub(super) struct ObservedPlane {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) client: hypeman::Client,
    pub(super) last: ArcSwap<LastAnswer>,
}

/// What a control plane said last.
#[derive(Debug, Default)]
pub(super) struct LastAnswer {
    /// Whether it answered; `None` before it was asked.
    pub(super) up: Option<bool>,
    pub(super) error: Option<String>,
    pub(super) listing: Arc<Listing>,
}

// === impl ObservedPlane ===

impl ObservedPlane {
    /// Whether its last list has an instance of this name or id.
    pub(super) fn lists(&self, name: &str) -> bool {
        let last = self.last.load();
        let mut instances = last.listing.instances().iter();
        instances.any(|(id, seen)| id.as_str() == name || &*seen.name == name)
    }
}

/// The condition that a control plane's state means.
pub(super) fn condition_of(state: &InstanceState) -> InstanceCondition {
    match state {
        InstanceState::Running => InstanceCondition::Awake,
        InstanceState::Initializing => InstanceCondition::Waking,
        InstanceState::Standby => InstanceCondition::Asleep,
        InstanceState::Created
        | InstanceState::Paused
        | InstanceState::Shutdown
        | InstanceState::Stopped
        | InstanceState::Unknown
        | InstanceState::Other(_) => InstanceCondition::Stopped,
    }
}
