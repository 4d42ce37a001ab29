//! The pauses between attempts: each is twice the one before, up to a limit.
//!
//! Guarantees: no pause is longer than the limit; without jitter no pause is shorter than the one
//! before; jitter only shortens a pause, and by no more than its share, so that many who failed in
//! the same moment do not come back in the same moment; the same random numbers give the same
//! pauses.

use std::time::Duration;

/// How pauses grow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    jitter: f64,
}

/// The pauses of one row of attempts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pauses {
    backoff: Backoff,
    next: Duration,
}

// === impl Backoff ===

impl Backoff {
    /// Pauses from `first` to `limit`, without jitter.
    pub const fn new(first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            jitter: 0.0,
        }
    }

    /// The same pauses, each shortened by a random share of up to `jitter` (between 0 and 1).
    #[must_use]
    pub const fn with_jitter(self, jitter: f64) -> Self {
        Self {
            jitter: jitter.clamp(0.0, 1.0),
            ..self
        }
    }

    /// The pause after so many earlier ones, without jitter.
    pub fn nth(&self, earlier: u32) -> Duration {
        self.first
            .saturating_mul(2_u32.saturating_pow(earlier))
            .min(self.limit)
    }

    /// A pause with its jitter; `random` is at least 0 and less than 1.
    pub fn jittered(&self, pause: Duration, random: f64) -> Duration {
        pause.mul_f64(1.0 - self.jitter + random.clamp(0.0, 1.0) * self.jitter)
    }

    /// The pauses from the first one on.
    pub const fn pauses(self) -> Pauses {
        Pauses {
            backoff: self,
            next: self.first,
        }
    }
}

// === impl Pauses ===

impl Pauses {
    /// The next pause; `random` gives numbers from 0 to less than 1.
    pub fn advance(&mut self, random: impl FnOnce() -> f64) -> Duration {
        let limit = self.backoff.limit;
        let pause = self.next.min(limit);
        self.next = pause.saturating_mul(2).min(limit);
        self.backoff.jittered(pause, random())
    }

    /// Makes the next pause, before its jitter, no shorter than this, nor longer than the limit.
    pub fn raise_to(&mut self, least: Duration) {
        self.next = self.next.max(least);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MANY: usize = 40;

    fn row(backoff: Backoff, seed: u64) -> Vec<Duration> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut pauses = backoff.pauses();
        (0..MANY).map(|_| pauses.advance(|| random.f64())).collect()
    }

    fn any_backoff() -> impl Strategy<Value = Backoff> {
        (1_u64..2_000, 1_u64..60_000, 0.0_f64..1.0).prop_map(|(first, limit, jitter)| {
            let ms = Duration::from_millis;
            Backoff::new(ms(first), ms(limit)).with_jitter(jitter)
        })
    }

    proptest! {
        #[test]
        fn no_pause_is_longer_than_the_limit(backoff in any_backoff(), seed: u64) {
            prop_assert!(row(backoff, seed).iter().all(|pause| *pause <= backoff.limit));
        }

        #[test]
        fn pauses_grow_to_the_limit_and_stay_there(backoff in any_backoff(), seed: u64) {
            let plain = row(backoff.with_jitter(0.0), seed);
            prop_assert!(plain.is_sorted());
            prop_assert_eq!(plain.last(), Some(&backoff.limit));
            for (earlier, pause) in (0_u32..).zip(plain) {
                prop_assert_eq!(pause, backoff.nth(earlier));
            }
        }

        #[test]
        fn jitter_takes_no_more_than_its_share(backoff in any_backoff(), seed: u64) {
            for (earlier, pause) in (0_u32..).zip(row(backoff, seed)) {
                let whole = backoff.nth(earlier);
                let least = whole.mul_f64(1.0 - backoff.jitter);
                prop_assert!(pause <= whole, "{pause:?} of {whole:?}");
                prop_assert!(pause + Duration::from_nanos(1) >= least, "{pause:?} of {whole:?}");
            }
        }

        #[test]
        fn the_same_random_numbers_give_the_same_pauses(backoff in any_backoff(), seed: u64) {
            prop_assert_eq!(row(backoff, seed), row(backoff, seed));
        }

        #[test]
        fn a_raised_pause_is_the_next_one_and_the_limit_holds(backoff in any_backoff(), ms: u64) {
            let least = Duration::from_millis(ms % 100_000);
            let mut pauses = backoff.with_jitter(0.0).pauses();
            pauses.raise_to(least);
            let pause = pauses.advance(|| 0.0);
            prop_assert_eq!(pause, least.max(backoff.first).min(backoff.limit));
        }
    }
}
