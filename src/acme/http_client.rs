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

    fn note(&self, seconds: u64) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some(Duration::from_secs(seconds));
    }
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
                if let Some(seconds) = after.and_then(|text| text.trim().parse().ok()) {
                    retry_after.note(seconds);
                }
            }
            let body = answer.bytes().await.map_err(failed)?;
            let mut response = Response::new(Full::new(body));
            (*response.status_mut(), *response.headers_mut()) = (status, headers);
            Ok(BytesResponse::from(response))
        })
    }
}
