//! Traces: W3C Trace Context in and out, spans sent with OTLP.
//!
//! Guarantees: without `tracing.endpoint` nothing is made and requests' own `traceparent` goes on
//! as it came; with it each request has a span that continues its client's trace, or begins one,
//! and its instance hears of that span; a client that is not trusted decides nothing about how much
//! is recorded; a collector that does not answer costs spans, never a
//! request: they wait in a bounded queue, and what does not get out is counted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan, SpanData, SpanExporter,
};
use tokio::time::Instant;

use super::Metrics;
use crate::config::TracingConfig;

#[allow(
    clippy::disallowed_types,
    reason = "what OpenTelemetry's spans are timed by"
)]
type WallTime = std::time::SystemTime;

/// How long the last spans may take at the end.
const GOODBYE: Duration = Duration::from_secs(5);

/// Spans cannot be sent as configured.
#[derive(Debug, thiserror::Error)]
pub enum TracerError {
    /// The exporter refuses the endpoint or its fields.
    #[error("cannot be sent to: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The HTTP client cannot be made.
    #[error("cannot be sent to: no HTTP client: {0}")]
    Client(String),
}

/// Makes spans, or nothing. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
    /// The share of the traces that are recorded where nobody who is trusted says so.
    sample: f64,
}

/// A span that is going on; it ends when it is dropped.
#[derive(Debug)]
pub struct Trace {
    span: SdkSpan,
    tracer: Arc<Inner>,
    /// What spans below this one continue.
    context: Context,
    began: Moment,
}

/// The same moment on both clocks.
#[derive(Debug, Clone, Copy)]
struct Moment {
    wall: WallTime,
    at: Instant,
}

/// Where a span of somebody else's work continues a trace.
#[derive(Debug, Clone)]
pub struct TraceParent {
    tracer: Arc<Inner>,
    context: Context,
    began: Moment,
}

/// An attribute's value.
#[derive(Debug, Clone, Copy)]
pub enum Attribute<'a> {
    /// A text.
    Text(&'a str),
    /// A number.
    Number(i64),
    /// Seconds or the like.
    Fraction(f64),
}

// === impl Moment ===

impl Moment {
    fn now() -> Self {
        Self {
            wall: WallTime::now(),
            at: Instant::now(),
        }
    }

    /// Another moment on the wall's clock.
    fn wall_of(&self, at: Instant) -> WallTime {
        self.wall + at.saturating_duration_since(self.at)
    }
}

fn pairs(attributes: &[(&'static str, Attribute<'_>)]) -> Vec<KeyValue> {
    let pair = |(key, value): &(&'static str, Attribute<'_>)| {
        let value: Value = match value {
            Attribute::Text(text) => (*text).to_owned().into(),
            Attribute::Number(number) => (*number).into(),
            Attribute::Fraction(number) => (*number).into(),
        };
        KeyValue::new(*key, value)
    };
    attributes.iter().map(pair).collect()
}

// === impl Tracer ===

impl Tracer {
    /// As configured.
    pub fn new(config: &TracingConfig, metrics: &Arc<Metrics>) -> Result<Self, TracerError> {
        let Some(endpoint) = &config.endpoint else {
            return Ok(Self(None));
        };
        let headers: HashMap<String, String> = config
            .headers
            .0
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .collect();
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client(endpoint, config.timeout)?)
            .with_endpoint(traces_url(endpoint))
            .with_timeout(config.timeout)
            .with_headers(headers)
            .build()?;
        let exporter = CountedExporter {
            exporter,
            metrics: Arc::clone(metrics),
            failing: AtomicBool::new(false),
        };
        let resource = Resource::builder()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let sampler = Sampler::TraceIdRatioBased(config.sample);
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(sampler)))
            .with_resource(resource)
            .build();
        let inner = Inner {
            tracer: provider.tracer("wakegate"),
            provider,
            propagator: TraceContextPropagator::new(),
            sample: config.sample,
        };
        Ok(Self(Some(Arc::new(inner))))
    }

    /// A request's span; `is_trusted` says whether its client may decide what is recorded. `None`
    /// when nothing is traced.
    pub fn begin<'h>(
        &self,
        headers: impl FnOnce() -> &'h HeaderMap,
        is_trusted: bool,
    ) -> Option<Trace> {
        let tracer = self.0.as_ref()?;
        let mut parent = tracer
            .propagator
            .extract_with_context(&Context::new(), &HeaderExtractor(headers()));
        // A stranger chooses the trace's id, too, so that the choice must not depend on it.
        if !is_trusted && parent.span().span_context().is_sampled() && !tracer.is_chosen() {
            parent = unsampled(&parent);
        }
        let began = Moment::now();
        let builder = tracer.tracer.span_builder("request");
        let builder = builder.with_kind(SpanKind::Server);
        let builder = builder.with_start_time(began.wall);
        let span = builder.start_with_context(&tracer.tracer, &parent);
        let context = Context::new().with_remote_span_context(span.span_context().clone());
        Some(Trace {
            span,
            tracer: Arc::clone(tracer),
            context,
            began,
        })
    }

    /// Sends what is left. Blocks for some seconds at most.
    pub fn shut_down(&self) {
        if let Some(inner) = &self.0
            && let Err(error) = inner.provider.shutdown_with_timeout(GOODBYE)
        {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

impl Inner {
    /// Whether one more trace is recorded.
    fn is_chosen(&self) -> bool {
        fastrand::f64() < self.sample
    }
}

/// The same trace, not recorded.
fn unsampled(parent: &Context) -> Context {
    let span = parent.span();
    let of = span.span_context();
    let flags = of.trace_flags().with_sampled(false);
    let state = of.trace_state().clone();
    parent.with_remote_span_context(SpanContext::new(
        of.trace_id(),
        of.span_id(),
        flags,
        true,
        state,
    ))
}

/// Without another path in it, OTLP's own (OTLP specification, "OTLP/HTTP Request").
fn traces_url(endpoint: &str) -> String {
    match endpoint
        .split_once("://")
        .map(|(_, rest)| rest.contains('/'))
    {
        Some(true) => endpoint.to_owned(),
        _ => format!("{endpoint}/v1/traces"),
    }
}

/// A client of its own: fields for the collector must not follow a redirect to somebody else.
fn client(endpoint: &str, timeout: Duration) -> Result<reqwest::blocking::Client, TracerError> {
    let secure = endpoint.starts_with("https:");
    let build = move || {
        let mut builder = reqwest::blocking::Client::builder();
        if !secure {
            // It needs no CA certificates, which an otherwise empty container does not have.
            builder = builder.tls_certs_only([]);
        }
        builder
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(timeout)
            .user_agent(concat!("wakegate/", env!("CARGO_PKG_VERSION")))
            .build()
    };
    // It has a runtime of its own, which cannot be made inside another one.
    let built = std::thread::spawn(build).join();
    let built = built.map_err(|_| TracerError::Client("its thread broke off".to_owned()))?;
    built.map_err(|error| TracerError::Client(error.to_string()))
}

/// The trace that a request says it belongs to, when the gateway makes no spans.
pub fn trace_id_of(headers: &HeaderMap) -> Option<String> {
    headers.get("traceparent")?;
    let context = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    let span = context.span();
    let id = span.span_context();
    id.is_valid().then(|| id.trace_id().to_string())
}

// === impl Trace ===

impl Trace {
    /// Its trace's id, in hexadecimal.
    pub fn trace_id(&self) -> String {
        self.context().trace_id().to_string()
    }

    fn context(&self) -> &SpanContext {
        self.span.span_context()
    }

    /// Tells the instance which span called it.
    pub fn inject(&self, headers: &mut HeaderMap) {
        let propagator = &self.tracer.propagator;
        propagator.inject_context(&self.context, &mut HeaderInjector(headers));
    }

    /// Whether its details are worth collecting.
    pub fn is_recording(&self) -> bool {
        self.span.is_recording()
    }

    /// Where a wake that this request causes continues the trace; `None` when it is not recorded.
    pub fn parent(&self) -> Option<TraceParent> {
        self.is_recording().then(|| TraceParent {
            tracer: Arc::clone(&self.tracer),
            context: self.context.clone(),
            began: self.began,
        })
    }

    /// A part of the request, which is over.
    pub fn part(
        &self,
        name: &'static str,
        from: Instant,
        to: Instant,
        attributes: &[(&'static str, Attribute<'_>)],
    ) {
        if let Some(parent) = self.parent() {
            parent.span(name, from, to, attributes);
        }
    }

    /// What the span says at its end.
    pub fn describe(&mut self, name: String, attributes: &[(&'static str, Attribute<'_>)]) {
        self.span.update_name(name);
        self.span.set_attributes(pairs(attributes));
    }

    /// The gateway, or the instance, failed it.
    pub fn fail(&mut self, code: &'static str) {
        self.span.set_status(Status::error(code));
    }
}

// === impl TraceParent ===

impl TraceParent {
    /// A span that is over; what continues from it.
    pub fn span(
        &self,
        name: &'static str,
        from: Instant,
        to: Instant,
        attributes: &[(&'static str, Attribute<'_>)],
    ) -> Self {
        let tracer = &self.tracer.tracer;
        let builder = tracer
            .span_builder(name)
            .with_start_time(self.began.wall_of(from))
            .with_attributes(pairs(attributes));
        let mut span = builder.start_with_context(tracer, &self.context);
        span.end_with_timestamp(self.began.wall_of(to));
        Self {
            tracer: Arc::clone(&self.tracer),
            context: Context::new().with_remote_span_context(span.span_context().clone()),
            began: self.began,
        }
    }
}

/// Counts what gets out and says when nothing does.
#[derive(Debug)]
struct CountedExporter {
    exporter: opentelemetry_otlp::SpanExporter,
    metrics: Arc<Metrics>,
    failing: AtomicBool,
}

impl SpanExporter for CountedExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let result = self.exporter.export(batch).await;
        self.metrics.count_spans(result.is_ok(), spans);
        let was_failing = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !was_failing => {
                tracing::warn!(%error, "the collector of spans does not take them; they are lost");
            }
            Ok(()) if was_failing => tracing::info!("the collector of spans takes them again"),
            Ok(()) | Err(_) => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_endpoint_gets_the_usual_path() {
        let url = "http://h:4318/v1/traces";
        assert_eq!(traces_url("http://h:4318"), url);
        assert_eq!(traces_url("http://h/otlp/traces"), "http://h/otlp/traces");
    }

    #[test]
    fn a_trace_is_known_by_its_traceparent_if_that_is_valid() {
        let of = |value: &'static str| {
            let field = (
                http::HeaderName::from_static("traceparent"),
                http::HeaderValue::from_static(value),
            );
            trace_id_of(&HeaderMap::from_iter([field]))
        };
        let id = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(
            of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").as_deref(),
            Some(id)
        );
        for bad in [
            "",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
