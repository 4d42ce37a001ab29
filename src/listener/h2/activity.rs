//! How many requests an HTTP/2 connection has, and since when it has none.
//!
//! Guarantees: a connection is idle from the end of its last response's body on, or from its
//! beginning.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How many requests a connection has, and when it last had one.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    now: AtomicUsize,
    /// Nanoseconds after `began`.
    last: AtomicU64,
}

/// One request.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

// === impl Activity ===

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            now: AtomicUsize::new(0),
            last: AtomicU64::new(0),
        }
    }

    /// The requests that there are now.
    pub(super) fn requests(&self) -> usize {
        self.now.load(Ordering::Acquire)
    }

    /// Ends when the connection has had no request for this long: since its last one, or since the
    /// call.
    pub(super) async fn none_for(&self, period: Duration) {
        let since = Instant::now();
        loop {
            let last = self.began + Duration::from_nanos(self.last.load(Ordering::Acquire));
            let due = match self.requests() {
                0 => last.max(since) + period,
                _ => Instant::now() + period,
            };
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

// === impl Busy ===

impl Busy {
    pub(super) fn new(activity: &Arc<Activity>) -> Self {
        activity.now.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let since = u64::try_from(self.0.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0.last.store(since, Ordering::Release);
        self.0.now.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const PERIOD: Duration = Duration::from_secs(75);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_request_on() {
        let (activity, began) = (Arc::new(Activity::new()), Instant::now());
        let requests = async {
            sleep(PERIOD / 2).await;
            let busy = Busy::new(&activity);
            sleep(PERIOD * 3).await;
            drop(busy);
        };
        let ((), ()) = tokio::join!(requests, activity.none_for(PERIOD));
        assert_eq!(began.elapsed(), PERIOD / 2 + PERIOD * 3 + PERIOD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_any_request_is_idle_from_its_beginning_on() {
        let (activity, began) = (Activity::new(), Instant::now());
        activity.none_for(PERIOD).await;
        assert_eq!(began.elapsed(), PERIOD);
    }
}
