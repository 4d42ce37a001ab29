//! Waking an instance before a request for it comes: for a `ClientHello`, for a page's API, for
//! the instances that another one needs.
//!
//! Guarantees: whoever may not wake an instance with a request cannot do so this way either, and
//! pays the same rates; where a request has to show who sends it, a `ClientHello` wakes nothing.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;

use super::active_routes::tls_of;
use super::context::readiness_of;
use super::gateway::Gateway;
use super::path_verdict::PathVerdict;
use crate::config::RouteConfig;
use crate::names::Hostname;
use crate::router::{Match, PathReadings};
use crate::wake::{Instance, Requester};
use hypeman::{ControlPlane, InstanceRef};

impl<P: ControlPlane> Gateway<P> {
    /// Wakes what a request that may wake will need besides its own instance.
    pub(super) fn prewarm(
        &self,
        config: &RouteConfig,
        instance: &Instance,
        path: &PathVerdict,
        requester: impl Fn() -> Requester,
    ) {
        let rules = path.prewarm.iter();
        for rule in rules.filter_map(|position| config.prewarm.get(*position)) {
            self.prewarm_all(config, &rule.instances, &requester());
        }
        let may_sleep = || !instance.is_certainly_awake() && instance.progress().is_none();
        if !config.wake.also.is_empty() && may_sleep() {
            self.prewarm_all(config, &config.wake.also, &requester());
        }
    }

    fn prewarm_all(&self, config: &RouteConfig, names: &[InstanceRef], requester: &Requester) {
        for name in names {
            let (plane, name) = (self.own_plane(config, name), std::slice::from_ref(name));
            let wakes = &self.parts.wakes;
            wakes.prewarm(plane, name, &config.wake, requester);
        }
    }

    /// Wakes the instance of the host that a TLS client names, while the handshake goes on, where
    /// the route says so and the client's network and the rates allow it.
    pub fn on_client_hello(&self, sni: &str, client: IpAddr, port: u16) {
        let table = self.active_routes.load();
        let path = PathReadings::of("/");
        let Ok(host) = Hostname::parse(sni) else {
            return;
        };
        let Ok(Match { route, instance }) = table.find(&host, &path, port) else {
            return;
        };
        let fleet = self.fleet.get();
        if fleet.is_some_and(|fleet| fleet.elsewhere(&instance).is_some()) {
            return;
        }
        let (config, wakes) = (route.config(), &self.parts.wakes);
        if !config.wake.on_tls_hello || table.asks_for_auth(&host, port) {
            return;
        }
        let Ok(tls) = tls_of(&route, &host) else {
            return;
        };
        let admission = &route.state().admission;
        let is_awake = |instance: Arc<Instance>| {
            let ready = readiness_of(config, config.port, tls.as_ref());
            instance.warm(&ready).is_some() || instance.progress().is_some()
        };
        let plane = self.own_plane(config, &instance);
        if wakes.cached(plane, &instance).is_some_and(is_awake)
            || !admission.knows_client(client)
            || admission.charge(client).is_err()
        {
            return;
        }
        let requester = Requester {
            unparked_by: None,
            trace: None,
            route: config.key(),
            client,
            user_agent: Some("TLS ClientHello".into()),
            since: Instant::now(),
        };
        wakes.prewarm(plane, &[instance], &config.wake, &requester);
    }
}
