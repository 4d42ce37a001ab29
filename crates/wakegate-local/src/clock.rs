//! The time of day, as a value that is handed to whoever needs it.
//!
//! Guarantees: nothing in this crate reads the time of day elsewhere, so that a test of minutes or
//! hours takes milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A clock; its clones show the same time.
#[derive(Debug, Clone, Default)]
pub struct Clock(Source);

#[derive(Debug, Clone, Default)]
enum Source {
    /// The machine's clock.
    #[default]
    System,
    /// The machine's, and this many nanoseconds more.
    Ahead(Arc<AtomicI64>),
    /// The time when the clock was made, and what has passed on tokio's clock since then.
    Runtime(Timestamp, Instant),
}

// === impl Clock ===

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// The machine's clock, which [`Clock::advance`] sets forward: for tests with real processes.
    pub fn adjustable() -> Self {
        Self(Source::Ahead(Arc::default()))
    }

    /// A clock that follows tokio's, which a test can pause: for tests without real processes.
    pub fn runtime() -> Self {
        Self(Source::Runtime(Timestamp::now(), Instant::now()))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::now(),
            Source::Ahead(nanos) => {
                let nanos = nanos.load(Ordering::Relaxed);
                later(Timestamp::now(), SignedDuration::from_nanos(nanos))
            }
            Source::Runtime(start, since) => {
                let passed = SignedDuration::try_from(since.elapsed());
                later(*start, passed.unwrap_or(SignedDuration::MAX))
            }
        }
    }

    /// Sets an adjustable clock forward; any other goes on as it does.
    pub fn advance(&self, by: Duration) {
        if let Source::Ahead(nanos) = &self.0 {
            let by = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
            nanos.fetch_add(by, Ordering::Relaxed);
        }
    }
}

fn later(start: Timestamp, by: SignedDuration) -> Timestamp {
    start.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_runtimes_clock_follows_paused_time() {
        let clock = Clock::runtime();
        let before = clock.now();
        assert_eq!(clock.now(), before, "it stands still");
        tokio::time::sleep(HOUR).await;
        let passed = clock.now().duration_since(before);
        assert_eq!(passed, SignedDuration::from_hours(1));
    }

    #[test]
    fn an_adjustable_clock_and_its_clones_are_set_forward_together() {
        let clock = Clock::adjustable();
        let (before, copy) = (clock.now(), clock.clone());
        clock.advance(HOUR);
        assert!(copy.now().duration_since(before) >= SignedDuration::from_hours(1));
        let system = Clock::system();
        system.advance(HOUR);
        assert!(system.now().duration_since(before) < SignedDuration::from_hours(1));
    }
}
