//! CORS preflights of a sleeping instance.
//!
//! A browser asks before the request that matters, and a refusal looks like a CORS mistake of the
//! application's. The gateway does not know the application's rules, but it may repeat what the
//! application itself said: the Fetch standard lets a browser remember a preflight's answer for
//! `Access-Control-Max-Age`, and so does the gateway.
//!
//! Guarantees: an answer is repeated only to the same preflight (host, path, origin, method,
//! headers) for the same instance, only for as long as the application allowed (5 s when it did not
//! say, an hour at most). All answers together have a bound in bytes, and no instance has more than
//! an eighth of it: one that is asked in a thousand ways forgets its own first answers.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, ORIGIN,
};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use tokio::time::Instant;

use crate::client::Request;
use crate::names::Hostname;
use crate::upstream::InstanceResponse;
use hypeman::InstanceId;

/// The default of the Fetch standard.
const UNSAID: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(3600);
/// Bytes of all answers with their questions, of those of one instance, and of one alone.
const MOST: usize = 4 * 1024 * 1024;
const SHARE: usize = MOST / 8;
const LONGEST_ONE: usize = 16 * 1024;
/// Bytes that an answer takes besides its text, and a field of it.
const FIXED: usize = 256;
const FIELD: usize = 64;

/// The question of a preflight, without credentials.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Preflight {
    host: Hostname,
    target: String,
    origin: HeaderValue,
    method: HeaderValue,
    headers: Option<HeaderValue>,
}

struct CachedAnswer {
    headers: Vec<(HeaderName, HeaderValue)>,
    until: Instant,
    bytes: usize,
}

/// The answers so far.
#[derive(Default)]
pub(super) struct Preflights(Mutex<Cache>);

#[derive(Default)]
struct Cache {
    instances: HashMap<InstanceId, Answers>,
    bytes: usize,
}

/// The answers of one instance.
#[derive(Default)]
struct Answers {
    answers: HashMap<Preflight, CachedAnswer>,
    bytes: usize,
}

// === impl Preflight ===

impl Preflight {
    /// The preflight that a request is, if it is one.
    pub(super) fn of<B>(host: &Hostname, request: &Request<B>) -> Option<Self> {
        // With credentials it is no preflight (Fetch, CORS-preflight fetch).
        if *request.method() != Method::OPTIONS
            || request.has(&COOKIE)
            || request.has(&AUTHORIZATION)
        {
            return None;
        }
        let headers = request.headers();
        Some(Self {
            host: host.clone(),
            target: request.uri().path_and_query()?.to_string(),
            origin: headers.get(ORIGIN)?.clone(),
            method: headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.clone(),
            headers: headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
        })
    }

    /// The same without the heads that its parts lay in.
    fn detached(&self) -> Self {
        Self {
            origin: detached(&self.origin),
            method: detached(&self.method),
            headers: self.headers.as_ref().map(detached),
            ..self.clone()
        }
    }

    fn bytes(&self) -> usize {
        let headers = self.headers.as_ref().map_or(0, HeaderValue::len);
        let (host, target) = (self.host.as_str().len(), self.target.len());
        FIXED + host + target + self.origin.len() + self.method.len() + headers
    }
}

/// A copy of its own: a value of a head that was read keeps all of that head.
fn detached(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

// === impl Preflights ===

impl Preflights {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer of the application of this instance, if it may still be repeated.
    pub(super) fn recall(
        &self,
        instance: &InstanceId,
        preflight: &Preflight,
    ) -> Option<Response<()>> {
        let cache = self.cache();
        let answer = cache.instances.get(instance)?.answers.get(preflight)?;
        if answer.until <= Instant::now() {
            return None;
        }
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
            .headers_mut()
            .extend(answer.headers.iter().cloned());
        Some(response)
    }

    /// Remembers the answer of an instance's application.
    pub(super) fn remember<B>(
        &self,
        instance: &InstanceId,
        preflight: &Preflight,
        response: &InstanceResponse<B>,
    ) {
        let headers = response.headers();
        if !response.status().is_success() || !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        let max_age = headers.get(ACCESS_CONTROL_MAX_AGE);
        let age = match max_age.map(|value| value.to_str().ok().and_then(|text| text.parse().ok()))
        {
            None => UNSAID,
            Some(Some(seconds)) => Duration::from_secs(seconds).min(LONGEST),
            Some(None) => return,
        };
        let is_of_cors = |name: &HeaderName| {
            name.as_str().starts_with("access-control-") || name.as_str() == "vary"
        };
        let kept = || headers.iter().filter(|(name, _)| is_of_cors(name));
        let of_fields = kept().map(|(name, value)| FIELD + name.as_str().len() + value.len());
        let bytes = preflight.bytes() + of_fields.sum::<usize>();
        if bytes > LONGEST_ONE {
            return;
        }
        let answer = CachedAnswer {
            headers: kept()
                .map(|(name, value)| (name.clone(), detached(value)))
                .collect(),
            until: Instant::now() + age,
            bytes,
        };
        self.cache().insert(instance, preflight.detached(), answer);
    }

    /// Forgets what may no longer be repeated.
    pub(super) fn upkeep(&self) {
        self.cache().forget_old();
    }
}

// === impl Cache ===

impl Cache {
    fn insert(&mut self, instance: &InstanceId, preflight: Preflight, answer: CachedAnswer) {
        let own = self.instances.entry(instance.clone()).or_default();
        let before = own.bytes;
        own.remove(&preflight);
        while own.bytes + answer.bytes > SHARE && own.remove_first() {}
        own.bytes += answer.bytes;
        own.answers.insert(preflight, answer);
        self.bytes = self.bytes - before + own.bytes;
        if self.bytes > MOST {
            self.forget_old();
        }
        while self.bytes > MOST {
            // Whoever has most gives up something.
            let Some(largest) = self.instances.values_mut().max_by_key(|one| one.bytes) else {
                return;
            };
            let before = largest.bytes;
            largest.remove_first();
            self.bytes = self.bytes - before + largest.bytes;
        }
    }

    fn forget_old(&mut self) {
        let now = Instant::now();
        self.instances.retain(|_, one| {
            one.answers.retain(|_, answer| answer.until > now);
            one.bytes = one.answers.values().map(|answer| answer.bytes).sum();
            !one.answers.is_empty()
        });
        self.bytes = self.instances.values().map(|one| one.bytes).sum();
    }
}

// === impl Answers ===

impl Answers {
    fn remove(&mut self, preflight: &Preflight) {
        if let Some(answer) = self.answers.remove(preflight) {
            self.bytes -= answer.bytes;
        }
    }

    /// Removes the answer that would be forgotten first; whether there was one.
    fn remove_first(&mut self) -> bool {
        let first = self.answers.iter().min_by_key(|(_, answer)| answer.until);
        let Some(preflight) = first.map(|(preflight, _)| preflight.clone()) else {
            return false;
        };
        self.remove(&preflight);
        true
    }
}

impl fmt::Debug for Preflights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Preflights({} bytes)", self.cache().bytes)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn preflight(origin: &'static str, extra: Option<HeaderName>) -> Option<Preflight> {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, HeaderValue::from_static(origin));
        headers.insert(
            ACCESS_CONTROL_REQUEST_METHOD,
            HeaderValue::from_static("PUT"),
        );
        headers.extend(extra.map(|name| (name, HeaderValue::from_static("x"))));
        let mut request = Request::new(());
        *request.method_mut() = Method::OPTIONS;
        *request.uri_mut() = "/a?b".parse().unwrap();
        *request.headers_mut() = headers;
        Preflight::of(&Hostname::parse("a.b").unwrap(), &request)
    }

    fn instance(id: &str) -> InstanceId {
        InstanceId::parse(id).unwrap()
    }

    fn app() -> InstanceId {
        instance("tz4a98xxat96iws9zmbrgj3a")
    }

    fn answer(max_age: Option<&'static str>) -> InstanceResponse<()> {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(
            ACCESS_CONTROL_ALLOW_ORIGIN,
            HeaderValue::from_static("https://x"),
        );
        headers.insert("set-cookie", HeaderValue::from_static("secret=1"));
        if let Some(age) = max_age {
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(age));
        }
        response.into()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_repeated_to_the_same_preflight_for_its_time() {
        let preflights = Preflights::default();
        let same = preflight("https://x", None).unwrap();
        preflights.remember(&app(), &same, &answer(Some("60")));
        let repeated = preflights.recall(&app(), &same).unwrap();
        assert!(repeated.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        assert!(
            !repeated.headers().contains_key("set-cookie"),
            "nothing but CORS"
        );
        assert!(
            preflights
                .recall(&app(), &preflight("https://y", None).unwrap())
                .is_none()
        );
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(preflights.recall(&app(), &same).is_none());
        preflights.remember(&app(), &same, &answer(None));
        tokio::time::advance(UNSAID).await;
        assert!(preflights.recall(&app(), &same).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_or_a_request_with_credentials_is_not_remembered() {
        assert!(preflight("https://x", Some(COOKIE)).is_none());
        let preflights = Preflights::default();
        let preflight = preflight("https://x", None).unwrap();
        preflights.remember(&app(), &preflight, &Response::new(()).into());
        assert!(preflights.recall(&app(), &preflight).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_not_repeated_for_another_instance() {
        let preflights = Preflights::default();
        let same = preflight("https://x", None).unwrap();
        preflights.remember(&app(), &same, &answer(Some("60")));
        let other = instance("tz4a98xxat96iws9zmbrgj3b");
        assert!(preflights.recall(&other, &same).is_none());
    }

    /// The same preflight for another target.
    fn of_target(number: usize, length: usize) -> Preflight {
        Preflight {
            target: format!("/{number}?{}", "x".repeat(length)),
            ..preflight("https://x", None).unwrap()
        }
    }

    fn bytes_are_counted(preflights: &Preflights) {
        let cache = preflights.cache();
        let mut all = 0;
        for one in cache.instances.values() {
            let bytes: usize = one.answers.values().map(|answer| answer.bytes).sum();
            assert_eq!(one.bytes, bytes);
            assert!(bytes <= SHARE, "{bytes}");
            all += bytes;
        }
        assert_eq!(cache.bytes, all);
        assert!(all <= MOST, "{all}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_instance_has_its_share_of_the_bytes_and_forgets_its_own_first() {
        let preflights = Preflights::default();
        let modest = preflight("https://x", None).unwrap();
        preflights.remember(&app(), &modest, &answer(Some("60")));
        let greedy = instance("tz4a98xxat96iws9zmbrgj3b");
        for number in 0..1000 {
            preflights.remember(&greedy, &of_target(number, 7000), &answer(Some("3600")));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        bytes_are_counted(&preflights);
        assert!(preflights.recall(&app(), &modest).is_some());
        assert!(preflights.recall(&greedy, &of_target(999, 7000)).is_some());
        assert!(preflights.recall(&greedy, &of_target(0, 7000)).is_none());
        // One that would push out many others is not worth it.
        preflights.remember(&greedy, &of_target(0, LONGEST_ONE), &answer(None));
        assert!(
            preflights
                .recall(&greedy, &of_target(0, LONGEST_ONE))
                .is_none()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn all_instances_together_have_a_bound_and_who_has_most_gives_up_first() {
        let preflights = Preflights::default();
        let modest = preflight("https://x", None).unwrap();
        preflights.remember(&app(), &modest, &answer(Some("60")));
        for number in 0..2000 {
            let one = instance(&format!("greedy{}", number % 20));
            preflights.remember(&one, &of_target(number, 7000), &answer(Some("3600")));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        bytes_are_counted(&preflights);
        assert!(preflights.recall(&app(), &modest).is_some());
        let last = (instance("greedy19"), of_target(1999, 7000));
        assert!(preflights.recall(&last.0, &last.1).is_some());
        tokio::time::advance(LONGEST).await;
        preflights.upkeep();
        assert_eq!(preflights.cache().bytes, 0);
        assert!(preflights.cache().instances.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_answer_again_takes_the_place_of_the_first() {
        let preflights = Preflights::default();
        for _ in 0..3 {
            preflights.remember(&app(), &of_target(1, 1000), &answer(None));
        }
        bytes_are_counted(&preflights);
        assert_eq!(preflights.cache().instances[&app()].answers.len(), 1);
    }
}
