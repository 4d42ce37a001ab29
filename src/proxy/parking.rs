//! Tunnels that may be parked, as the gateway sees them.
//!
//! Guarantees: a parked tunnel has no place at its instance, and no more of a route's are parked than that
//! allows; what wakes for one is judged and waits as any request does, for the instance that it leads to
//! and no other; an instance is put to sleep by one keeper, as long as one of its tunnels may be parked.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection_cache::CachedTarget;
use super::denied::Denied;
use super::error::ProxyError;
use super::error_response;
use super::gateway::Gateway;
use super::park_keeper::keep;
use super::park_places::ParkPlace;
use super::pending_request::{PendingRequest, Resolved, queues_of};
use super::route::Destination;
use super::transaction::Transaction;
use super::wake_info::WakeInfo;
use crate::client::ClientUpgrade;
use crate::flow::ClientBuffers;
use crate::hold::Slot;
use crate::telemetry::WakeKind;
use crate::upstream::{
    Carried, Close, InstanceSide, LeftBehind, ParkHost, ParkRules, Parted, TunnelRules, Unready,
    Woken, carry_parkable, parkable_tunnel,
};
use crate::wake::{Endpoint, Instance, ParkableTunnel, WakeError};
use hypeman::ControlPlane;

/// No other instance is looked up for a tunnel.
const NO_RENEWAL: u32 = u32::MAX - 1;

/// The gateway's side of one tunnel that may be parked.
pub(super) struct Parking<P> {
    gateway: Arc<Gateway<P>>,
    destination: Destination,
    target: Arc<CachedTarget>,
    instance: Arc<Instance>,
    may_wake: Result<(), Denied>,
    user_agent: Option<HeaderValue>,
    rules: ParkRules,
    most: usize,
    slot: Option<Slot>,
    place: Option<ParkPlace>,
    buffers: Option<ClientBuffers>,
    _tunnel: ParkableTunnel,
}

// === impl Parking ===

impl<P: ControlPlane> Parking<P> {
    /// That of a tunnel to this instance, if its route's tunnels may be parked.
    pub(super) fn of(
        gateway: &Arc<Gateway<P>>,
        destination: &Destination,
        (target, instance): (&Arc<CachedTarget>, &Arc<Instance>),
        may_wake: Result<(), Denied>,
        user_agent: Option<&HeaderValue>,
    ) -> Option<Box<Self>> {
        let park = destination.route.config().tunnel.park.as_ref()?;
        let sleeper = gateway.sleeper.get()?;
        let (tunnel, needs_keeper) = instance.parking().register();
        if needs_keeper {
            let plane = destination.plane;
            let keeping = keep(
                (plane, Arc::clone(instance)),
                Arc::clone(sleeper),
                (
                    Arc::clone(&gateway.parts.metrics),
                    gateway.parts.cut.clone(),
                ),
            );
            gateway.parts.tunnels.spawn(keeping);
        }
        Some(Box::new(Self {
            gateway: Arc::clone(gateway),
            destination: destination.clone(),
            target: Arc::clone(target),
            instance: Arc::clone(instance),
            may_wake,
            user_agent: user_agent.cloned(),
            rules: ParkRules::of(park),
            most: park.max,
            slot: None,
            place: None,
            buffers: None,
            _tunnel: tunnel,
        }))
    }

    /// What is kept of the client's is counted here.
    pub(super) fn counting(mut self: Box<Self>, buffers: Option<ClientBuffers>) -> Box<Self> {
        self.buffers = buffers;
        self
    }

    /// Carries bytes between a client that is about to switch and its instance; `kept` lives until
    /// both have been told. It waits for the transaction that it ends.
    pub(super) fn begin_tunnel(
        mut self: Box<Self>,
        downstream: ClientUpgrade,
        instance: impl InstanceSide + 'static,
        rules: TunnelRules,
        (endpoint, slot): (Endpoint, Slot),
        kept: impl Send + 'static,
    ) -> oneshot::Sender<Box<Transaction>> {
        let parts = &self.gateway.parts;
        let (tunnels, cut) = (parts.tunnels.clone(), parts.cut.clone());
        let send_timeout = parts.server.load().send_timeout;
        let carried = Arc::new(Carried::new(Arc::clone(&parts.metrics)));
        let (transaction, handed_over) = oneshot::channel::<Box<Transaction>>();
        tunnels.spawn(async move {
            self.slot = Some(slot);
            let rules = (rules, self.rules);
            let place = (&mut *self, &endpoint);
            let limits = (&cut, send_timeout);
            let tunnel = parkable_tunnel(downstream, instance, rules, &carried, place, limits);
            let parted = tunnel.await;
            self.slot = None;
            let left = parted.say().await;
            drop(kept);
            // It comes when the head has been written, or cannot be.
            if let Ok(mut transaction) = handed_over.await {
                transaction.log.carried = Some(Arc::clone(&carried));
            }
            self.leave(left).await;
        });
        transaction
    }

    /// Carries bytes both ways; what is left to be done is for whoever has given back what the tunnel
    /// had.
    pub(super) async fn carry<'a, C, I>(
        &mut self,
        client: C,
        instance: I,
        rules: TunnelRules,
        carried: &'a Carried,
        (endpoint, slot): (&Endpoint, Slot),
    ) -> Parted<'a, C, I>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        I: InstanceSide,
    {
        self.slot = Some(slot);
        let (rules, stop) = ((rules, self.rules), self.gateway.parts.cut.clone());
        let place = (&mut *self, endpoint);
        let parted = carry_parkable(client, instance, rules, carried, place, &stop).await;
        self.slot = None;
        parted
    }

    /// An instance that slept hears of its tunnel's end when it is awake again.
    pub(super) async fn leave<I: InstanceSide>(self: Box<Self>, left: Option<LeftBehind<I>>) {
        if let Some(left) = left {
            left.end(&*self, &self.gateway.parts.cut).await;
        }
    }

    async fn wake_for(&mut self, what: &'static str) -> Result<Woken, Unready> {
        self.slot = None;
        let destination = &mut self.destination;
        destination.deadline = Instant::now() + destination.timeout;
        let gateway = &self.gateway;
        let look_up = gateway.look_up_of(&self.destination, None);
        let may_wake = self.may_wake;
        let queues = queues_of(&gateway.parts.hold, &self.instance);
        let mut pending = PendingRequest {
            resolved: Resolved {
                instance: Arc::clone(&self.instance),
                gate: queues.gate(self.destination.port),
            },
            renewals: NO_RENEWAL,
            user_agent: self.user_agent.as_ref(),
            unparked_by: Some(what),
            ..gateway.pending(&self.destination, &self.target, &look_up, may_wake)
        };
        let mut wake = WakeInfo::default();
        let admitted = pending.admit(&mut wake).await;
        drop(pending);
        match admitted {
            Ok(admitted) => {
                let (ready, mut slot) = (admitted.ready, admitted.slot);
                slot.answered();
                self.slot = Some(slot);
                Ok(Woken {
                    is_booted: ready.kind == WakeKind::Boot,
                    endpoint: ready.endpoint,
                })
            }
            Err(error) => {
                let code = error_response::describe(&error).code;
                gateway.parts.metrics.count_error(code);
                tracing::debug!(instance = %self.instance.id(), %error, "no instance for a parked tunnel");
                let is_gone = matches!(
                    error,
                    ProxyError::Wake(WakeError::Gone | WakeError::NotFound)
                );
                let close = match is_gone {
                    true => Close::restart("instance gone"),
                    false => Close {
                        code: 1013,
                        reason: code,
                    },
                };
                Err(Unready { close, is_gone })
            }
        }
    }
}

impl<P: ControlPlane> ParkHost for Parking<P> {
    fn buffers(&self) -> Option<&ClientBuffers> {
        self.buffers.as_ref()
    }

    fn endpoint(&self) -> Option<Endpoint> {
        self.instance.endpoint()
    }

    fn epochs(&self) -> watch::Receiver<u64> {
        self.instance.parking().epochs()
    }

    fn doubt(&self) {
        self.instance.doubt();
    }

    fn gone(&self) -> CancellationToken {
        self.instance.end().clone()
    }

    fn take_place(&mut self) -> bool {
        if self.place.is_none() {
            let route = self.destination.route.config().label();
            self.place = self.gateway.park_places.take(route, self.most);
        }
        self.place.is_some()
    }

    fn leave_place(&mut self) {
        self.place = None;
    }

    fn rest(&mut self) {
        self.slot = None;
    }

    fn enter(&mut self) {
        let destination = &self.destination;
        let queues = queues_of(&self.gateway.parts.hold, &self.instance);
        let limits = &destination.route.config().limits;
        let gate = queues.gate(destination.port);
        let mut slot = gate.try_enter(destination.client.into(), limits);
        if let Some(slot) = &mut slot {
            slot.answered();
        }
        self.slot = slot;
    }

    fn wake(&mut self, what: &'static str) -> BoxFuture<'_, Result<Woken, Unready>> {
        Box::pin(self.wake_for(what))
    }
}

impl<P> fmt::Debug for Parking<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parking({})", self.instance.id())
    }
}
