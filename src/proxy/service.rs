//! The straight line.
//!
//! Read [`Gateway::handle_inner`] from top to bottom: route, admit, ready, forward. What surrounds
//! it ([`Gateway::handle`]) keeps the account and turns an error into a response.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{HOST, HeaderName, HeaderValue, TRANSFER_ENCODING, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::account::{Account, Content, GatewayBody};
use super::admission::Visit;
use super::deliver::{Carrier, Delivered, Delivery, Notes, target_of};
use super::error::ProxyError;
use super::patience::patience;
use super::preflight::{self, Preflights};
use super::rescue;
use super::site::Site;
use super::unknown::UnknownNames;
use super::waiting::{self, StatusStream};
use crate::config::{Rate, ResponseConfig, RouteConfig};
use crate::hold::Hold;
use crate::hypeman::ControlPlane;
use crate::names::{GoDuration, Hostname, InstanceRef, RequestId};
use crate::router::{Match, Route, RouteError, host_of, is_below};
use crate::telemetry::{AccessSink, Metrics, WakeKind};
use crate::upstream::{
    ForwardError, ForwardedFor, RequestBody, Upstream, UpstreamBody, is_upgrade, prepare_request,
    prepare_response, tunnel,
};
use crate::wake::{Asker, Endpoint, Instance, OpenConnection, WakeError, Wakes, WarmPlan};

const X_WAKEGATE_HOLD: HeaderName = HeaderName::from_static("x-wakegate-hold");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_WAKEGATE_WAKE: HeaderName = HeaderName::from_static("x-wakegate-wake");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// How a request came.
pub struct Arrival<'a> {
    /// The peer.
    pub client: IpAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Whether its connection may carry requests for a host.
    pub covers: &'a (dyn Fn(&str) -> bool + Sync),
}

/// What a gateway is made of.
#[derive(Debug)]
pub struct GatewayParts<P> {
    /// The wake engine.
    pub wakes: Arc<Wakes<P>>,
    /// Who may wait.
    pub hold: Arc<Hold>,
    /// Connections to instances.
    pub upstream: Arc<Upstream>,
    /// What is added to responses.
    pub response: ResponseConfig,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The longest that an application may ask to stay awake for.
    pub max_hold: Duration,
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
    site: ArcSwap<Site>,
    unknown: UnknownNames,
    preflights: Preflights,
    parts: GatewayParts<P>,
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// From its parts.
    pub fn new(routes: &[RouteConfig], unknown: Rate, parts: GatewayParts<P>) -> Arc<Self> {
        Arc::new(Self {
            site: ArcSwap::from_pointee(Site::new(routes, None)),
            unknown: UnknownNames::new(unknown),
            preflights: Preflights::default(),
            parts,
        })
    }

    /// New requests use these routes; those under way keep theirs.
    pub fn set_routes(&self, routes: &[RouteConfig]) {
        let before = self.site.load();
        self.site.store(Arc::new(Site::new(routes, Some(&before))));
    }

    /// What instances are to be kept awake, and when.
    pub fn warm_plans(&self) -> Vec<WarmPlan> {
        let site = self.site.load();
        let plans = site.table.all().filter_map(|route| {
            let config = route.config();
            Some(WarmPlan {
                plane: config.plane,
                instance: route.fixed_instance()?.clone(),
                route: Arc::clone(route.label()),
                rules: config.wake.clone(),
                windows: config.keep_warm.clone(),
            })
        });
        plans.filter(|plan| !plan.windows.is_empty()).collect()
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
        from: &Arrival<'_>,
    ) -> Response<GatewayBody> {
        let mut account = self.open_account(&request, from.client);
        let browser = waiting::accepts_html(request.headers());
        let result = self.handle_inner(&mut account, request, from).await;
        let mut response = match result {
            Ok(response) => response,
            Err(error) => {
                let verdict = rescue::verdict(&error);
                account.error = Some(verdict.code);
                if verdict.status.is_server_error() {
                    let id = &account.request_id;
                    tracing::debug!(request = %id, %error, code = verdict.code, "refused");
                }
                let response = match (&error, &account.asleep) {
                    (ProxyError::Asleep(why), Some(admission)) => {
                        rescue::asleep(*why, verdict, admission.asleep(), &account.request_id)
                    }
                    _ if browser => rescue::page(verdict, &account.request_id),
                    _ => rescue::response(verdict, &account.request_id),
                };
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
        from: &Arrival<'_>,
    ) -> Result<Response<Content>, ProxyError> {
        let host = host_of(request.version(), request.uri(), request.headers())?;
        account.host = Some(host.clone());
        if !(from.covers)(host.as_str()) {
            return Err(ProxyError::Misdirected);
        }
        check_framing(&request)?;
        let site = self.site.load();
        let found = site.table.find(&host, request.uri().path())?;
        let (route, config) = (&*found.route, found.route.config());
        let client = self.client_of(account.client, request.headers());
        let patience = patience(config.wake.timeout, request.headers());
        let deadline = account.started + patience;

        let instance = self.find(route, &found.instance, client, patience).await?;
        account.instance = Some(instance.id().clone());
        if config.waiting_page.enabled && request.uri().path() == waiting::STATUS_PATH {
            let stream = StatusStream::new(instance, target_of(route));
            return Ok(waiting::status_head(Content::Status(stream)));
        }
        let admission = site.admission(route).ok_or(RouteError::NoRoute)?;
        account.asleep = Some(Arc::clone(admission));
        let verdict = admission.judge(&Visit {
            method: request.method(),
            path: request.uri().path(),
            headers: request.headers(),
            client,
        });
        let delivery = Delivery {
            instance: &instance,
            route,
            admission,
            verdict,
            hold: &self.parts.hold,
            metrics: &self.parts.metrics,
            client,
            user_agent: account.user_agent.as_deref(),
            head_bytes: head_bytes(&request),
            deadline,
        };
        let preflight = (config.admission.preset.is_some())
            .then(|| {
                preflight::Question::of(request.method(), &host, request.uri(), request.headers())
            })
            .flatten();
        if let Some(answer) = preflight
            .as_ref()
            .filter(|_| instance.warm(target_of(route)).is_none())
            .and_then(|question| self.preflights.recall(question))
        {
            return Ok(answer.map(|()| Content::Own(Full::default())));
        }
        self.prewarm(&delivery, request.uri().path());

        let page = config.waiting_page.enabled
            && waiting::is_navigation(request.method(), request.headers());
        let mut notes = Notes::default();
        let admitted = match page {
            false => delivery.admit(&mut notes).await,
            true => match timeout(config.waiting_page.after, delivery.admit(&mut notes)).await {
                Ok(admitted) => admitted,
                // The wake goes on; the page looks after it.
                Err(_) => {
                    let page = &config.waiting_page;
                    let page = waiting::page(page, host.as_str(), &instance, &account.request_id);
                    account.error = Some("waiting_page");
                    return Ok(page.map(|html| Content::Own(Full::new(html))));
                }
            },
        };
        (account.wake, account.held) = (notes.wake, notes.held);
        let admitted = admitted?;

        let downstream = is_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let from = ForwardedFor {
            client: account.client,
            trusted: self.trusts(account.client),
            secure: from.secure,
            host: &host,
            request_id: &account.request_id,
        };
        adopt_authority(&mut request);
        prepare_request(request.headers_mut(), &from);
        let request = to_origin_form(request).map(RequestBody::new);
        account.fate = Some(request.body().fate());
        let request = buffered(request, config.retry.buffer.0, deadline).await?;

        let sent = delivery.send(&self.parts.upstream, admitted, request, &mut notes);
        let sent = sent.await;
        (account.wake, account.held) = (notes.wake, notes.held);
        let Delivered {
            mut response,
            endpoint,
            slot,
        } = sent?;
        if let Some(until) = self.wanted_awake(response.headers_mut()) {
            instance.keep_awake(until);
        }
        if let Some(question) = preflight {
            self.preflights.note(question, &response);
        }
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let mut slot = Some(slot);
        if switching {
            let agreed = is_upgrade(response.headers());
            let Some(downstream) = downstream.filter(|_| agreed) else {
                return Err(ProxyError::UnexpectedUpgrade);
            };
            let upstream = hyper::upgrade::on(&mut response);
            let (cut, slot) = (self.parts.cut.clone(), slot.take());
            self.parts.tunnels.spawn(async move {
                tunnel(downstream, upstream, endpoint, cut).await;
                drop(slot);
            });
        }
        prepare_response(response.headers_mut(), switching);
        self.tell_wake(response.headers_mut(), account);
        Ok(response.map(|body| Content::Upstream { body, _slot: slot }))
    }

    /// The instance that a name means, unless the client has guessed too many names.
    async fn find(
        &self,
        route: &Route,
        name: &InstanceRef,
        client: IpAddr,
        patience: Duration,
    ) -> Result<Arc<Instance>, ProxyError> {
        let (wakes, plane) = (&self.parts.wakes, route.config().plane);
        if let Some(wait) = self.unknown.wait(client)
            && wakes.known(plane, name).is_none()
        {
            return Err(ProxyError::TooManyUnknown(wait));
        }
        let found = wakes.find(plane, name, patience).await;
        if matches!(found, Err(WakeError::NotFound)) {
            self.unknown.note(client);
        }
        Ok(found?)
    }

    /// Wakes what this request will need besides its own instance.
    fn prewarm(&self, delivery: &Delivery<'_, TcpStream>, path: &str) {
        let config = delivery.route.config();
        let wakes = &self.parts.wakes;
        for rule in &config.prewarm {
            if delivery.verdict.is_ok() && rule.paths.iter().any(|below| is_below(path, below)) {
                wakes.prewarm(
                    config.plane,
                    &rule.instances,
                    &config.wake,
                    &delivery.asker(),
                );
            }
        }
        let asleep = || {
            let target = target_of(delivery.route);
            delivery.instance.warm(target).is_none() && delivery.instance.progress().is_none()
        };
        if !config.wake.also.is_empty() && delivery.verdict.is_ok() && asleep() {
            wakes.prewarm(
                config.plane,
                &config.wake.also,
                &config.wake,
                &delivery.asker(),
            );
        }
    }

    /// A TLS client has said which host it wants: its instance may wake while the handshake goes on,
    /// where the route says so and the client's network and the rates allow it.
    pub fn greet(&self, sni: &str, client: IpAddr) {
        let site = self.site.load();
        let found = Hostname::parse(sni)
            .ok()
            .and_then(|host| site.table.find(&host, "/").ok());
        let Some(Match { route, instance }) = found else {
            return;
        };
        let (config, wakes) = (route.config(), &self.parts.wakes);
        let Some(admission) = site.admission(&route).filter(|_| config.wake.on_tls_hello) else {
            return;
        };
        let known = wakes.known(config.plane, &instance);
        let awake = |known: Arc<Instance>| {
            known.warm(target_of(&route)).is_some() || known.progress().is_some()
        };
        if known.is_some_and(awake)
            || !admission.knows_client(client)
            || admission.charge(client).is_err()
        {
            return;
        }
        let asker = Asker {
            route: Arc::clone(route.label()),
            client,
            user_agent: Some("TLS ClientHello".into()),
            since: Instant::now(),
        };
        wakes.prewarm(config.plane, &[instance], &config.wake, &asker);
    }

    /// Until when the application wants to stay awake, by its `x-wakegate-hold`.
    fn wanted_awake(&self, headers: &mut http::HeaderMap) -> Option<Instant> {
        let value = headers.remove(X_WAKEGATE_HOLD)?;
        let asked = value.to_str().ok()?.parse::<GoDuration>().ok()?.to_std()?;
        Some(Instant::now() + asked.min(self.parts.max_hold))
    }

    /// Who asks: the peer, or whom a trusted peer names last.
    fn client_of(&self, peer: IpAddr, headers: &http::HeaderMap) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        let named = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|text| text.split(','))
            .map(|text| text.trim().parse::<IpAddr>());
        let named: Vec<_> = named.collect();
        for address in named.into_iter().rev() {
            match address {
                Ok(address) if self.trusts(address) => {}
                Ok(address) => return address,
                Err(_) => break,
            }
        }
        peer
    }

    /// Forgets what is too old to matter.
    pub fn upkeep(&self) {
        self.site.load().upkeep();
        self.unknown.upkeep();
        self.parts.hold.upkeep();
        self.parts.metrics.upkeep();
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
            asleep: None,
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

impl fmt::Debug for Arrival<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arrival({}, secure: {})", self.client, self.secure)
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

/// HTTP/2's authority is HTTP/1.1's Host, its port included.
fn adopt_authority(request: &mut Request<Incoming>) {
    if request.headers().contains_key(HOST) {
        return;
    }
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    if let Some(Ok(host)) = authority.map(HeaderValue::from_str) {
        request.headers_mut().insert(HOST, host);
    }
}

/// HTTP/1.1 with the target that an origin expects (RFC 9112 §3.2.1).
fn to_origin_form(request: Request<Incoming>) -> Request<Incoming> {
    let (mut parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().cloned();
    parts.uri = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    parts.version = Version::HTTP_11;
    Request::from_parts(parts, body)
}

/// Reads a small body beforehand where the route wants that, so that it can be sent again.
async fn buffered(
    request: Request<RequestBody>,
    limit: usize,
    deadline: Instant,
) -> Result<Request<RequestBody>, ProxyError> {
    if limit == 0 || !request.method().is_idempotent() || request.body().is_repeatable() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    match timeout_at(deadline, body.buffer(limit)).await {
        Ok(Ok(body)) => Ok(Request::from_parts(parts, body)),
        Ok(Err(_)) => Err(ProxyError::BodyBroke),
        Err(_) => Err(ProxyError::BodyTooSlow),
    }
}

impl Carrier for Arc<Upstream> {
    type Stream = TcpStream;
    type Request = Request<RequestBody>;
    type Response = Response<UpstreamBody>;

    async fn send(
        &self,
        endpoint: &Endpoint,
        port: u16,
        given: Option<(TcpStream, OpenConnection)>,
        request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, ForwardError> {
        Upstream::send(self, endpoint, port, given, request).await
    }

    /// Idempotent, and its body, if any, can be sent twice.
    fn copy(&self, request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
        if !request.method().is_idempotent() || is_upgrade(request.headers()) {
            return None;
        }
        let mut copy = Request::new(request.body().again()?);
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        Some(copy)
    }

    fn status(&self, response: &Response<UpstreamBody>) -> u16 {
        response.status().as_u16()
    }
}
