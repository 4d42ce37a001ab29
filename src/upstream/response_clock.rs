//! How long an instance owes something.
//!
//! Guarantees: the time in which the client owes the next part of a request's body does not count;
//! each part of it that the instance takes, and each 1xx response, begins the time anew.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// It is the client's turn.
const CLIENTS_TURN: u64 = u64::MAX;

/// The clock of one exchange. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ResponseClock(Arc<State>);

/// A clock that may have ended with its request.
#[derive(Debug)]
pub(super) struct WeakClock(Weak<State>);

#[derive(Debug)]
struct State {
    began: Instant,
    /// Nanoseconds after `began` from when on the instance owes something, or [`CLIENTS_TURN`].
    since: AtomicU64,
    /// Whether a part of the body was handed out, and more of it is to follow.
    is_sending: AtomicBool,
}

// === impl ResponseClock ===

impl ResponseClock {
    /// A clock that runs.
    pub(super) fn new() -> Self {
        Self(Arc::new(State {
            began: Instant::now(),
            since: AtomicU64::new(0),
            is_sending: AtomicBool::new(false),
        }))
    }

    pub(super) fn downgrade(&self) -> WeakClock {
        WeakClock(Arc::downgrade(&self.0))
    }

    /// The instance has its whole time from now on.
    pub(super) fn restart(&self) {
        let state = &self.0;
        let now = u64::try_from(state.began.elapsed().as_nanos()).unwrap_or(CLIENTS_TURN - 1);
        state.since.store(now, Ordering::Relaxed);
    }

    /// It is the client's turn.
    pub(super) fn stop(&self) {
        self.0.since.store(CLIENTS_TURN, Ordering::Relaxed);
    }

    /// Whether a part of the body was handed out, and more of it is to follow.
    pub(super) fn set_sending(&self, is_sending: bool) {
        self.0.is_sending.store(is_sending, Ordering::Relaxed);
    }

    /// Whether the instance has owed something for `limit`.
    pub(super) fn is_over(&self, limit: Duration) -> bool {
        let since = self.0.since();
        since.is_some_and(|since| since.elapsed() >= limit)
    }

    /// Ends when the instance has owed something for `limit`.
    pub(super) async fn over(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            let due = self.0.since().unwrap_or(now) + limit;
            if due <= now {
                return;
            }
            sleep_until(due).await;
        }
    }
}

// === impl WeakClock ===

impl WeakClock {
    pub(super) fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Whether a part of the body waits since `limit` ago to be taken.
    pub(super) fn is_stuck(&self, now: Instant, limit: Duration) -> bool {
        self.0.upgrade().is_some_and(|state| {
            let since = state.since().filter(|since| *since + limit <= now);
            since.is_some() && state.is_sending.load(Ordering::Relaxed)
        })
    }
}

// === impl State ===

impl State {
    fn since(&self) -> Option<Instant> {
        let since = self.since.load(Ordering::Relaxed);
        (since != CLIENTS_TURN).then(|| self.began + Duration::from_nanos(since))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn the_time_in_which_the_client_owes_something_does_not_count() {
        let (clock, began) = (ResponseClock::new(), Instant::now());
        let uploading = async {
            sleep(LIMIT / 2).await;
            clock.stop();
            sleep(LIMIT * 10).await;
            clock.restart();
        };
        let ((), ()) = tokio::join!(uploading, clock.over(LIMIT));
        assert_eq!(began.elapsed(), LIMIT / 2 + LIMIT * 10 + LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn each_sign_of_the_instance_begins_it_anew() {
        let (clock, began) = (ResponseClock::new(), Instant::now());
        let signs = async {
            for _ in 0..5 {
                sleep(LIMIT * 9 / 10).await;
                clock.restart();
            }
        };
        let ((), ()) = tokio::join!(signs, clock.over(LIMIT));
        assert_eq!(began.elapsed(), LIMIT * 9 / 2 + LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_nobody_takes_shows_as_stuck_until_it_is_taken_or_the_request_is_over() {
        let clock = ResponseClock::new();
        let (weak, limit) = (clock.downgrade(), Duration::from_millis(100));
        assert!(!weak.is_stuck(Instant::now() + LIMIT, limit), "no body yet");
        clock.set_sending(true);
        clock.restart();
        assert!(!weak.is_stuck(Instant::now(), limit));
        sleep(limit).await;
        assert!(weak.is_stuck(Instant::now(), limit));
        clock.stop();
        assert!(!weak.is_stuck(Instant::now(), limit), "the client's turn");
        clock.restart();
        sleep(limit).await;
        drop(clock);
        assert!(!weak.is_alive() && !weak.is_stuck(Instant::now(), limit));
    }
}
