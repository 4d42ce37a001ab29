//! The page that a person sees while an instance wakes.
//!
//! Guarantees: only a browser's top-level GET ever sees it; it is a 503 with Retry-After, so no
//! cache and no crawler takes it for the application's; it needs nothing from elsewhere and works
//! without JavaScript; it never waits by itself: whatever happens to the wake, the page reloads and
//! the next request tells. Of a wake that failed it says the code and what that means, and nothing
//! that a control plane said.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, VARY,
};
use http::{Method, Response, StatusCode};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::page;
use crate::config::WaitingPageConfig;
use crate::names::RequestId;
use crate::wake::{Instance, Target, WakeFailure};

/// The path of the events about a wake, for the page. Requests for it never wake.
pub(super) const STATUS_PATH: &str = "/.wakegate/wake";

const BUILT_IN: &str = include_str!("waiting.html");
/// The time between two events of a status stream.
const TICK: Duration = Duration::from_millis(100);
/// The longest that one status stream lives; the page opens the next one.
const LONGEST: Duration = Duration::from_secs(120);
/// How long a person who comes back hears of the try before, in seconds.
const RECENT: i64 = 60;

/// Whether a person's browser asks for a page to look at (Fetch Metadata; browsers that do not send
/// it are known by their Accept alone).
pub(super) fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    let is = |name: &str, expected: &str| headers.get(name).is_none_or(|value| value == expected);
    *method == Method::GET
        && headers.get_all(ACCEPT).iter().any(accepts_html)
        && is("sec-fetch-mode", "navigate")
        && is("sec-fetch-dest", "document")
}

/// Whether HTML is asked for by name (`*/*` is what programs say).
pub(super) fn accepts_html(accept: &HeaderValue) -> bool {
    accept.to_str().unwrap_or("").split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let html = parts.next().is_some_and(|kind| {
            kind.eq_ignore_ascii_case("text/html")
                || kind.eq_ignore_ascii_case("application/xhtml+xml")
        });
        html && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// A wake that failed a moment ago, since when none has succeeded.
fn recent_failure<S>(instance: &Instance<S>) -> Option<Arc<WakeFailure>> {
    let now = jiff::Timestamp::now().as_second();
    let failure = instance.last_failure()?;
    (now - failure.at.as_second() <= RECENT).then_some(failure)
}

/// What a code means to a person who wants to see the application.
fn plain_words(code: &str) -> &'static str {
    match code {
        "instance_not_found" => "It is no longer there.",
        "instance_stopped" => "It is stopped, and a visit does not start it.",
        "instance_unusable" => "It is in a state that it cannot be woken from.",
        "instance_transitioning" => "It was busy changing its state.",
        "no_capacity" => "Its host has no room for it at the moment.",
        "wake_queue_full" => "Too many others are being woken.",
        "control_plane_unavailable" => "The service that wakes it does not answer.",
        "control_plane_refused" => "The service that wakes it does not accept this gateway.",
        "wake_timeout" => "It did not wake up in time.",
        "instance_initializing" => "It was still starting when the time to wait was over.",
        "app_not_listening" => "It is awake, but its application did not begin to serve in time.",
        "app_unhealthy" => "It is awake, but its application did not become healthy in time.",
        _ => "It could not be woken.",
    }
}

/// The page for one request.
pub(super) fn response<S>(
    config: &WaitingPageConfig,
    host: &str,
    instance: &Instance<S>,
    request_id: &RequestId,
) -> Response<Bytes> {
    let usual = instance.times().usual();
    let template = config
        .template
        .as_ref()
        .map_or(BUILT_IN, |file| file.text());
    let failure = recent_failure(instance).map_or_else(String::new, |failure| {
        let (words, code) = (plain_words(failure.code), failure.code);
        format!("The last try failed. {words} ({code})")
    });
    // Without a script a failing wake is not asked for again every second.
    let retry_seconds = if failure.is_empty() { "1" } else { "4" };
    let usual_ms = usual.map_or(0, |usual| usual.as_millis()).to_string();
    let nonce = RequestId::generate();
    let html = page::fill(
        template,
        &[
            ("host", page::escape(host).as_str()),
            ("status_path", STATUS_PATH),
            ("request_id", page::escape(request_id.as_str()).as_str()),
            ("nonce", nonce.as_str()),
            ("style", page::STYLE),
            ("failure", page::escape(&failure).as_str()),
            ("retry_seconds", retry_seconds),
            ("usual_ms", usual_ms.as_str()),
        ],
    );
    let mut response = Response::new(Bytes::from(html));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    page::declare(headers, nonce.as_str(), true);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        VARY,
        HeaderValue::from_static("accept, sec-fetch-mode, sec-fetch-dest"),
    );
    headers.insert(RETRY_AFTER, HeaderValue::from_static(retry_seconds));
    headers.insert("x-robots-tag", HeaderValue::from_static("noindex"));
    response
}

/// The head of a status stream.
pub(super) fn status_head<B>(body: B) -> Response<B> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx and its like would buffer the events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The stages of a wake, as server-sent events: `progress` until it is over, then `ready`, or
/// `over` with the `code` and a `detail` of what went wrong, if something did.
pub(super) struct StatusStream<S> {
    instance: Arc<Instance<S>>,
    target: Target,
    tick: Interval,
    until: Instant,
    ended: bool,
}

// === impl StatusStream ===

impl<S> StatusStream<S> {
    pub(super) fn new(instance: Arc<Instance<S>>, target: Target) -> Self {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            instance,
            target,
            tick,
            until: Instant::now() + LONGEST,
            ended: false,
        }
    }

    /// The next event's bytes; `None` at the end.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let now = std::task::ready!(Pin::new(&mut self.tick).poll_tick(cx));
        if self.instance.warm(&self.target).is_some() {
            self.ended = true;
            return Poll::Ready(Some(Bytes::from_static(b"event: ready\ndata: {}\n\n")));
        }
        let progress = self.instance.progress().filter(|_| now < self.until);
        let Some(progress) = progress else {
            self.ended = true;
            let why = recent_failure(&self.instance).map_or_else(
                || serde_json::json!({}),
                |failure| {
                    let (code, detail) = (failure.code, plain_words(failure.code));
                    serde_json::json!({ "code": code, "detail": detail })
                },
            );
            let event = format!("event: over\ndata: {why}\n\n");
            return Poll::Ready(Some(Bytes::from(event)));
        };
        let usual = self.instance.times().usual();
        let data = serde_json::json!({
            "stage": progress.stage.as_str(),
            "elapsed_ms": millis(progress.began.elapsed()),
            "usual_ms": usual.map(millis),
        });
        let event = format!("event: progress\ndata: {data}\n\n");
        Poll::Ready(Some(Bytes::from(event)))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl<S> fmt::Debug for StatusStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StatusStream({})", self.instance.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &Method, fields: &[(&'static str, &'static str)], expected: bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        assert_eq!(
            is_navigation(method, &headers),
            expected,
            "{method} {fields:?}"
        );
    }

    #[test]
    fn only_a_top_level_navigation_sees_the_page() {
        let html = ("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
        check(&Method::GET, &[html], true);
        let navigate = [
            html,
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        check(&Method::GET, &navigate, true);
        check(&Method::POST, &navigate, false);
        check(&Method::HEAD, &[html], false);
        check(&Method::GET, &[("accept", "*/*")], false);
        check(&Method::GET, &[("accept", "application/json")], false);
        check(&Method::GET, &[("accept", "text/html;q=0, */*")], false);
        check(&Method::GET, &[], false);
        check(&Method::GET, &[html, ("sec-fetch-mode", "cors")], false);
        let frame = [
            html,
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "iframe"),
        ];
        check(&Method::GET, &frame, false);
    }
}
