//! What is in the way of something that is tried again and again.
//!
//! Guarantees: a problem is news once when it appears, and once when it is gone.

use std::collections::BTreeSet;

/// The problems that there were last.
#[derive(Debug, Default)]
pub(super) struct Problems(BTreeSet<String>);

/// The difference between the problems of two looks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) appeared: Vec<String>,
    pub(super) gone: Vec<String>,
}

/// The reason why a call fails, while it does.
#[derive(Debug, Default)]
pub(super) struct Trouble(Option<String>);

// === impl Problems ===

impl Problems {
    /// Takes note of what is in the way now.
    pub(super) fn update(&mut self, current: impl IntoIterator<Item = String>) -> Changes {
        let current: BTreeSet<String> = current.into_iter().collect();
        let changes = Changes {
            appeared: current.difference(&self.0).cloned().collect(),
            gone: self.0.difference(&current).cloned().collect(),
        };
        self.0 = current;
        changes
    }
}

// === impl Trouble ===

impl Trouble {
    /// Takes note of how a call ended; whether that differs from the last time.
    pub(super) fn update(&mut self, error: Option<&hypeman::Error>) -> bool {
        // The server's own words may differ each time.
        let reason = error.map(|error| match error.status() {
            Some(status) => format!("{status} {}", error.code()),
            None => format!("{:?}", error.outcome()),
        });
        let is_news = self.0 != reason;
        self.0 = reason;
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_reported_when_it_appears_and_when_it_is_gone() {
        let mut problems = Problems::default();
        let changes = |appeared: &[&str], gone: &[&str]| Changes {
            appeared: appeared.iter().map(ToString::to_string).collect(),
            gone: gone.iter().map(ToString::to_string).collect(),
        };
        let mut update =
            |current: &[&str]| problems.update(current.iter().map(ToString::to_string));
        assert_eq!(update(&[]), Changes::default());
        assert_eq!(update(&["a", "b", "a"]), changes(&["a", "b"], &[]));
        assert_eq!(update(&["b", "a"]), Changes::default());
        assert_eq!(update(&["b", "c"]), changes(&["c"], &["a"]));
        assert_eq!(update(&[]), changes(&[], &["b", "c"]));
        assert_eq!(update(&["a"]), changes(&["a"], &[]));
    }

    #[test]
    fn a_call_that_goes_on_failing_in_the_same_way_is_no_news() {
        let refused = |status, message: &str| hypeman::Error::Api {
            op: "ingress_list",
            status,
            code: "forbidden".to_owned(),
            message: message.to_owned(),
            from_api: true,
            retry_after: None,
        };
        let mut trouble = Trouble::default();
        assert!(!trouble.update(None), "it works from the start");
        assert!(trouble.update(Some(&refused(403, "request 1"))));
        assert!(!trouble.update(Some(&refused(403, "request 2"))));
        assert!(trouble.update(Some(&refused(500, "request 3"))));
        assert!(trouble.update(None), "it works again");
        assert!(!trouble.update(None));
    }
}
