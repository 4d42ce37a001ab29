//! How many keys are asked for at once.
//!
//! Guarantees: the first page is small, so that a small directory is one quick answer; the next ones grow, since an
//! engine may count all the keys behind a page for each; none has more keys than a bound, nor more bytes than
//! another one by what the keys before it had; one that does not come is asked for again, smaller, and a small one not.

/// As many keys as the first page has.
pub const PAGE: usize = 1_000;
/// As many keys as a page has at most.
pub const LARGEST: usize = 50_000;
/// As many bytes of keys and values as a page is to have at most.
const BYTES: usize = 8 * 1024 * 1024;
/// By so much pages grow.
const GROWTH: usize = 10;
/// A page that has not come is asked for again with so much less.
const PART: usize = 8;

/// The pages of one reading.
#[derive(Debug)]
pub(super) struct Pages {
    limit: usize,
    most: usize,
}

impl Default for Pages {
    fn default() -> Self {
        Self {
            limit: PAGE,
            most: LARGEST,
        }
    }
}

// === impl Pages ===

impl Pages {
    /// As many keys as are asked for.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// One has come, with so many keys, which have so many bytes together with their values.
    pub(super) fn has_come(&mut self, keys: usize, bytes: usize) {
        let each = bytes / keys.max(1);
        let by_bytes = BYTES / each.max(1);
        let next = self.limit.saturating_mul(GROWTH).min(self.most);
        self.limit = next.min(by_bytes).max(1);
    }

    /// One has not come; whether a smaller one is asked for instead, of so many keys at least.
    pub(super) fn has_failed(&mut self, least: usize) -> bool {
        if self.limit <= least {
            return false;
        }
        self.limit = (self.limit / PART).max(least);
        self.most = self.limit;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_does_not_come_is_asked_for_again_smaller_until_it_is_small() {
        let mut pages = Pages::default();
        assert!(!pages.has_failed(PAGE), "it is small");
        pages.has_come(PAGE, 100 * PAGE);
        pages.has_come(PAGE, 100 * PAGE);
        assert_eq!(pages.limit(), LARGEST);
        assert!(pages.has_failed(PAGE));
        assert_eq!(pages.limit(), LARGEST / PART);
        // It does not grow to what has failed.
        pages.has_come(PAGE, 100 * PAGE);
        assert_eq!(pages.limit(), LARGEST / PART);
        assert!(pages.has_failed(PAGE) && !pages.has_failed(PAGE));
        assert_eq!(pages.limit(), PAGE);
        assert!((0..3).all(|_| pages.has_failed(1)));
        assert!(!pages.has_failed(1), "it is one key");
        assert_eq!(pages.limit(), 1);
    }

    #[test]
    fn pages_of_long_values_have_few_keys() {
        let mut pages = Pages::default();
        pages.has_come(2, BYTES / 2);
        assert_eq!(pages.limit(), 4);
        pages.has_come(2, 200);
        assert_eq!(pages.limit(), 40);
        pages.has_come(1, 2 * BYTES);
        assert_eq!(pages.limit(), 1);
        // What nothing was in tells nothing.
        pages.has_come(0, 0);
        assert_eq!(pages.limit(), GROWTH);
    }
}
