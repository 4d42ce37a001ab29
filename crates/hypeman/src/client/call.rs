//! How a call is made: address, key, deadline, repetition.
//!
//! Guarantees: a call ends by its deadline, repetitions and pauses included; only a call that the
//! API makes safe to repeat is repeated, only after an error that may pass, and after a jittered
//! pause that is no shorter than the answer asks for; after a 401 the key file is read again, and a
//! changed key gets one more attempt; the observer hears of every attempt.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use reqwest::{Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::answer::{Answer, Json, Nothing, Stream, Terms};
use super::decode::Decode;
use super::error::Error;
use super::handle::Client;
use super::listed::Listed;
use super::observer::{Attempt, Outcome};

/// The pause before the first repetition; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// A deadline beyond what a clock can say: a year.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// One call, before it is made.
pub(super) struct Call<'a> {
    client: &'a Client,
    op: &'static str,
    method: Method,
    url: Url,
    body: Option<Bytes>,
    timeout: Duration,
    repeatable: bool,
    accept: Option<&'static str>,
}

impl Client {
    /// A call that changes nothing: repeatable, with the short deadline.
    pub(super) fn read<'p>(
        &self,
        op: &'static str,
        path: impl IntoIterator<Item = &'p str>,
    ) -> Call<'_> {
        Call {
            timeout: self.inner.timeout,
            repeatable: true,
            ..self.change(op, Method::GET, path)
        }
    }

    /// A call that changes something: never repeated, with the long deadline.
    pub(super) fn change<'p>(
        &self,
        op: &'static str,
        method: Method,
        path: impl IntoIterator<Item = &'p str>,
    ) -> Call<'_> {
        let mut url = self.inner.base.clone();
        // An http(s) URL always has path segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        Call {
            client: self,
            op,
            method,
            url,
            body: None,
            timeout: self.inner.change_timeout,
            repeatable: false,
            accept: None,
        }
    }
}

// === impl Call ===

impl Call<'_> {
    /// Sets another method than GET on a call that is repeatable all the same.
    pub(super) fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    /// Adds a query parameter.
    pub(super) fn query(self, name: &str, value: impl Display) -> Self {
        self.query_opt(name, Some(value))
    }

    /// Adds a query parameter if there is a value for it.
    pub(super) fn query_opt(mut self, name: &str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            let mut pairs = self.url.query_pairs_mut();
            pairs.append_pair(name, &value.to_string());
        }
        self
    }

    /// Adds a filter by labels, in the deep-object style.
    pub(super) fn tags(self, tags: &BTreeMap<String, String>) -> Self {
        tags.iter().fold(self, |call, (key, value)| {
            call.query(&format!("tags[{key}]"), value)
        })
    }

    /// Sets the JSON body.
    pub(super) fn body(mut self, value: &impl Serialize) -> Self {
        // Requests have string keys and plain values only, which always serialise.
        self.body = Some(serde_json::to_vec(value).unwrap_or_default().into());
        self
    }

    /// Sets the JSON body if there is one.
    pub(super) fn body_opt(self, value: Option<&impl Serialize>) -> Self {
        match value {
            Some(value) => self.body(value),
            None => self,
        }
    }

    /// Sets another deadline.
    pub(super) fn within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Accepts something else than is usual for how the answer is read.
    pub(super) fn accepting(self, kind: &'static str) -> Self {
        let accept = Some(kind);
        Self { accept, ..self }
    }

    /// The call is not repeated, whatever happens.
    pub(super) fn once(self) -> Self {
        let repeatable = false;
        Self { repeatable, ..self }
    }

    /// Makes the call and reads its JSON answer.
    pub(super) async fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        self.boxed::<Json<T>>().await.map(|Json(answer)| answer)
    }

    /// Makes the call and reads its answer as a list, element by element.
    pub(super) async fn list<T: Decode>(self) -> Result<Listed<T>, Error> {
        self.boxed().await
    }

    /// Makes the call and drops its answer.
    pub(super) async fn nothing(self) -> Result<(), Error> {
        self.boxed::<Nothing>().await.map(drop)
    }

    /// Makes the call and hands its answer over as soon as the head is there.
    pub(super) async fn stream(self) -> Result<Response, Error> {
        self.boxed::<Stream>()
            .await
            .map(|Stream(response)| response)
    }

    /// The attempts of the call, on the heap: a caller's future has no room for several answers.
    fn boxed<A: Answer>(self) -> Pin<Box<impl Future<Output = Result<A, Error>>>> {
        Box::pin(self.run())
    }

    /// The attempts of the call.
    async fn run<A: Answer>(self) -> Result<A, Error> {
        let now = Instant::now();
        let deadline = now.checked_add(self.timeout).unwrap_or(now + FAR);
        let terms = Terms {
            op: self.op,
            limit: self.timeout,
            deadline,
            object_bytes: self.client.inner.max_answer_bytes,
            list_bytes: self.client.inner.max_list_bytes,
        };
        let keys = &self.client.inner.key;
        let mut key = keys.current();
        let (mut number, mut repeats, mut key_replaced) = (0, 0, false);
        loop {
            number += 1;
            let attempt = Attempt {
                operation: self.op,
                number,
            };
            self.client.inner.observer.attempt_began(attempt);
            let began = Instant::now();
            let exchange = async {
                let response = self.send(key.as_deref(), A::ACCEPT);
                let response = response.await.map_err(|error| terms.broken(error))?;
                let status = response.status();
                match status.is_success() {
                    true => Ok((A::read(&terms, response).await?, status.as_u16())),
                    false => Err(terms.refusal(response).await),
                }
            };
            let result = timeout_at(deadline, exchange)
                .await
                .unwrap_or_else(|_| Err(terms.timed_out()));
            let ended = |outcome| {
                let observer = &self.client.inner.observer;
                observer.attempt_ended(attempt, outcome, began.elapsed());
            };
            let error = match result {
                Ok((answer, status)) => {
                    ended(Outcome::Success { status });
                    return Ok(answer);
                }
                Err(error) => error,
            };
            if error.status() == Some(401) && !key_replaced {
                let fresh = timeout_at(deadline, keys.reread(key.as_deref())).await;
                if let Ok(Some(fresh)) = fresh {
                    ended(Outcome::KeyReplaced);
                    (key, key_replaced) = (Some(fresh), true);
                    continue;
                }
            }
            ended(error.outcome());
            if !self.repeatable
                || repeats == self.client.inner.max_repeats
                || !error.is_retryable()
                || matches!(error, Error::Timeout { .. })
            {
                return Err(error);
            }
            let pause = FIRST_PAUSE * 2_u32.saturating_pow(repeats);
            let pause = pause.mul_f64(1.0 + fastrand::f64());
            let pause = pause.max(error.retry_after().unwrap_or_default());
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            repeats += 1;
        }
    }

    async fn send(
        &self,
        key: Option<&HeaderValue>,
        accept: &'static str,
    ) -> Result<Response, reqwest::Error> {
        let http = &self.client.inner.http;
        let mut request = http.request(self.method.clone(), self.url.clone());
        let accept = HeaderValue::from_static(self.accept.unwrap_or(accept));
        request = request.header(header::ACCEPT, accept);
        if let Some(key) = key {
            request = request.header(header::AUTHORIZATION, key.clone());
        }
        if let Some(body) = &self.body {
            request = request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        request.send().await
    }
}
