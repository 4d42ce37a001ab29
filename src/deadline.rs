//! A deadline that is moved often and reached seldom.
//!
//! Guarantees: it is over at the time it was set to last, not earlier. To move it on costs no
//! timer: the one there is goes off at the earlier time, and is set again only then.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// When something is to be over.
#[derive(Debug)]
pub struct Deadline {
    due: Instant,
    timer: Pin<Box<Sleep>>,
}

// === impl Deadline ===

impl Deadline {
    /// At `due`.
    pub fn new(due: Instant) -> Self {
        let timer = Box::pin(sleep_until(due));
        Self { due, timer }
    }

    /// At `due` instead.
    pub fn set(&mut self, due: Instant) {
        self.due = due;
        if self.timer.deadline() > due {
            self.timer.as_mut().reset(due);
        }
    }

    /// Whether it is over; if not, the task is woken when it may be.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= self.due {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn it_is_over_when_it_was_set_to_last() {
        let began = Instant::now();
        let mut deadline = Deadline::new(began + LIMIT);
        for due in [LIMIT * 3, LIMIT * 9] {
            deadline.set(began + due);
            poll_fn(|cx| deadline.poll_over(cx)).await;
            assert_eq!(began.elapsed(), due);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_can_be_set_to_an_earlier_time_and_to_one_that_is_past() {
        let began = Instant::now();
        let mut deadline = Deadline::new(began + LIMIT * 9);
        deadline.set(began + LIMIT);
        poll_fn(|cx| deadline.poll_over(cx)).await;
        assert_eq!(began.elapsed(), LIMIT);
        advance(LIMIT).await;
        deadline.set(began);
        poll_fn(|cx| deadline.poll_over(cx)).await;
        assert_eq!(began.elapsed(), LIMIT * 2);
    }
}
