//! Lines of the log about what may happen very often.
//!
//! Guarantees: the first is said, and after that one a minute at most, which says how many there
//! were.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The time between two lines.
const INTERVAL: Duration = Duration::from_secs(60);

/// How often something has happened since it was said last.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    count: u64,
}

// === impl Seldom ===

impl Seldom {
    /// It has happened once more. The number of times since the last line, if this is worth one.
    pub(super) fn note(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        state.count += 1;
        if state.said.is_some_and(|said| now - said < INTERVAL) {
            return None;
        }
        state.said = Some(now);
        Some(std::mem::take(&mut state.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_said_once_and_counted_at_intervals() {
        let seldom = Seldom::default();
        assert_eq!(seldom.note(), Some(1));
        for _ in 0..1000 {
            assert_eq!(seldom.note(), None);
        }
        tokio::time::advance(INTERVAL).await;
        assert_eq!(seldom.note(), Some(1001));
        assert_eq!(seldom.note(), None);
    }
}
