//! What happens, as server-sent events, for whoever watches.
//!
//! Guarantees: a watcher gets the whole present state first, then each change once; one that falls
//! behind is given everything anew; the number of watchers is bounded; a watcher costs a tick a
//! second and nothing on any request's way.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, stream};
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::state::Admin;
use super::timeline::{News, Track, WINDOW_MS};
use super::view::Problem;
use super::watchers::{MOST_WATCHERS, Watching};
use crate::wake::LedgerEntry;

const TICK: Duration = Duration::from_secs(1);

/// The whole present state.
#[derive(Serialize)]
struct Snapshot {
    now: i64,
    window_ms: i64,
    instances: Vec<Track>,
    /// There are more instances than these.
    is_cut: bool,
    wakes: Vec<LedgerEntry>,
}

/// How busy it is.
#[derive(Serialize)]
struct Tick {
    now: i64,
    /// Requests answered a second, since the last tick.
    rps: f64,
    held: usize,
    inflight: usize,
    draining: bool,
    /// Instances with requests: id, how many wait, how many are there.
    busy: Vec<(String, usize, usize)>,
    /// Instances whose next wake is not tried yet.
    failing: Vec<String>,
}

struct Watch {
    admin: Admin,
    _watching: Watching,
    news: Option<Receiver<News>>,
    ticks: Interval,
    served: (u64, Instant),
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A name that this module chose, and what always serialises.
fn event(name: &str, data: &impl Serialize) -> Event {
    let event = Event::default().event(name);
    event.json_data(data).unwrap_or_default()
}

// === impl Watch ===

impl Watch {
    fn snapshot(&mut self) -> Event {
        let now = now_ms();
        let (instances, news) = self.admin.timeline.watch(now);
        self.news = Some(news);
        let mut wakes = self.admin.operator.wakes(None);
        // Of wakes alone.
        wakes.retain(|wake| !["renewed", "kept_awake"].contains(&wake.outcome));
        let snapshot = Snapshot {
            now,
            window_ms: WINDOW_MS,
            instances,
            is_cut: self.admin.timeline.is_full(),
            wakes,
        };
        event("snapshot", &snapshot)
    }

    fn tick(&mut self) -> Event {
        let served = self.admin.operator.served();
        let (before, since) = std::mem::replace(&mut self.served, (served, Instant::now()));
        let seconds = since.elapsed().as_secs_f64().max(1e-3);
        let (mut busy, mut failing) = (Vec::new(), Vec::new());
        let (mut held, mut inflight) = (0, 0);
        for instance in self.admin.operator.instances() {
            held += instance.held;
            inflight += instance.inflight;
            if instance.held + instance.inflight > 0 {
                busy.push((instance.id.clone(), instance.held, instance.inflight));
            }
            if instance.breaker.is_some() {
                failing.push(instance.id);
            }
        }
        event(
            "tick",
            &Tick {
                now: now_ms(),
                rps: (served.saturating_sub(before)) as f64 / seconds,
                held,
                inflight,
                draining: self.admin.drain.draining().is_cancelled(),
                busy,
                failing,
            },
        )
    }

    async fn next(&mut self) -> Option<Event> {
        let Some(news) = &mut self.news else {
            return Some(self.snapshot());
        };
        tokio::select! {
            said = news.recv() => match said {
                Ok(said) => Some(event("news", &said)),
                // It could not keep up: everything anew.
                Err(RecvError::Lagged(_)) => Some(self.snapshot()),
                Err(RecvError::Closed) => None,
            },
            _ = self.ticks.tick() => Some(self.tick()),
        }
    }
}

/// What is and what happens: `snapshot` first, then `news`, and a `tick` a second.
#[cfg_attr(test, utoipa::path(
    get,
    path = "/api/events",
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 503, body = Problem),
    ),
))]
pub(super) async fn events(
    State(admin): State<Admin>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let Some(watching) = admin.watchers.enter() else {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_watchers",
            format!("{MOST_WATCHERS} are watching already."),
        ));
    };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watch = Watch {
        served: (admin.operator.served(), Instant::now()),
        admin,
        _watching: watching,
        news: None,
        ticks,
    };
    let events = stream::unfold(watch, async |mut watch| {
        let event = watch.next().await?;
        Some((Ok(event), watch))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}
