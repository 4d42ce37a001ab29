//! The minimum rate of a request's body.
//!
//! Guarantees: only time that the client makes us wait counts, not time in which the instance does
//! not read; a body that keeps the rate on the whole may pause.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::deadline::Deadline;

/// The time that each body has besides what its bytes allow: the clock runs only while the gateway
/// waits for the client, from its first wait on, and nothing resets it.
const GRACE: Duration = Duration::from_secs(5);

/// The clock of one body.
#[derive(Debug)]
pub(super) struct MinRate {
    /// Bytes a second; 0 sets no rate.
    rate: u64,
    waited: Duration,
    since: Option<Instant>,
    deadline: Option<Deadline>,
}

// === impl MinRate ===

impl MinRate {
    pub(super) fn new(rate: usize) -> Self {
        Self {
            rate: rate as u64,
            waited: Duration::ZERO,
            since: None,
            deadline: None,
        }
    }

    /// Nobody waits for the client: something has come, or it may not send more at the moment.
    pub(super) fn stand_still(&mut self) {
        if let Some(since) = self.since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Nothing has come, after `bytes` in all. Ready when that is too slow.
    pub(super) fn poll_too_slow(&mut self, bytes: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.rate == 0 {
            return Poll::Pending;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let allowed = GRACE + Duration::from_millis(bytes.saturating_mul(1000) / self.rate);
        let until = since + allowed.saturating_sub(self.waited);
        let deadline = (self.deadline).get_or_insert_with(|| Deadline::new(until));
        deadline.set(until);
        deadline.poll_over(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_without_a_byte_has_its_grace_and_no_more() {
        let (mut min_rate, start) = (MinRate::new(240), Instant::now());
        poll_fn(|cx| min_rate.poll_too_slow(0, cx)).await;
        assert_eq!(start.elapsed(), GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_fast_may_pause_and_time_that_nobody_waited_is_free() {
        let mut min_rate = MinRate::new(100);
        min_rate.stand_still();
        // Nobody reads on: the instance is busy.
        sleep(Duration::from_secs(3600)).await;
        let start = Instant::now();
        poll_fn(|cx| min_rate.poll_too_slow(1000, cx)).await;
        assert_eq!(start.elapsed(), GRACE + Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_a_body_may_take_its_time() {
        let mut min_rate = MinRate::new(0);
        let waiting = poll_fn(|cx| min_rate.poll_too_slow(0, cx));
        assert!(timeout(Duration::from_secs(3600), waiting).await.is_err());
    }
}
