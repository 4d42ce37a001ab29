//! A request whose instance is at another host: it is passed on to that host's node.
//!
//! Guarantees: what clients see is this gateway's: who may ask, redirects, header rules, the access
//! line; whether and how the instance is woken is the node's. A request is sent again only when it was
//! certainly not processed; a node that says that the instance is not its own makes the directory be
//! read anew, once. The node's own answers pass as they are.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, UPGRADE as UPGRADE_FIELD};
use http::uri::{Authority, Parts as UriParts, Scheme};
use http::{HeaderValue, Method, Response, StatusCode, Uri};

use super::context::{Arrival, RequestContext};
use super::error::ProxyError;
use super::fleet_link::Fleet;
use super::gateway::Gateway;
use super::peer_facts::{self, FromPeer, PeerFacts};
use super::prepare::{fields_for_instance, obeying};
use super::request_log::RequestLog;
use super::request_target::adopt_authority;
use super::response_body::{Content, X_WAKEGATE_WAKE};
use super::route::{Destination, Target};
use super::transaction::ExtraFields;
use super::wake_info::WakeInfo;
use crate::client::Request;
use crate::fleet::{Claim, Place};
use crate::telemetry::{PeerOutcome, WakeKind, known_code};
use crate::upstream::{
    Field, Fields, InterimSink, PeerError, PeerRequest, RequestBody, TrailerRules, UpstreamBody,
    X_REQUEST_ID, X_WAKEGATE_MISPLACED, prepare_response,
};
use crate::wake::WakeError;
use hypeman::ControlPlane;

/// Beyond what a node has to answer: it is to say itself what has taken too long.
const MARGIN: Duration = Duration::from_secs(5);

/// What became of a request that was to be passed on.
#[allow(
    clippy::large_enum_variant,
    reason = "most are answered, and it is looked at at once"
)]
pub(super) enum Passed {
    /// It was answered.
    Answered(Response<Content>),
    /// Its instance is here by now.
    Here(Box<(Target, Request<RequestBody>)>),
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// Where the instance of a request is, if it is not here. What other members send to a node is for
    /// its own instances.
    pub(super) fn elsewhere(
        &self,
        target: &Target,
        arrival: &Arrival<'_>,
    ) -> Option<(&Fleet, Place)> {
        let fleet = self.fleet.get()?;
        if arrival.from_peer.is_some() && fleet.is_node {
            return None;
        }
        let place = fleet.elsewhere(&target.destination.instance)?;
        Some((fleet, place))
    }

    /// Passes a request on.
    #[allow(
        clippy::manual_async_fn,
        clippy::too_many_arguments,
        reason = "an async function keeps its arguments twice, in the memory of each held request; \
                  they are what a phase has"
    )]
    pub(super) fn pass_to_peer(
        &self,
        (fleet, mut place): (&Fleet, Place),
        mut target: Target,
        mut request: Request<RequestBody>,
        arrival: &Arrival<'_>,
        context: &RequestContext,
        wake: &mut WakeInfo,
        extra: &mut ExtraFields,
        log: &mut RequestLog,
    ) -> impl Future<Output = Result<Passed, ProxyError>> + Send {
        async move {
            if arrival.is_asking {
                // An address of another host is of no use to whoever asks.
                return Err(ProxyError::Misplaced);
            }
            drop_vain_wish(&mut request, &mut target);
            // Kept for an instance that turns out to be here after all.
            let spare = fleet.is_node.then(|| head_of(&request));
            let mut facts = PeerFacts::about(&target.destination, arrival, context);
            facts.secure = target.is_secure;
            let limit = self.patience(&target.destination);
            let (request, interim) = for_peer(request, &target, &mut facts, arrival, context, log)?;
            let mut request = PeerRequest::new(request, interim, limit);
            let mut is_second = false;
            let response = loop {
                let (member, claim) = found(place)?;
                log.fleet_peer = Some(member.name.as_str().into());
                facts.claimed(&claim, fleet.placement.revision());
                let hops = arrival.from_peer.map_or(0, FromPeer::hops) + 1;
                let written = facts.write(hops, request.head_mut().headers_mut());
                written.ok_or(ProxyError::Target)?;
                let Some(peers) = &fleet.peers else {
                    return Err(PeerError::Unreachable.into());
                };
                let since = log.trace.is_some().then(tokio::time::Instant::now);
                let sent = peers.send(&member, &request).await;
                log.trace_upstream(since);
                self.count_sent(&sent);
                let response = sent?;
                let is_misplaced = peer_facts::is_misplaced(response.status(), response.headers());
                if !is_misplaced {
                    request.is_taken();
                    break response;
                }
                if is_second || request.body_again().is_none() {
                    if arrival.from_peer.is_none() {
                        // Its status is for members: clients would send the request again by themselves.
                        return Err(ProxyError::Nowhere);
                    }
                    break response;
                }
                drop(response);
                is_second = true;
                match fleet.elsewhere_by_now(&target.destination.instance).await {
                    Some(elsewhere) => place = elsewhere,
                    None => return here(spare, target, &request),
                }
            };
            let answered = self.respond_for_peer(response, &mut target, arrival, wake, extra, log);
            answered.map(Passed::Answered)
        }
    }

    /// How long a node may owe the head of a response: as long as it may hold the request, and its
    /// instance then may take.
    pub(super) fn patience(&self, destination: &Destination) -> Duration {
        let response = self.parts.upstream.response_timeout();
        destination
            .timeout
            .saturating_add(response)
            .saturating_add(MARGIN)
    }

    /// Counts how a request to another member ended.
    pub(super) fn count_sent(&self, sent: &Result<Response<UpstreamBody>, PeerError>) {
        self.parts.metrics.count_peer_request(match sent {
            Ok(response) if peer_facts::is_misplaced(response.status(), response.headers()) => {
                PeerOutcome::Misplaced
            }
            Ok(_) => PeerOutcome::Answered,
            Err(PeerError::Unreachable) => PeerOutcome::Unreachable,
            Err(PeerError::Refused(_)) => PeerOutcome::Refused,
            Err(PeerError::Untaken | PeerError::Unfit(_)) => PeerOutcome::Untaken,
            Err(PeerError::Broken(_) | PeerError::TimedOut) => PeerOutcome::Broken,
            Err(PeerError::Client(_)) => PeerOutcome::Client,
        });
    }

    /// Makes the client's response of the node's.
    fn respond_for_peer(
        &self,
        mut response: Response<UpstreamBody>,
        target: &mut Target,
        arrival: &Arrival<'_>,
        wake: &mut WakeInfo,
        extra: &mut ExtraFields,
        log: &mut RequestLog,
    ) -> Result<Response<Content>, ProxyError> {
        restore(&mut response);
        let headers = response.headers_mut();
        if let Some(kind) = headers.remove(X_WAKEGATE_WAKE) {
            let kind = kind.to_str().ok().and_then(WakeKind::named);
            wake.wake = kind.unwrap_or(wake.wake);
            extra.wake = self.parts.response.load().wake_header;
        }
        if let Some(code) = peer_facts::take_code(headers) {
            // The node's own answer: nothing is changed in it.
            log.error = code.to_str().ok().and_then(known_code);
            let (fields, misplaced) = (Fields::of(headers), headers.remove(X_WAKEGATE_MISPLACED));
            prepare_response(headers, fields, false);
            let misplaced = misplaced.filter(|_| arrival.from_peer.is_some());
            headers.extend(misplaced.map(|value| (X_WAKEGATE_MISPLACED, value)));
            headers.remove(X_REQUEST_ID);
            return Ok(response.map(|body| Content::Upstream {
                body,
                lines: None,
                _slot: None,
            }));
        }
        let may_park = peer_facts::take_parks(headers);
        self.finish_response(response.into(), target, may_park)
    }
}

/// The member and its claim, or why there is none.
pub(super) fn found(place: Place) -> Result<(Arc<crate::fleet::Member>, Claim), ProxyError> {
    match place {
        Place::Peer { host, claim } => Ok((host, claim)),
        Place::Unreachable { .. } => Err(PeerError::Unreachable.into()),
        Place::Unclaimed | Place::Here => Err(WakeError::NotFound.into()),
    }
}

fn head_of(request: &Request<RequestBody>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    *head.extensions_mut() = request.extensions().clone();
    head
}

/// The request as it was, for an instance that is here by now.
fn here(
    spare: Option<Request<()>>,
    target: Target,
    sent: &PeerRequest,
) -> Result<Passed, ProxyError> {
    let again = spare.zip(sent.body_again());
    let (head, body) = again.ok_or(ProxyError::Misplaced)?;
    Ok(Passed::Here(Box::new((target, head.map(|()| body)))))
}

/// Takes away a wish to switch that nobody can grant: a stream that switches has no body before (RFC 9110
/// §7.8), and one that answers HEAD has none at all.
fn drop_vain_wish(request: &mut Request<RequestBody>, target: &mut Target) {
    let is_vain = !request.body().is_nothing() || request.method() == Method::HEAD;
    if target.switch.is_some() && is_vain {
        (target.switch, target.tunnel_place) = (None, None);
        request.headers_mut().remove(UPGRADE_FIELD);
    }
}

/// Whether a client keeps its body back until it is asked for (RFC 9110 §10.1.1).
fn keeps_back(request: &Request<RequestBody>, target: &Target) -> bool {
    let is_continue = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    target.fields.has(Field::Expect)
        && !request.body().is_nothing()
        && request.headers().get(EXPECT).is_some_and(is_continue)
        && !target.destination.route.config().forwarding.early_continue
}

/// The request as the node is to get it, and who takes interim responses to it.
fn for_peer(
    mut request: Request<RequestBody>,
    target: &Target,
    facts: &mut PeerFacts,
    arrival: &Arrival<'_>,
    context: &RequestContext,
    log: &RequestLog,
) -> Result<(Request<RequestBody>, Option<InterimSink>), ProxyError> {
    let config = Arc::clone(target.destination.route.config());
    let keeps_back = keeps_back(&request, target);
    adopt_authority(&mut request);
    if let Some(forwarded) = fields_for_instance(&mut request, target, arrival, context, log) {
        forwarded.insert(request.headers_mut());
    }
    if config.forwarding.strip_path {
        facts.strip = Some(config.path().to_owned());
    }
    request.body_mut().obey(TrailerRules::of_request(&config));
    let named = target.host.forwarded.named();
    let authority = Authority::try_from(named).map_err(|_| ProxyError::Target)?;
    let headers = request.headers_mut();
    if keeps_back {
        // The node asks for the body, when its instance is ready.
        headers.insert(EXPECT, HeaderValue::from_static("100-continue"));
    }
    facts.host = headers.remove(HOST).filter(|host| host.as_bytes() != named);
    headers.remove(CONNECTION);
    let upgrade = headers.remove(UPGRADE_FIELD);
    if target.switch.is_some()
        && let Some(upgrade) = upgrade
    {
        switch_to(&mut request, upgrade)?;
    }
    let mut uri = UriParts::default();
    uri.scheme = Some(Scheme::HTTPS);
    uri.authority = Some(authority);
    uri.path_and_query = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from_parts(uri).map_err(|_| ProxyError::Target)?;
    let interim = arrival.interim_for(&request);
    let interim = interim.map(|sink| obeying(sink, &config));
    Ok((request, interim))
}

/// Makes it an extended CONNECT (RFC 8441 §4).
fn switch_to(request: &mut Request<RequestBody>, upgrade: HeaderValue) -> Result<(), ProxyError> {
    let token = upgrade.to_str().unwrap_or_default();
    let token = token.split(',').next().unwrap_or_default().trim();
    let token = match token.eq_ignore_ascii_case("websocket") {
        true => "websocket",
        false => token,
    };
    let protocol = h2::ext::Protocol::from(token);
    let method = std::mem::replace(request.method_mut(), Method::CONNECT);
    if method != Method::GET {
        let method = HeaderValue::from_str(method.as_str());
        let method = method.map_err(|_| ProxyError::Target)?;
        request.headers_mut().insert(peer_facts::METHOD, method);
    }
    request.headers_mut().remove(CONTENT_LENGTH);
    request.headers_mut().insert(peer_facts::UPGRADE, upgrade);
    request.extensions_mut().insert(protocol);
    Ok(())
}

/// The node's response as the instance has made it.
fn restore(response: &mut Response<UpstreamBody>) {
    let headers = response.headers_mut();
    let (upgrade, status) = (
        headers.remove(peer_facts::UPGRADE),
        headers.remove(peer_facts::STATUS),
    );
    if let Some(status) = status.and_then(|status| StatusCode::from_bytes(status.as_bytes()).ok()) {
        *response.status_mut() = status;
    } else if let Some(upgrade) = upgrade.filter(|_| response.status() == StatusCode::OK) {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        let option = HeaderValue::from_static("upgrade");
        headers.insert(CONNECTION, option);
        headers.insert(UPGRADE_FIELD, upgrade);
    }
}

// === impl PeerFacts ===

impl PeerFacts {
    /// What is known of a request, or a connection, before it is placed.
    pub(super) fn about(
        destination: &Destination,
        arrival: &Arrival<'_>,
        context: &RequestContext,
    ) -> Self {
        let forwarding = &destination.route.config().forwarding;
        Self {
            client: arrival.client,
            named: context.client,
            local: arrival.local,
            secure: arrival.secure,
            instance: destination.instance.clone(),
            id: None,
            generation: 0,
            plane: None,
            revision: 0,
            port: destination.port,
            raw: None,
            timeout: destination.timeout,
            protocol: forwarding.protocol,
            says_more: destination.route.config().has_more_at_node,
            connection: arrival.cache.client(),
            strip: None,
            host: None,
        }
    }

    pub(super) fn claimed(&mut self, claim: &Claim, revision: i64) {
        self.id = Some(claim.id.clone()).filter(|id| !id.is_empty());
        self.generation = claim.generation;
        self.plane.clone_from(&claim.plane);
        self.revision = revision;
    }
}
