//! Which parts of a stream of HTTP/2 are so small that they wait for others.
//!
//! Guarantees: small parts now and then go at once; those of a flood wait until there are [`ENOUGH`] bytes
//! of them, or for [`GATHERING`], whatever is sooner. So one stream's frames that nobody reads stay few,
//! on a connection whose other end bounds them for all streams together.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Parts that are smaller cost whoever keeps them more than they carry.
const SMALL: usize = 256;
/// How many of those go by themselves at once, and in a second.
const BURST: f64 = 512.0;
const PER_SECOND: f64 = 50.0;
/// What is waited for, and how long.
const ENOUGH: usize = 4096;
const GATHERING: Duration = Duration::from_millis(10);

/// The small parts of one stream.
pub struct Trickle {
    /// Bytes that wait.
    bytes: usize,
    /// How many more may go by themselves.
    left: f64,
    since: Instant,
    /// When those that wait go at the latest.
    due: Option<Pin<Box<Sleep>>>,
}

// === impl Trickle ===

impl Trickle {
    /// Of a stream of which nothing has gone.
    pub fn new() -> Self {
        Self {
            bytes: 0,
            left: BURST,
            since: Instant::now(),
            due: None,
        }
    }

    /// Whether the next part, of so many bytes, waits for others; else it goes, with all that wait.
    pub fn waits(&mut self, length: usize) -> bool {
        self.bytes += length;
        if length >= SMALL || self.bytes >= ENOUGH {
            return false;
        }
        let now = Instant::now();
        let earned = (now - self.since).as_secs_f64() * PER_SECOND;
        (self.left, self.since) = ((self.left + earned).min(BURST), now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return false;
        }
        self.due.get_or_insert_with(|| Box::pin(sleep(GATHERING)));
        true
    }

    /// Ready when those that wait have waited long enough.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.due {
            Some(due) => due.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// All that have waited go.
    pub fn all_go(&mut self) {
        (self.bytes, self.due) = (0, None);
    }
}

impl Default for Trickle {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Trickle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trickle({} bytes wait)", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_small_parts_waits_and_a_large_one_takes_them_along() {
        let mut trickle = Trickle::new();
        for _ in 0..512 {
            assert!(!trickle.waits(1));
            trickle.all_go();
        }
        assert!(trickle.waits(1));
        let began = Instant::now();
        poll_fn(|cx| trickle.poll_over(cx)).await;
        assert!(began.elapsed() >= GATHERING);
        trickle.all_go();
        assert!(trickle.waits(1) && !trickle.waits(SMALL));
        trickle.all_go();
        let mut parts = 0;
        while trickle.waits(SMALL - 1) {
            parts += 1;
        }
        assert_eq!(parts, ENOUGH / (SMALL - 1));
    }

    #[tokio::test(start_paused = true)]
    async fn small_parts_now_and_then_go_at_once() {
        let mut trickle = Trickle::new();
        for _ in 0..10_000 {
            tokio::time::advance(Duration::from_millis(25)).await;
            assert!(!trickle.waits(10));
            trickle.all_go();
        }
    }
}
