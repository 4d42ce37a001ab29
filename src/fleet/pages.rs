//! How many keys are asked for at once.
//!
//! Guarantees: the first page is small, so that a small directory is one quick answer; the next ones grow, since an
//! engine may count all the keys behind a page for each; none has more keys than a bound, nor more bytes than
//! another one by what the keys before it had; one that does not come is asked for again, smaller, and a small one not.

use super::engine::{EngineError, Page};

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

    /// This one has come.
    pub(super) fn has_come(&mut self, page: &Page) {
        let size = |(key, value): (usize, usize)| key + value;
        let sizes = page.entries.iter();
        let sizes = sizes.map(|entry| size((entry.key.len(), entry.value.len())));
        let each = sizes.sum::<usize>() / page.entries.len().max(1);
        let by_bytes = BYTES / each.max(1);
        let next = self.limit.saturating_mul(GROWTH).min(self.most);
        self.limit = next.min(by_bytes).max(1);
    }

    /// One has not come; whether a smaller one is asked for instead.
    pub(super) fn has_failed(&mut self, error: &EngineError) -> bool {
        let least = match error {
            // Whoever is away is away for a small one, too.
            EngineError::Unavailable(_) => PAGE,
            EngineError::TooLong(_) => 1,
            EngineError::Compacted(_) | EngineError::Refused(_) | EngineError::TooLarge(_) => {
                return false;
            }
        };
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
    use crate::fleet::engine::Entry;

    fn page(count: usize, bytes: usize) -> Page {
        let entry = Entry {
            key: "k".to_owned(),
            value: vec![0; bytes - 1],
            created: 1,
            modified: 1,
        };
        Page {
            entries: vec![entry; count],
            more: true,
            ..Page::default()
        }
    }

    #[test]
    fn one_that_does_not_come_is_asked_for_again_smaller_until_it_is_small() {
        let away = EngineError::Unavailable("away".to_owned());
        let mut pages = Pages::default();
        assert!(!pages.has_failed(&away), "it is small");
        pages.has_come(&page(PAGE, 100));
        pages.has_come(&page(PAGE, 100));
        assert_eq!(pages.limit(), LARGEST);
        assert!(!pages.has_failed(&EngineError::Compacted(7)));
        assert!(pages.has_failed(&away));
        assert_eq!(pages.limit(), LARGEST / PART);
        // It does not grow to what has failed.
        pages.has_come(&page(PAGE, 100));
        assert_eq!(pages.limit(), LARGEST / PART);
        assert!(pages.has_failed(&away) && !pages.has_failed(&away));
        assert_eq!(pages.limit(), PAGE);
        let long = EngineError::TooLong(1);
        assert!((0..3).all(|_| pages.has_failed(&long)));
        assert!(!pages.has_failed(&long), "it is one key");
        assert_eq!(pages.limit(), 1);
    }

    #[test]
    fn pages_of_long_values_have_few_keys() {
        let mut pages = Pages::default();
        pages.has_come(&page(2, BYTES / 4));
        assert_eq!(pages.limit(), 4);
        pages.has_come(&page(2, 100));
        assert_eq!(pages.limit(), 40);
        pages.has_come(&page(1, 2 * BYTES));
        assert_eq!(pages.limit(), 1);
        // What nothing was in tells nothing.
        pages.has_come(&page(0, 1));
        assert_eq!(pages.limit(), GROWTH);
    }
}
