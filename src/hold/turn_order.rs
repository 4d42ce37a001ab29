//! Who of those that wait for a place at an instance is next.
//!
//! Guarantees: one client's requests go in the order of arrival, and clients take turns, so that
//! one client's crowd does not keep another's request waiting; whoever is over its client's share,
//! or whose own limit is reached, is passed over and keeps its turn; an earlier request whose
//! instance is not ready for it yet keeps its place, for a step. Each event costs a number of steps
//! that does not grow with those who wait, but for the logarithm of the sorted sets.
//!
//! A request's turn is fixed when it joins: a round, and its number within it. The round is the one
//! that goes now, or the one after its client's last (start-time fair queueing). One client's
//! requests have a round each; many clients' first ones share one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::client_counts::{Bound, ClientCounts};
use crate::names::ClientNetwork;

/// For at most so many earlier requests that are not ready a place is kept.
const KEPT_AT_MOST: usize = 64;

/// A round, and the number of the request within the gate.
type Turn = (u64, u64);

/// Those who are ready and may go under the same conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    /// How many may be inside for it to go.
    pub(super) limit: usize,
    /// The instance's places, and a client's share of them.
    pub(super) bound: Bound,
}

/// The client to which a place is counted, if it is.
pub(super) type Counted = Option<ClientNetwork>;

/// Those who wait, in their order.
#[derive(Default)]
pub(super) struct TurnOrder {
    waiting: BTreeMap<u64, Waiter>,
    unready: BTreeSet<Turn>,
    /// Of each lane, the first of each client, by the number of places counted to the client.
    lanes: BTreeMap<Lane, BTreeMap<usize, BTreeSet<(Turn, ClientNetwork)>>>,
    clients: BTreeMap<ClientNetwork, WaitingClient>,
    counts: ClientCounts,
    arrivals: u64,
    round: u64,
    #[cfg(test)]
    pub(super) steps: std::cell::Cell<u64>,
}

struct Waiter {
    turn: Turn,
    client: ClientNetwork,
    joined_at: Instant,
    /// `None` while its instance is not ready for it.
    lane: Option<Lane>,
    go: oneshot::Sender<Counted>,
}

/// For whom a place is kept though its instance is not ready for it.
pub(super) struct KeptPlaces {
    /// Since when the instance is awake.
    pub(super) opened_at: Instant,
    /// How long a place is kept.
    pub(super) step: Duration,
    pub(super) now: Instant,
}

/// A client of whom somebody waits.
#[derive(Default)]
struct WaitingClient {
    waiting: usize,
    next_round: u64,
    ready: BTreeMap<Lane, BTreeSet<Turn>>,
}

// === impl TurnOrder ===

impl TurnOrder {
    /// A request of `client` waits; its number, by which it is called from now on.
    pub(super) fn join(&mut self, client: ClientNetwork, go: oneshot::Sender<Counted>) -> u64 {
        let turn = self.next_turn(client);
        self.arrivals = turn.1;
        let entry = self.clients.entry(client).or_default();
        entry.waiting += 1;
        entry.next_round = turn.0 + 1;
        self.unready.insert(turn);
        let waiter = Waiter {
            turn,
            client,
            joined_at: Instant::now(),
            lane: None,
            go,
        };
        self.waiting.insert(turn.1, waiter);
        turn.1
    }

    /// The turn of a request of `client` that joins now.
    fn next_turn(&self, client: ClientNetwork) -> Turn {
        let of_client = self.clients.get(&client);
        let round = of_client.map_or(0, |client| client.next_round);
        (round.max(self.round), self.arrivals + 1)
    }

    /// The instance is ready for this request, which may go under the conditions of `lane`; whether
    /// that is new.
    pub(super) fn set_lane(&mut self, number: u64, lane: Lane) -> bool {
        let Some(waiter) = self.waiting.get_mut(&number) else {
            return false;
        };
        let (turn, client) = (waiter.turn, waiter.client);
        let before = waiter.lane.replace(lane);
        if before == Some(lane) {
            return false;
        }
        self.unready.remove(&turn);
        self.relist(client, |client, _| {
            client.leave_lane(before, turn);
            client.ready.entry(lane).or_default().insert(turn);
        });
        true
    }

    /// It waits no longer; whether it still did.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        self.take_out(number, None).is_some()
    }

    /// Lets it go, with a place that is counted to its client or not.
    pub(super) fn let_go(&mut self, number: u64, is_counted: bool) {
        if let Some((waiter, counted)) = self.take_out(number, Some(is_counted)) {
            self.round = self.round.max(waiter.turn.0);
            // A permit leaves the order before it is gone, so somebody is there to read it.
            let _read = waiter.go.send(counted);
        }
    }

    fn take_out(&mut self, number: u64, goes: Option<bool>) -> Option<(Waiter, Counted)> {
        let waiter = self.waiting.remove(&number)?;
        let counted = goes.and_then(|is_counted| is_counted.then_some(waiter.client));
        self.unready.remove(&waiter.turn);
        self.relist(waiter.client, |client, counts| {
            client.waiting -= 1;
            client.leave_lane(waiter.lane, waiter.turn);
            if let Some(client) = counted {
                counts.add(client, 1);
            }
        });
        if self.waiting.is_empty() {
            // An empty tree keeps a node: kilobytes for each instance that was woken once.
            (self.waiting, self.unready) = (BTreeMap::new(), BTreeSet::new());
            (self.lanes, self.clients) = (BTreeMap::new(), BTreeMap::new());
        }
        Some((waiter, counted))
    }

    /// A client that does not wait takes a place, which is counted to it.
    pub(super) fn count(&mut self, client: ClientNetwork) {
        self.relist(client, |_, counts| counts.add(client, 1));
    }

    /// A place that was counted to a client is free.
    pub(super) fn give_back(&mut self, client: ClientNetwork) {
        self.relist(client, |_, counts| counts.subtract(client, 1));
    }

    /// Changes something about a client, and where its first requests stand in their lanes.
    fn relist(
        &mut self,
        client: ClientNetwork,
        change: impl FnOnce(&mut WaitingClient, &mut ClientCounts),
    ) {
        let Some(entry) = self.clients.get_mut(&client) else {
            change(&mut WaitingClient::default(), &mut self.counts);
            return;
        };
        let counted = self.counts.of(client);
        for (lane, first) in entry.firsts() {
            if let Some(buckets) = self.lanes.get_mut(&lane) {
                if let Some(bucket) = buckets.get_mut(&counted) {
                    bucket.remove(&(first, client));
                    if bucket.is_empty() {
                        buckets.remove(&counted);
                    }
                }
                if buckets.is_empty() {
                    self.lanes.remove(&lane);
                }
            }
        }
        change(entry, &mut self.counts);
        let counted = self.counts.of(client);
        for (lane, first) in entry.firsts() {
            let buckets = self.lanes.entry(lane).or_default();
            buckets.entry(counted).or_default().insert((first, client));
        }
        if entry.waiting == 0 {
            self.clients.remove(&client);
        }
    }

    /// Who goes next while so many are inside, of which at most `window` may be, and whether its
    /// place is to be counted to its client.
    pub(super) fn next(
        &self,
        inside: usize,
        window: Option<usize>,
        keep: &KeptPlaces,
    ) -> Option<(u64, bool)> {
        if window.is_some_and(|window| inside >= window) {
            return None;
        }
        let mut next: Option<(Turn, bool)> = None;
        for (lane, buckets) in &self.lanes {
            self.count_steps(1);
            let most = window.map_or(lane.limit, |window| window.min(lane.limit));
            if inside >= most {
                continue;
            }
            let is_free = inside < self.counts.free_for_all(lane.bound);
            let allowed = buckets.iter().take_while(|(counted, _)| {
                self.count_steps(1);
                self.may_have_one(lane.bound, inside, **counted)
            });
            let firsts = allowed.filter_map(|(_, bucket)| bucket.first());
            let Some((turn, _)) = firsts.min() else {
                continue;
            };
            let is_first = next.is_none_or(|(first, _)| *turn < first);
            if is_first && inside + self.kept_before(*turn, lane.bound, inside, keep) < most {
                next = Some((*turn, !is_free));
            }
        }
        next.map(|(turn, is_counted)| (turn.1, is_counted))
    }

    /// Whether a request of `client` that joins now would go at once; then, whether its place is to
    /// be counted to it.
    pub(super) fn admits(
        &self,
        client: ClientNetwork,
        inside: usize,
        lane: Lane,
        keep: &KeptPlaces,
    ) -> Option<bool> {
        let Lane { limit, bound } = lane;
        let turn = self.next_turn(client);
        let goes = self.may_have_one(bound, inside, self.counts.of(client))
            && inside < limit
            && inside + self.kept_before(turn, bound, inside, keep) < limit;
        goes.then(|| inside >= self.counts.free_for_all(bound))
    }

    /// Whether a client to whom `of_client` places are counted may have one more.
    fn may_have_one(&self, bound: Bound, inside: usize, of_client: usize) -> bool {
        inside < self.counts.free_for_all(bound) || self.counts.allow(bound, of_client, 1)
    }

    /// The places that are kept for requests before this one. None is for a client that has its
    /// share.
    fn kept_before(&self, turn: Turn, bound: Bound, inside: usize, keep: &KeptPlaces) -> usize {
        let earlier = self.unready.range(..turn).take(KEPT_AT_MOST);
        earlier
            .filter(|(_, number)| {
                self.count_steps(1);
                let waiter = self.waiting.get(number);
                waiter.is_some_and(|waiter| {
                    keep.applies_to(waiter.joined_at)
                        && self.may_have_one(bound, inside, self.counts.of(waiter.client))
                })
            })
            .count()
    }

    /// Whether it is the client's share alone that keeps this request waiting.
    pub(super) fn is_over_share(&self, number: u64, inside: usize) -> bool {
        let Some(waiter) = self.waiting.get(&number) else {
            return false;
        };
        waiter.lane.is_some_and(|lane| {
            let of_client = self.counts.of(waiter.client);
            inside < lane.limit && !self.may_have_one(lane.bound, inside, of_client)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    #[cfg(test)]
    pub(super) fn is_as_new(&self) -> bool {
        self.is_empty()
            && self.unready.is_empty()
            && self.lanes.is_empty()
            && self.clients.is_empty()
            && self.counts.is_empty()
    }

    #[cfg(test)]
    fn count_steps(&self, steps: u64) {
        self.steps.set(self.steps.get() + steps);
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests count what an event costs")]
    const fn count_steps(&self, _: u64) {}
}

// === impl KeptPlaces ===

impl KeptPlaces {
    fn applies_to(&self, joined_at: Instant) -> bool {
        joined_at.max(self.opened_at) + self.step > self.now
    }
}

// === impl WaitingClient ===

impl WaitingClient {
    /// Its first request in each lane.
    fn firsts(&self) -> impl Iterator<Item = (Lane, Turn)> + '_ {
        let firsts = self.ready.iter();
        firsts.filter_map(|(lane, turns)| turns.first().map(|first| (*lane, *first)))
    }

    fn leave_lane(&mut self, lane: Option<Lane>, turn: Turn) {
        let Some(lane) = lane else { return };
        if let Some(turns) = self.ready.get_mut(&lane) {
            turns.remove(&turn);
            if turns.is_empty() {
                self.ready.remove(&lane);
            }
        }
    }
}
