//! The client for servers that say who somebody is.
//!
//! Guarantees: it follows no redirect, uses no proxy and keeps no cookie; an answer's body has a
//! bound, and so has the number of questions at once, in all and of one server, so that one that hangs
//! keeps nobody from the others. Its callers say how long it may take.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use http::{HeaderMap, StatusCode};
use reqwest::redirect::Policy;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Questions at once.
const MOST: usize = 1024;
/// Of one server, which is a URL.
const MOST_OF_ONE: usize = 256;
/// Bytes that are read of the answer to a question, so that its connection can be used again.
const BODY: usize = 64 * 1024;

/// Asks servers that say who somebody is.
pub(super) struct Inner {
    client: Option<reqwest::Client>,
    places: Semaphore,
    servers: Servers,
}

/// The servers that are being asked, or are to be: how many questions each has, and their places.
#[derive(Default)]
struct Servers(Mutex<HashMap<String, (usize, Arc<Semaphore>)>>);

/// A question of one server, from its wait for a place to the end of the answer.
struct Question<'c> {
    servers: &'c Servers,
    url: &'c str,
    own: Option<OwnedSemaphorePermit>,
    in_all: Option<SemaphorePermit<'c>>,
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

// === impl Servers ===

impl Servers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (usize, Arc<Semaphore>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place at a server, and then for one of all.
    async fn place<'c>(&'c self, url: &'c str, all: &'c Semaphore) -> Question<'c> {
        let places = {
            let mut servers = self.lock();
            let (questions, places) = servers
                .entry(url.to_owned())
                .or_insert_with(|| (0, Arc::new(Semaphore::new(MOST_OF_ONE))));
            *questions += 1;
            Arc::clone(places)
        };
        let mut question = Question {
            servers: self,
            url,
            own: None,
            in_all: None,
        };
        // Neither is ever closed.
        question.own = places.acquire_owned().await.ok();
        question.in_all = all.acquire().await.ok();
        question
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        drop((self.own.take(), self.in_all.take()));
        let mut servers = self.servers.lock();
        let left = servers.get_mut(self.url).map(|(questions, _)| {
            *questions -= 1;
            *questions
        });
        if left == Some(0) {
            servers.remove(self.url);
        }
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
                servers: Servers::default(),
            }
        })
    }

    /// Asks with these fields; the answer's body does not matter.
    pub(super) async fn ask(
        &self,
        url: &str,
        headers: HeaderMap,
    ) -> Result<(StatusCode, HeaderMap), NoAnswer> {
        let inner = self.inner();
        let _question = inner.servers.place(url, &inner.places).await;
        let mut response = inner.send(url, headers).await?;
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
        let inner = self.inner();
        let _question = inner.servers.place(url, &inner.places).await;
        let mut response = inner.send(url, headers).await?;
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
}

// === impl Inner ===

impl Inner {
    async fn send(&self, url: &str, headers: HeaderMap) -> Result<reqwest::Response, NoAnswer> {
        let client = self.client.as_ref().ok_or(NoAnswer::NoClient)?;
        let request = client.get(url).headers(headers);
        Ok(request.send().await?)
    }
}

impl fmt::Debug for AuthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthClient")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const HANGS: &str = "http://hangs.test/";

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_keeps_nobody_from_the_others_and_is_forgotten_in_the_end() {
        let (servers, all) = (Servers::default(), Semaphore::new(MOST));
        let soon = Duration::from_secs(1);
        let mut asked = Vec::new();
        for _ in 0..MOST_OF_ONE {
            asked.push(servers.place(HANGS, &all).await);
        }
        let mut waiting = Box::pin(servers.place(HANGS, &all));
        let waited = timeout(soon, &mut waiting).await;
        assert!(waited.is_err(), "its places are taken");
        let other = timeout(soon, servers.place("http://answers.test/", &all)).await;
        assert!(other.is_ok());
        drop(asked.pop());
        let placed = timeout(soon, waiting).await;
        let given_up = timeout(soon, servers.place(HANGS, &all)).await;
        assert!(placed.is_ok() && given_up.is_err());
        drop((asked, other, placed));
        assert!(servers.lock().is_empty());
        assert_eq!(all.available_permits(), MOST);
    }
}
