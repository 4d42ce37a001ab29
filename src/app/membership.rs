//! The gateway's place in a fleet: its listener for other members, and its ways to them.
//!
//! Guarantees: other members are answered by the same gateway as clients, once they have shown who
//! they are; what is in the files of its identity is in force soon after it has changed.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::error::AppError;
use crate::config::{Config, HostPattern, InstanceTemplate, Protocol, RouteConfig, RoutePolicy};
use crate::fleet::identity::CallerJudge;
use crate::fleet::{PeerIdentity, Placement};
use crate::listener::{Inherited, Listener, ListenerSettings};
use crate::names::PlaneIndex;
use crate::proxy::FleetLink;
use crate::upstream::Peers;

/// A place in a fleet.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Who knows where instances are.
    pub placement: Arc<dyn Placement>,
    /// What it shows to other members, and whom it believes; without it there is no way to them.
    pub identity: Option<Arc<PeerIdentity>>,
    /// Where it listens for other members.
    pub listen: Option<SocketAddr>,
    /// Whether it stands beside a Hypeman.
    pub is_node: bool,
}

/// The port of a route that says none; who passes a request on says which.
const PORT: u16 = 8080;

// === impl Membership ===

impl Membership {
    /// The socket for other members.
    pub(super) fn bind(
        &self,
        reuse_port: bool,
        inherited: &mut Inherited,
    ) -> Result<Option<Listener>, AppError> {
        let (Some(address), Some(identity)) = (self.listen, &self.identity) else {
            return Ok(None);
        };
        let members = Some(Arc::clone(&self.placement));
        let config = identity.server_config(members.clone())?;
        let judge = CallerJudge::new(Arc::clone(identity), members);
        let settings = ListenerSettings::for_members(config, Arc::new(judge));
        let inherited = inherited.take(address);
        let bound = Listener::bind(address, settings, inherited, reuse_port, false);
        let bound = bound.map_err(|source| AppError::Members(address, source))?;
        Ok(Some(bound))
    }

    /// What the gateway knows of the fleet.
    pub(super) fn link(&self, config: &Config) -> FleetLink {
        let identity = self.identity.clone();
        FleetLink {
            placement: Arc::clone(&self.placement),
            peers: identity.map(|identity| Peers::new(identity, TaskTracker::new())),
            is_node: self.is_node,
            planes: config
                .hypeman
                .iter()
                .map(|plane| plane.name.as_str().into())
                .collect(),
            default_routes: default_routes(config),
        }
    }
}

/// What a node says of a request for a host that only its front has a route for: what `[wake]` says, for
/// each protocol that the front's route may name.
fn default_routes(config: &Config) -> Vec<Arc<RouteConfig>> {
    let protocols = [Protocol::H1, Protocol::H2c, Protocol::Https, Protocol::H2];
    let routes = protocols.into_iter().map(|protocol| {
        let first = config.hypeman.first();
        let mut policy = RoutePolicy {
            hypeman: first.map(|plane| plane.name.clone()).unwrap_or_default(),
            ..RoutePolicy::new(PlaneIndex(0), &config.wake)
        };
        policy.forwarding.protocol = protocol;
        // Who passes a request on says which instance it is for.
        let nobody = InstanceTemplate::Capture("instance".into());
        let route = RouteConfig::new(&HostPattern::Any, nobody, PORT, Arc::new(policy));
        Arc::new(route)
    });
    routes.collect()
}
