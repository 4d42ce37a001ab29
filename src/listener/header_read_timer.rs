//! One timer for all heads of an HTTP/1 connection.
//!
//! Guarantees: a head that is not there by its deadline ends its connection, not earlier and at
//! most one turn of the task later. hyper wants a new timer for each head, and drops it a moment
//! later, when the head is there; here a head costs two stores, and the one timer is set again only
//! when it has gone off for a head that came.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Sleep, Timer};
use tokio::time::Instant;

use crate::deadline::Deadline;

/// No head is waited for.
const NEVER: u64 = u64::MAX;

/// The timer of a connection's heads. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct HeaderReadTimer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    began: Instant,
    /// The deadline: nanoseconds after `began`.
    due: AtomicU64,
    /// Whether the deadline has passed.
    expired: AtomicBool,
}

/// What hyper polls while it waits for a head.
#[derive(Debug)]
struct HeadTimeout(HeaderReadTimer);

// === impl HeaderReadTimer ===

impl HeaderReadTimer {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            began: Instant::now(),
            due: AtomicU64::new(NEVER),
            expired: AtomicBool::new(false),
        }))
    }

    fn set(&self, due: Instant) {
        let after = due.saturating_duration_since(self.0.began);
        let after = u64::try_from(after.as_nanos()).unwrap_or(NEVER);
        self.0.due.store(after, Ordering::Relaxed);
        self.0.expired.store(false, Ordering::Relaxed);
    }

    fn due(&self) -> Option<Instant> {
        let after = self.0.due.load(Ordering::Relaxed);
        (after != NEVER).then(|| self.0.began + Duration::from_nanos(after))
    }

    /// Runs `connection`, which has this timer. Both are polled by one task, so that they need no
    /// waker of their own.
    pub(super) async fn during<F: Future>(&self, connection: F) -> F::Output {
        let (mut connection, mut deadline) = (pin!(connection), None::<Deadline>);
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(output) = connection.as_mut().poll(cx) {
                    return Poll::Ready(output);
                }
                let Some(due) = self.due() else {
                    return Poll::Pending;
                };
                let deadline = deadline.get_or_insert_with(|| Deadline::new(due));
                deadline.set(due);
                ready!(deadline.poll_over(cx));
                if self.0.expired.swap(true, Ordering::Relaxed) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

#[expect(
    clippy::disallowed_types,
    reason = "hyper's trait has it; `now` is from the clock that tests can stop"
)]
impl Timer for HeaderReadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.set(deadline.into());
        Box::pin(HeadTimeout(self.clone()))
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into()
    }

    fn reset(&self, _sleep: &mut Pin<Box<dyn Sleep>>, deadline: std::time::Instant) {
        self.set(deadline.into());
    }
}

// === impl HeadTimeout ===

impl Future for HeadTimeout {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<()> {
        match self.0.0.expired.load(Ordering::Relaxed) {
            true => Poll::Ready(()),
            // `during` wakes the task.
            false => Poll::Pending,
        }
    }
}

impl Sleep for HeadTimeout {}

impl Drop for HeadTimeout {
    fn drop(&mut self) {
        self.0.0.due.store(NEVER, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[track_caller]
    fn check(began: Instant, expected: Duration, slack: u64) {
        let took = began.elapsed();
        let fine = expected..expected + Duration::from_millis(slack);
        assert!(fine.contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_expires_at_the_deadline_and_not_before() {
        let (timer, began) = (HeaderReadTimer::new(), Instant::now());
        let waiting = timer.sleep(LIMIT);
        timer.during(waiting).await;
        check(began, LIMIT, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_came_leaves_the_next_its_whole_time() {
        let (timer, began) = (HeaderReadTimer::new(), Instant::now());
        let heads = async {
            for _ in 0..5 {
                let waiting = timer.sleep(LIMIT);
                sleep(LIMIT * 9 / 10).await;
                drop(waiting);
            }
            let mut waiting = timer.sleep(LIMIT / 2);
            timer.reset(&mut waiting, (Instant::now() + LIMIT).into());
            waiting.await;
        };
        timer.during(heads).await;
        check(began, LIMIT * 9 / 2 + LIMIT, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_deadline_than_the_last_is_kept() {
        let (timer, began) = (HeaderReadTimer::new(), Instant::now());
        let heads = async {
            let waiting = timer.sleep(LIMIT);
            tokio::task::yield_now().await;
            drop(waiting);
            timer.sleep(LIMIT / 10).await;
        };
        timer.during(heads).await;
        assert!(began.elapsed() < LIMIT / 5, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn it_does_not_expire_for_a_head_that_came() {
        let timer = HeaderReadTimer::new();
        let answering = async {
            drop(timer.sleep(LIMIT));
            advance(LIMIT * 10).await;
            "answered"
        };
        assert_eq!(timer.during(answering).await, "answered");
    }
}
