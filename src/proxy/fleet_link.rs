//! What a gateway of a fleet has besides: where instances are, and ways to other members.
//!
//! Guarantees: a gateway without it is a single one, and asks nobody where an instance is.

use std::sync::Arc;

use super::active_routes::ActiveRoute;
use crate::config::{Protocol, RouteConfig};
use crate::fleet::{Place, Placement};
use crate::upstream::Peers;
use hypeman::InstanceRef;

/// The gateway's place in its fleet.
#[derive(Debug, Clone)]
pub struct FleetLink {
    /// Who knows where instances are.
    pub placement: Arc<dyn Placement>,
    /// The ways to other members; `None` where there is no certificate to show them.
    pub peers: Option<Arc<Peers>>,
    /// Whether it stands beside a Hypeman.
    pub is_node: bool,
    /// The names of its control planes, in their order.
    pub planes: Vec<Arc<str>>,
    /// What is said of a request for a host that only its front has a route for: one route for each
    /// protocol that may be spoken with the instance.
    pub default_routes: Vec<Arc<RouteConfig>>,
}

/// The same in a gateway that runs.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) placement: Arc<dyn Placement>,
    pub(super) peers: Option<Arc<Peers>>,
    pub(super) is_node: bool,
    pub(super) planes: Vec<Arc<str>>,
    pub(super) default_routes: Vec<Arc<ActiveRoute>>,
}

// === impl Fleet ===

impl Fleet {
    /// The route of a request that only its front has one for.
    pub(super) fn default_route(&self, protocol: Protocol) -> Option<&Arc<ActiveRoute>> {
        let mut routes = self.default_routes.iter();
        routes.find(|route| route.config().forwarding.protocol == protocol)
    }

    /// Where an instance is, unless it is, or may be, here.
    pub(super) fn elsewhere(&self, name: &InstanceRef) -> Option<Place> {
        self.unless_here(self.placement.place(name.as_str()))
    }

    /// The same after the directory was read anew.
    pub(super) async fn elsewhere_by_now(&self, name: &InstanceRef) -> Option<Place> {
        self.unless_here(self.placement.read_again(name.as_str()).await)
    }

    fn unless_here(&self, place: Place) -> Option<Place> {
        match place {
            Place::Here => None,
            // What is not published may still be its own.
            Place::Unclaimed if self.is_node => None,
            place @ (Place::Unclaimed | Place::Peer { .. } | Place::Unreachable { .. }) => {
                Some(place)
            }
        }
    }
}
