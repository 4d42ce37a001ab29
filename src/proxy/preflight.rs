//! CORS preflights of a sleeping instance.
//!
//! A browser asks before the request that matters, and a refusal looks like a CORS mistake of the
//! application's. The gateway does not know the application's rules, but it may repeat what the
//! application itself said: the Fetch standard lets a browser remember a preflight's answer for
//! `Access-Control-Max-Age`, and so does the gateway.
//!
//! Guarantees: an answer is repeated only to the same question (host, path, origin, method, headers),
//! only for as long as the application allowed (5 s when it did not say, an hour at most), and their
//! number is bounded.

use std::fmt;
use std::time::Duration;

use dashmap::DashMap;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use tokio::time::Instant;

use crate::names::Hostname;

/// The default of the Fetch standard.
const UNSAID: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(3600);
const MOST: usize = 4096;

/// What a preflight asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Question {
    host: Hostname,
    target: String,
    origin: HeaderValue,
    method: HeaderValue,
    headers: Option<HeaderValue>,
}

struct Answer {
    headers: Vec<(HeaderName, HeaderValue)>,
    status: StatusCode,
    until: Instant,
}

/// The answers so far.
#[derive(Default)]
pub(super) struct Preflights(DashMap<Question, Answer>);

// === impl Question ===

impl Question {
    pub(super) fn of(
        method: &Method,
        host: &Hostname,
        uri: &http::Uri,
        headers: &HeaderMap,
    ) -> Option<Self> {
        // With credentials it is no preflight (Fetch, CORS-preflight fetch).
        if *method != Method::OPTIONS
            || headers.contains_key(COOKIE)
            || headers.contains_key(AUTHORIZATION)
        {
            return None;
        }
        Some(Self {
            host: host.clone(),
            target: uri.path_and_query()?.to_string(),
            origin: headers.get(ORIGIN)?.clone(),
            method: headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.clone(),
            headers: headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
        })
    }
}

// === impl Preflights ===

impl Preflights {
    /// What the application said, if it may still be repeated.
    pub(super) fn recall(&self, question: &Question) -> Option<Response<()>> {
        let answer = self.0.get(question)?;
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
    pub(super) fn note<B>(&self, question: Question, response: &Response<B>) {
        let headers = response.headers();
        if !response.status().is_success() || !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        let said = headers.get(ACCESS_CONTROL_MAX_AGE);
        let age = match said.map(|value| value.to_str().ok().and_then(|text| text.parse().ok())) {
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
        let about_cors = |name: &HeaderName| {
            name.as_str().starts_with("access-control-") || name.as_str() == "vary"
        };
        let headers = headers
            .iter()
            .filter(|(name, _)| about_cors(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let (status, until) = (StatusCode::NO_CONTENT, Instant::now() + age);
        let answer = Answer {
            headers,
            status,
            until,
        };
        self.0.insert(question, answer);
    }
}

impl fmt::Debug for Preflights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Preflights({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(origin: &'static str, extra: Option<HeaderName>) -> Option<Question> {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, HeaderValue::from_static(origin));
        headers.insert(
            ACCESS_CONTROL_REQUEST_METHOD,
            HeaderValue::from_static("PUT"),
        );
        headers.extend(extra.map(|name| (name, HeaderValue::from_static("x"))));
        let uri = "/a?b".parse().unwrap();
        Question::of(
            &Method::OPTIONS,
            &Hostname::parse("a.b").unwrap(),
            &uri,
            &headers,
        )
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
    async fn an_answer_is_repeated_to_the_same_question_for_its_time() {
        let preflights = Preflights::default();
        let same = question("https://x", None).unwrap();
        preflights.note(same.clone(), &answer(Some("60")));
        let told = preflights.recall(&same).unwrap();
        assert!(told.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        assert!(
            !told.headers().contains_key("set-cookie"),
            "nothing but CORS"
        );
        assert!(
            preflights
                .recall(&question("https://y", None).unwrap())
                .is_none()
        );
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(preflights.recall(&same).is_none());
        preflights.note(same.clone(), &answer(None));
        tokio::time::advance(UNSAID).await;
        assert!(preflights.recall(&same).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_or_a_request_with_credentials_is_not_remembered() {
        assert!(question("https://x", Some(COOKIE)).is_none());
        let preflights = Preflights::default();
        let question = question("https://x", None).unwrap();
        preflights.note(question.clone(), &Response::new(()));
        assert!(preflights.recall(&question).is_none());
    }
}
