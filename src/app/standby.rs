//! What a workload is asked before the gateway puts its instance to sleep.
//!
//! Guarantees: it is asked where it is by its control plane's word, also if no request has ever gone
//! to it; an instance that does not run is not asked.

use std::net::IpAddr;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::{Instant, timeout};

use super::handle::Running;
use crate::admin::Problem;
use crate::names::PlaneIndex;
use crate::wake::{Evidence, Hook, HookOutcome, Instance, Observation, Tcp, call_hook};
use hypeman::GoDuration;

/// How long it is looked for where an instance is.
const PATIENCE: Duration = Duration::from_secs(5);

/// The workload does not want to be put to sleep.
pub(super) fn wants_to_go_on(pause: Option<Duration>) -> Problem {
    let until = pause.map_or_else(String::new, |pause| {
        format!(" for {} more", GoDuration::from(pause))
    });
    let detail =
        format!("The workload wants to go on{until}; `--force` puts it to sleep all the same.");
    Problem::new(StatusCode::CONFLICT, "standby_refused", detail).retry_after(pause)
}

// === impl Running ===

impl Running {
    /// Tells the workload of an instance that is awake that it is about to be put to sleep.
    pub(super) async fn before_standby(
        &self,
        plane: PlaneIndex,
        instance: &Instance,
    ) -> HookOutcome {
        let Some(route) = self.standby_hook(plane, instance) else {
            return HookOutcome::Ok;
        };
        let hooks = &route.wake.hooks;
        let endpoint = instance.endpoint();
        // Counted, so that it does not fall asleep in the middle of it.
        let _open = endpoint
            .as_ref()
            .map(|endpoint| endpoint.open_connection().of_the_gateway());
        let ip = match &endpoint {
            Some(endpoint) => Some(endpoint.ip()),
            None => self.runs_at(plane, instance).await,
        };
        let port = Some(route.port).filter(|port| *port != 0);
        let port = port.or_else(|| endpoint.as_ref()?.first_ready_port());
        let (Some(path), Some(ip), Some(port)) = (&hooks.before_standby, ip, port) else {
            return HookOutcome::Ok;
        };
        let address = (ip, port).into();
        let parts = self.gateway.parts();
        if parts.wakes.own_listeners().include(address) {
            return HookOutcome::Failed;
        }
        let tls = match route.forwarding.protocol.is_secure() {
            false => None,
            // As it was spoken when the instance was found to be ready.
            true => match endpoint.as_ref().and_then(|endpoint| endpoint.tls_of(port)) {
                Some(tls) => Some(tls),
                None => return HookOutcome::Failed,
            },
        };
        let place = (address, &**path, tls.as_ref());
        call_hook(
            &Tcp,
            place,
            Hook::BeforeStandby,
            hooks.timeout,
            &parts.metrics,
        )
        .await
    }

    /// Where an instance runs that the engine has not found awake yet: others may have woken it.
    async fn runs_at(&self, plane: PlaneIndex, instance: &Instance) -> Option<IpAddr> {
        let plane = self.planes.get(usize::from(plane.0))?;
        let (id, now) = (instance.id(), Instant::now());
        let name = id.to_ref();
        let asking = plane.client.get_instance(&name);
        let described = timeout(PATIENCE, asking).await.ok()?.ok()?;
        match Evidence::of(id, &described, now) {
            Evidence::Awake(Observation {
                ip,
                initializing: false,
                ..
            }) => Some(ip),
            Evidence::Awake(_) | Evidence::Asleep(_) | Evidence::Gone | Evidence::Unsure(_) => None,
        }
    }
}
