//! Waking before it is asked for: for a `ClientHello`, for a page's API, for an instance's company.
//!
//! Guarantees: whoever may not wake an instance with a request cannot do it so either, and pays the
//! same rates.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::dispatch::{Dispatch, target_of};
use super::service::Gateway;
use crate::names::Hostname;
use crate::router::{Match, is_below};
use crate::wake::{Instance, Requester};
use hypeman::ControlPlane;

impl<P: ControlPlane> Gateway<P> {
    /// Wakes what this request will need besides its own instance.
    pub(super) fn prewarm(&self, delivery: &Dispatch<'_, TcpStream>, path: &str) {
        let config = delivery.route.config();
        let wakes = &self.parts.wakes;
        for rule in &config.prewarm {
            if delivery.may_wake.is_ok() && rule.paths.iter().any(|below| is_below(path, below)) {
                wakes.prewarm(
                    config.plane,
                    &rule.instances,
                    &config.wake,
                    &delivery.asker(),
                );
            }
        }
        let asleep = || {
            let target = target_of(delivery.route);
            delivery.instance.warm(target).is_none() && delivery.instance.progress().is_none()
        };
        if !config.wake.also.is_empty() && delivery.may_wake.is_ok() && asleep() {
            wakes.prewarm(
                config.plane,
                &config.wake.also,
                &config.wake,
                &delivery.asker(),
            );
        }
    }

    /// A TLS client has said which host it wants: its instance may wake while the handshake goes on,
    /// where the route says so and the client's network and the rates allow it.
    pub fn on_client_hello(&self, sni: &str, client: IpAddr, port: u16) {
        let active_routes = self.active_routes.load();
        let found = Hostname::parse(sni)
            .ok()
            .and_then(|host| active_routes.table.find(&host, "/", port).ok());
        let Some(Match { route, instance }) = found else {
            return;
        };
        let (config, wakes) = (route.config(), &self.parts.wakes);
        let Some(admission) = active_routes
            .admission(&route)
            .filter(|_| config.wake.on_tls_hello)
        else {
            return;
        };
        let known = wakes.cached(config.plane, &instance);
        let awake = |known: Arc<Instance>| {
            known.warm(target_of(&route)).is_some() || known.progress().is_some()
        };
        if known.is_some_and(awake)
            || !admission.knows_client(client)
            || admission.charge(client).is_err()
        {
            return;
        }
        let asker = Requester {
            trace: None,
            route: Arc::clone(route.label()),
            client,
            user_agent: Some("TLS ClientHello".into()),
            since: Instant::now(),
        };
        wakes.prewarm(config.plane, &[instance], &config.wake, &asker);
    }
}
