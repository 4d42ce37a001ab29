//! The straight line.
//!
//! Read [`Gateway::handle_inner`] from top to bottom: route, admit, ready, forward. What surrounds
//! it ([`Gateway::handle`]) keeps the account and turns an error into a response.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{HeaderName, HeaderValue, TRANSFER_ENCODING, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use ipnet::IpNet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::account::{Account, Content, GatewayBody};
use super::error::ProxyError;
use super::rescue;
use crate::config::ResponseConfig;
use crate::hold::Hold;
use crate::hypeman::ControlPlane;
use crate::names::RequestId;
use crate::router::{Route, RouteTable, host_of};
use crate::telemetry::{AccessSink, Metrics, ReleaseReason, WakeKind};
use crate::upstream::{
    ForwardError, ForwardedFor, RequestBody, Upstream, UpstreamBody, is_upgrade, prepare_request,
    prepare_response, tunnel,
};
use crate::wake::{Instance, Ready, Wakes};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_WAKEGATE_WAKE: HeaderName = HeaderName::from_static("x-wakegate-wake");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// How often one request is sent at most.
const MAX_SENDS: u32 = 3;

/// What a gateway is made of.
#[derive(Debug)]
pub struct GatewayParts<P> {
    /// Where requests go.
    pub routes: RouteTable,
    /// The wake engine.
    pub wakes: Wakes<P>,
    /// Who may wait.
    pub hold: Arc<Hold>,
    /// Connections to instances.
    pub upstream: Arc<Upstream>,
    /// What is added to responses.
    pub response: ResponseConfig,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Access lines.
    pub access: Arc<AccessSink>,
    /// Where tunnels run.
    pub tunnels: TaskTracker,
    /// Ends tunnels.
    pub cut: CancellationToken,
}

/// The gateway, as every connection sees it.
pub struct Gateway<P> {
    routes: ArcSwap<RouteTable>,
    parts: GatewayParts<P>,
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// From its parts.
    pub fn new(mut parts: GatewayParts<P>) -> Arc<Self> {
        let routes = ArcSwap::from_pointee(std::mem::take(&mut parts.routes));
        Arc::new(Self { routes, parts })
    }

    /// New requests use these routes; those under way keep theirs.
    pub fn set_routes(&self, routes: RouteTable) {
        self.routes.store(Arc::new(routes));
    }

    /// Its parts, to look at.
    pub fn parts(&self) -> &GatewayParts<P> {
        &self.parts
    }

    /// Answers one request. Dropping the future (the client left) gives everything back and cancels
    /// no wake.
    pub async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: IpAddr,
    ) -> Response<GatewayBody> {
        let mut account = self.open_account(&request, client);
        let result = self.handle_inner(&mut account, request).await;
        let mut response = match result {
            Ok(response) => response.map(Content::Upstream),
            Err(error) => {
                let verdict = rescue::verdict(&error);
                account.error = Some(verdict.code);
                if verdict.status.is_server_error() {
                    let id = &account.request_id;
                    tracing::debug!(request = %id, %error, code = verdict.code, "refused");
                }
                let response = rescue::response(verdict, &account.request_id);
                response.map(|body| Content::Own(Full::new(body)))
            }
        };
        account.status = response.status().as_u16();
        response
            .headers_mut()
            .insert(X_REQUEST_ID, account.request_id.header());
        response.map(|content| GatewayBody::new(content, account))
    }

    /// The line that every request walks.
    async fn handle_inner(
        &self,
        account: &mut Account,
        mut request: Request<Incoming>,
    ) -> Result<Response<UpstreamBody>, ProxyError> {
        let host = host_of(request.version(), request.uri(), request.headers())?;
        account.host = Some(host.clone());
        check_framing(&request)?;
        let found = self.routes.load().find(&host, request.uri().path())?;
        let route = &*found.route;
        let instance = self
            .parts
            .wakes
            .find(route.plane, &found.instance, route.wake.timeout)
            .await?;
        account.instance = Some(instance.id().clone());
        let head_bytes = head_bytes(&request);
        let ready = self.ready(&instance, route, head_bytes, account).await?;

        let downstream = is_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let trusted = self.trusts(account.client);
        let request_id = &account.request_id;
        let from = ForwardedFor {
            client: account.client,
            trusted,
            host: &host,
            request_id,
        };
        prepare_request(request.headers_mut(), &from);
        let request = to_origin_form(request).map(RequestBody::new);
        account.fate = Some(request.body().fate());

        let (mut response, endpoint) = self
            .forward(&instance, route, head_bytes, ready, request, account)
            .await?;
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switching {
            let agreed = is_upgrade(response.headers());
            let Some(downstream) = downstream.filter(|_| agreed) else {
                return Err(ProxyError::UnexpectedUpgrade);
            };
            let upstream = hyper::upgrade::on(&mut response);
            let cut = self.parts.cut.clone();
            self.parts
                .tunnels
                .spawn(tunnel(downstream, upstream, endpoint, cut));
        }
        prepare_response(response.headers_mut(), switching);
        self.tell_wake(response.headers_mut(), account);
        Ok(response)
    }

    /// The warm path, or a place in the queue and a wake.
    async fn ready(
        &self,
        instance: &Instance,
        route: &Route,
        head_bytes: usize,
        account: &mut Account,
    ) -> Result<Ready, ProxyError> {
        if let Some(endpoint) = instance.warm(route.port) {
            account.wake = WakeKind::Warm;
            return Ok(Ready {
                endpoint,
                kind: WakeKind::Warm,
                connection: None,
            });
        }
        let ticket = self.parts.hold.admit(instance.id(), head_bytes)?;
        let since = ticket.since();
        let result = instance.ready(route.port, &route.wake).await;
        account.held += since.elapsed();
        ticket.release(match &result {
            Ok(_) => ReleaseReason::Ready,
            Err(_) => ReleaseReason::Refused,
        });
        let ready = result?;
        // A request that was woken for once stays so, also when it is sent again.
        if !matches!(account.wake, WakeKind::Cold | WakeKind::Joined) {
            account.wake = ready.kind;
        }
        Ok(ready)
    }

    /// Sends the request, and again through the engine when that is safe: it was certainly not
    /// sent; or it is idempotent (RFC 9110 §9.2.2), has no body, and no byte of a response came.
    /// Anything else might run twice and is refused.
    async fn forward(
        &self,
        instance: &Instance,
        route: &Route,
        head_bytes: usize,
        mut ready: Ready,
        mut request: Request<RequestBody>,
        account: &mut Account,
    ) -> Result<(Response<UpstreamBody>, crate::wake::Endpoint), ProxyError> {
        let deadline = Instant::now() + route.wake.timeout;
        let mut sends = 0;
        loop {
            sends += 1;
            let copy = repeatable(&request).then(|| copy_of(&request));
            let given = ready.connection.take();
            let sent = self
                .parts
                .upstream
                .send(&ready.endpoint, route.port, given, request)
                .await;
            let error = match sent {
                Ok(response) => return Ok((response, ready.endpoint)),
                Err(error) => error,
            };
            tracing::debug!(instance = %instance.id(), %error, sends, "not answered");
            if !matches!(error, ForwardError::TimedOut | ForwardError::Nonsense(_)) {
                instance.suspect(&ready.endpoint).await;
            }
            if sends >= MAX_SENDS || Instant::now() >= deadline {
                return Err(error.into());
            }
            request = match (error, copy) {
                (ForwardError::Connect { request, .. } | ForwardError::Unsent { request }, _) => {
                    *request
                }
                (ForwardError::Broken(_) | ForwardError::Severed, Some(copy)) => copy,
                (
                    error @ (ForwardError::Broken(_)
                    | ForwardError::Severed
                    | ForwardError::Nonsense(_)
                    | ForwardError::TimedOut),
                    _,
                ) => return Err(error.into()),
            };
            self.parts.metrics.upstream_retries.increment(1);
            ready = self.ready(instance, route, head_bytes, account).await?;
        }
    }

    fn open_account(&self, request: &Request<Incoming>, client: IpAddr) -> Account {
        let text = |value: &HeaderValue| {
            String::from_utf8_lossy(value.as_bytes())
                .chars()
                .take(200)
                .collect()
        };
        Account {
            metrics: Arc::clone(&self.parts.metrics),
            access: Arc::clone(&self.parts.access),
            time: jiff::Timestamp::now(),
            started: Instant::now(),
            client,
            request_id: RequestId::adopt_or_generate(request.headers().get(X_REQUEST_ID)),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            user_agent: request.headers().get(USER_AGENT).map(text),
            host: None,
            instance: None,
            wake: WakeKind::None,
            held: Duration::ZERO,
            status: Account::NO_STATUS,
            error: None,
            fate: None,
            bytes_out: 0,
            complete: false,
        }
    }

    fn trusts(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.parts
            .trusted_proxies
            .iter()
            .any(|network| network.contains(&client))
    }

    fn tell_wake(&self, headers: &mut http::HeaderMap, account: &Account) {
        if self.parts.response.wake_header {
            let kind = HeaderValue::from_static(account.wake.as_str());
            headers.insert(X_WAKEGATE_WAKE, kind);
        }
        if self.parts.response.server_timing {
            let text = format!("wake;dur={:.1}", account.held.as_secs_f64() * 1e3);
            if let Ok(value) = HeaderValue::try_from(text) {
                headers.append(SERVER_TIMING, value);
            }
        }
    }
}

impl<P> fmt::Debug for Gateway<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").finish_non_exhaustive()
    }
}

/// What hyper lets through and must not go further.
fn check_framing(request: &Request<Incoming>) -> Result<(), ProxyError> {
    if request.method() == Method::CONNECT {
        return Err(ProxyError::Connect);
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    let fine = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    if fine {
        Ok(())
    } else {
        Err(ProxyError::TransferCoding)
    }
}

/// About as many bytes as the head took on the wire.
fn head_bytes(request: &Request<Incoming>) -> usize {
    let fields = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4);
    fields.sum::<usize>() + request.uri().path().len() + request.uri().query().map_or(0, str::len)
}

/// HTTP/1.1 with the target that an origin expects (RFC 9112 §3.2.1).
fn to_origin_form(request: Request<Incoming>) -> Request<Incoming> {
    let (mut parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().cloned();
    parts.uri = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    parts.version = Version::HTTP_11;
    Request::from_parts(parts, body)
}

/// Idempotent and without a body: may be sent again as long as no byte of a response came.
fn repeatable(request: &Request<RequestBody>) -> bool {
    request.method().is_idempotent() && request.body().is_empty() && !is_upgrade(request.headers())
}

fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}
