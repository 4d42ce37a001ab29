//! Putting instances to sleep under their tunnels.
//!
//! Guarantees: an instance is put to sleep only where its control plane says that nobody else is connected
//! to it and that no hold stands, and where neither its hook nor its workload's holds want it awake. Between
//! that look and the sleep somebody else may come: the control plane has no call that does both.

use std::sync::{Arc, Weak};

use futures_util::future::{BoxFuture, FutureExt as _};

use super::handle::Running;
use crate::names::PlaneIndex;
use crate::proxy::{Sleeper, Slept};
use crate::wake::{Endpoint, Instance};
use crate::workload::{Rested, Sleep};

/// Puts instances to sleep whose tunnels are all quiet.
#[derive(Debug)]
pub(super) struct InstanceSleeper(Weak<Running>);

// === impl InstanceSleeper ===

impl InstanceSleeper {
    pub(super) fn of(running: &Arc<Running>) -> Self {
        // The gateway is a part of what this leads to.
        Self(Arc::downgrade(running))
    }
}

impl Sleeper for InstanceSleeper {
    fn put_to_sleep<'a>(
        &'a self,
        plane: PlaneIndex,
        instance: &'a Arc<Instance>,
    ) -> BoxFuture<'a, Slept> {
        async move {
            match self.0.upgrade() {
                Some(running) => running.put_to_sleep(plane, instance).await,
                None => Slept::Failed,
            }
        }
        .boxed()
    }
}

// === impl Running ===

impl Running {
    async fn put_to_sleep(&self, index: PlaneIndex, instance: &Arc<Instance>) -> Slept {
        let Some(plane) = self.planes.get(usize::from(index.0)) else {
            return Slept::Failed;
        };
        let (id, endpoint) = (instance.id(), instance.endpoint());
        let payload_at = endpoint.as_ref().map(Endpoint::last_payload);
        let ours = instance.parking().tunnels();
        let status = match plane.client.auto_standby_status(&id.to_ref()).await {
            Ok(status) => status,
            Err(error) => {
                tracing::debug!(instance = %id, %error, "not asked about its connections");
                return Slept::Failed;
            }
        };
        let others = status.active_inbound_connections > ours as u64;
        let now = jiff::Timestamp::now();
        if others || status.hold_until.is_some_and(|until| until > now) {
            tracing::debug!(instance = %id, connections = status.active_inbound_connections, ours,
                hold = status.hold_until.is_some(), "somebody else needs it");
            return Slept::Refused(None);
        }
        let sleep = Sleep::new(&self.holds, &self.owner(index, id.clone()), true);
        let may = move || match &endpoint {
            // Nothing has come meanwhile, and nothing goes to it any more.
            Some(endpoint) => Some(endpoint.last_payload()) == payload_at && endpoint.begin_rest(),
            None => true,
        };
        match self.rest_if(index, instance, sleep, may).await {
            Rested::Asleep => {
                tracing::info!(instance = %id, tunnels = ours, "asleep, with its tunnels parked");
                let ledger = self.gateway.parts().wakes.ledger();
                ledger.note_parked((index, id), &instance.name(), ours);
                Slept::Asleep
            }
            Rested::Refused(pause) => Slept::Refused(pause),
            Rested::Busy | Rested::Held => Slept::Refused(None),
            Rested::Later(error) | Rested::Failed(error) => {
                tracing::info!(instance = %id, %error, "not put to sleep, though its tunnels are quiet");
                Slept::Failed
            }
        }
    }
}
