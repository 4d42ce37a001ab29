//! The keys that a route's tokens are signed with, as they were last fetched.
//!
//! Guarantees: a key's id that is not known is asked for at once, and then every ten seconds at
//! most, whatever forgers send; a key that was withdrawn counts for a quarter of an hour at most; a
//! source that fails, or says what is no key set, takes no key away; one fetch is for all who wait.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::key_source::{KeyFetcher, KeySource};
use super::refusal::Refusal;
use crate::config::{JwtAuth, RoutePolicy};
use crate::identity::{Claims, KeySet, Token, TokenError};

/// Keys as old as this are fetched again, while they are in use.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// Keys as old as this are used only after they were asked for again.
const STALE: Duration = Duration::from_secs(15 * 60);
/// The pause between two fetches, and between two for the sake of ids that are not known.
const PAUSE: Duration = Duration::from_secs(10);
/// The pause between two fetches while there is no key at all.
const SHORT_PAUSE: Duration = Duration::from_secs(1);
/// The longest that a request waits for keys: a little longer than a fetch may take.
const PATIENCE: Duration = Duration::from_millis(2500);

/// The keys of one source.
pub(in crate::proxy) struct KeyCache {
    source: KeySource,
    state: Mutex<State>,
    /// Fetches that have ended.
    ended: watch::Sender<u64>,
}

struct State {
    keys: Arc<KeySet>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
    /// The last fetch for the sake of an id that was not known.
    asked: Option<Instant>,
    is_fetching: bool,
}

/// The key caches of a route, by the positions of its ways in.
#[derive(Debug)]
pub(in crate::proxy) struct RouteKeys(Vec<Option<Arc<KeyCache>>>);

/// The caches of keys that are fetched, which routes share, by their sources.
#[derive(Debug, Default)]
pub(in crate::proxy) struct KeyCaches(HashMap<KeySource, Arc<KeyCache>>);

/// Whether something was as long ago as this, or never.
fn is_due(last: Option<Instant>, pause: Duration) -> bool {
    last.is_none_or(|last| last.elapsed() >= pause)
}

// === impl RouteKeys ===

impl RouteKeys {
    /// The caches of routes with this policy, if they need any; `known` are those of other routes,
    /// and of the routes before.
    pub(in crate::proxy) fn of_policy(
        policy: &RoutePolicy,
        known: &mut KeyCaches,
    ) -> Option<Arc<Self>> {
        let auth = policy.forwarding.auth.as_ref()?;
        let header = auth.header.iter().map(|_| None);
        let ways = auth.any.iter().map(|way| way.jwt.as_deref());
        let caches: Vec<_> = header
            .chain(ways)
            .map(|jwt| jwt.and_then(|jwt| KeyCache::of(jwt, known)))
            .collect();
        let has_some = caches.iter().any(Option::is_some);
        has_some.then(|| Arc::new(Self(caches)))
    }

    /// The cache of the way in at this position.
    pub(in crate::proxy) fn of(&self, position: usize) -> Option<&Arc<KeyCache>> {
        self.0.get(position)?.as_ref()
    }
}

// === impl KeyCaches ===

impl KeyCaches {
    /// Forgets what no route has any more.
    pub(in crate::proxy) fn upkeep(&mut self) {
        self.0.retain(|_, cache| Arc::strong_count(cache) > 1);
    }
}

// === impl KeyCache ===

impl KeyCache {
    fn new(source: KeySource, keys: Option<KeySet>) -> Self {
        Self {
            state: Mutex::new(State {
                fetched: keys.is_some().then(Instant::now),
                tried: None,
                asked: None,
                is_fetching: false,
                keys: Arc::new(keys.unwrap_or_default()),
            }),
            source,
            ended: watch::Sender::new(0),
        }
    }

    fn of(jwt: &JwtAuth, known: &mut KeyCaches) -> Option<Arc<Self>> {
        if let Some(url) = &jwt.jwks_url {
            let source = KeySource::Url(url.clone());
            let cache = known.0.entry(source.clone());
            let cache = cache.or_insert_with(|| Arc::new(Self::new(source, None)));
            return Some(Arc::clone(cache));
        }
        let file = jwt.jwks_file.as_ref()?;
        // It has just been read, and its keys may be others than before.
        let keys = KeySet::parse(file.text()).ok();
        let source = KeySource::File(file.path().to_owned());
        Some(Arc::new(Self::new(source, keys)))
    }

    /// What a token says, if one of the keys has signed it.
    pub(super) async fn verify(
        self: &Arc<Self>,
        token: &Token<'_>,
        fetcher: &KeyFetcher,
    ) -> Result<Claims, Refusal> {
        let since = Instant::now();
        if let Some(fetch) = self.refresh(fetcher) {
            wait(fetch).await;
        }
        match token.verify(&self.keys()) {
            Err(TokenError::UnknownKey) => {}
            verified => return verified.map_err(|_| Refusal::Invalid),
        }
        if let Some(fetch) = self.ask(since, fetcher) {
            wait(fetch).await;
        }
        let keys = self.keys();
        match token.verify(&keys) {
            Err(_) if keys.is_empty() => Err(Refusal::Unavailable),
            verified => verified.map_err(|_| Refusal::Invalid),
        }
    }

    fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.state().keys)
    }

    /// Begins a fetch if the keys are old; returns it if they are too old to be used meanwhile.
    fn refresh(self: &Arc<Self>, fetcher: &KeyFetcher) -> Option<watch::Receiver<u64>> {
        let mut state = self.state();
        let pause = match state.keys.is_empty() {
            true => SHORT_PAUSE,
            false => PAUSE,
        };
        if is_due(state.fetched, FRESH) && is_due(state.tried, pause) {
            self.begin(&mut state, fetcher);
        }
        let must_wait = state.is_fetching && is_due(state.fetched, STALE);
        must_wait.then(|| self.ended.subscribe())
    }

    /// Asks for an id that is not known, unless a fetch has begun `since`, or somebody has asked so a
    /// moment ago; returns the fetch that is under way.
    fn ask(self: &Arc<Self>, since: Instant, fetcher: &KeyFetcher) -> Option<watch::Receiver<u64>> {
        let mut state = self.state();
        let is_new = state.tried.is_some_and(|tried| tried >= since);
        let has_failed = state.keys.is_empty() && !is_due(state.tried, SHORT_PAUSE);
        if !is_new && !has_failed && is_due(state.asked, PAUSE) {
            state.asked = Some(Instant::now());
            self.begin(&mut state, fetcher);
        }
        state.is_fetching.then(|| self.ended.subscribe())
    }

    fn begin(self: &Arc<Self>, state: &mut State, fetcher: &KeyFetcher) {
        if state.is_fetching {
            return;
        }
        (state.is_fetching, state.tried) = (true, Some(Instant::now()));
        let cache = Arc::clone(self);
        fetcher.begin(&self.source, move |result| cache.end(result));
    }

    fn end(&self, result: Result<KeySet, String>) {
        let mut state = self.state();
        state.is_fetching = false;
        match result {
            Ok(keys) => {
                state.keys = Arc::new(keys);
                // What it says is as old as the question.
                state.fetched = state.tried;
            }
            Err(error) => {
                let source = &self.source;
                tracing::warn!(%source, error, "the keys of tokens cannot be fetched; those that are known stay");
            }
        }
        drop(state);
        self.ended.send_modify(|ended| *ended += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits until a fetch has ended, for a while.
async fn wait(mut fetch: watch::Receiver<u64>) {
    // Whoever has waited in vain goes by what there is.
    let _late = timeout(PATIENCE, fetch.changed()).await;
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyCache({})", self.source)
    }
}

#[cfg(test)]
mod tests;
