//! Phase 4, answer locally: what the gateway answers itself.
//!
//! Guarantees: such an answer never wakes the instance, keeps it awake or takes a place in the hold
//! queue (a health check that a route has forwarded is none, and goes on only to an instance that
//! is awake); it is about the instance's wake or health, as far as the gateway knows them without a
//! question of its own, or one that the application gave to the same CORS preflight and still
//! stands by.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response};
use http_body_util::Full;
use tokio::time::{Instant, timeout};

use super::connection_cache::CachedTarget;
use super::context::Arrival;
use super::context::readiness_of;
use super::denied::Denied;
use super::error::ProxyError;
use super::error_response::X_WAKEGATE_STATE;
use super::gateway::Gateway;
use super::response_body::Content;
use super::route::{Destination, Target};
use super::waiting::{self, StatusStream};
use crate::acme::{is_challenge_path, token_of};
use crate::client::Request;
use crate::router::RouteError;
use crate::upstream::RequestBody;
use crate::wake::{Instance, WakeError, WakeStage};

/// How long a health check waits for what its instance's name means.
const HEALTH_PATIENCE: Duration = Duration::from_secs(1);

/// An instance's state as a health checker is told it. Nobody is asked.
fn state<S>(instance: &Instance<S>) -> &'static str {
    let is_awake = instance
        .endpoint()
        .is_some_and(|endpoint| endpoint.is_awake_by_last_word(Instant::now()));
    // A wake that only asks may find it awake or asleep.
    let stage = instance.progress().map(|progress| progress.stage);
    let is_waking = stage.is_some_and(|stage| stage != WakeStage::Asking);
    match () {
        () if is_awake => "awake",
        () if is_waking => "waking",
        () if instance.breaker().is_some() => "failing",
        () => "asleep",
    }
}

/// The answer to a health check. It is 200 in every state: a balancer that heard otherwise would
/// send nobody here who could wake the instance.
fn health(state: &'static str) -> Response<Content> {
    let body = Full::new(Bytes::from(format!("{state}\n")));
    let mut response = Response::new(Content::Own(body));
    let headers = response.headers_mut();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, text);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_WAKEGATE_STATE, HeaderValue::from_static(state));
    response
}

/// Whether the gateway answers a request for its instance's health.
pub(super) fn is_health_check(target: &Target, request: &Request<RequestBody>) -> bool {
    target.path.is_health && matches!(*request.method(), Method::GET | Method::HEAD)
}

/// The answer to a health check of an instance about which nothing is known yet.
pub(super) fn unresolved_health() -> Response<Content> {
    health("asleep")
}

/// What a name means, if that is found out soon; `None` when nobody can tell. A health checker must
/// not take a gateway away because a control plane is slow or gone.
pub(super) async fn resolved_in_time(
    resolving: impl Future<Output = Result<Arc<CachedTarget>, ProxyError>>,
) -> Result<Option<Arc<CachedTarget>>, ProxyError> {
    // In a box: it is large, and most requests are no health checks.
    match timeout(HEALTH_PATIENCE, Box::pin(resolving)).await {
        Ok(Ok(resolved)) => Ok(Some(resolved)),
        Ok(Err(error @ ProxyError::Wake(WakeError::NotFound))) => Err(error),
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

// === impl Gateway ===

impl<P> Gateway<P> {
    /// The answer to a CA that looks at a name over HTTP (RFC 8555 §8.3), whatever routes say: where
    /// certificates come by ACME, no such request reaches an instance.
    pub(super) fn answer_challenge<B>(
        &self,
        request: &Request<B>,
        arrival: &Arrival<'_>,
    ) -> Option<Result<Response<Content>, ProxyError>> {
        let challenges = self.parts.challenges.as_ref().filter(|_| !arrival.secure)?;
        let path = request.uri().path();
        if !is_challenge_path(path) {
            return None;
        }
        let answer = token_of(path).and_then(|token| challenges.answer(token));
        Some(match answer {
            Some(text) => Ok(Response::new(Content::Own(Full::from(text)))),
            None => Err(RouteError::NoRoute.into()),
        })
    }
}

impl<P> Gateway<P> {
    /// The gateway's own answer, if it has one.
    pub(super) fn answer_locally(
        &self,
        target: &Target,
        resolved: &CachedTarget,
        request: &Request<RequestBody>,
    ) -> Option<Response<Content>> {
        let Destination {
            route, port, tls, ..
        } = &target.destination;
        let (route, instance) = (route.config(), &resolved.instance);
        let readiness = || readiness_of(route, *port, tls.as_ref());
        if target.path.is_wake_status {
            let stream = StatusStream::new(Arc::clone(instance), readiness());
            return Some(waiting::status_head(Content::Status(stream)));
        }
        if is_health_check(target, request) {
            let is_forwarded = route.asleep.health_forward;
            if is_forwarded && instance.warm(&readiness()).is_some() {
                // Should it fall asleep before it is reached, the route's rules keep it asleep.
                return None;
            }
            let state = state(instance);
            if state != "awake" {
                let metrics = &self.parts.metrics;
                metrics.count_refusal(Denied::Health.as_str());
            }
            return Some(health(state));
        }
        let preflight = target.preflight.as_ref()?;
        if instance.is_certainly_awake() {
            return None;
        }
        let answer = self.preflights.recall(instance.id(), preflight)?;
        Some(answer.map(|()| Content::Own(Full::default())))
    }
}
