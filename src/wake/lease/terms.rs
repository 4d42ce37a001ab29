//! What an instance's policy means for its lease.
//!
//! Guarantees: whoever looks sees one moment of the terms, by one atomic load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the instance's policy means for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The policy's idle timeout; `None` when it never sleeps by itself.
    pub idle_timeout: Option<Duration>,
    /// Whether our connections count for it (an ignore list may leave them out).
    pub counts: bool,
}

/// The terms as one number, so that whoever looks sees one moment of them: nanoseconds of the idle timeout, and
/// whether connections count.
pub(super) struct Terms(AtomicU64);

/// Nanoseconds, as an epoch counts time.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

// === impl LeaseTerms ===

impl LeaseTerms {
    /// How much earlier than the server we take a lease to end: a second or a tenth, and half of a
    /// very short one.
    pub fn margin(idle_timeout: Duration) -> Duration {
        (idle_timeout / 10)
            .max(Duration::from_secs(1))
            .min(idle_timeout / 2)
    }
}

// === impl Terms ===

impl Terms {
    /// In place of an idle timeout.
    const NEVER: u64 = u64::MAX >> 1;

    pub(super) fn of(terms: LeaseTerms) -> Self {
        Self(AtomicU64::new(Self::packed(terms)))
    }

    fn packed(terms: LeaseTerms) -> u64 {
        let idle = terms.idle_timeout.map_or(Self::NEVER, nanos);
        idle.min(Self::NEVER) << 1 | u64::from(terms.counts)
    }

    pub(super) fn get(&self) -> LeaseTerms {
        let packed = self.0.load(Ordering::Acquire);
        let idle = packed >> 1;
        LeaseTerms {
            idle_timeout: (idle != Self::NEVER).then(|| Duration::from_nanos(idle)),
            counts: packed & 1 == 1,
        }
    }

    pub(super) fn set(&self, terms: LeaseTerms) {
        self.0.store(Self::packed(terms), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_read_as_they_were_set() {
        let terms = |idle_timeout, counts| LeaseTerms {
            idle_timeout,
            counts,
        };
        let kept = Terms::of(terms(None, true));
        assert_eq!(kept.get(), terms(None, true));
        for idle in [
            None,
            Some(Duration::ZERO),
            Some(Duration::from_nanos(1)),
            Some(Duration::from_secs(600)),
        ] {
            for counts in [true, false] {
                kept.set(terms(idle, counts));
                assert_eq!(kept.get(), terms(idle, counts));
            }
        }
        // What nobody lives to see is never.
        kept.set(terms(Some(Duration::MAX), true));
        assert_eq!(kept.get(), terms(None, true));
    }
}
