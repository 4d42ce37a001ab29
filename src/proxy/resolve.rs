//! Phase 3, resolve: the instance that a name means.
//!
//! Guarantees: a name that is known costs no question; a client that has guessed too many names is
//! refused before the control plane is asked about the next, unless the last list has that one;
//! the connection's next request for the same name finds the instance in the connection's cache; a
//! name whose instance is gone is looked up again within the request's time.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::asked_anew::find_claimed;
use super::connection_cache::CachedTarget;
use super::context::Arrival;
use super::error::ProxyError;
use super::gateway::Gateway;
use super::peer_facts::FromPeer;
use super::pending_request::{LookUp, Resolved, queues_of};
use super::request_log::RequestLog;
use super::route::Destination;
use crate::hold::Gate;
use crate::instance_tls::InstanceStream;
use crate::names::PlaneIndex;
use crate::wake::{Instance, WakeError};
use hypeman::{ControlPlane, InstanceRef};

/// The look-up of a request's name, for when its instance turns out to be gone.
pub(super) struct NameLookUp<'a, P> {
    gateway: &'a Gateway<P>,
    from_peer: Option<&'a FromPeer>,
    destination: &'a Destination,
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// Finds the instance and the gate of its port.
    pub(super) async fn resolve(
        &self,
        destination: &Destination,
        arrival: &Arrival<'_>,
        log: &mut RequestLog,
    ) -> Result<Arc<CachedTarget>, ProxyError> {
        if let Some(known) = known(destination, arrival, log) {
            return Ok(known);
        }
        let (plane, name) = (destination.plane, &destination.instance);
        let finding = self.find(destination, arrival.from_peer, destination.timeout);
        let instance = finding.await?;
        let gate = self.gate(&instance, destination.port);
        let pseudonym = self.pseudonyms.of(plane, name);
        let (place, named) = ((plane, destination.port), (name, pseudonym));
        let resolved = arrival.cache.remember(place, named, instance, gate);
        log.instance = Some(Arc::clone(&resolved.instance));
        Ok(resolved)
    }

    /// The look-up of a request's name, to be made again.
    pub(super) fn look_up_of<'a>(
        &'a self,
        destination: &'a Destination,
        from_peer: Option<&'a FromPeer>,
    ) -> NameLookUp<'a, P> {
        NameLookUp {
            gateway: self,
            from_peer,
            destination,
        }
    }

    /// The gate of an instance's port.
    fn gate(&self, instance: &Instance, port: u16) -> Arc<Gate> {
        queues_of(&self.parts.hold, instance).gate(port)
    }

    /// The instance that a name means, unless the client has guessed too many names.
    async fn find(
        &self,
        destination: &Destination,
        from_peer: Option<&FromPeer>,
        patience: Duration,
    ) -> Result<Arc<Instance>, ProxyError> {
        let plane = destination.plane;
        let (name, client) = (&destination.instance, destination.client);
        match from_peer {
            None => self.find_name(plane, name, patience, client).await,
            Some(from) => {
                let claimed = from.facts().and_then(|facts| facts.id.as_deref());
                let wakes = &self.parts.wakes;
                let asking = (patience, client);
                find_claimed(wakes, &self.asked_anew, (plane, name), claimed, asking).await
            }
        }
    }

    /// The instance that a name means at a control plane, unless the client has guessed too many.
    pub(super) async fn find_name(
        &self,
        plane: PlaneIndex,
        name: &InstanceRef,
        patience: Duration,
        client: IpAddr,
    ) -> Result<Arc<Instance>, ProxyError> {
        let wakes = &self.parts.wakes;
        if let Some(instance) = wakes.cached(plane, name) {
            return Ok(instance);
        }
        if let Some(wait) = self.unknown.wait(client)
            && !wakes.is_listed(plane, name)
        {
            return Err(ProxyError::TooManyUnknown(wait));
        }
        // In a box: it is large, and needed once for each name.
        let result = Box::pin(wakes.find(plane, name, patience, client)).await;
        if matches!(result, Err(WakeError::NotFound)) {
            self.unknown.note(client);
        }
        Ok(result?)
    }
}

/// The instance and the gate that an earlier request of the connection has found.
pub(super) fn known(
    destination: &Destination,
    arrival: &Arrival<'_>,
    log: &mut RequestLog,
) -> Option<Arc<CachedTarget>> {
    let place = (destination.plane, destination.port);
    let known = arrival.cache.target(place, &destination.instance)?;
    log.instance = Some(Arc::clone(&known.instance));
    Some(known)
}

// === impl NameLookUp ===

impl<P: ControlPlane> LookUp<InstanceStream> for NameLookUp<'_, P> {
    fn means(&self, instance: &Instance) -> bool {
        instance.is_meant_by(&self.destination.instance)
    }

    fn look_up(&self) -> BoxFuture<'_, Result<Resolved<InstanceStream>, ProxyError>> {
        Box::pin(async {
            let Self {
                gateway,
                from_peer,
                destination,
            } = self;
            let left = destination.deadline - Instant::now();
            let instance = gateway.find(destination, *from_peer, left).await?;
            let gate = gateway.gate(&instance, destination.port);
            Ok(Resolved { instance, gate })
        })
    }
}

impl<P> fmt::Debug for NameLookUp<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameLookUp({})", self.destination.instance)
    }
}
