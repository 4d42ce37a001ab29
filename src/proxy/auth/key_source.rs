//! Where the keys of tokens come from.
//!
//! Guarantees: fetching has a deadline and a bound; a file is read without keeping a worker; what
//! went wrong is said with the source's name and none of its content.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::io::AsyncReadExt as _;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::auth_client::{AuthClient, without_query};
use crate::identity::KeySet;

/// The largest key set that is read.
const LARGEST: usize = 1024 * 1024;

/// The longest that a fetch takes.
const LONGEST: Duration = Duration::from_secs(2);

/// A place where a set of keys is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::proxy) enum KeySource {
    /// A file.
    File(PathBuf),
    /// A server.
    Url(String),
}

/// Fetches key sets, beside the requests that need them.
pub(in crate::proxy) struct KeyFetcher {
    fetch: Arc<dyn Fetch>,
    tasks: TaskTracker,
    runtime: Handle,
}

/// A way to fetch a key set.
pub(super) trait Fetch: Send + Sync {
    /// Fetches it; an error says why not.
    fn fetch(&self, source: &KeySource) -> BoxFuture<'static, Result<KeySet, String>>;
}

/// Fetches for real.
struct RealFetch(Arc<AuthClient>);

impl Fetch for RealFetch {
    fn fetch(&self, source: &KeySource) -> BoxFuture<'static, Result<KeySet, String>> {
        match source.clone() {
            KeySource::File(path) => Box::pin(read(path)),
            KeySource::Url(url) => Box::pin(ask(Arc::clone(&self.0), url)),
        }
    }
}

async fn read(path: PathBuf) -> Result<KeySet, String> {
    let file = tokio::fs::File::open(path).await;
    let file = file.map_err(|error| format!("cannot be read: {error}"))?;
    let mut text = String::new();
    let most = u64::try_from(LARGEST).unwrap_or(u64::MAX);
    let read = file.take(most + 1).read_to_string(&mut text).await;
    match read {
        Ok(length) if length > LARGEST => Err("is longer than 1 MiB".to_owned()),
        Ok(_) => KeySet::parse(&text).map_err(|error| error.to_string()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

async fn ask(client: Arc<AuthClient>, url: String) -> Result<KeySet, String> {
    let wanted = HeaderValue::from_static("application/jwk-set+json, application/json");
    let headers = HeaderMap::from_iter([(ACCEPT, wanted)]);
    let answer = client.read(&url, headers, LARGEST).await;
    let (status, body) = answer.map_err(|error| error.to_string())?;
    if status != StatusCode::OK {
        return Err(format!("was answered with {status}"));
    }
    let text = String::from_utf8(body).map_err(|_| "is not UTF-8".to_owned())?;
    KeySet::parse(&text).map_err(|error| error.to_string())
}

// === impl KeyFetcher ===

impl KeyFetcher {
    /// Its tasks run on the caller's runtime.
    pub(in crate::proxy) fn new(client: &Arc<AuthClient>) -> Self {
        Self::with(Arc::new(RealFetch(Arc::clone(client))))
    }

    pub(super) fn with(fetch: Arc<dyn Fetch>) -> Self {
        Self {
            fetch,
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        }
    }

    /// Fetches in a task of its own, and hands over what comes of it.
    pub(super) fn begin(
        &self,
        source: &KeySource,
        finish: impl FnOnce(Result<KeySet, String>) + Send + 'static,
    ) {
        let fetching = self.fetch.fetch(source);
        let task = async move {
            let fetched = timeout(LONGEST, fetching).await;
            finish(fetched.unwrap_or_else(|_| Err("took longer than two seconds".to_owned())));
        };
        self.tasks.spawn_on(task, &self.runtime);
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url(url) => f.write_str(without_query(url)),
        }
    }
}

impl fmt::Debug for KeyFetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyFetcher")
    }
}
