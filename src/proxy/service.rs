//! The way of every request, as the list of its phases.
//!
//! Guarantees: every request is answered; an error of any phase is turned into a response here and
//! nowhere else.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{
    ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SET_COOKIE, USER_AGENT, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;

use super::admit::Admittance;
use super::answer_locally::{is_health_check, resolved_in_time, unresolved_health};
use super::client_address::named_client;
use super::context::{Arrival, RawKind, ServerTerms};
use super::dispatch::dispatch;
use super::error::ProxyError;
use super::error_response::{self, Accept, Audience};
use super::first_frame::FirstFrame;
use super::gateway::Gateway;
use super::handshake::Handshake;
use super::max_forwards::answer_last;
use super::parking::Parking;
use super::peer_facts::{self, NotTaken, PeerFacts, Raw};
use super::prepare::{buffer_for, prepare};
use super::request_body::read_beforehand;
use super::request_log::Kind;
use super::resolve::known;
use super::respond::is_event_stream;
use super::response_body::{Content, GatewayBody};
use super::to_peer::Passed;
use super::transaction::Transaction;
use super::wake_service;
use crate::client::{ClientBody, ClientRequest, Refusal, RefusalReason, Request};
use crate::flow::ClientBuffers;
use crate::names::RequestId;
use crate::telemetry::trace_id_of;
use crate::upstream::{Field, Fields, X_REQUEST_ID};
use hypeman::ControlPlane;

/// What an access line has where a request's method or path could not be read.
const UNKNOWN: &str = "-";

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// Answers one request. Dropping the future (the client left) gives everything back and cancels
    /// no wake.
    pub async fn handle(
        self: &Arc<Self>,
        mut request: ClientRequest,
        arrival: &Arrival<'_>,
    ) -> Response<GatewayBody> {
        let asked_for = match arrival.is_asking {
            true => wake_service::ask_for(&mut request),
            false => Ok(()),
        };
        let fields = Fields::of_request(&request);
        let from = (arrival.client.ip(), arrival.facts());
        let mut transaction = self.begin(&request, fields, from);
        let accept = Accept::of(&request, fields);
        let raw = arrival.facts().and_then(|facts| facts.raw);
        let result = match take_from_peer(arrival, &mut transaction).and(asked_for) {
            Ok(()) if raw.is_some() => {
                // In a box: most requests are none of these.
                Box::pin(self.carry_for_peer(request, arrival, &mut transaction)).await
            }
            Ok(()) => {
                let result = self.handle_inner(request, fields, arrival, &mut transaction);
                result.await
            }
            Err(error) => Err(error),
        };
        let mut response = match result {
            Ok(response) => response,
            Err(error) => refuse(&error, &accept, &mut transaction),
        };
        if arrival.from_peer.is_some() {
            say_that_it_is_own(&mut response, &transaction);
        }
        answer(response, transaction)
    }

    /// Answers what is no request, of which no more is known than its connection says. `peer` is the
    /// client, or another member of the fleet: whom a proxy may have named cannot be read.
    pub fn refuse(
        &self,
        refusal: Refusal,
        peer: IpAddr,
        is_of_member: bool,
    ) -> Response<GatewayBody> {
        let mut request = Request::new(None);
        *request.method_mut() = refusal.method.unwrap_or_else(unknown_method);
        if let Some(accept) = refusal.accept {
            request.headers_mut().insert(ACCEPT, accept);
        }
        let fields = Fields::of_request(&request);
        let mut transaction = self.begin(&request, fields, (peer, None));
        transaction.log.target = refusal.target;
        transaction.log.no_path = UNKNOWN;
        let accept = Accept::of(&request, fields);
        let mut response = refuse(&refusal.reason.into(), &accept, &mut transaction);
        if is_of_member {
            say_that_it_is_own(&mut response, &transaction);
        }
        answer(response, transaction)
    }

    /// The phases, in their order.
    async fn handle_inner(
        self: &Arc<Self>,
        request: ClientRequest,
        fields: Fields,
        arrival: &Arrival<'_>,
        transaction: &mut Transaction,
    ) -> Result<Response<Content>, ProxyError> {
        let Transaction {
            context,
            wake,
            extra,
            cookies,
            log,
        } = transaction;
        if let Some(answer) = self.answer_challenge(&request, arrival) {
            return answer;
        }
        let (mut target, mut request) = self.route(*request, fields, arrival, context, log)?;
        // What another member has passed on was judged there.
        if arrival.facts().is_none() {
            if target.destination.route.config().forwarding.auth.is_some() {
                let judging =
                    self.authenticate(&mut target, &mut request, arrival, context, cookies);
                // In a box: most routes ask for nothing.
                Box::pin(judging).await?;
            }
            target.choose_port(&mut request)?;
            if let Some(answer) = answer_last(&mut request, target.fields) {
                return Ok(answer);
            }
        }
        if target.switch.is_some() && !arrival.is_asking {
            let (route, client) = (target.destination.route.config(), target.destination.client);
            target.tunnel_place = self.tunnel_places.take(route, client)?;
        }
        if let Some(elsewhere) = self.elsewhere(&target, arrival) {
            let passing = self.pass_to_peer(
                elsewhere, target, request, arrival, context, wake, extra, log,
            );
            // In a box: most gateways have no peers.
            match Box::pin(passing).await? {
                Passed::Answered(response) => return Ok(response),
                Passed::Here(here) => {
                    (target, request) = *here;
                    let destination = &mut target.destination;
                    let route = destination.route.config();
                    destination.plane = self.own_plane(route, &destination.instance);
                }
            }
        }
        let resolved = match known(&target.destination, arrival, log) {
            Some(known) => known,
            None => {
                let is_health_check = is_health_check(&target, &request);
                // In a box: the connection's other requests find what this one has found.
                let resolving = Box::pin(self.resolve(&target.destination, arrival, log));
                match is_health_check {
                    false => resolving.await?,
                    true => match resolved_in_time(resolving).await? {
                        Some(resolved) => resolved,
                        None => return Ok(unresolved_health()),
                    },
                }
            }
        };
        if !arrival.is_asking
            && let Some(answer) = self.answer_locally(&target, &resolved, &request)
        {
            return Ok(answer);
        }
        let look_up = self.look_up_of(&target.destination, arrival.from_peer);
        let mut pending =
            self.pending_request(&target, &resolved, &look_up, &request, context, log);
        if !arrival.is_asking
            && target.waits_for_frame()
            && let Some(judged) = FirstFrame::of(&pending)
        {
            drop(pending);
            let (waiting, around) = ((resolved, judged), (arrival, &*context, &*log));
            // In a box: most requests need none of it.
            let shaking = self.shake_hands(request, target, waiting, around, extra);
            return Box::pin(shaking).await;
        }
        let admitting = self.admit(&mut pending, &target, &mut request, context, wake, log);
        let admitted = match admitting.await? {
            Admittance::Admitted(admitted) => admitted,
            Admittance::WaitingPage(page) => {
                return Ok(page.map(|html| Content::Own(Full::new(html))));
            }
        };
        if arrival.is_asking {
            extra.wake = true;
            let upstream = &self.parts.upstream;
            // In a box: most requests need none of it.
            let confirming = wake_service::confirm(upstream, &pending, admitted, wake);
            let address = Box::pin(confirming).await?;
            return Ok(wake_service::answer(address, &target.identity.fields));
        }
        let buffers = target.switch.as_ref();
        let buffers = buffers.and_then(|_| request.extensions().get::<ClientBuffers>().cloned());
        if target.may_shake_hands_again() {
            // What it has compressed before is another connection's.
            request.headers_mut().remove(SEC_WEBSOCKET_EXTENSIONS);
        }
        let mut outgoing = prepare(request, &target, arrival, context, log);
        if let Some(limit) = buffer_for(&outgoing, &target) {
            let deadline = target.destination.deadline;
            // In a box: most requests need none of it.
            Box::pin(read_beforehand(&mut outgoing, limit, deadline)).await?;
        }
        let hop = || arrival.hop(pending.route, pending.port, pending.tls.clone());
        let again = target.may_shake_hands_again().then(hop);
        let again = again.and_then(|hop| Handshake::of(&target, &outgoing, &hop));
        let upstream = &self.parts.upstream;
        // In a box, which is written to at once: a request that is held has no room for it yet.
        let sending = Box::write(
            Box::new_uninit(),
            dispatch(
                upstream,
                &mut pending,
                arrival,
                admitted,
                &mut outgoing,
                wake,
                log,
            ),
        );
        let sent = Box::into_pin(sending).await;
        if pending.renewals > 0 {
            log.instance = Some(Arc::clone(&pending.resolved.instance));
        }
        let (instance, may_wake) = (pending.resolved.instance, pending.may_wake);
        let sent = sent?;
        let is_switching = sent.response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let has_events = target.switch.is_none() && {
            let park = target.destination.route.config().tunnel.park.as_ref();
            park.is_some_and(|park| park.event_streams) && is_event_stream(&sent.response)
        };
        let may_park = has_events || (target.switch.is_some() && is_switching);
        let park = may_park.then(|| {
            let (of, agent) = ((&resolved, &instance), context.user_agent.as_ref());
            let again = again.and_then(|again| again.agreed(sent.response.headers()));
            let park = Parking::of(self, &target.destination, of, (may_wake, again), agent)?;
            Some(park.counting(buffers))
        });
        let park = park.flatten();
        self.respond(sent, &mut target, arrival, (&instance, park), extra)
    }

    /// Begins the transaction of a request with this head.
    fn begin(
        &self,
        request: &Request<Option<ClientBody>>,
        fields: Fields,
        (peer, facts): (IpAddr, Option<&PeerFacts>),
    ) -> Box<Transaction> {
        let server = self.parts.server.load();
        let is_trusted = facts.is_some() || server.trusts(peer);
        let is_named = fields.has(Field::XForwardedFor) || fields.has(Field::Forwarded);
        let client = match facts {
            Some(facts) => facts.named,
            None if is_trusted && is_named => {
                named_client(peer, request.headers(), |address| server.trusts(address))
            }
            None => peer,
        };
        let via = server.via;
        drop(server);
        let one = |field, name| fields.has(field).then(|| request.field(&name)).flatten();
        let request_id =
            RequestId::adopt_or_generate(one(Field::XRequestId, X_REQUEST_ID).as_ref());
        let user_agent = one(Field::UserAgent, USER_AGENT);
        let from = (peer, client, ServerTerms { is_trusted, via });
        let kind = match facts.and_then(|facts| facts.raw) {
            None => Kind::Request,
            Some(Raw::Tls) => Kind::Connection(RawKind::Tls),
            Some(Raw::Tcp) => Kind::Connection(RawKind::Tcp),
        };
        // It is large, and not to be moved about.
        let mut transaction = Box::write(
            Box::new_uninit(),
            Transaction::new(&self.parts, kind, from, request_id, user_agent),
        );
        let log = &mut transaction.log;
        log.method = request.method().clone();
        log.target = request.uri().path_and_query().cloned();
        let trace = self.parts.tracer.begin(|| request.headers(), is_trusted);
        log.trace = trace.map(Box::new);
        log.trace_id = match &log.trace {
            Some(trace) => Some(trace.trace_id()),
            None if fields.has(Field::TraceParent) => trace_id_of(request.headers()),
            None => None,
        };
        transaction
    }
}

fn unknown_method() -> Method {
    Method::from_bytes(UNKNOWN.as_bytes()).unwrap_or_default()
}

/// Tells another member of the fleet that an answer is the gateway's own, if it is.
fn say_that_it_is_own(response: &mut Response<Content>, transaction: &Transaction) {
    if matches!(response.body(), Content::Own(_) | Content::Status(_)) {
        let code = HeaderValue::from_static(transaction.log.error.unwrap_or("-"));
        response.headers_mut().insert(peer_facts::CODE, code);
    }
}

/// Whether a request that another member of the fleet has sent is taken.
fn take_from_peer(arrival: &Arrival<'_>, transaction: &mut Transaction) -> Result<(), ProxyError> {
    let Some(from) = arrival.from_peer else {
        return Ok(());
    };
    transaction.log.fleet_peer = Some(from.name.name.as_str().into());
    from.check().map_err(|reason| match reason {
        NotTaken::Loop => ProxyError::ForwardLoop,
        NotTaken::Unreadable => RefusalReason::Malformed.into(),
    })
}

/// The response with the transaction that it ends.
fn answer(
    mut response: Response<Content>,
    mut transaction: Box<Transaction>,
) -> Response<GatewayBody> {
    if response.body().is_own() {
        let field = response.headers_mut().entry(X_CONTENT_TYPE_OPTIONS);
        field.or_insert(HeaderValue::from_static("nosniff"));
    }
    for cookie in transaction.cookies.drain(..) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    transaction.log.status = response.status().as_u16();
    if matches!(response.body(), Content::Events(_) | Content::Status(_)) {
        // They may be silent for hours, as a tunnel may.
        transaction.let_head_go();
    }
    response.map(|content| GatewayBody::new(content, transaction))
}

/// The response for an error, which is logged.
fn refuse(
    error: &ProxyError,
    accept: &Accept,
    Transaction { context, log, .. }: &mut Transaction,
) -> Response<Content> {
    let description = error_response::describe(error);
    log.error = Some(description.code);
    let request_id = &context.request_id;
    if description.status.is_server_error() {
        tracing::debug!(request = %request_id, %error, code = description.code, "refused");
    }
    error_response::answer(error, description, Audience::of(accept), request_id)
        .map(|body| Content::Own(Full::new(body)))
}

#[cfg(test)]
mod tests;
