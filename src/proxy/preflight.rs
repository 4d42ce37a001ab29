//! CORS preflights of a sleeping instance.
//!
//! A browser asks before the request that matters, and a refusal looks like a CORS mistake of the
//! application's. The gateway does not know the application's rules, but it may repeat what the
//! application itself said: the Fetch standard lets a browser remember a preflight's answer for
//! `Access-Control-Max-Age`, and so does the gateway.
//!
//! Guarantees: an answer is repeated only to the same preflight (host, path, origin, method,
//! headers), only for as long as the application allowed (5 s when it did not say, an hour at
//! most), and their number is bounded.

use std::fmt;
use std::time::Duration;

use dashmap::DashMap;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, ORIGIN,
};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio::time::Instant;

use crate::names::Hostname;

/// The default of the Fetch standard.
const UNSAID: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(3600);
const MOST: usize = 4096;

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
    status: StatusCode,
    until: Instant,
}

/// The answers so far.
#[derive(Default)]
pub(super) struct Preflights(DashMap<Preflight, CachedAnswer>);

// === impl Preflight ===

impl Preflight {
    /// The preflight that a request is, if it is one.
    pub(super) fn of<B>(host: &Hostname, request: &Request<B>) -> Option<Self> {
        let headers = request.headers();
        // With credentials it is no preflight (Fetch, CORS-preflight fetch).
        if *request.method() != Method::OPTIONS
            || headers.contains_key(COOKIE)
            || headers.contains_key(AUTHORIZATION)
        {
            return None;
        }
        Some(Self {
            host: host.clone(),
            target: request.uri().path_and_query()?.to_string(),
            origin: headers.get(ORIGIN)?.clone(),
            method: headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.clone(),
            headers: headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
        })
    }
}

// === impl Preflights ===

impl Preflights {
    /// The application's answer, if it may still be repeated.
    pub(super) fn recall(&self, preflight: &Preflight) -> Option<Response<()>> {
        let answer = self.0.get(preflight)?;
        if answer.until <= Instant::now() {
            return None;
        }
        let mut response = Response::new(());
        *response.status_mut() = answer.status;
        response
            .headers_mut()
            .extend(answer.headers.iter().cloned());
        Some(response)
    }

    /// Remembers an application's answer.
    pub(super) fn remember<B>(&self, preflight: Preflight, response: &Response<B>) {
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
        if self.0.len() >= MOST {
            let now = Instant::now();
            self.0.retain(|_, answer| answer.until > now);
            if self.0.len() >= MOST {
                return;
            }
        }
        let is_of_cors = |name: &HeaderName| {
            name.as_str().starts_with("access-control-") || name.as_str() == "vary"
        };
        let headers = headers
            .iter()
            .filter(|(name, _)| is_of_cors(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let answer = CachedAnswer {
            headers,
            status: StatusCode::NO_CONTENT,
            until: Instant::now() + age,
        };
        self.0.insert(preflight, answer);
    }
}

impl fmt::Debug for Preflights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Preflights({})", self.0.len())
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

    fn answer(max_age: Option<&'static str>) -> Response<()> {
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
        response
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_repeated_to_the_same_preflight_for_its_time() {
        let preflights = Preflights::default();
        let same = preflight("https://x", None).unwrap();
        preflights.remember(same.clone(), &answer(Some("60")));
        let repeated = preflights.recall(&same).unwrap();
        assert!(repeated.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        assert!(
            !repeated.headers().contains_key("set-cookie"),
            "nothing but CORS"
        );
        assert!(
            preflights
                .recall(&preflight("https://y", None).unwrap())
                .is_none()
        );
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(preflights.recall(&same).is_none());
        preflights.remember(same.clone(), &answer(None));
        tokio::time::advance(UNSAID).await;
        assert!(preflights.recall(&same).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_or_a_request_with_credentials_is_not_remembered() {
        assert!(preflight("https://x", Some(COOKIE)).is_none());
        let preflights = Preflights::default();
        let preflight = preflight("https://x", None).unwrap();
        preflights.remember(preflight.clone(), &Response::new(()));
        assert!(preflights.recall(&preflight).is_none());
    }
}
