//! From an error to a response: the only place that maps one to an answer.
//!
//! Guarantees: the body is RFC 9457 problem JSON with a stable `code` and the request id, or the
//! same for a person or for gRPC, and says nothing about addresses, ids or the control plane; what
//! is worth trying again has a Retry-After; a person's page says what to do next.

mod descriptions;

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, LOCATION,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use serde_json::json;

pub use self::descriptions::{Description, describe};
use super::denied::{Denied, WakeDenied};
use super::error::ProxyError;
use super::page::{self, escape};
use super::waiting::accepts_html;
use crate::client::Request;
use crate::names::RequestId;
use crate::upstream::{Field, Fields, X_WAKEGATE_MISPLACED};

const PAGE: &str = include_str!("error_response/page.html");
/// The way on from what is worth trying again: the same address once more.
const TRY_AGAIN: &str = "<p><a class=\"way\" href=\"\">Try again</a></p>";

/// Says, to a health checker for example, that the answer is the gateway's, and the instance's
/// state.
pub(super) const X_WAKEGATE_STATE: HeaderName = HeaderName::from_static("x-wakegate-state");

/// The reader of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// A program: problem JSON.
    Program,
    /// A person with a browser: a page.
    Person,
    /// A gRPC client: a status in the header (gRPC over HTTP/2, "Trailers-Only").
    Grpc,
}

/// The fields that say who reads an answer, kept until an answer of the gateway's needs them: most
/// requests get none.
#[derive(Debug)]
pub struct Accept {
    accept: Option<Kept>,
    content_type: Option<Kept>,
}

/// A value of a field.
#[derive(Debug)]
enum Kept {
    Value(HeaderValue),
    /// As it lies in its head.
    Part(Bytes),
}

// === impl Audience ===

impl Audience {
    /// The reader, by what the request says of itself.
    pub fn of(accept: &Accept) -> Self {
        let kind = accept.content_type.as_ref().map(Kept::as_bytes);
        match kind {
            Some(kind) if kind.starts_with(b"application/grpc") => Self::Grpc,
            _ if accept.accepts_html() => Self::Person,
            _ => Self::Program,
        }
    }
}

// === impl Accept ===

impl Accept {
    /// The fields of a request, which has these `fields`.
    pub fn of<B>(request: &Request<B>, fields: Fields) -> Self {
        type Find<B> = fn(&Request<B>, &HeaderName) -> Option<HeaderValue>;
        let kept = |field: Field, name: HeaderName, many: Find<B>| {
            if !fields.has(field) {
                return None;
            }
            let only = request.lines().and_then(|lines| lines.only(name.clone()));
            match only {
                Some(part) => Some(Kept::Part(part)),
                None => many(request, &name).map(Kept::Value),
            }
        };
        Self {
            accept: kept(Field::Accept, ACCEPT, one_list),
            content_type: kept(Field::ContentType, CONTENT_TYPE, Request::field),
        }
    }

    fn accepts_html(&self) -> bool {
        match &self.accept {
            Some(Kept::Value(accept)) => accepts_html(accept),
            Some(Kept::Part(accept)) => {
                let accept = HeaderValue::from_maybe_shared(accept.clone());
                accept.is_ok_and(|accept| accepts_html(&accept))
            }
            None => false,
        }
    }
}

// === impl Kept ===

impl Kept {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Value(value) => value.as_bytes(),
            Self::Part(part) => part,
        }
    }
}

/// A list in several fields is one list (RFC 9110 §5.3).
fn one_list<B>(request: &Request<B>, name: &HeaderName) -> Option<HeaderValue> {
    if request.values(name.clone()).nth(1).is_none() {
        return request.field(name);
    }
    let list: Vec<&[u8]> = request.values(name.clone()).collect();
    HeaderValue::from_bytes(&list.join(&b", "[..])).ok()
}

/// The answer for an error.
pub fn answer(
    error: &ProxyError,
    description: Description,
    audience: Audience,
    request_id: &RequestId,
) -> Response<Bytes> {
    let mut response = match (error, audience) {
        (_, Audience::Grpc) => grpc(description),
        (ProxyError::Asleep(denied), _) => asleep(denied, description, audience, request_id),
        (ProxyError::Redirect(to), _) => redirect(&to.location, description, request_id),
        (_, _) => plain(description, audience, request_id),
    };
    if let ProxyError::Unauthenticated(challenge) = error {
        for value in challenge.values() {
            let headers = response.headers_mut();
            headers.append(WWW_AUTHENTICATE, value.clone());
        }
    }
    if let ProxyError::Misplaced = error {
        let yes = HeaderValue::from_static("1");
        response.headers_mut().insert(X_WAKEGATE_MISPLACED, yes);
    }
    if let ProxyError::AuthRedirect(to) = error {
        let headers = response.headers_mut();
        headers.insert(LOCATION, to.location.clone());
    }
    response
}

/// The response for a person or a program.
fn plain(description: Description, audience: Audience, request_id: &RequestId) -> Response<Bytes> {
    match audience {
        Audience::Person => {
            let may_pass = description.status.is_server_error();
            let way = match may_pass || description.retry_after.is_some() {
                true => TRY_AGAIN,
                false => "",
            };
            html(description, &advice(description), way, request_id)
        }
        Audience::Program | Audience::Grpc => response(description, request_id),
    }
}

/// A short note with a link, whoever asks (RFC 9110 §15.4.2). Hardly anybody sees it, so it has no
/// style.
fn redirect(to: &Uri, description: Description, request_id: &RequestId) -> Response<Bytes> {
    let location = to.to_string();
    let (detail, link) = (escape(description.detail), escape(&location));
    let note = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Moved</title><p>{detail} \
         <a href=\"{link}\">{link}</a></p></html>\n"
    );
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    let mut response = with_body(response(description, request_id), note.into(), kind);
    let headers = response.headers_mut();
    let policy = HeaderValue::from_static("default-src 'none'");
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    if let Ok(location) = HeaderValue::try_from(location) {
        headers.insert(LOCATION, location);
    }
    response
}

/// What a person who reads this can do about it.
fn advice(description: Description) -> String {
    let owner = "tell the owner of this site the number below.";
    match (description.status.as_u16(), description.retry_after) {
        (_, Some(delay)) if delay < Duration::from_secs(10) => {
            format!("Try again in a moment. If it stays like this, {owner}")
        }
        (_, Some(delay)) if delay < Duration::from_secs(100) => {
            let seconds = whole_seconds(delay);
            format!("Try again in {seconds} seconds. If it stays like this, {owner}")
        }
        (_, Some(delay)) => {
            let minutes = whole_seconds(delay).div_ceil(60);
            format!("Try again in {minutes} minutes. If it stays like this, {owner}")
        }
        (404, None) => format!("Check the address for a mistake. If a link led you here, {owner}"),
        (401 | 403, None) => format!("If you should be let in, {owner}"),
        (500.., None) => format!("Try again later. If it stays like this, {owner}"),
        (_, None) => format!("Go back and try another way. If that does not help, {owner}"),
    }
}

/// The response for a gRPC client. Statuses are those that gRPC gives to HTTP's ("HTTP to gRPC
/// Status Code Mapping").
fn grpc(description: Description) -> Response<Bytes> {
    let status = match description.status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    };
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(status));
    let message = format!("{}: {}", description.code, description.detail);
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert("grpc-message", message);
    }
    add_retry_after(headers, description.retry_after);
    response
}

/// Rounded up, and at least one.
fn whole_seconds(delay: Duration) -> u64 {
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    seconds.max(1)
}

/// Whole seconds (RFC 9110 §10.2.3).
fn add_retry_after(headers: &mut HeaderMap, delay: Option<Duration>) {
    if let Some(delay) = delay {
        headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(delay)));
    }
}

/// The response for a program.
fn response(description: Description, request_id: &RequestId) -> Response<Bytes> {
    let Description {
        status,
        code,
        detail,
        retry_after,
    } = description;
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
    add_retry_after(headers, retry_after);
    response
}

/// A page of HTML with this advice, which is text, and `way`, which is HTML, below the sentence.
fn html(
    description: Description,
    advice: &str,
    way: &str,
    request_id: &RequestId,
) -> Response<Bytes> {
    let mut response = response(description, request_id);
    let title = description.status.canonical_reason().unwrap_or("Error");
    let nonce = RequestId::generate();
    let html = page::fill(
        PAGE,
        &[
            ("status", description.status.as_str()),
            ("title", title),
            ("detail", escape(description.detail).as_str()),
            ("advice", escape(advice).as_str()),
            ("way", way),
            ("code", description.code),
            ("request_id", escape(request_id.as_str()).as_str()),
            ("nonce", nonce.as_str()),
            ("style", page::STYLE),
        ],
    );
    *response.body_mut() = Bytes::from(html);
    page::declare(response.headers_mut(), nonce.as_str(), false);
    response
}

/// The answer of a route that does not wake its instance for this request.
fn asleep(
    denied: &WakeDenied,
    description: Description,
    audience: Audience,
    request_id: &RequestId,
) -> Response<Bytes> {
    let (reason, config) = (denied.reason(), denied.asleep());
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    let mut response = match (reason, &config.robots, &config.body_file) {
        (Denied::Robots, Some(robots), _) => {
            let robots = Bytes::from(robots.text().to_owned());
            with_body(response(description, request_id), robots, text)
        }
        (Denied::Health, ..) => {
            let body = Bytes::from_static(b"asleep\n");
            with_body(response(description, request_id), body, text)
        }
        // These have their own status, whatever the route says about sleeping.
        (Denied::Scanner | Denied::ClientRate(_) | Denied::RouteRate(_), ..) => {
            return plain(description, audience, request_id);
        }
        (_, _, body) => {
            let status = StatusCode::from_u16(config.status);
            let status = status.unwrap_or(description.status);
            let description = Description {
                status,
                // Only of what is temporary is it said when it is over.
                retry_after: description
                    .retry_after
                    .filter(|_| status == StatusCode::SERVICE_UNAVAILABLE),
                ..description
            };
            let mut response = match body {
                Some(file) => {
                    let kind = match file.path().extension().and_then(|e| e.to_str()) {
                        Some("html" | "htm") => "text/html; charset=utf-8",
                        Some("json") => "application/json",
                        _ => "text/plain; charset=utf-8",
                    };
                    let body = Bytes::from(file.text().to_owned());
                    let kind = HeaderValue::from_static(kind);
                    with_body(response(description, request_id), body, kind)
                }
                None => plain(description, audience, request_id),
            };
            for field in &config.headers {
                if let Some(value) = &field.value {
                    response.headers_mut().insert(&field.name, value.clone());
                }
            }
            response
        }
    };
    response
        .headers_mut()
        .insert(X_WAKEGATE_STATE, HeaderValue::from_static("asleep"));
    response
}

fn with_body(mut response: Response<Bytes>, body: Bytes, kind: HeaderValue) -> Response<Bytes> {
    *response.body_mut() = body;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hold::AdmitError;
    use crate::router::{AmbiguousPath, AuthorityError, RouteError};
    use crate::upstream::{ForwardError, PeerError};
    use crate::wake::{WakeError, WakeStage};

    #[test]
    fn each_error_has_its_status_code_and_retry_after() {
        let breaker = WakeError::BreakerOpen(Duration::from_millis(3200));
        for (error, status, code, retry_after) in [
            (AuthorityError::Missing.into(), 400, "bad_host", None),
            (ProxyError::Misdirected, 421, "misdirected", None),
            (ProxyError::ForwardLoop, 508, "forward_loop", None),
            (ProxyError::Misplaced, 421, "misplaced", None),
            (
                PeerError::Unreachable.into(),
                503,
                "host_unreachable",
                Some("1"),
            ),
            (
                PeerError::Refused("x".into()).into(),
                502,
                "peer_refused",
                None,
            ),
            (ProxyError::Connect, 405, "method_not_allowed", None),
            (RouteError::NoRoute.into(), 404, "no_route", None),
            (
                RouteError::from(AmbiguousPath).into(),
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
            (WakeError::Gone.into(), 404, "instance_not_found", None),
            (
                WakeError::AddressRefused.into(),
                502,
                "address_refused",
                None,
            ),
            (
                WakeError::StateUnknown.into(),
                503,
                "instance_state_unknown",
                Some("5"),
            ),
            (
                WakeError::Unreadable.into(),
                502,
                "control_plane_unreadable",
                Some("1"),
            ),
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
            (ForwardError::NoRoom.into(), 503, "memory_share", None),
            (ForwardError::Severed.into(), 502, "upstream_broke", None),
            (ProxyError::UnexpectedUpgrade, 502, "bad_upgrade", None),
        ] {
            let id = RequestId::generate();
            let response = response(describe(&error), &id);
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

    fn page_of(error: &ProxyError) -> (Response<Bytes>, String) {
        let id = RequestId::generate();
        let response = answer(error, describe(error), Audience::Person, &id);
        let html = String::from_utf8(response.body().to_vec()).unwrap();
        assert!(html.contains(id.as_str()), "{html}");
        (response, html)
    }

    #[test]
    fn a_person_reads_what_to_do_next() {
        let minutes = WakeError::BreakerOpen(Duration::from_secs(150));
        let half_a_minute = WakeError::BreakerOpen(Duration::from_millis(29_400));
        for (error, advice, has_way) in [
            (WakeError::NoCapacity.into(), "Try again in a moment.", true),
            (half_a_minute.into(), "Try again in 30 seconds.", true),
            (minutes.into(), "Try again in 3 minutes.", true),
            (RouteError::NoRoute.into(), "Check the address", false),
            (ProxyError::Forbidden, "If you should be let in", false),
            (ForwardError::Severed.into(), "Try again later.", true),
            (AuthorityError::Missing.into(), "Go back", false),
        ] {
            let (_, html) = page_of(&error);
            assert!(html.contains(advice), "{error}: {html}");
            assert_eq!(html.contains(TRY_AGAIN), has_way, "{error}: {html}");
        }
    }

    #[test]
    fn an_error_page_has_the_style_of_the_waiting_page_and_no_placeholder_left() {
        let (response, html) = page_of(&RouteError::NoRoute.into());
        assert!(html.contains(page::STYLE) && html.contains("prefers-color-scheme: dark"));
        assert!(!html.contains("{{"), "{html}");
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str();
        let nonce = policy.unwrap().split("'nonce-").nth(1).unwrap();
        let nonce = nonce.split('\'').next().unwrap();
        assert!(
            html.contains(&format!("<style nonce=\"{nonce}\">")),
            "{html}"
        );
    }
}
