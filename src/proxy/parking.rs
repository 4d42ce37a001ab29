//! Tunnels that may be parked, as the gateway sees them.
//!
//! Guarantees: a parked tunnel has no place at its instance, and no more of a route's are parked than that
//! allows; what wakes for one is judged and waits as any request does, for the instance that it leads to
//! and no other; an instance is put to sleep by one keeper, as long as one of its tunnels may be parked.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::{HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection_cache::CachedTarget;
use super::denied::Denied;
use super::dispatch::{Dispatch, Sent};
use super::error::ProxyError;
use super::error_response;
use super::gateway::Gateway;
use super::handshake::Handshake;
use super::park_keeper::keep;
use super::park_places::ParkPlace;
use super::pending_request::{PendingRequest, Resolved, queues_of};
use super::resolve::NameLookUp;
use super::route::Destination;
use super::transaction::{Transaction, copied};
use super::wake_info::WakeInfo;
use crate::client::ClientUpgrade;
use crate::flow::ClientBuffers;
use crate::hold::Slot;
use crate::instance_tls::InstanceStream;
use crate::telemetry::WakeKind;
use crate::upstream::{
    Carried, Close, EventSink, ForwardError, InstanceSide, LeasedStream, LeftBehind, ParkHost,
    ParkRules, Parted, Reopen, Reopened, TunnelRules, TunnelStream, Unready, Woken, carry_parkable,
    parkable_tunnel,
};
use crate::wake::{Endpoint, Instance, ParkableTunnel, WakeError};
use hypeman::ControlPlane;

/// No other instance is looked up for a tunnel.
const NO_RENEWAL: u32 = u32::MAX - 1;
/// The codes of closes (RFC 6455 §7.4, and IANA's "WebSocket Close Code Number Registry").
const RESTARTED: u16 = 1012;
const TRY_AGAIN: u16 = 1013;

/// The gateway's side of one tunnel that may be parked.
pub(super) struct Parking<P> {
    gateway: Arc<Gateway<P>>,
    destination: Destination,
    target: Arc<CachedTarget>,
    instance: Arc<Instance>,
    may_wake: Result<(), Denied>,
    /// How its instance is asked to take it anew, if that may be.
    again: Option<Box<Handshake>>,
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
        (may_wake, again): (Result<(), Denied>, Option<Box<Handshake>>),
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
            again,
            user_agent: user_agent.and_then(copied),
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
    pub(super) fn begin_tunnel<I>(
        self: Box<Self>,
        downstream: ClientUpgrade,
        instance: I,
        rules: TunnelRules,
        (endpoint, slot): (Endpoint, Slot),
        kept: impl Send + 'static,
    ) -> oneshot::Sender<Box<Transaction>>
    where
        I: InstanceSide + 'static,
        Self: Reopen<I>,
    {
        let (transaction, handed_over) = oneshot::channel::<Box<Transaction>>();
        let tunnels = self.gateway.parts.tunnels.clone();
        let sides = (downstream, instance, rules);
        tunnels.spawn(self.tunnel(sides, (endpoint, slot), kept, handed_over));
        transaction
    }

    /// A tunnel from its switch to its end.
    fn tunnel<I, K>(
        mut self: Box<Self>,
        (downstream, instance, rules): (ClientUpgrade, I, TunnelRules),
        (endpoint, slot): (Endpoint, Slot),
        kept: K,
        handed_over: oneshot::Receiver<Box<Transaction>>,
    ) -> impl Future<Output = ()> + Send + use<P, I, K>
    where
        I: InstanceSide + 'static,
        K: Send + 'static,
        Self: Reopen<I>,
    {
        self.slot = Some(slot);
        // What an async function is called with would be in its future twice.
        async move {
            let parts = &self.gateway.parts;
            let (cut, send_timeout) = (parts.cut.clone(), parts.server.load().send_timeout);
            let carried = Arc::new(Carried::new(Arc::clone(&parts.metrics)));
            let rules = (rules, self.rules);
            let place = (&mut *self, &endpoint);
            let limits = (&cut, send_timeout);
            let tunnel = parkable_tunnel(downstream, instance, rules, &carried, place, limits);
            // In boxes: what it is for most of its time is small, and what comes then is large.
            let parted = Box::pin(tunnel).await;
            self.slot = None;
            let left = Box::pin(parted.say()).await;
            drop(kept);
            // It comes when the head has been written, or cannot be.
            if let Ok(mut transaction) = handed_over.await {
                transaction.log.carried = Some(Arc::clone(&carried));
            }
            self.leave(left).await;
        }
    }

    /// Carries the events of an instance to whoever reads the response's body.
    pub(super) fn begin_events(
        mut self: Box<Self>,
        reader: EventSink,
        instance: TunnelStream,
        (endpoint, slot): (Endpoint, Slot),
    ) {
        self.rules.is_one_way = true;
        let (tunnels, metrics) = (
            self.gateway.parts.tunnels.clone(),
            Arc::clone(&self.gateway.parts.metrics),
        );
        tunnels.spawn(async move {
            let (carried, at) = (Carried::new(metrics), (&endpoint, slot));
            let carrying = self.carry(reader, instance, TunnelRules::default(), &carried, at);
            let parted = Box::pin(carrying).await;
            let left = Box::pin(parted.say()).await;
            self.leave(left).await;
        });
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
        Self: Reopen<I>,
    {
        self.slot = Some(slot);
        let (rules, stop) = ((rules, self.rules), self.gateway.parts.cut.clone());
        let place = (&mut *self, endpoint);
        let parted = carry_parkable(client, instance, rules, carried, place, &stop).await;
        self.slot = None;
        parted
    }

    /// An instance that slept hears of its tunnel's end when it is awake again.
    pub(super) async fn leave<I: InstanceSide>(self: Box<Self>, left: Option<Box<LeftBehind<I>>>) {
        if let Some(left) = left {
            Box::pin(left.end(&*self, &self.gateway.parts.cut)).await;
        }
    }

    /// Its place is given up until it has another, and its time begins anew.
    fn begin_anew(&mut self) {
        self.slot = None;
        let destination = &mut self.destination;
        destination.deadline = Instant::now() + destination.timeout;
    }

    /// What waits for the instance again, for something of the client's if there is a `what`.
    fn pending<'a>(
        &'a self,
        look_up: &'a NameLookUp<'a, P>,
        what: Option<&'static str>,
    ) -> PendingRequest<'a, InstanceStream> {
        let queues = queues_of(&self.gateway.parts.hold, &self.instance);
        let (destination, target) = (&self.destination, &self.target);
        PendingRequest {
            resolved: Resolved {
                instance: Arc::clone(&self.instance),
                gate: queues.gate(destination.port),
            },
            renewals: NO_RENEWAL,
            user_agent: self.user_agent.as_ref(),
            unparked_by: what,
            ..self
                .gateway
                .pending(destination, target, look_up, self.may_wake)
        }
    }

    async fn wake_for(&mut self, what: &'static str) -> Result<Woken, Unready> {
        self.begin_anew();
        let look_up = self.gateway.look_up_of(&self.destination, None);
        let mut pending = self.pending(&look_up, Some(what));
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
            Err(error) => Err(self.unready(&error, TRY_AGAIN)),
        }
    }

    /// What a client is told whose tunnel cannot go on for this, by this code where nothing is gone.
    fn unready(&self, error: &ProxyError, code: u16) -> Unready {
        let reason = error_response::describe(error).code;
        self.gateway.parts.metrics.count_error(reason);
        tracing::debug!(instance = %self.instance.id(), %error, "no instance for a parked tunnel");
        let is_gone = matches!(
            error,
            ProxyError::Wake(WakeError::Gone | WakeError::NotFound)
        );
        let close = match is_gone {
            true => Close::restart("instance gone"),
            false => Close { code, reason },
        };
        Unready { close, is_gone }
    }

    /// Takes a place at the instance and shakes hands with it once more. Only for something of the
    /// client's it is woken.
    async fn shake_hands(
        &mut self,
        what: Option<&'static str>,
    ) -> Result<Option<Reopened<TunnelStream>>, Unready> {
        let once_more = self.again.as_deref().and_then(Handshake::once_more);
        let Some((mut outgoing, hop, offer)) = once_more else {
            return Ok(None);
        };
        self.begin_anew();
        let look_up = self.gateway.look_up_of(&self.destination, None);
        let mut pending = self.pending(&look_up, what);
        let upstream = &self.gateway.parts.upstream;
        let mut wake = WakeInfo::default();
        let sent = if what.is_some() {
            match pending.admit(&mut wake).await {
                Ok(admitted) => {
                    let pending = &mut pending;
                    let mut dispatch = Dispatch { pending, hop };
                    let sending = dispatch.send(upstream, admitted, &mut outgoing, &mut wake);
                    sending.await
                }
                Err(error) => return Err(self.unready(&error, TRY_AGAIN)),
            }
        } else {
            let Ok(admitted) = pending.admit_warm() else {
                return Ok(None);
            };
            let (ready, mut slot, now) = (admitted.ready, admitted.slot, admitted.at);
            let endpoint = ready.endpoint;
            let sending = upstream.send(&endpoint, &hop, None, &mut outgoing, now);
            let sent = sending.await;
            slot.answered();
            match sent {
                Err(error) if error.is_unsent() || matches!(error, ForwardError::Severed) => {
                    return Ok(None);
                }
                sent => sent.map_err(ProxyError::from).map(|response| Sent {
                    response,
                    endpoint,
                    slot,
                }),
            }
        };
        drop(pending);
        let subprotocol = self.again.as_deref().and_then(Handshake::subprotocol);
        let agreed = sent.and_then(|mut sent| {
            let response = &mut sent.response;
            match offer.agreed_as(response, subprotocol)? {
                true => {
                    let stream = response.body_mut().take_stream();
                    // Without one the instance's epoch has been cut meanwhile.
                    let stream = stream.ok_or(ForwardError::Severed)?;
                    Ok(Ok((stream, sent.endpoint, sent.slot)))
                }
                false => Ok(Err(response.status())),
            }
        });
        match agreed {
            Ok(Ok((instance, endpoint, slot))) => {
                self.slot = Some(slot);
                Ok(Some(Reopened { instance, endpoint }))
            }
            Ok(Err(status)) => Err(Unready {
                close: Close {
                    code: close_code_of(status),
                    reason: "upgrade_refused",
                },
                is_gone: false,
            }),
            Err(error) => {
                let is_for_now = error_response::describe(&error).retry_after.is_some();
                let code = if is_for_now { TRY_AGAIN } else { RESTARTED };
                Err(self.unready(&error, code))
            }
        }
    }
}

impl<P: ControlPlane> Reopen<TunnelStream> for Parking<P> {
    fn can_reopen(&self) -> bool {
        self.again.is_some()
    }

    fn reopen(
        &mut self,
        what: Option<&'static str>,
    ) -> BoxFuture<'_, Result<Option<Reopened<TunnelStream>>, Unready>> {
        Box::pin(self.shake_hands(what))
    }
}

/// A raw connection begins with nothing that could be repeated.
impl<P: ControlPlane> Reopen<LeasedStream> for Parking<P> {
    fn can_reopen(&self) -> bool {
        false
    }

    fn reopen(
        &mut self,
        _what: Option<&'static str>,
    ) -> BoxFuture<'_, Result<Option<Reopened<LeasedStream>>, Unready>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// The code of a close for an instance that refuses a handshake (RFC 6455 §7.4, and IANA's registry).
fn close_code_of(status: StatusCode) -> u16 {
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => TRY_AGAIN,
        _ => RESTARTED,
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
            let route = self.destination.route.config().key();
            self.place = self.gateway.park_places.take(&route, self.most);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tunnel_places::TunnelPlace;

    /// The size of what is made of these.
    fn size_of_made<A, B, C, D, E, F>(_: fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_tunnel_is_small() {
        let task = Parking::<hypeman::Client>::tunnel::<TunnelStream, Option<TunnelPlace>>;
        let size = size_of_made(task);
        assert!(size <= 450, "{size}");
    }
}
