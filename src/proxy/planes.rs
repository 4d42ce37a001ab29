//! Which of a node's control planes has an instance.
//!
//! Guarantees: what a claim says is honoured, and nothing else is asked instead; a route of the gateway's own file
//! is for the control plane that it names; without `[fleet]` there is nothing to find out.

use super::error::ProxyError;
use super::fleet_link::Fleet;
use super::gateway::Gateway;
use super::peer_facts::PeerFacts;
use crate::config::RouteConfig;
use crate::names::PlaneIndex;
use hypeman::{ControlPlane, InstanceRef};

// === impl Fleet ===

impl Fleet {
    /// The control plane of this name; without one the first.
    fn plane_named(&self, name: Option<&str>) -> Option<PlaneIndex> {
        let Some(name) = name else {
            return Some(PlaneIndex(0));
        };
        let mut planes = (0..).map(PlaneIndex).zip(&self.planes);
        let (index, _) = planes.find(|(_, plane)| &***plane == name)?;
        Some(index)
    }
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// That of the instance of a request, or a connection, by what another member says of it, or by its route.
    pub(super) fn plane_of(
        &self,
        route: &RouteConfig,
        instance: &InstanceRef,
        facts: Option<&PeerFacts>,
    ) -> Result<PlaneIndex, ProxyError> {
        match (facts, self.fleet.get()) {
            (Some(facts), Some(fleet)) if fleet.is_node => {
                let plane = fleet.plane_named(facts.plane.as_deref());
                // It had one of this name when it published that.
                plane.ok_or(ProxyError::Misplaced)
            }
            (Some(_) | None, _) => Ok(self.own_plane(route, instance)),
        }
    }

    /// That of an instance of this host by a route: the one that it is published for, or that lists it, where the
    /// route does not say which.
    pub(super) fn own_plane(&self, route: &RouteConfig, instance: &InstanceRef) -> PlaneIndex {
        let fleet = self.fleet.get();
        let asked = fleet.filter(|fleet| route.plane_is_open && fleet.planes.len() > 1);
        let Some(fleet) = asked else {
            return route.plane;
        };
        let published = fleet.placement.own_plane(instance.as_str());
        if let Some(plane) = published.and_then(|name| fleet.plane_named(Some(&name))) {
            return plane;
        }
        let mut planes = (0..).map(PlaneIndex).zip(&fleet.planes);
        let lists = planes.find(|(index, _)| self.parts.wakes.is_listed(*index, instance));
        lists.map_or(route.plane, |(index, _)| index)
    }
}
