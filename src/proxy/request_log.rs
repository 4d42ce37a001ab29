//! What is written down about a request, when it is over.
//!
//! Guarantees: the log is for observation only. Phases write into it; nothing that decides an
//! answer is read from it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio::time::Instant;

use super::active_routes::ActiveRoute;
use super::context::{GatewayParts, RawKind, RequestContext};
use super::wake_info::WakeInfo;
use crate::names::Hostname;
use crate::telemetry::{AccessLine, AccessSink, Attribute, Metrics, Trace, agent_text};
use crate::upstream::{BodyStats, Carried};
use crate::wake::Instance;

/// nginx's status for a client that left before its response.
const CLIENT_LEFT: u16 = 499;

/// The kind of thing that a log is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Connection(RawKind),
}

/// The facts about one request that its [`RequestContext`] does not have, for its access line, its
/// counts and its span.
pub(super) struct RequestLog {
    metrics: Arc<Metrics>,
    access: Arc<AccessSink>,
    kind: Kind,
    pub(super) method: http::Method,
    pub(super) target: Option<PathAndQuery>,
    /// The path where there is no target.
    pub(super) no_path: &'static str,
    pub(super) host: Option<Hostname>,
    pub(super) route: Option<Arc<ActiveRoute>>,
    /// In a box: it is large, and most requests have none.
    pub(super) trace: Option<Box<Trace>>,
    pub(super) trace_id: Option<String>,
    pub(super) instance: Option<Arc<Instance>>,
    /// The other member of the fleet that it goes to, or comes from.
    pub(super) fleet_peer: Option<Box<str>>,
    pub(super) status: u16,
    pub(super) error: Option<&'static str>,
    pub(super) body_stats: Option<Arc<BodyStats>>,
    pub(super) bytes_out: u64,
    pub(super) complete: bool,
    /// What a tunnel, or a connection that is passed on as it is, carries.
    pub(super) carried: Option<Arc<Carried>>,
    /// Whether it is counted already.
    is_counted: bool,
    /// Whether the time in which it was held has its span.
    has_hold_span: bool,
}

// === impl RequestLog ===

impl RequestLog {
    /// Until a status is set, the client has left.
    const NO_STATUS: u16 = CLIENT_LEFT;

    /// The log of something that begins now.
    pub(super) fn new<P>(parts: &GatewayParts<P>, kind: Kind) -> Self {
        Self {
            metrics: Arc::clone(&parts.metrics),
            access: Arc::clone(&parts.access),
            kind,
            method: http::Method::default(),
            target: None,
            no_path: "",
            host: None,
            route: None,
            trace: None,
            trace_id: None,
            instance: None,
            fleet_peer: None,
            status: Self::NO_STATUS,
            error: None,
            body_stats: None,
            bytes_out: 0,
            complete: false,
            carried: None,
            is_counted: false,
            has_hold_span: false,
        }
    }

    /// Nothing of the request's head is kept but the path.
    pub(super) fn let_head_go(&mut self) {
        let path = Bytes::copy_from_slice(self.path().as_bytes());
        if self.target.is_some() {
            self.target = PathAndQuery::from_maybe_shared(path).ok();
        }
    }

    fn path(&self) -> &str {
        self.target
            .as_ref()
            .map_or(self.no_path, PathAndQuery::path)
    }

    /// Adds the span of the wait for the instance, if there was one, which ends now.
    pub(super) fn trace_hold(&mut self, held: Duration) {
        if std::mem::replace(&mut self.has_hold_span, true) {
            return;
        }
        if let Some(trace) = self.trace.as_ref().filter(|_| !held.is_zero()) {
            let now = Instant::now();
            let from = now.checked_sub(held).unwrap_or(now);
            trace.part("hold", from, now, &[]);
        }
    }

    /// Adds the span of the exchange with the instance, from `since` to now.
    pub(super) fn trace_upstream(&self, since: Option<Instant>) {
        if let (Some(trace), Some(since)) = (&self.trace, since) {
            trace.part("upstream", since, Instant::now(), &[]);
        }
    }

    /// Ends the span with the attributes of OpenTelemetry's "Semantic conventions for HTTP spans".
    fn end_trace(&mut self, context: &RequestContext, wake: WakeInfo) {
        // Who left while held has not been to the end of the wait.
        self.trace_hold(wake.held);
        if self.trace.is_none() {
            return;
        }
        let Some(mut trace) = self.trace.take().filter(|trace| trace.is_recording()) else {
            return;
        };
        let route = self.route.as_ref().map_or("", |route| route.label());
        let client = context.client.to_string();
        let peer = context.peer.to_string();
        let instance = self.instance.as_ref();
        let instance = instance.map(|instance| (instance.id().as_str(), instance.name()));
        let mut attributes = vec![
            ("http.request.method", Attribute::Text(self.method.as_str())),
            (
                "http.response.status_code",
                Attribute::Number(self.status.into()),
            ),
            ("http.route", Attribute::Text(route)),
            ("url.path", Attribute::Text(self.path())),
            ("client.address", Attribute::Text(&client)),
            ("network.peer.address", Attribute::Text(&peer)),
            (
                "wakegate.request_id",
                Attribute::Text(context.request_id.as_str()),
            ),
            ("wakegate.wake", Attribute::Text(wake.wake.as_str())),
            (
                "wakegate.held_seconds",
                Attribute::Fraction((wake.held.as_secs_f64() * 1e6).round() / 1e6),
            ),
        ];
        let host = self.host.as_ref().map(Hostname::as_str);
        attributes.extend(host.map(|host| ("server.address", Attribute::Text(host))));
        let agent = context.user_agent.as_ref().map(agent_text);
        let agent = agent.as_deref();
        attributes.extend(agent.map(|agent| ("user_agent.original", Attribute::Text(agent))));
        if let Some((id, name)) = &instance {
            attributes.extend([
                ("wakegate.instance", Attribute::Text(id)),
                ("wakegate.instance.name", Attribute::Text(name)),
            ]);
        }
        let error = self.error;
        attributes.extend(error.map(|code| ("error.type", Attribute::Text(code))));
        trace.describe(format!("{} {route}", self.method), &attributes);
        if self.status >= 500 {
            trace.fail(self.error.unwrap_or("5xx"));
        }
    }

    /// A connection is carried from here on: its account, which is whoever's drops the future's, too.
    pub(super) fn carry(&mut self, context: &RequestContext, wake: WakeInfo) -> Arc<Carried> {
        self.status = 200;
        self.count(context, wake);
        let carried = Arc::new(Carried::new(Arc::clone(&self.metrics)));
        self.carried = Some(Arc::clone(&carried));
        carried
    }

    /// Counts the request, or connection, unless it has been.
    pub(super) fn count(&mut self, context: &RequestContext, wake: WakeInfo) {
        if std::mem::replace(&mut self.is_counted, true) {
            return;
        }
        match self.kind {
            Kind::Request => {
                let took = context.started.elapsed();
                self.metrics.count_request(self.status, wake.wake, took);
                if let Some(route) = &self.route {
                    route.state().metrics.count(self.status, took);
                }
                if let Some(code) = self.error {
                    self.metrics.count_error(code);
                }
            }
            Kind::Connection(kind) => {
                let outcome = self.error.unwrap_or("passed_on");
                self.metrics.count_raw_connection(kind.as_str(), outcome);
            }
        }
    }

    /// The bytes from the client and to it. What a tunnel carries is counted meanwhile.
    fn bytes(&self) -> (u64, u64) {
        if let Some(carried) = &self.carried {
            return (carried.from_client(), carried.to_client());
        }
        let body_stats = self.body_stats.as_ref();
        let bytes = (
            body_stats.map_or(0, |body_stats| body_stats.bytes()),
            self.bytes_out,
        );
        self.metrics.count_bytes(bytes.0, bytes.1);
        bytes
    }

    /// Writes the access line, counts, and ends the span: the request is over.
    pub(super) fn write(&mut self, context: &RequestContext, wake: WakeInfo) {
        self.count(context, wake);
        let (bytes_in, bytes_out) = self.bytes();
        if !self.access.is_on() {
            return self.end_trace(context, wake);
        }
        let took = context.started.elapsed();
        let agent = context.user_agent.as_ref().map(agent_text);
        let instance = self.instance.as_deref();
        let name = instance.map(Instance::name);
        let carried = self.carried.as_deref();
        self.access.write(&AccessLine {
            time: jiff::Timestamp::now() - took,
            request_id: context.request_id.as_str(),
            trace_id: self.trace_id.as_deref(),
            client: context.client,
            peer: context.peer,
            method: match self.kind {
                Kind::Request => self.method.as_str(),
                Kind::Connection(kind) => kind.as_str(),
            },
            host: self.host.as_ref().map(Hostname::as_str),
            path: self.path(),
            route: self.route.as_ref().map(|route| &**route.label()),
            status: self.status,
            bytes_in,
            bytes_out,
            duration_ms: took.as_secs_f64() * 1e3,
            wake: wake.wake,
            held_ms: wake.held.as_secs_f64() * 1e3,
            instance: instance.map(|instance| instance.id().as_str()),
            instance_name: name.as_deref(),
            error: self.error,
            aborted: !carried.map_or(self.complete, Carried::is_complete),
            ended_by: carried.map(|carried| carried.ended_by().as_str()),
            fleet_peer: self.fleet_peer.as_deref(),
            user_agent: agent.as_deref(),
        });
        self.end_trace(context, wake);
    }
}
