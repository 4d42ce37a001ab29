//! From an error to a response: the only place that chooses a status for one.
//!
//! Guarantees: the body is RFC 9457 problem JSON with a stable `code` and the request id, and says
//! nothing about addresses, ids or the control plane; what is worth trying again has a Retry-After;
//! what was refused before its body was read closes the connection.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::admission::Refusal;
use super::error::ProxyError;
use super::waiting::escape;
use crate::config::AsleepConfig;
use crate::hold::AdmitError;
use crate::names::RequestId;
use crate::router::RouteError;
use crate::upstream::ForwardError;
use crate::wake::{WakeError, WakeStage};

/// How an error is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The status.
    pub status: StatusCode,
    /// One stable word, for programs.
    pub code: &'static str,
    /// One sentence, for people.
    pub detail: &'static str,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

/// Tells a health checker, say, that the answer is the gateway's and what it stands for.
const X_WAKEGATE_STATE: HeaderName = HeaderName::from_static("x-wakegate-state");
const SOON: Option<Duration> = Some(Duration::from_secs(1));

/// How this error is told.
pub fn verdict(error: &ProxyError) -> Verdict {
    let (status, code, detail, retry_after) = match error {
        ProxyError::Authority(_) => (
            StatusCode::BAD_REQUEST,
            "bad_host",
            "The request's Host is missing or not valid.",
            None,
        ),
        ProxyError::Misdirected => (
            StatusCode::MISDIRECTED_REQUEST,
            "misdirected",
            "The connection was made for another host.",
            None,
        ),
        ProxyError::Connect => (
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "CONNECT is not served here.",
            None,
        ),
        ProxyError::TransferCoding => (
            StatusCode::NOT_IMPLEMENTED,
            "transfer_coding",
            "The request's transfer coding is not supported.",
            None,
        ),
        ProxyError::Route(RouteError::NoRoute) => (
            StatusCode::NOT_FOUND,
            "no_route",
            "Nothing is served at this host and path.",
            None,
        ),
        ProxyError::Route(RouteError::AmbiguousPath) => (
            StatusCode::BAD_REQUEST,
            "ambiguous_path",
            "The path has dot segments, empty segments or encoded slashes.",
            None,
        ),
        ProxyError::Admit(AdmitError::Closed) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "route_closed",
            "The route takes no requests.",
            SOON,
        ),
        ProxyError::Admit(AdmitError::NotItsTurn) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "instance_busy",
            "The instance was busy with other requests for too long.",
            SOON,
        ),
        ProxyError::Asleep(why) => asleep_verdict(*why),
        ProxyError::TooManyUnknown(wait) => (
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_unknown_names",
            "Too many names that do not exist were asked for.",
            Some(*wait),
        ),
        ProxyError::BodyTooSlow => (
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "The request's body did not come in time.",
            None,
        ),
        ProxyError::BodyBroke => (
            StatusCode::BAD_REQUEST,
            "body_broke",
            "The request's body broke off.",
            None,
        ),
        ProxyError::Admit(
            AdmitError::InstanceQueue
            | AdmitError::RouteQueue
            | AdmitError::TotalQueue
            | AdmitError::Bytes,
        ) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "hold_queue_full",
            "Too many requests are waiting for instances to wake.",
            SOON,
        ),
        ProxyError::Wake(error) => wake(error),
        ProxyError::Forward(error) => forward(error),
        ProxyError::UnexpectedUpgrade => (
            StatusCode::BAD_GATEWAY,
            "bad_upgrade",
            "The instance's response is not valid.",
            None,
        ),
    };
    Verdict {
        status,
        code,
        detail,
        retry_after,
    }
}

type Told = (StatusCode, &'static str, &'static str, Option<Duration>);

fn asleep_verdict(why: Refusal) -> Told {
    match why {
        Refusal::ClientRate(wait) | Refusal::RouteRate(wait) => (
            StatusCode::TOO_MANY_REQUESTS,
            "wake_rate",
            "The instance is asleep, and it has been woken too often lately.",
            Some(wait),
        ),
        Refusal::Scanner => (
            StatusCode::NOT_FOUND,
            "not_here",
            "There is nothing here.",
            None,
        ),
        Refusal::Robots | Refusal::Health => (StatusCode::OK, "asleep", "asleep", None),
        Refusal::Method
        | Refusal::Path
        | Refusal::Header
        | Refusal::Client
        | Refusal::UserAgent
        | Refusal::Bot
        | Refusal::Prefetch
        | Refusal::Icon => (
            StatusCode::SERVICE_UNAVAILABLE,
            "asleep",
            "The instance is asleep, and this kind of request does not wake it.",
            Some(Duration::from_secs(60)),
        ),
    }
}

fn wake(error: &WakeError) -> Told {
    match error {
        WakeError::NotFound => (
            StatusCode::NOT_FOUND,
            "instance_not_found",
            "There is no such instance.",
            None,
        ),
        WakeError::Ambiguous => (
            StatusCode::BAD_GATEWAY,
            "instance_ambiguous",
            "The route names more than one instance.",
            None,
        ),
        WakeError::Stopped => (
            StatusCode::SERVICE_UNAVAILABLE,
            "instance_stopped",
            "The instance is stopped and is not started by requests.",
            Some(Duration::from_secs(30)),
        ),
        WakeError::Unusable => (
            StatusCode::SERVICE_UNAVAILABLE,
            "instance_unusable",
            "The instance is in a state that it cannot be woken from.",
            Some(Duration::from_secs(30)),
        ),
        WakeError::TimedOut(WakeStage::NotListening) => (
            StatusCode::GATEWAY_TIMEOUT,
            "app_not_listening",
            "The instance runs, but its application did not open its port in time.",
            SOON,
        ),
        WakeError::TimedOut(WakeStage::Initializing) => (
            StatusCode::GATEWAY_TIMEOUT,
            "instance_initializing",
            "The instance was still starting when the time to wait was over.",
            SOON,
        ),
        WakeError::TimedOut(WakeStage::Unhealthy) => (
            StatusCode::GATEWAY_TIMEOUT,
            "app_unhealthy",
            "The instance runs, but its application did not become healthy in time.",
            SOON,
        ),
        WakeError::TimedOut(
            WakeStage::Asking
            | WakeStage::Queued
            | WakeStage::Restoring
            | WakeStage::Starting
            | WakeStage::NoCapacity,
        ) => (
            StatusCode::GATEWAY_TIMEOUT,
            "wake_timeout",
            "The instance did not wake up in time.",
            SOON,
        ),
        WakeError::NoCapacity => (
            StatusCode::SERVICE_UNAVAILABLE,
            "no_capacity",
            "The host has no room to wake the instance.",
            Some(Duration::from_secs(5)),
        ),
        WakeError::NoSlot => (
            StatusCode::SERVICE_UNAVAILABLE,
            "wake_queue_full",
            "Too many other instances are being woken.",
            Some(Duration::from_secs(2)),
        ),
        WakeError::Transitioning => (
            StatusCode::SERVICE_UNAVAILABLE,
            "instance_transitioning",
            "The instance is changing its state; try again in a moment.",
            Some(Duration::from_secs(2)),
        ),
        WakeError::TooSlow(usual) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "wake_too_slow",
            "The instance is being woken, which usually takes longer than the request can wait.",
            Some(*usual),
        ),
        WakeError::BreakerOpen(left) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "wake_failing",
            "The instance could not be woken several times in a row.",
            Some(*left),
        ),
        WakeError::ControlPlaneDown => (
            StatusCode::SERVICE_UNAVAILABLE,
            "control_plane_unavailable",
            "The service that wakes instances does not answer.",
            Some(Duration::from_secs(2)),
        ),
        WakeError::Unauthorized => (
            StatusCode::BAD_GATEWAY,
            "control_plane_refused",
            "The gateway is not allowed to wake instances.",
            None,
        ),
        WakeError::Failed => (
            StatusCode::BAD_GATEWAY,
            "wake_failed",
            "The instance could not be woken.",
            SOON,
        ),
        WakeError::Draining => (
            StatusCode::SERVICE_UNAVAILABLE,
            "draining",
            "The gateway is shutting down.",
            SOON,
        ),
    }
}

fn forward(error: &ForwardError<()>) -> Told {
    match error {
        ForwardError::Connect { .. } => (
            StatusCode::BAD_GATEWAY,
            "connect_failed",
            "The instance does not accept connections.",
            SOON,
        ),
        ForwardError::Unsent { .. } | ForwardError::Broken(_) | ForwardError::Severed => (
            StatusCode::BAD_GATEWAY,
            "upstream_broke",
            "The instance broke the connection off before its response.",
            None,
        ),
        ForwardError::Nonsense(_) => (
            StatusCode::BAD_GATEWAY,
            "upstream_invalid",
            "The instance's response is not valid.",
            None,
        ),
        ForwardError::TimedOut => (
            StatusCode::GATEWAY_TIMEOUT,
            "upstream_timeout",
            "The instance sent no response in time.",
            None,
        ),
    }
}

/// The response for a verdict.
pub fn response(verdict: Verdict, request_id: &RequestId) -> Response<Bytes> {
    let Verdict {
        status,
        code,
        detail,
        retry_after,
    } = verdict;
    let problem = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
        "request_id": request_id.as_str(),
    });
    let mut response = Response::new(Bytes::from(format!("{problem}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(delay) = retry_after {
        // Whole seconds, rounded up (RFC 9110 §10.2.3).
        let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    response
}

/// The same for a person.
pub fn page(verdict: Verdict, request_id: &RequestId) -> Response<Bytes> {
    let mut response = response(verdict, request_id);
    let title = verdict.status.canonical_reason().unwrap_or("Error");
    let html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport \
         content=\"width=device-width\"><title>{0} {title}</title><h1>{title}</h1><p>{1}</p>\
         <p><small>{2}, request {3}</small></p></html>\n",
        verdict.status.as_u16(),
        escape(verdict.detail),
        verdict.code,
        escape(request_id.as_str()),
    );
    *response.body_mut() = Bytes::from(html);
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'"),
    );
    response
}

/// What a route answers instead of waking its instance.
pub fn asleep(
    why: Refusal,
    verdict: Verdict,
    config: &AsleepConfig,
    request_id: &RequestId,
) -> Response<Bytes> {
    let mut response = response(verdict, request_id);
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    match (why, &config.robots, &config.body_file) {
        (Refusal::Robots, Some(robots), _) => {
            *response.body_mut() = Bytes::from(robots.text().to_owned());
            response.headers_mut().insert(CONTENT_TYPE, text);
        }
        (Refusal::Health, ..) => {
            *response.body_mut() = Bytes::from_static(b"asleep\n");
            response.headers_mut().insert(CONTENT_TYPE, text);
        }
        // These have their own status, whatever the route says about sleeping.
        (Refusal::Scanner | Refusal::ClientRate(_) | Refusal::RouteRate(_), ..) => return response,
        (_, _, body) => {
            let status = StatusCode::from_u16(config.status);
            *response.status_mut() = status.unwrap_or(verdict.status);
            if *response.status_mut() != StatusCode::SERVICE_UNAVAILABLE {
                response.headers_mut().remove(RETRY_AFTER);
            }
            if let Some(file) = body {
                let kind = match file.path().extension().and_then(|e| e.to_str()) {
                    Some("html" | "htm") => "text/html; charset=utf-8",
                    Some("json") => "application/json",
                    _ => "text/plain; charset=utf-8",
                };
                *response.body_mut() = Bytes::from(file.text().to_owned());
                let kind = HeaderValue::from_static(kind);
                response.headers_mut().insert(CONTENT_TYPE, kind);
            }
            for field in &config.headers {
                if let Some(value) = &field.value {
                    response.headers_mut().insert(&field.name, value.clone());
                }
            }
        }
    }
    response
        .headers_mut()
        .insert(X_WAKEGATE_STATE, HeaderValue::from_static("asleep"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::AuthorityError;

    #[test]
    fn each_error_has_its_status_code_and_retry_after() {
        let breaker = WakeError::BreakerOpen(Duration::from_millis(3200));
        for (error, status, code, retry_after) in [
            (AuthorityError::Missing.into(), 400, "bad_host", None),
            (ProxyError::Misdirected, 421, "misdirected", None),
            (ProxyError::Connect, 405, "method_not_allowed", None),
            (ProxyError::TransferCoding, 501, "transfer_coding", None),
            (RouteError::NoRoute.into(), 404, "no_route", None),
            (
                RouteError::AmbiguousPath.into(),
                400,
                "ambiguous_path",
                None,
            ),
            (
                AdmitError::TotalQueue.into(),
                503,
                "hold_queue_full",
                Some("1"),
            ),
            (WakeError::NotFound.into(), 404, "instance_not_found", None),
            (WakeError::Ambiguous.into(), 502, "instance_ambiguous", None),
            (
                WakeError::Stopped.into(),
                503,
                "instance_stopped",
                Some("30"),
            ),
            (
                WakeError::Unusable.into(),
                503,
                "instance_unusable",
                Some("30"),
            ),
            (
                WakeError::TimedOut(WakeStage::NotListening).into(),
                504,
                "app_not_listening",
                Some("1"),
            ),
            (
                WakeError::TimedOut(WakeStage::Initializing).into(),
                504,
                "instance_initializing",
                Some("1"),
            ),
            (
                WakeError::TimedOut(WakeStage::Restoring).into(),
                504,
                "wake_timeout",
                Some("1"),
            ),
            (WakeError::NoCapacity.into(), 503, "no_capacity", Some("5")),
            (breaker.into(), 503, "wake_failing", Some("4")),
            (
                WakeError::ControlPlaneDown.into(),
                503,
                "control_plane_unavailable",
                Some("2"),
            ),
            (
                WakeError::Unauthorized.into(),
                502,
                "control_plane_refused",
                None,
            ),
            (WakeError::Failed.into(), 502, "wake_failed", Some("1")),
            (WakeError::Draining.into(), 503, "draining", Some("1")),
            (ForwardError::TimedOut.into(), 504, "upstream_timeout", None),
            (ForwardError::Severed.into(), 502, "upstream_broke", None),
            (ProxyError::UnexpectedUpgrade, 502, "bad_upgrade", None),
        ] {
            let id = RequestId::generate();
            let response = response(verdict(&error), &id);
            assert_eq!(response.status().as_u16(), status, "{error}");
            let after = response
                .headers()
                .get(RETRY_AFTER)
                .map(|value| value.to_str().unwrap());
            assert_eq!(after, retry_after, "{error}");
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(
                (&body["code"], &body["request_id"]),
                (&code.into(), &id.as_str().into())
            );
        }
    }
}
