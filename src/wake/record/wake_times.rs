//! How long an instance's wakes took lately.
//!
//! Guarantees: only wakes that ended with an answering instance count, the last eight of them; less
//! than three say nothing.

use std::time::Duration;

const KEPT: usize = 8;
const ENOUGH: usize = 3;

/// The last wakes' durations, oldest first.
#[derive(Debug, Clone, Default)]
pub struct WakeTimes(Vec<Duration>);

// === impl WakeTimes ===

impl WakeTimes {
    pub(in crate::wake) fn with(&self, took: Duration) -> Self {
        let mut times = self.0.clone();
        if times.len() == KEPT {
            times.remove(0);
        }
        times.push(took);
        Self(times)
    }

    /// The shortest of the recent wakes.
    pub fn fastest(&self) -> Option<Duration> {
        self.0
            .iter()
            .min()
            .copied()
            .filter(|_| self.0.len() >= ENOUGH)
    }

    /// The middle one of the recent wakes.
    pub fn usual(&self) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted
            .get(sorted.len() / 2)
            .copied()
            .filter(|_| self.0.len() >= ENOUGH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_wakes_say_something_and_the_ninth_replaces_the_first() {
        let ms = Duration::from_millis;
        let mut times = WakeTimes::default();
        for took in [1, 50] {
            times = times.with(ms(took));
        }
        assert_eq!((times.fastest(), times.usual()), (None, None));
        times = times.with(ms(30));
        assert_eq!(
            (times.fastest(), times.usual()),
            (Some(ms(1)), Some(ms(30)))
        );
        for _ in 0..7 {
            times = times.with(ms(40));
        }
        assert_eq!(
            (times.fastest(), times.usual()),
            (Some(ms(30)), Some(ms(40)))
        );
    }
}
