//! Phase 2, resolve: the instance that a name means.
//!
//! Guarantees: a name that is known costs no question; a client that has guessed too many names is
//! refused before the control plane is asked about the next; the connection's next request for the
//! same name finds the instance in the connection's cache.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::connection_cache::{CachedTarget, ConnectionCache};
use super::error::ProxyError;
use super::gateway::Gateway;
use super::request_log::RequestLog;
use super::route::Destination;
use crate::names::PlaneIndex;
use crate::wake::{Instance, WakeError};
use hypeman::{ControlPlane, InstanceRef};

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// Finds the instance and the gate of its port.
    pub(super) async fn resolve(
        &self,
        destination: &Destination,
        cache: &ConnectionCache,
        log: &mut RequestLog,
    ) -> Result<Arc<CachedTarget>, ProxyError> {
        let (config, name) = (destination.route.config(), &destination.instance);
        let resolved = match cache.target(config, name) {
            Some(cached) => cached,
            None => {
                let Destination {
                    client, timeout, ..
                } = *destination;
                let instance = self.find(config.plane, name, client, timeout).await?;
                let gate = self.parts.hold.gate(instance.id(), config.port);
                cache.remember(config, name, instance, gate)
            }
        };
        log.instance = Some(resolved.instance.id().clone());
        Ok(resolved)
    }

    /// The instance that a name means, unless the client has guessed too many names.
    async fn find(
        &self,
        plane: PlaneIndex,
        name: &InstanceRef,
        client: IpAddr,
        timeout: Duration,
    ) -> Result<Arc<Instance>, ProxyError> {
        let wakes = &self.parts.wakes;
        let cached = wakes.cached(plane, name);
        if let Some(instance) = cached.as_ref().filter(|cached| cached.is_meant_by(name)) {
            return Ok(Arc::clone(instance));
        }
        if let Some(wait) = self.unknown.wait(client)
            && cached.is_none()
        {
            return Err(ProxyError::TooManyUnknown(wait));
        }
        // In a box: it is large, and needed once for each name.
        let result = Box::pin(wakes.find(plane, name, timeout)).await;
        if matches!(result, Err(WakeError::NotFound)) {
            self.unknown.note(client);
        }
        Ok(result?)
    }
}
