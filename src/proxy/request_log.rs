//! What is written down about a request, when it is over.
//!
//! Guarantees: exactly one access line and one count for each request: at the end of its response's
//! body, or when its client leaves, whichever comes first.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::active_routes::ActiveRoutes;
use super::admission::Admission;
use super::l4::RawKind;
use super::service::GatewayParts;
use super::waiting::StatusStream;
use crate::hold::Slot;
use crate::names::{Hostname, RequestId};
use crate::router::Route;
use crate::telemetry::{AccessLine, AccessSink, Attribute, Metrics, RouteMetrics, Trace, WakeKind};
use crate::upstream::{BodyStats, ResponseError, UpstreamBody};
use hypeman::InstanceId;

/// Characters of a user agent that are kept.
const AGENT: usize = 200;
/// nginx's word for a client that left before its response.
const CLIENT_LEFT: u16 = 499;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const X_WAKEGATE_WAKE: HeaderName = HeaderName::from_static("x-wakegate-wake");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const NOT_HELD: HeaderValue = HeaderValue::from_static("wake;dur=0.0");

/// What an account is kept of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Connection(RawKind),
}

/// The notes on one request; written down when dropped.
pub(super) struct RequestLog {
    pub(super) metrics: Arc<Metrics>,
    pub(super) access: Arc<AccessSink>,
    pub(super) kind: Kind,
    pub(super) started: Instant,
    pub(super) client: IpAddr,
    pub(super) request_id: RequestId,
    pub(super) method: http::Method,
    pub(super) target: Option<PathAndQuery>,
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) host: Option<Hostname>,
    pub(super) route: Option<(Arc<Route>, Arc<RouteMetrics>)>,
    pub(super) trace: Option<Trace>,
    pub(super) trace_id: Option<String>,
    pub(super) instance: Option<InstanceId>,
    pub(super) wake: WakeKind,
    pub(super) held: Duration,
    pub(super) status: u16,
    pub(super) error: Option<&'static str>,
    /// Whether its response says how it met a wake, and how long it was held.
    pub(super) tells_wake: bool,
    pub(super) tells_time: bool,
    /// What its route answers while its instance sleeps.
    pub(super) asleep: Option<Arc<Admission>>,
    pub(super) body_stats: Option<Arc<BodyStats>>,
    pub(super) bytes_out: u64,
    pub(super) complete: bool,
}

/// A response's body, whoever made it.
pub(super) enum Content {
    /// The instance's; the request is at the instance for as long as it lives.
    Upstream {
        body: UpstreamBody,
        _slot: Option<Slot>,
    },
    Own(Full<Bytes>),
    Status(StatusStream<TcpStream>),
}

/// A response's body with the notes on its request.
pub struct GatewayBody {
    content: Content,
    /// In a box: a response is moved some times on its way.
    account: Box<RequestLog>,
}

/// What a client says it is, as far as that is kept.
pub(super) fn agent_text(value: &HeaderValue) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(value.as_bytes());
    match text.char_indices().nth(AGENT) {
        Some((end, _)) => Cow::Owned(text.get(..end).unwrap_or_default().to_owned()),
        None => text,
    }
}

// === impl RequestLog ===

impl RequestLog {
    /// Until a status is set, the client has left.
    const NO_STATUS: u16 = CLIENT_LEFT;

    /// Of something that begins now, and of which no more is known.
    pub(super) fn new<P>(
        parts: &GatewayParts<P>,
        kind: Kind,
        client: IpAddr,
        request_id: RequestId,
    ) -> Self {
        Self {
            metrics: Arc::clone(&parts.metrics),
            access: Arc::clone(&parts.access),
            kind,
            started: Instant::now(),
            client,
            request_id,
            method: http::Method::default(),
            target: None,
            user_agent: None,
            host: None,
            route: None,
            trace: None,
            trace_id: None,
            instance: None,
            wake: WakeKind::None,
            held: Duration::ZERO,
            status: Self::NO_STATUS,
            error: None,
            tells_wake: false,
            tells_time: false,
            asleep: None,
            body_stats: None,
            bytes_out: 0,
            complete: false,
        }
    }

    fn path(&self) -> &str {
        self.target.as_ref().map_or("", PathAndQuery::path)
    }

    /// Its route is known.
    pub(super) fn on_route(&mut self, active_routes: &ActiveRoutes, route: &Arc<Route>) {
        let metrics = active_routes.metrics(route).cloned();
        self.route = metrics.map(|metrics| (Arc::clone(route), metrics));
    }

    /// The wait for the instance, if there was one, is over.
    pub(super) fn trace_hold(&self) {
        if let Some(trace) = self.trace.as_ref().filter(|_| !self.held.is_zero()) {
            let now = Instant::now();
            let from = now.checked_sub(self.held).unwrap_or(now);
            trace.part("hold", from, now, &[]);
        }
    }

    /// The instance, asked `since`, has answered, or will not.
    pub(super) fn trace_upstream(&self, since: Option<Instant>) {
        if let (Some(trace), Some(since)) = (&self.trace, since) {
            trace.part("upstream", since, Instant::now(), &[]);
        }
    }

    /// What a trace says of the request in the end (OpenTelemetry, "Semantic conventions for HTTP spans").
    fn end_trace(&mut self) {
        let Some(mut trace) = self.trace.take().filter(Trace::is_recording) else {
            return;
        };
        let route = self.route.as_ref().map_or("", |(route, _)| route.label());
        let client = self.client.to_string();
        let mut attributes = vec![
            ("http.request.method", Attribute::Text(self.method.as_str())),
            (
                "http.response.status_code",
                Attribute::Number(self.status.into()),
            ),
            ("http.route", Attribute::Text(route)),
            ("url.path", Attribute::Text(self.path())),
            ("client.address", Attribute::Text(&client)),
            (
                "wakegate.request_id",
                Attribute::Text(self.request_id.as_str()),
            ),
            ("wakegate.wake", Attribute::Text(self.wake.as_str())),
            (
                "wakegate.held_seconds",
                Attribute::Fraction(self.held.as_secs_f64()),
            ),
        ];
        let host = self.host.as_ref().map(Hostname::as_str);
        attributes.extend(host.map(|host| ("server.address", Attribute::Text(host))));
        let agent = self.user_agent.as_ref().map(agent_text);
        let agent = agent.as_deref();
        attributes.extend(agent.map(|agent| ("user_agent.original", Attribute::Text(agent))));
        let instance = self.instance.as_ref().map(InstanceId::as_str);
        attributes.extend(instance.map(|id| ("wakegate.instance", Attribute::Text(id))));
        let error = self.error;
        attributes.extend(error.map(|code| ("error.type", Attribute::Text(code))));
        trace.describe(format!("{} {route}", self.method), &attributes);
        if self.status >= 500 {
            trace.fail(self.error.unwrap_or("5xx"));
        }
    }
}

impl Drop for RequestLog {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let bytes_in = self
            .body_stats
            .as_ref()
            .map_or(0, |body_stats| body_stats.bytes());
        let method = match self.kind {
            Kind::Request => {
                self.metrics.count_request(self.status, self.wake, took);
                if let Some((_, route)) = &self.route {
                    route.count(self.status, took);
                }
                if let Some(code) = self.error {
                    self.metrics.count_error(code);
                }
                self.metrics.count_bytes(bytes_in, self.bytes_out);
                self.method.as_str()
            }
            Kind::Connection(kind) => {
                let outcome = self.error.unwrap_or("passed_on");
                self.metrics.count_raw_connection(kind.as_str(), outcome);
                kind.as_str()
            }
        };
        if !self.access.is_on() {
            return self.end_trace();
        }
        let agent = self.user_agent.as_ref().map(agent_text);
        self.access.write(&AccessLine {
            time: jiff::Timestamp::now() - took,
            request_id: self.request_id.as_str(),
            trace_id: self.trace_id.as_deref(),
            client: self.client,
            method,
            host: self.host.as_ref().map(Hostname::as_str),
            path: self.path(),
            route: self.route.as_ref().map(|(route, _)| &**route.label()),
            status: self.status,
            bytes_in,
            bytes_out: self.bytes_out,
            duration_ms: took.as_secs_f64() * 1e3,
            wake: self.wake,
            held_ms: self.held.as_secs_f64() * 1e3,
            instance: self.instance.as_ref().map(InstanceId::as_str),
            error: self.error,
            aborted: !self.complete,
            user_agent: agent.as_deref(),
        });
        self.end_trace();
    }
}

// === impl GatewayBody ===

impl GatewayBody {
    pub(super) fn new(content: Content, account: Box<RequestLog>) -> Self {
        Self { content, account }
    }

    /// What its response's head says besides its own fields: of the wake, and the request's id.
    pub fn extra_headers(&self, mut say: impl FnMut(&HeaderName, &HeaderValue)) {
        let account = &self.account;
        if account.tells_wake {
            let kind = HeaderValue::from_static(account.wake.as_str());
            say(&X_WAKEGATE_WAKE, &kind);
        }
        if account.tells_time {
            let held = (!account.held.is_zero()).then(|| {
                let text = format!("wake;dur={:.1}", account.held.as_secs_f64() * 1e3);
                HeaderValue::try_from(text).ok()
            });
            say(&SERVER_TIMING, &held.flatten().unwrap_or(NOT_HELD));
        }
        say(&X_REQUEST_ID, account.request_id.header());
    }
}

impl Drop for GatewayBody {
    fn drop(&mut self) {
        // hyper does not read a body that has nothing (more) in it.
        self.account.complete |= self.is_end_stream();
    }
}

impl Body for GatewayBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let polled = match &mut self.content {
            Content::Upstream { body, .. } => Pin::new(body).poll_frame(cx),
            Content::Status(stream) => stream
                .poll_event(cx)
                .map(|event| event.map(|event| Ok(Frame::data(event)))),
            Content::Own(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|e| match e {}))),
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.account.bytes_out += frame.data_ref().map_or(0, Bytes::len) as u64;
            }
            Poll::Ready(None) => self.account.complete = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Upstream { body, .. } => body.is_end_stream(),
            Content::Status(_) => false,
            Content::Own(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Upstream { body, .. } => body.size_hint(),
            Content::Status(_) => SizeHint::default(),
            Content::Own(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for GatewayBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GatewayBody({})", self.account.request_id)
    }
}
