//! Names that get certificates because somebody asks for them.
//!
//! Guarantees: their number is bounded, and so is the rate at which new ones are ordered, which a clock
//! that is set back does not change; one that nobody has asked for in a week is let go of.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// Names at once.
const MOST: usize = 10_000;
/// New names that may come at once, and how far apart they are then: about as much as Let's Encrypt
/// takes of an account (300 in three hours).
const BURST: i32 = 50;
const APART: SignedDuration = SignedDuration::from_secs(36);
/// A name is kept for so long after it was asked for.
const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Asking again before this changes nothing.
const FRESH: SignedDuration = SignedDuration::from_hours(1);

/// The names, and when each was last asked for by a client whose instance exists.
#[derive(Debug, Default)]
pub(super) struct Demanded {
    names: BTreeMap<String, Timestamp>,
    /// When the last of the new names would have come, had all come evenly.
    even: Timestamp,
}

// === impl Demanded ===

impl Demanded {
    /// Whether a name has been asked for so lately that nothing is to be noted.
    pub(super) fn is_fresh(&self, name: &str, now: Timestamp) -> bool {
        let asked = self.names.get(name);
        asked.is_some_and(|asked| now.duration_since(*asked) < FRESH)
    }

    /// Notes that a name is asked for; whether it may have a certificate. `is_kept` says that it has
    /// one already, which costs no order.
    pub(super) fn ask(&mut self, name: &str, is_kept: bool, now: Timestamp) -> bool {
        if let Some(asked) = self.names.get_mut(name) {
            *asked = now;
            return true;
        }
        if self.names.len() >= MOST {
            return false;
        }
        if !is_kept {
            // No further ahead than it can have come, but for a clock that was set back.
            self.even = self.even.clamp(now, now + APART * BURST);
            if self.even.duration_since(now) > APART * (BURST - 1) {
                return false;
            }
            self.even += APART;
        }
        self.names.insert(name.to_owned(), now);
        true
    }

    /// Lets go of what nobody asks for any more.
    pub(super) fn forget_old(&mut self, now: Timestamp) {
        self.names
            .retain(|_, asked| now.duration_since(*asked) < KEPT);
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_names_come_at_a_rate_and_those_with_a_certificate_at_once() {
        let (mut demanded, now) = (Demanded::default(), Timestamp::now());
        let come = (0..200).filter(|number| demanded.ask(&format!("{number}.test"), false, now));
        assert_eq!(come.count(), 50);
        assert!(demanded.ask("0.test", false, now), "it is not new");
        assert!(demanded.ask("kept.test", true, now));
        assert!(demanded.ask("later.test", false, now + APART));
        assert!(!demanded.ask("too-early.test", false, now + APART));
        let some = (0..20_000).filter(|number| demanded.ask(&format!("{number}.org"), true, now));
        assert_eq!(some.count(), MOST - 52);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_shut_new_names_out() {
        let (mut demanded, now) = (Demanded::default(), Timestamp::now());
        assert!(demanded.ask("one.test", false, now + FRESH * 48));
        assert!(!demanded.ask("two.test", false, now), "as if many had come");
        assert!(demanded.ask("two.test", false, now + APART));
    }

    #[test]
    fn a_name_that_nobody_asks_for_is_let_go_of() {
        let (mut demanded, now) = (Demanded::default(), Timestamp::now());
        assert!(demanded.ask("one.test", false, now) && demanded.ask("two.test", false, now));
        assert!(demanded.is_fresh("one.test", now) && !demanded.is_fresh("one.test", now + FRESH));
        assert!(demanded.ask("two.test", false, now + FRESH));
        demanded.forget_old(now + KEPT);
        assert_eq!(demanded.names().collect::<Vec<_>>(), ["two.test"]);
    }
}
