//! The client for servers that say who somebody is.
//!
//! Guarantees: it follows no redirect, uses no proxy and keeps no cookie; an answer's body has a
//! bound, and so has the number of questions at once. Its callers say how long it may take.

use std::fmt;
use std::sync::OnceLock;

use http::{HeaderMap, StatusCode};
use reqwest::redirect::Policy;
use tokio::sync::Semaphore;

/// Questions at once.
const MOST: usize = 1024;
/// Bytes that are read of the answer to a question, so that its connection can be used again.
const BODY: usize = 64 * 1024;

/// Asks servers that say who somebody is.
pub(super) struct Inner {
    client: Option<reqwest::Client>,
    places: Semaphore,
}

/// The client, made when it is first needed.
#[derive(Default)]
pub(in crate::proxy) struct AuthClient(OnceLock<Inner>);

/// Why a server has not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// It took too long.
    #[error("it took too long")]
    TooSlow,
    /// It cannot be reached, or broke off.
    #[error("{0}")]
    Broken(reqwest::Error),
    /// There is no client, since TLS cannot be set up.
    #[error("TLS cannot be set up")]
    NoClient,
    /// The body is too large.
    #[error("the answer is too large")]
    TooLarge,
}

/// A URL as logs have it: a query may have a secret in it.
pub(super) fn without_query(url: &str) -> &str {
    url.split_once('?').map_or(url, |(before, _)| before)
}

impl From<reqwest::Error> for NoAnswer {
    fn from(error: reqwest::Error) -> Self {
        Self::Broken(error.without_url())
    }
}

// === impl AuthClient ===

impl AuthClient {
    fn inner(&self) -> &Inner {
        self.0.get_or_init(|| {
            let builder = reqwest::Client::builder();
            let client = builder.redirect(Policy::none()).no_proxy().build();
            Inner {
                client: client.ok(),
                places: Semaphore::new(MOST),
            }
        })
    }

    /// Asks with these fields; the answer's body does not matter.
    pub(super) async fn ask(
        &self,
        url: &str,
        headers: HeaderMap,
    ) -> Result<(StatusCode, HeaderMap), NoAnswer> {
        let mut response = self.send(url, headers).await?;
        let (status, fields) = (response.status(), std::mem::take(response.headers_mut()));
        let mut left = BODY;
        while let Ok(Some(chunk)) = response.chunk().await {
            match left.checked_sub(chunk.len()) {
                Some(rest) => left = rest,
                // Its connection is closed.
                None => break,
            }
        }
        Ok((status, fields))
    }

    /// Reads a whole document of at most so many bytes.
    pub(super) async fn read(
        &self,
        url: &str,
        headers: HeaderMap,
        most: usize,
    ) -> Result<(StatusCode, Vec<u8>), NoAnswer> {
        let mut response = self.send(url, headers).await?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > most {
                return Err(NoAnswer::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, body))
    }

    async fn send(&self, url: &str, headers: HeaderMap) -> Result<reqwest::Response, NoAnswer> {
        let inner = self.inner();
        let client = inner.client.as_ref().ok_or(NoAnswer::NoClient)?;
        // It is never closed.
        let _place = inner.places.acquire().await;
        let request = client.get(url).headers(headers);
        Ok(request.send().await?)
    }
}

impl fmt::Debug for AuthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthClient")
    }
}
