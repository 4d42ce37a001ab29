//! The longest silence inside a response's body.
//!
//! Guarantees: only time in which somebody waits for the instance counts; each byte begins it anew.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::deadline::Deadline;

/// The clock of one response's body.
#[derive(Debug)]
pub(super) struct ReadTimeout {
    limit: Duration,
    deadline: Deadline,
    waits: bool,
}

// === impl ReadTimeout ===

impl ReadTimeout {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            deadline: Deadline::new(Instant::now() + limit),
            waits: false,
        }
    }

    /// Something has come.
    pub(super) fn data_came(&mut self) {
        self.waits = false;
    }

    /// Nothing has come; ready when nothing has for too long.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waits {
            self.waits = true;
            self.deadline.set(Instant::now() + self.limit);
        }
        self.deadline.poll_over(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn silence_is_over_at_the_limit_and_each_byte_begins_it_anew() {
        let mut clock = ReadTimeout::new(LIMIT);
        for _ in 0..3 {
            let polled = poll_fn(|cx| Poll::Ready(clock.poll_over(cx))).await;
            assert!(polled.is_pending());
            sleep(LIMIT * 9 / 10).await;
            clock.data_came();
        }
        // Nobody reads: that is not the instance's silence.
        sleep(LIMIT * 5).await;
        let began = Instant::now();
        poll_fn(|cx| clock.poll_over(cx)).await;
        assert_eq!(began.elapsed(), LIMIT);
    }
}
