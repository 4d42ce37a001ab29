//! Names that get certificates because somebody asks for them.
//!
//! Guarantees: their number is bounded, and so is the rate at which new ones are ordered, which a clock
//! that is set back does not change; a client has a share of both, so that one that asks for all names
//! that it knows of leaves something to others; one that nobody has asked for in a week is let go of.

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

use crate::config::ClientShare;
use crate::names::ClientNetwork;

/// Names at once.
const MOST: usize = 10_000;
/// New names that may come at once, half of them from one client, and how far apart they are then: about as
/// much as Let's Encrypt takes of an account (300 in three hours).
const BURST: usize = 100;
const APART: SignedDuration = SignedDuration::from_secs(36);
/// A name is kept for so long after it was asked for.
const KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Asking again before this changes nothing.
const FRESH: SignedDuration = SignedDuration::from_hours(1);
/// Once half of the names are there, a client has at most half of what is left.
const SHARE: ClientShare = ClientShare::Half;

/// The names, and what of their bounds is taken.
#[derive(Debug, Default)]
pub(super) struct Demanded {
    names: BTreeMap<String, Asked>,
    /// How many names are counted to each client; none has zero.
    counts: BTreeMap<ClientNetwork, usize>,
    /// The sum of these.
    counted: usize,
    turns: Turns,
}

/// What is known of a name that a client has asked for, and whose instance exists.
#[derive(Debug)]
struct Asked {
    /// When that was last.
    at: Timestamp,
    /// The client that its place is counted to, if it is counted.
    counted: Option<ClientNetwork>,
}

/// The rate of new names.
#[derive(Debug, Default)]
struct Turns {
    /// When the last of the new names would have come, had all come evenly.
    even: Timestamp,
    /// Whose the last ones are; the first of them gives its turn back next.
    clients: VecDeque<ClientNetwork>,
}

// === impl Turns ===

impl Turns {
    /// Takes a turn for a client, unless all are taken or as many are its own as are left.
    fn take(&mut self, client: ClientNetwork, now: Timestamp) -> bool {
        // No further ahead than it can have come, but for a clock that was set back.
        let most = APART * i32::try_from(BURST).unwrap_or(i32::MAX);
        self.even = self.even.clamp(now, now + most);
        let ahead = self.even.duration_since(now).as_millis();
        let taken = ahead
            .unsigned_abs()
            .div_ceil(APART.as_millis().unsigned_abs());
        let taken = usize::try_from(taken).unwrap_or(BURST).min(BURST);
        let given_back = self.clients.len().saturating_sub(taken);
        self.clients.drain(..given_back);
        let own = self.clients.iter().filter(|of| **of == client).count();
        // Turns come back by themselves. Were half of them free for all, whoever asks most often would have those.
        if taken >= BURST || !SHARE.allows(2 * BURST, own, taken, 1) {
            return false;
        }
        self.even += APART;
        self.clients.push_back(client);
        true
    }
}

// === impl Demanded ===

impl Demanded {
    /// Whether a name has been asked for so lately that nothing is to be noted.
    pub(super) fn is_fresh(&self, name: &str, now: Timestamp) -> bool {
        let asked = self.names.get(name);
        asked.is_some_and(|asked| now.duration_since(asked.at) < FRESH)
    }

    /// Notes that a client asks for a name; whether it may have a certificate. `is_kept` says that it has
    /// one already, which costs no order.
    pub(super) fn ask(
        &mut self,
        name: &str,
        is_kept: bool,
        client: ClientNetwork,
        now: Timestamp,
    ) -> bool {
        if let Some(asked) = self.names.get_mut(name) {
            asked.at = now;
            return true;
        }
        let of_client = self.counts.get(&client).copied().unwrap_or_default();
        let is_free = self.names.len() < SHARE.free_for_all(MOST, self.counted);
        let counted = (!is_free).then_some(client);
        if self.names.len() >= MOST
            || !is_free && !SHARE.allows(MOST, of_client, self.counted, 1)
            || !is_kept && !self.turns.take(client, now)
        {
            return false;
        }
        if let Some(client) = counted {
            *self.counts.entry(client).or_default() += 1;
            self.counted += 1;
        }
        let asked = Asked { at: now, counted };
        self.names.insert(name.to_owned(), asked);
        true
    }

    /// Lets go of what nobody asks for any more.
    pub(super) fn forget_old(&mut self, now: Timestamp) {
        let Self {
            names,
            counts,
            counted,
            ..
        } = self;
        names.retain(|_, asked| {
            if now.duration_since(asked.at) < KEPT {
                return true;
            }
            if let Some(client) = asked.counted {
                *counted = counted.saturating_sub(1);
                let left = counts.remove(&client).unwrap_or_default();
                let left = left.saturating_sub(1);
                if left > 0 {
                    counts.insert(client, left);
                }
            }
            false
        });
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.names.keys()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn client(number: u8) -> ClientNetwork {
        IpAddr::from([10, 0, number, 1]).into()
    }

    /// How many of so many names a client gets.
    fn get(demanded: &mut Demanded, of: u8, names: usize, is_kept: bool, now: Timestamp) -> usize {
        let before = demanded.names.len();
        for number in 0..names {
            let name = format!("{number}-{before}.of-{of}.test");
            demanded.ask(&name, is_kept, client(of), now);
        }
        demanded.names.len() - before
    }

    #[test]
    fn new_names_come_at_a_rate_and_those_with_a_certificate_at_once() {
        let (mut demanded, now) = (Demanded::default(), Timestamp::now());
        assert!(demanded.ask("0.test", false, client(1), now));
        assert_eq!(get(&mut demanded, 1, 200, false, now), 49);
        assert!(
            demanded.ask("0.test", false, client(1), now),
            "it is not new"
        );
        assert_eq!(get(&mut demanded, 1, 200, true, now), 200);
        assert_eq!(get(&mut demanded, 1, 9, false, now + APART), 1);
        assert_eq!(get(&mut demanded, 1, 9, false, now + APART * 4), 3);
        assert_eq!(get(&mut demanded, 1, 200, false, now + APART * 1000), 50);
    }

    #[test]
    fn a_client_that_asks_for_all_that_it_may_leaves_turns_to_others() {
        let (mut demanded, mut now) = (Demanded::default(), Timestamp::now());
        assert_eq!(get(&mut demanded, 1, 500, false, now), 50);
        assert_eq!(get(&mut demanded, 2, 500, false, now), 25);
        assert_eq!(get(&mut demanded, 3, 5, false, now), 5);
        // However long and often it asks, somebody who wants one now and then gets it.
        for hour in 0..48 {
            for _ in 0..100 {
                now += APART;
                get(&mut demanded, 1, 2, false, now);
                get(&mut demanded, 2, 2, false, now);
            }
            assert_eq!(get(&mut demanded, 4, 3, false, now), 3, "{hour}");
        }
        assert!(demanded.turns.clients.len() <= BURST);
    }

    #[test]
    fn many_clients_have_no_more_turns_than_there_are() {
        let (mut demanded, now) = (Demanded::default(), Timestamp::now());
        let all = (0..=255).map(|of| get(&mut demanded, of, 100, false, now));
        assert_eq!(all.sum::<usize>(), BURST);
        let all = (0..=255).map(|of| get(&mut demanded, of, 100, false, now + APART));
        assert_eq!(all.sum::<usize>(), 1);
    }

    #[test]
    fn names_have_places_of_which_one_client_leaves_some() {
        let (mut demanded, now) = (Demanded::default(), Timestamp::now());
        assert_eq!(get(&mut demanded, 1, 20_000, true, now), MOST / 4 * 3);
        assert_eq!(get(&mut demanded, 2, 20_000, true, now), MOST / 8);
        let all = (3..=255).map(|of| get(&mut demanded, of, 2000, true, now));
        assert_eq!(all.sum::<usize>(), MOST / 8);
        assert_eq!(demanded.counted, MOST / 2);
        demanded.forget_old(now + KEPT);
        assert_eq!((demanded.names.len(), demanded.counted), (0, 0));
        assert!(demanded.counts.is_empty(), "nothing is left of who it was");
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_shut_new_names_out() {
        let (mut demanded, now) = (Demanded::default(), Timestamp::now());
        assert!(demanded.ask("one.test", false, client(1), now + FRESH * 48));
        assert!(
            !demanded.ask("two.test", false, client(1), now),
            "as if many had come"
        );
        assert!(demanded.ask("two.test", false, client(2), now + APART));
    }

    #[test]
    fn a_name_that_nobody_asks_for_is_let_go_of() {
        let (mut demanded, now) = (Demanded::default(), Timestamp::now());
        let one = client(1);
        assert!(demanded.ask("one.test", false, one, now));
        assert!(demanded.ask("two.test", false, one, now));
        assert!(demanded.is_fresh("one.test", now) && !demanded.is_fresh("one.test", now + FRESH));
        assert!(demanded.ask("two.test", false, one, now + FRESH));
        demanded.forget_old(now + KEPT);
        assert_eq!(demanded.names().collect::<Vec<_>>(), ["two.test"]);
    }
}
