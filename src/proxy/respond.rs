//! Phase 8, respond: what the client gets of the instance's response.
//!
//! Guarantees: an upgrade is only to what the client asked for, and its tunnel keeps the request's
//! slot at the instance; the application's wish to stay awake is capped; fields of this hop end
//! here, and the gateway's own fields are there once.

use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL,
    STRICT_TRANSPORT_SECURITY, UPGRADE,
};
use http::{HeaderMap, Response, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::context::Arrival;
use super::dispatch::Sent;
use super::error::ProxyError;
use super::gateway::Gateway;
use super::parking::Parking;
use super::peer_facts;
use super::response_body::{Content, X_WAKEGATE_WAKE};
use super::route::Target;
use super::switching::{Switch, switches_to_websocket};
use super::transaction::{ExtraFields, Transaction};
use super::tunnel_places::TunnelPlace;
use crate::client::ClientUpgrade;
use crate::config::{TunnelConfig, ViaConfig};
use crate::hold::Slot;
use crate::upstream::{
    Carried, EventStream, Field, Fields, ForwardError, InstanceResponse, TrailerRules, TunnelRules,
    UpstreamBody, X_REQUEST_ID, edit, event_stream, prepare_response, prepare_response_lines,
    tunnel,
};
use crate::wake::{Endpoint, Instance};
use hypeman::{ControlPlane, GoDuration};

const X_WAKEGATE_HOLD: HeaderName = HeaderName::from_static("x-wakegate-hold");

/// The media type of events (HTML Standard §9.2.1).
const EVENTS: &[u8] = b"text/event-stream";

/// Who has the request's slot at the instance, and its transaction, from here on.
enum HandOver {
    /// The response, until its body has ended.
    Response(Option<Slot>),
    /// The connection behind a stream of events, which may be parked.
    Events(EventStream),
    /// The tunnel, which is sent the transaction when the head has been written.
    Tunnel(oneshot::Sender<Box<Transaction>>),
}

/// Where a response has come from.
enum Origin {
    /// This instance, at this endpoint; the request has this place there.
    Instance((Arc<Instance>, Endpoint), Slot),
    /// Another host's node; whether that may park it.
    Peer(bool),
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// Makes the client's response of the instance's.
    pub(super) fn respond(
        &self,
        sent: Sent<InstanceResponse<UpstreamBody>>,
        target: &mut Target,
        arrival: &Arrival<'_>,
        (instance, park): (&Arc<Instance>, Option<Box<Parking<P>>>),
        extra: &mut ExtraFields,
    ) -> Result<Response<Content>, ProxyError> {
        let Sent {
            mut response,
            endpoint,
            slot,
        } = sent;
        let fields = Fields::of_response(&response);
        if fields.has(Field::XWakegateHold)
            && let Some(until) = self.hold_until(response.headers_mut())
        {
            instance.keep_awake(until);
        }
        if let Some(preflight) = &target.preflight {
            self.preflights
                .remember(instance.id(), preflight, &response);
        }
        *extra = ExtraFields::of(&self.parts.response.load());
        let origin = Origin::Instance((Arc::clone(instance), endpoint), slot);
        if arrival.facts().is_none() {
            return self.finish(response, fields, target, (origin, park), extra.wake);
        }
        // The other member takes it away again, if its clients are not to see it.
        extra.wake = true;
        // What is said to the client is the other member's to say.
        let is_switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        prepare_response(headers, fields, is_switching);
        remove_own(&mut response, fields);
        let tunnel_config = &target.destination.route.config().tunnel;
        let tunnel = (tunnel_config, target.tunnel_place.take());
        let may_park = park.is_some();
        let from = (origin, park);
        let hand_over = self.switch(target.switch.take(), &mut response, from, tunnel)?;
        let headers = response.headers_mut();
        headers.remove(UPGRADE);
        headers.remove(CONNECTION);
        if may_park && matches!(hand_over, HandOver::Tunnel(_)) {
            peer_facts::say_parks(headers);
        }
        Ok(hand_over.content_of(response))
    }

    /// Makes the client's response of one that came from another host's node, and is not the node's
    /// own; whether the node may park what has switched.
    pub(super) fn finish_response(
        &self,
        response: InstanceResponse<UpstreamBody>,
        target: &mut Target,
        may_park: bool,
    ) -> Result<Response<Content>, ProxyError> {
        let fields = Fields::of_response(&response);
        let from = (Origin::Peer(may_park), None);
        let says_wake = self.parts.response.load().wake_header;
        self.finish(response, fields, target, from, says_wake)
    }

    /// The client's response, by the rules of its route, and whether the gateway says how it met a wake.
    fn finish(
        &self,
        mut response: InstanceResponse<UpstreamBody>,
        fields: Fields,
        target: &mut Target,
        from: (Origin, Option<Box<Parking<P>>>),
        says_wake: bool,
    ) -> Result<Response<Content>, ProxyError> {
        let subprotocol = target.identity.subprotocol.take();
        let config = target.destination.route.config();
        let tunnel = (&config.tunnel, target.tunnel_place.take());
        let hand_over = self.switch(target.switch.take(), &mut response, from, tunnel)?;
        let is_switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;

        let forwarding = &config.forwarding;
        response.body_mut().obey(TrailerRules::of_response(config));
        let lines = response.lines_mut();
        if !lines.is_some_and(|lines| prepare_response_lines(lines, fields, is_switching)) {
            prepare_response(response.headers_mut(), fields, is_switching);
        }
        if !forwarding.response_headers.is_empty() {
            edit(response.headers_mut(), &forwarding.response_headers);
        }
        if let (Some(subprotocol), HandOver::Tunnel(_)) = (subprotocol, &hand_over) {
            // A browser that has offered some gives up where none is picked.
            let picked = response.headers_mut().entry(SEC_WEBSOCKET_PROTOCOL);
            picked.or_insert(subprotocol);
        }
        if target.via == ViaConfig::Both {
            // An upgrade goes over HTTP/1.1 in any case.
            let received = match forwarding.protocol.is_h2() && !is_switching {
                true => Version::HTTP_2,
                false => Version::HTTP_11,
            };
            let element = target.pseudonym.element(received);
            element.append_to(response.headers_mut());
        }
        if let Some(age) = forwarding.hsts.filter(|_| target.is_secure) {
            let headers = response.headers_mut();
            headers.insert(STRICT_TRANSPORT_SECURITY, max_age(age));
        }
        if says_wake {
            remove_own(&mut response, fields);
        } else if fields.has(Field::XRequestId) {
            response.remove(&X_REQUEST_ID);
        }
        Ok(hand_over.content_of(response))
    }

    /// Joins client and instance in a tunnel, if both agree to switch; the slot is the tunnel's
    /// then.
    fn switch(
        &self,
        switch: Option<Switch>,
        response: &mut InstanceResponse<UpstreamBody>,
        (origin, park): (Origin, Option<Box<Parking<P>>>),
        (config, place): (&TunnelConfig, Option<TunnelPlace>),
    ) -> Result<HandOver, ProxyError> {
        let Some(switch) = switch else {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Err(ProxyError::UnexpectedUpgrade);
            }
            return Ok(match (park, origin) {
                (Some(park), Origin::Instance(of, slot)) => {
                    match response.body_mut().take_endless() {
                        Some((stream, decoder)) => {
                            let (sink, events) = event_stream(decoder);
                            park.begin_events(sink, stream, (of.1, slot));
                            HandOver::Events(events)
                        }
                        None => HandOver::Response(Some(slot)),
                    }
                }
                (_, origin) => HandOver::Response(origin.into_slot()),
            });
        };
        let (downstream, offer) = switch.into_parts();
        let mut rules = TunnelRules::of(config, switches_to_websocket(response.headers()));
        if !offer.agreed(response)? {
            return Ok(HandOver::Response(origin.into_slot()));
        }
        // Without a stream the instance's epoch has been cut meanwhile.
        let severed = || ProxyError::Forward(ForwardError::Severed);
        let body = response.body_mut();
        let transaction = match origin {
            Origin::Instance(of, slot) => {
                let instance = body.take_stream().ok_or_else(severed)?;
                match park {
                    Some(park) => {
                        let at = (of.1, slot);
                        park.begin_tunnel(downstream, instance, rules, at, place)
                    }
                    None => self.begin_tunnel(downstream, instance, rules, Some((of, slot)), place),
                }
            }
            Origin::Peer(may_park) => {
                if may_park {
                    // Whoever has parked it knows for how long it is idle.
                    rules.idle = None;
                }
                let instance = body.take_peer_stream().ok_or_else(severed)?;
                self.begin_tunnel(downstream, instance, rules, None, place)
            }
        };
        Ok(HandOver::Tunnel(transaction))
    }

    /// Carries bytes between a client that is about to switch and its instance, whose place is given
    /// back when that is over; `kept` lives until both have been told. It waits for the transaction
    /// that it ends.
    pub(super) fn begin_tunnel(
        &self,
        downstream: ClientUpgrade,
        instance: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        rules: TunnelRules,
        place: Option<((Arc<Instance>, Endpoint), Slot)>,
        kept: impl Send + 'static,
    ) -> oneshot::Sender<Box<Transaction>> {
        let cut = self.parts.cut.clone();
        let send_timeout = self.parts.server.load().send_timeout;
        let carried = Arc::new(Carried::new(Arc::clone(&self.parts.metrics)));
        let (transaction, handed_over) = oneshot::channel::<Box<Transaction>>();
        self.parts.tunnels.spawn(async move {
            let limits = (&cut, send_timeout);
            let (of, slot) = place.unzip();
            let (owner, endpoint) = of.unzip();
            let (owner, endpoint) = (owner.as_deref(), endpoint.as_ref());
            let of = (owner, endpoint);
            let farewell = tunnel(downstream, instance, rules, &carried, of, limits).await;
            drop(slot);
            farewell.say(endpoint).await;
            drop(kept);
            // It comes when the head has been written, or cannot be.
            if let Ok(mut transaction) = handed_over.await {
                transaction.log.carried = Some(carried);
            }
        });
        transaction
    }

    /// The time until which the application wants to stay awake, by its `x-wakegate-hold`.
    pub(super) fn hold_until(&self, headers: &mut HeaderMap) -> Option<Instant> {
        let value = headers.remove(X_WAKEGATE_HOLD)?;
        let requested = value.to_str().ok()?.parse::<GoDuration>().ok()?.to_std()?;
        Some(Instant::now() + requested.min(self.parts.max_hold))
    }
}

/// Whether a response is a stream of events, of which the gateway may say a comment.
pub(super) fn is_event_stream<B>(response: &InstanceResponse<B>) -> bool {
    let headers = response.headers();
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let kind = kind.and_then(|kind| kind.split(|byte| *byte == b';').next());
    let is_events = kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(EVENTS));
    is_events && response.status() == StatusCode::OK && !headers.contains_key(CONTENT_ENCODING)
}

/// Takes away what the gateway says itself.
fn remove_own<B>(response: &mut InstanceResponse<B>, fields: Fields) {
    if fields.has(Field::XRequestId) {
        response.remove(&X_REQUEST_ID);
    }
    if fields.has(Field::XWakegateWake) {
        response.remove(&X_WAKEGATE_WAKE);
    }
}

// === impl HandOver ===

impl HandOver {
    fn content_of(self, mut response: InstanceResponse<UpstreamBody>) -> Response<Content> {
        if !matches!(self, Self::Response(_)) {
            // All of its fields are the head's.
            response.headers_mut();
        }
        response.pass(|body, lines| match self {
            Self::Response(slot) => Content::Upstream {
                body,
                lines,
                _slot: slot,
            },
            Self::Events(events) => Content::Events(events),
            Self::Tunnel(transaction) => Content::Switching(transaction),
        })
    }
}

// === impl Origin ===

impl Origin {
    fn into_slot(self) -> Option<Slot> {
        match self {
            Self::Instance(_, slot) => Some(slot),
            Self::Peer(_) => None,
        }
    }
}

/// The value of `Strict-Transport-Security` (RFC 6797 §6.1.1).
pub(super) fn max_age(age: Duration) -> HeaderValue {
    HeaderValue::try_from(format!("max-age={}", age.as_secs()))
        .unwrap_or(HeaderValue::from_static("max-age=0"))
}
