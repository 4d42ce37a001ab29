//! Which names may have certificates on demand.
//!
//! Guarantees: such a name is one that a route takes its instance from, and the instance exists by
//! the control plane's word, or in a fleet by what its host's node has published of it; who guesses names
//! is refused like one who sends requests for them.

use std::net::IpAddr;
use std::time::Duration;

use super::gateway::Gateway;
use super::ports::port_of_host;
use crate::fleet::Place;
use crate::names::Hostname;
use crate::router::Match;
use hypeman::ControlPlane;

impl<P: ControlPlane> Gateway<P> {
    /// Whether a client's name at this port is that of an instance, as far as it can be found out
    /// within `patience`.
    pub async fn confirms_name(
        &self,
        host: &Hostname,
        (client, port): (IpAddr, u16),
        patience: Duration,
    ) -> bool {
        let found = self.active_routes.load().captured(host, port);
        let Some(Match { route, instance }) = found else {
            return false;
        };
        if port_of_host(&route, host.as_str()).is_err() {
            return false;
        }
        let fleet = self.fleet.get();
        if let Some(place) = fleet.and_then(|fleet| fleet.elsewhere(&instance)) {
            // What a node publishes is its control plane's word, too.
            return !matches!(place, Place::Unclaimed);
        }
        let plane = self.own_plane(route.config(), &instance);
        let found = self.find_name(plane, &instance, patience, client);
        found.await.is_ok()
    }
}
