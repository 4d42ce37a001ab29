//! The straight line.
//!
//! Read [`Gateway::handle_inner`] from top to bottom: route, admit, ready, forward. What surrounds
//! it ([`Gateway::handle`]) keeps the account and turns an error into a response.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{HeaderName, HeaderValue, STRICT_TRANSPORT_SECURITY, USER_AGENT};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::active_routes::ActiveRoutes;
use super::admission::RequestHead;
use super::connection_cache::ConnectionCache;
use super::dispatch::{Dispatch, Dispatched, WakeInfo, target_of};
use super::error::ProxyError;
use super::error_response;
use super::outgoing::{
    adopt_authority, authenticate, buffered, check_framing, gains_from_buffer, head_bytes,
    min_body_rate, named_client, routed_path, to_origin_form,
};
use super::preflight::{self, Preflights};
use super::request_deadline::client_timeout;
use super::request_log::{Content, GatewayBody, Kind, RequestLog, X_REQUEST_ID, X_WAKEGATE_WAKE};
use super::switching::Switch;
use super::unknown_names::UnknownNames;
use super::waiting::{self, StatusStream};
use crate::config::{Rate, ResponseConfig, RouteConfig, ServerConfig};
use crate::hold::Hold;
use crate::keep_warm::WarmPlan;
use crate::names::{Hostname, RequestId};
use crate::router::{Route, RouteError};
use crate::telemetry::{AccessSink, Metrics, Trace, Tracer, trace_id_of};
use crate::upstream::{
    Field, Fields, ForwardedFor, Hop, InterimSink, Outgoing, ProxyHeader, RequestBody, Upstream,
    edit, prepare_request, prepare_response, tunnel,
};
use crate::wake::{Instance, WakeError, Wakes};
use hypeman::ControlPlane;
use hypeman::{GoDuration, InstanceRef};

const X_WAKEGATE_HOLD: HeaderName = HeaderName::from_static("x-wakegate-hold");

/// How a request came.
pub struct Arrival<'a> {
    /// The peer, or whom a trusted peer's PROXY header names.
    pub client: SocketAddr,
    /// Where it connected to.
    pub local: SocketAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// The certificate that it has shown, as `Client-Cert` has it.
    pub certificate: Option<&'a HeaderValue>,
    /// Where its 1xx answers go, if it can have some.
    pub interim: Option<&'a InterimSink>,
    /// What its connection's requests have left.
    pub cache: &'a ConnectionCache,
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
    pub response: ArcSwap<ResponseConfig>,
    /// Whom to trust, among others.
    pub server: Arc<ArcSwap<ServerConfig>>,
    /// The longest that an application may ask to stay awake for.
    pub max_hold: Duration,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Access lines.
    pub access: Arc<AccessSink>,
    /// Spans.
    pub tracer: Tracer,
    /// Where tunnels run.
    pub tunnels: TaskTracker,
    /// Ends tunnels.
    pub cut: CancellationToken,
}

/// The gateway, as every connection sees it.
pub struct Gateway<P> {
    pub(super) active_routes: ArcSwap<ActiveRoutes>,
    unknown: UnknownNames,
    preflights: Preflights,
    pub(super) parts: GatewayParts<P>,
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// From its parts.
    pub fn new(routes: &[Arc<RouteConfig>], unknown: Rate, parts: GatewayParts<P>) -> Arc<Self> {
        Arc::new(Self {
            active_routes: ArcSwap::from_pointee(ActiveRoutes::new(routes, None, &parts.metrics)),
            unknown: UnknownNames::new(unknown),
            preflights: Preflights::default(),
            parts,
        })
    }

    /// New requests use these routes; those under way keep theirs.
    pub fn set_routes(&self, routes: &[Arc<RouteConfig>]) {
        let before = self.active_routes.load();
        let active_routes = ActiveRoutes::new(routes, Some(&before), &self.parts.metrics);
        self.active_routes.store(Arc::new(active_routes));
    }

    /// What instances are to be kept awake, and when.
    pub fn warm_plans(&self) -> Vec<WarmPlan> {
        let active_routes = self.active_routes.load();
        let plans = active_routes.table.all().filter_map(|route| {
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
        request: Request<Option<Incoming>>,
        from: &Arrival<'_>,
    ) -> Response<GatewayBody> {
        let fields = Fields::of(request.headers());
        let mut log = Box::new(self.open_log(&request, fields, from.client.ip()));
        let accept = error_response::Accept::of(request.headers(), fields);
        let result = self.handle_inner(&mut log, request, fields, from);
        let result = result.await;
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                let description = error_response::describe(&error);
                log.error = Some(description.code);
                if description.status.is_server_error() {
                    let id = &log.request_id;
                    tracing::debug!(request = %id, %error, code = description.code, "refused");
                }
                let asleep = log.asleep.as_ref().map(|admission| admission.asleep());
                let audience = error_response::Audience::of(&accept);
                error_response::answer(&error, description, audience, asleep, &log.request_id)
                    .map(|body| Content::Own(Full::new(body)))
            }
        };
        log.status = response.status().as_u16();
        response.map(|content| GatewayBody::new(content, log))
    }

    /// The line that every request walks.
    async fn handle_inner(
        &self,
        log: &mut RequestLog,
        mut request: Request<Option<Incoming>>,
        mut fields: Fields,
        from: &Arrival<'_>,
    ) -> Result<Response<Content>, ProxyError> {
        let met = from.cache.host(&request, log.client, from.secure)?;
        let host = &met.host;
        log.host = Some(host.clone());
        if !(from.covers)(host.as_str()) {
            return Err(ProxyError::Misdirected);
        }
        check_framing(request.headers(), fields)?;
        let switch = Switch::of(&mut request, fields)?;
        if switch.is_some() {
            fields = Fields::of(request.headers());
        }
        let server = self.parts.server.load();
        let trusted = server.trusts(log.client);
        let rate = min_body_rate(request.headers(), fields, &server);
        let mut request = request.map(|body| RequestBody::new(body, rate));
        log.body_stats = request.body().body_stats();
        let (found, admission) = {
            let active_routes = self.active_routes.load();
            let path = routed_path(&request)?;
            let found = active_routes.table.find(host, path, from.local.port())?;
            log.on_route(&active_routes, &found.route);
            let admission = active_routes
                .admission(&found.route)
                .ok_or(RouteError::NoRoute)?;
            (found, Arc::clone(admission))
        };
        let (route, config) = (&*found.route, found.route.config());
        let forwarding = &config.forwarding;
        let told = trusted && fields.has(Field::XForwardedProto);
        let secure = from.secure || told && came_over_tls(request.headers());
        if forwarding.redirect_http && !secure {
            let to = to_https(host, request.uri());
            return Err(ProxyError::Redirect(Box::new(to)));
        }
        if let Some(auth) = &forwarding.auth {
            authenticate(auth, request.headers_mut())?;
        }
        let client = match trusted && fields.has(Field::XForwardedFor) {
            true => named_client(log.client, request.headers(), |peer| server.trusts(peer)),
            false => log.client,
        };
        drop(server);
        let client_timeout = client_timeout(config.wake.timeout, request.headers(), fields);
        let deadline = log.started + client_timeout;

        let target = match from.cache.target(config, &found.instance) {
            Some(target) => target,
            None => {
                let instance = self
                    .find(route, &found.instance, client, client_timeout)
                    .await?;
                let gate = self.parts.hold.gate(instance.id(), config.port);
                from.cache.remember(config, &found.instance, instance, gate)
            }
        };
        let instance = &target.instance;
        log.instance = Some(instance.id().clone());
        if config.waiting_page.enabled && request.uri().path() == waiting::STATUS_PATH {
            let stream = StatusStream::new(Arc::clone(instance), target_of(route));
            return Ok(waiting::status_head(Content::Status(stream)));
        }
        log.asleep = Some(Arc::clone(&admission));
        let may_wake = admission.check(&RequestHead {
            method: request.method(),
            path: request.uri().path(),
            headers: request.headers(),
            client,
        });
        let delivery = Dispatch {
            instance,
            route,
            hop: hop_of(config, from),
            admission: &admission,
            may_wake,
            hold: &self.parts.hold,
            gate: &target.gate,
            metrics: &self.parts.metrics,
            client,
            user_agent: log.user_agent.as_ref(),
            head_bytes: head_bytes(request.uri(), fields),
            deadline,
            trace: log.trace.as_ref().and_then(Trace::parent),
        };
        let preflight = (config.admission.preset.is_some())
            .then(|| {
                preflight::Question::of(request.method(), host, request.uri(), request.headers())
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
        let mut notes = WakeInfo::default();
        let admitted = match page {
            false if forwarding.early_continue => {
                let admitting = Box::pin(delivery.admit(&mut notes));
                request.body_mut().begun_during(admitting).await
            }
            false => delivery.admit(&mut notes).await,
            true => match Box::pin(timeout(
                config.waiting_page.after,
                delivery.admit(&mut notes),
            ))
            .await
            {
                Ok(admitted) => admitted,
                // The wake goes on; the page looks after it.
                Err(_) => {
                    let page = &config.waiting_page;
                    let page = waiting::page(page, host.as_str(), instance, &log.request_id);
                    log.error = Some("waiting_page");
                    return Ok(page.map(|html| Content::Own(Full::new(html))));
                }
            },
        };
        (log.wake, log.held) = (notes.wake, notes.held);
        log.trace_hold();
        let admitted = admitted?;

        let about = ForwardedFor {
            forwarded: &met.forwarded,
            trusted,
            request_id: &log.request_id,
            certificate: from.certificate,
        };
        adopt_authority(&mut request);
        let mut stamp = prepare_request(request.headers_mut(), fields, &about);
        if let Some(trace) = &log.trace {
            trace.inject(request.headers_mut());
        }
        if !forwarding.request_headers.is_empty() {
            // The rules are for the forwarding fields, too.
            if let Some(stamp) = stamp.take() {
                stamp.insert(request.headers_mut());
            }
            edit(request.headers_mut(), &forwarding.request_headers);
        }
        let prefix = forwarding.strip_path.then_some(config.path.as_str());
        // HTTP/1.0 knows no 1xx (RFC 9110 §15.2).
        let sink = from
            .interim
            .filter(|_| request.version() != Version::HTTP_10);
        to_origin_form(&mut request, prefix);
        let buffer = config.retry.buffer.0;
        if buffer > 0 && gains_from_buffer(&request) {
            request = Box::pin(buffered(request, buffer, deadline)).await?;
        }
        let request = Outgoing::new(request, stamp, switch.is_some(), sink.cloned());

        let since = log.trace.is_some().then(Instant::now);
        let sent = delivery.send(&self.parts.upstream, admitted, request, &mut notes);
        let sent = sent.await;
        log.trace_upstream(since);
        (log.wake, log.held) = (notes.wake, notes.held);
        let Dispatched {
            mut response,
            endpoint,
            slot,
        } = sent?;
        let told = Fields::of(response.headers());
        if told.has(Field::XWakegateHold)
            && let Some(until) = self.wanted_awake(response.headers_mut())
        {
            instance.keep_awake(until);
        }
        if let Some(question) = preflight {
            self.preflights.note(question, &response);
        }
        let mut slot = Some(slot);
        let mut switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        match switch {
            None if switching => return Err(ProxyError::UnexpectedUpgrade),
            None => {}
            Some(switch) => {
                let upstream = hyper::upgrade::on(&mut response);
                if switch.agreed(&mut response)? {
                    let (cut, slot) = (self.parts.cut.clone(), slot.take());
                    let downstream = switch.into_downstream();
                    self.parts.tunnels.spawn(async move {
                        tunnel(downstream, upstream, endpoint, cut).await;
                        drop(slot);
                    });
                }
                switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            }
        }
        prepare_response(response.headers_mut(), told, switching);
        edit(response.headers_mut(), &forwarding.response_headers);
        if let Some(age) = forwarding.hsts.filter(|_| secure) {
            response
                .headers_mut()
                .insert(STRICT_TRANSPORT_SECURITY, max_age(age));
        }
        let wanted = self.parts.response.load();
        (log.tells_wake, log.tells_time) = (wanted.wake_header, wanted.server_timing);
        if told.has(Field::XRequestId) {
            response.headers_mut().remove(X_REQUEST_ID);
        }
        if told.has(Field::XWakegateWake) && wanted.wake_header {
            response.headers_mut().remove(X_WAKEGATE_WAKE);
        }
        Ok(response.map(|body| Content::Upstream { body, _slot: slot }))
    }

    /// The instance that a name means, unless the client has guessed too many names.
    pub(super) async fn find(
        &self,
        route: &Route,
        name: &InstanceRef,
        client: IpAddr,
        patience: Duration,
    ) -> Result<Arc<Instance>, ProxyError> {
        let (wakes, plane) = (&self.parts.wakes, route.config().plane);
        let known = wakes.cached(plane, name);
        if let Some(instance) = known.as_ref().filter(|known| known.is_meant_by(name)) {
            return Ok(Arc::clone(instance));
        }
        if let Some(wait) = self.unknown.wait(client)
            && known.is_none()
        {
            return Err(ProxyError::TooManyUnknown(wait));
        }
        // In a box: it is large, and needed once for each name.
        let found = Box::pin(wakes.find(plane, name, patience)).await;
        if matches!(found, Err(WakeError::NotFound)) {
            self.unknown.note(client);
        }
        Ok(found?)
    }

    /// Until when the application wants to stay awake, by its `x-wakegate-hold`.
    fn wanted_awake(&self, headers: &mut http::HeaderMap) -> Option<Instant> {
        let value = headers.remove(X_WAKEGATE_HOLD)?;
        let asked = value.to_str().ok()?.parse::<GoDuration>().ok()?.to_std()?;
        Some(Instant::now() + asked.min(self.parts.max_hold))
    }

    /// Forgets what is too old to matter.
    pub fn upkeep(&self) {
        self.active_routes.load().upkeep();
        self.unknown.upkeep();
        self.parts.hold.upkeep();
    }

    fn open_log(
        &self,
        request: &Request<Option<Incoming>>,
        fields: Fields,
        client: IpAddr,
    ) -> RequestLog {
        let headers = request.headers();
        let one = |field, name| fields.has(field).then(|| headers.get(name)).flatten();
        let id = RequestId::adopt_or_generate(one(Field::XRequestId, X_REQUEST_ID));
        let mut log = RequestLog::new(&self.parts, Kind::Request, client, id);
        log.method = request.method().clone();
        log.target = request.uri().path_and_query().cloned();
        log.user_agent = one(Field::UserAgent, USER_AGENT).cloned();
        log.trace = self.parts.tracer.begin(headers);
        log.trace_id = match &log.trace {
            Some(trace) => Some(trace.trace_id()),
            None if fields.has(Field::TraceParent) => trace_id_of(headers),
            None => None,
        };
        log
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

/// By the word of a trusted peer.
fn came_over_tls(headers: &http::HeaderMap) -> bool {
    let told = headers.get("x-forwarded-proto");
    told.is_some_and(|proto| proto == "https")
}

/// How this request reaches its instance.
pub(super) fn hop_of(config: &RouteConfig, from: &Arrival<'_>) -> Hop {
    Hop {
        port: config.port,
        protocol: config.forwarding.protocol,
        proxy_header: config.forwarding.proxy_protocol.map(|version| ProxyHeader {
            version,
            client: from.client,
            local: from.local,
        }),
    }
}

/// The same target over TLS, at its usual port.
fn to_https(host: &Hostname, uri: &Uri) -> Uri {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let uri = Uri::builder()
        .scheme("https")
        .authority(host.as_str())
        .path_and_query(target);
    // A host that has a route and a target that was parsed make a URI.
    uri.build().unwrap_or_default()
}

/// RFC 6797 §6.1.1.
fn max_age(age: Duration) -> HeaderValue {
    HeaderValue::try_from(format!("max-age={}", age.as_secs()))
        .unwrap_or(HeaderValue::from_static("max-age=0"))
}
