//! Connections of WebSocket whose first data frame wakes their instance (`tunnel.wake = "first-frame"`).
//!
//! Guarantees: a tab that connects again wakes nobody; while the instance sleeps the gateway is the
//! other side: it shakes hands with no extension, answers pings and closes, and keeps nothing of the
//! client's but the frame that wakes and what follows it, a few KiB; the instance gets the
//! client's own handshake then, and every byte from that frame on; a wake that fails, or an instance that
//! refuses, closes the connection with the reason's code. Where the instance is awake already, the
//! handshake is its own, as without this rule. A client behind another member of the fleet has the same
//! of the node.

use std::pin::pin;
use std::sync::Arc;

use http::header::{SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connection_cache::CachedTarget;
use super::context::{Arrival, RequestContext};
use super::denied::Denied;
use super::dispatch::{Dispatch, Sent};
use super::error::ProxyError;
use super::error_response;
use super::gateway::Gateway;
use super::handshake::Handshake;
use super::parking::Parking;
use super::peer_facts;
use super::pending_request::PendingRequest;
use super::prepare::{buffer_for, prepare};
use super::request_body::read_beforehand;
use super::request_log::RequestLog;
use super::respond::max_age;
use super::response_body::Content;
use super::route::Target;
use super::switching::{Offer, Switch};
use super::transaction::{ExtraFields, Transaction};
use super::tunnel_places::TunnelPlace;
use crate::client::{ClientUpgrade, Request};
use crate::config::TunnelWake;
use crate::flow::ClientBuffers;
use crate::hold::Slot;
use crate::instance_tls::InstanceStream;
use crate::telemetry::{Trace, TunnelEnd, TunnelState};
use crate::upstream::{
    Carried, Close, ForwardError, Hop, NoFrame, Outgoing, RequestBody, TunnelRules, TunnelStream,
    WaitingClient, at, carry, close_for, edit,
};
use crate::wake::{Endpoint, Instance};
use hypeman::ControlPlane;

/// What has been judged of a handshake whose first frame is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct FirstFrame {
    may_wake: Result<(), Denied>,
    head_bytes: usize,
}

/// A client that the gateway has shaken hands with.
struct Waiting<P> {
    wake: Wake<P>,
    place: Option<TunnelPlace>,
}

/// What is to be done when its first frame comes.
struct Wake<P> {
    gateway: Arc<Gateway<P>>,
    target: Target,
    resolved: Arc<CachedTarget>,
    judged: FirstFrame,
    /// The client's handshake, for the instance.
    outgoing: Outgoing,
    hop: Hop,
    offer: Offer,
    /// The subprotocol that both sides speak.
    subprotocol: Option<HeaderValue>,
    /// Its client's part of the gateway's budget.
    buffers: Option<ClientBuffers>,
}

/// The instance's side, when it has switched.
struct Opened<P> {
    instance: Arc<Instance>,
    stream: TunnelStream,
    endpoint: Endpoint,
    slot: Slot,
    park: Option<Box<Parking<P>>>,
}

/// Why there is no tunnel.
struct Unopened {
    by: TunnelEnd,
    /// What its client is told.
    close: Option<Close>,
}

// === impl Target ===

impl Target {
    /// Whether it is a WebSocket whose handshake does not wake.
    pub(super) fn waits_for_frame(&self) -> bool {
        let is_lazy = self.destination.route.config().tunnel.wake == TunnelWake::FirstFrame;
        is_lazy && self.switch.as_ref().is_some_and(Switch::is_websocket)
    }
}

// === impl FirstFrame ===

impl FirstFrame {
    /// What was judged of a request, if the gateway is to shake hands for its instance: one that may
    /// never wake it is refused as any other.
    pub(super) fn of(pending: &PendingRequest<'_, InstanceStream>) -> Option<Self> {
        let is_to_wait = pending.may_wake.is_ok() && !pending.is_warm();
        is_to_wait.then_some(Self {
            may_wake: pending.may_wake,
            head_bytes: pending.head_bytes,
        })
    }
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// Shakes hands with a client in the place of its instance, which sleeps.
    pub(super) async fn shake_hands(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
        mut target: Target,
        (resolved, judged): (Arc<CachedTarget>, FirstFrame),
        (arrival, context, log): (&Arrival<'_>, &RequestContext, &RequestLog),
        extra: &mut ExtraFields,
    ) -> Result<Response<Content>, ProxyError> {
        let config = Arc::clone(target.destination.route.config());
        let switch = target.switch.as_mut().ok_or(ProxyError::Handshake)?;
        let mut response = switch.shake_hands(&request)?;
        let subprotocol = picked(&config.tunnel.subprotocols, request.headers());
        let offered = request.headers_mut();
        offered.remove(SEC_WEBSOCKET_EXTENSIONS);
        offered.remove(SEC_WEBSOCKET_PROTOCOL);
        if let Some(subprotocol) = &subprotocol {
            offered.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol.clone());
        }
        let headers = response.headers_mut();
        let answered = subprotocol.clone().or(target.identity.subprotocol.take());
        if let Some(answered) = answered {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, answered);
        }
        // What is said to a client behind another member is that one's to say.
        if arrival.facts().is_none() {
            edit(headers, &config.forwarding.response_headers);
            if let Some(age) = config.forwarding.hsts.filter(|_| target.is_secure) {
                headers.insert(STRICT_TRANSPORT_SECURITY, max_age(age));
            }
        } else if config.tunnel.park.is_some() {
            peer_facts::say_parks(headers);
        }
        *extra = ExtraFields::of(&self.parts.response.load());

        let buffers = request.extensions().get::<ClientBuffers>().cloned();
        let mut outgoing = prepare(request, &target, arrival, context, log);
        if let Some(limit) = buffer_for(&outgoing, &target) {
            read_beforehand(&mut outgoing, limit, target.destination.deadline).await?;
        }
        let destination = &target.destination;
        let hop = arrival.hop(&config, destination.port, destination.tls.clone());
        let switch = target.switch.take().ok_or(ProxyError::Handshake)?;
        let (downstream, offer) = switch.into_parts();
        let place = target.tunnel_place.take();
        let wake = Wake {
            gateway: Arc::clone(self),
            target,
            resolved,
            judged,
            outgoing,
            hop,
            offer,
            subprotocol,
            buffers,
        };
        let waiting = Waiting { wake, place };
        let (transaction, handed_over) = oneshot::channel();
        self.parts
            .tunnels
            .spawn(waiting.run(downstream, handed_over));
        Ok(response.map(|()| Content::Switching(transaction)))
    }
}

/// The first subprotocol that a client offers and that is one of these.
fn picked(known: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let fields = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = fields.filter_map(|field| field.to_str().ok());
    let mut offered = offered.flat_map(|field| field.split(',')).map(str::trim);
    let picked = offered.find(|offer| known.iter().any(|known| known == offer))?;
    HeaderValue::from_str(picked).ok()
}

// === impl Waiting ===

impl<P: ControlPlane> Waiting<P> {
    /// Waits for the first frame, wakes, and carries what follows.
    async fn run(
        self,
        downstream: ClientUpgrade,
        handed_over: oneshot::Receiver<Box<Transaction>>,
    ) {
        let gateway = Arc::clone(&self.wake.gateway);
        let parts = &gateway.parts;
        let Ok(mut transaction) = handed_over.await else {
            return;
        };
        let carried = Arc::new(Carried::new(Arc::clone(&parts.metrics)));
        transaction.log.carried = Some(Arc::clone(&carried));
        let mut open = carried.open(TunnelState::Waiting);
        let switched = tokio::select! {
            switched = downstream => switched,
            () = parts.cut.cancelled() => return,
        };
        let Ok(client) = switched else {
            return open.cut(TunnelEnd::Client);
        };
        let send_timeout = parts.server.load().send_timeout;
        let buffers = self.wake.buffers.clone();
        let mut client = WaitingClient::new(client, send_timeout, buffers);
        let tunnel = &self.wake.target.destination.route.config().tunnel;
        let rules = TunnelRules::of(tunnel, true);
        let idle = rules.idle.map(|idle| Instant::now() + idle);
        let first = tokio::select! {
            first = client.first_frame() => first.map_err(Unopened::of),
            () = at(idle) => Err(Unopened::by(TunnelEnd::Idle)),
            () = at(rules.until) => Err(Unopened::by(TunnelEnd::MaxLife)),
            () = parts.cut.cancelled() => Err(Unopened::by(TunnelEnd::Gateway)),
        };
        let place = self.place;
        let opened = match first {
            Ok(()) => {
                let opening = self.wake;
                // In a box, as what follows: what it does for most of its time is small.
                Box::pin(opening.open(&mut client, &mut transaction)).await
            }
            Err(unopened) => Err(unopened),
        };
        match opened {
            Ok(opened) => {
                open.goes_on();
                let Opened {
                    instance,
                    stream,
                    endpoint,
                    slot,
                    park,
                } = opened;
                if let Some(mut park) = park {
                    let (client, at) = (client.into_stream(), (&endpoint, slot));
                    let carrying = park.carry(client, stream, rules, &carried, at);
                    let parted = Box::pin(carrying).await;
                    let left = Box::pin(parted.say()).await;
                    drop((place, transaction));
                    return park.leave(left).await;
                }
                let carrying = carry(
                    client.into_stream(),
                    stream,
                    rules,
                    &carried,
                    (Some(&*instance), Some(&endpoint)),
                    &parts.cut,
                );
                let farewell = carrying.await;
                drop(slot);
                farewell.say(Some(&endpoint)).await;
            }
            Err(Unopened { by, close }) => {
                open.cut(by);
                drop(open);
                if let Some(close) = close {
                    client.farewell(&carried, close).say(None).await;
                }
            }
        }
        drop(place);
    }
}

// === impl Wake ===

impl<P: ControlPlane> Wake<P> {
    /// Wakes the instance, and shakes hands with it as the client has done with the gateway.
    async fn open(
        self,
        client: &mut WaitingClient,
        transaction: &mut Transaction,
    ) -> Result<Opened<P>, Unopened> {
        let Self {
            gateway,
            mut target,
            resolved,
            judged,
            mut outgoing,
            hop,
            offer,
            subprotocol,
            buffers,
        } = self;
        let parts = &gateway.parts;
        let destination = &mut target.destination;
        destination.deadline = Instant::now() + destination.timeout;
        let Transaction {
            context, wake, log, ..
        } = transaction;
        let look_up = gateway.look_up_of(&target.destination, None);
        let may_wake = judged.may_wake;
        let mut pending = PendingRequest {
            user_agent: context.user_agent.as_ref(),
            head_bytes: judged.head_bytes,
            trace: log.trace.as_deref().and_then(Trace::parent),
            ..gateway.pending(&target.destination, &resolved, &look_up, may_wake)
        };
        let again = Handshake::of(&target, &outgoing, &hop);
        let instance = Arc::clone(&pending.resolved.instance);
        gateway.prewarm(pending.route, &instance, &target.path, || {
            pending.requester()
        });
        let sent = {
            let mut opening = pin!(async {
                let admitted = pending.admit(wake).await?;
                let mut dispatch = Dispatch {
                    pending: &mut pending,
                    hop,
                };
                let sending = dispatch.send(&parts.upstream, admitted, &mut outgoing, wake);
                sending.await
            });
            let mut has_room = true;
            loop {
                tokio::select! {
                    sent = &mut opening => break sent,
                    read = client.read_more(), if has_room => match read {
                        Ok(more) => has_room = more,
                        Err(_) => return Err(Unopened::left()),
                    },
                    () = parts.cut.cancelled() => return Err(Unopened::by(TunnelEnd::Gateway)),
                }
            }
        };
        log.trace_hold(wake.held);
        let instance = pending.resolved.instance;
        let of = (&resolved, &instance);
        let agent = context.user_agent.as_ref();
        let again = again.zip(sent.as_ref().ok());
        let again = again.and_then(|(again, sent)| again.agreed(sent.response.headers()));
        let judged = (may_wake, again);
        let park = Parking::of(&gateway, &target.destination, of, judged, agent);
        let mut park = park.map(|park| park.counting(buffers));
        log.instance = Some(Arc::clone(&instance));
        let sent = match sent {
            Ok(mut sent) => match offer.agreed_as(&mut sent.response, subprotocol.as_ref()) {
                Ok(true) => Ok(sent),
                Ok(false) => return Err(Unopened::refused(sent.response.status())),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let opened = sent.and_then(|sent| {
            let Sent {
                mut response,
                endpoint,
                slot,
            } = sent;
            if let Some(until) = gateway.hold_until(response.headers_mut()) {
                instance.keep_awake(until);
            }
            // Without a stream the instance's epoch has been cut meanwhile.
            let stream = response.body_mut().take_stream();
            let stream = stream.ok_or(ForwardError::Severed)?;
            Ok(Opened {
                instance,
                park: park.take(),
                stream,
                endpoint,
                slot,
            })
        });
        opened.map_err(|error| {
            let description = error_response::describe(&error);
            tracing::debug!(request = %context.request_id, %error, "no instance for a first frame");
            log.error = Some(description.code);
            parts.metrics.count_error(description.code);
            Unopened {
                by: TunnelEnd::Gateway,
                close: Some(Close {
                    code: close_code(description.retry_after.is_some()),
                    reason: description.code,
                }),
            }
        })
    }
}

/// The code of a close (RFC 6455 §7.4, and IANA's "WebSocket Close Code Number Registry"): whether it is
/// worth trying again later. 1014 would be for bad gateways, and some clients take it for a mistake.
fn close_code(may_try_again: bool) -> u16 {
    match may_try_again {
        true => 1013,
        false => 1011,
    }
}

// === impl Unopened ===

impl Unopened {
    /// The gateway ends it, by a rule or because it ends itself.
    fn by(by: TunnelEnd) -> Self {
        let close = Some(close_for(by));
        Self { by, close }
    }

    /// What has come is no data frame.
    fn of(no_frame: NoFrame) -> Self {
        match no_frame {
            NoFrame::Left => Self::left(),
            NoFrame::Protocol => Self {
                by: TunnelEnd::Client,
                close: Some(Close::protocol_error()),
            },
        }
    }

    /// The client has gone.
    fn left() -> Self {
        Self {
            by: TunnelEnd::Client,
            close: None,
        }
    }

    /// The instance does not switch, and answers with this status instead.
    fn refused(status: StatusCode) -> Self {
        let may_try_again = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        Self {
            by: TunnelEnd::Instance,
            close: Some(Close {
                code: close_code(may_try_again),
                reason: "upgrade_refused",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_offer_that_is_known_is_picked() {
        let mut headers = HeaderMap::new();
        headers.append(SEC_WEBSOCKET_PROTOCOL, "v3,  v2".parse().unwrap());
        headers.append(SEC_WEBSOCKET_PROTOCOL, "v1".parse().unwrap());
        let picked = |known: &[&str]| {
            let known: Vec<String> = known.iter().map(|&known| known.to_owned()).collect();
            picked(&known, &headers).map(|picked| picked.to_str().unwrap().to_owned())
        };
        assert_eq!(picked(&["v1", "v2"]).as_deref(), Some("v2"));
        assert_eq!(picked(&["v1"]).as_deref(), Some("v1"));
        assert_eq!(picked(&["v"]), None);
    }
}
