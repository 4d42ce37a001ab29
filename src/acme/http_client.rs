//! The connection to the CA.
//!
//! Guarantees: every call ends; only the roots that the operator names, or else the system's, are
//! believed; how long the CA wants to be left alone is not lost.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Collected, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error};
use jiff::Timestamp;

/// One call.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the CA has asked to be left alone, when it last refused something.
#[derive(Debug, Clone, Default)]
pub(super) struct RetryAfter(Arc<Mutex<Option<Duration>>>);

/// Calls a CA.
pub(super) struct HttpClient {
    client: reqwest::Client,
    retry_after: RetryAfter,
}

// === impl RetryAfter ===

impl RetryAfter {
    /// What it asked for since the last look.
    pub(super) fn take(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, pause: Duration) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some(pause);
    }
}

/// What a Retry-After asks for: seconds, or a date (RFC 9110 §10.2.3).
fn pause_of(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text);
    let left = date.ok()?.duration_since(now);
    Some(Duration::try_from(left).unwrap_or_default())
}

// === impl HttpClient ===

impl HttpClient {
    /// A client that believes `roots`, PEM, in place of the system's.
    pub(super) fn new(
        roots: Option<&[u8]>,
        retry_after: RetryAfter,
    ) -> Result<Self, reqwest::Error> {
        let builder = reqwest::Client::builder()
            .no_proxy()
            .https_only(true)
            .timeout(PATIENCE)
            .user_agent(concat!("wakegate/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none());
        let builder = match roots {
            Some(roots) => builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(roots)?),
            None => builder,
        };
        Ok(Self {
            client: builder.build()?,
            retry_after,
        })
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>>;

impl instant_acme::HttpClient for HttpClient {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Answer {
        let (client, retry_after) = (self.client.clone(), self.retry_after.clone());
        Box::pin(async move {
            let failed = |error: reqwest::Error| Error::Other(Box::new(error));
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(Collected::to_bytes);
            let asked = client
                .request(parts.method, parts.uri.to_string())
                .headers(parts.headers)
                .body(body.unwrap_or_default());
            let answer = asked.send().await.map_err(failed)?;
            let (status, headers) = (answer.status(), answer.headers().clone());
            if matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            ) {
                let after = headers
                    .get(RETRY_AFTER)
                    .and_then(|value| value.to_str().ok());
                if let Some(pause) = after.and_then(|text| pause_of(text, Timestamp::now())) {
                    retry_after.note(pause);
                }
            }
            let body = answer.bytes().await.map_err(failed)?;
            let mut response = Response::new(Full::new(body));
            (*response.status_mut(), *response.headers_mut()) = (status, headers);
            Ok(BytesResponse::from(response))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_may_say_in_seconds_or_by_a_date_when_it_wants_to_be_asked_again() {
        let now: Timestamp = "2026-11-06T08:49:00Z".parse().unwrap();
        let pauses = [
            ("soon", None),
            ("-5", None),
            ("120", Some(120)),
            ("Fri, 06 Nov 2026 08:49:37 GMT", Some(37)),
            ("Fri, 06 Nov 2026 08:00:00 GMT", Some(0)),
        ];
        for (text, seconds) in pauses {
            let pause = pause_of(text, now);
            assert_eq!(pause, seconds.map(Duration::from_secs), "{text}");
        }
    }
}
