//! How many places are counted to each client.
//!
//! Guarantees: it remembers only clients to whom something is counted.

use std::collections::BTreeMap;

use crate::config::ClientShare;
use crate::names::ClientNetwork;

/// What is counted to clients.
#[derive(Debug, Default)]
pub(super) struct ClientCounts {
    counts: BTreeMap<ClientNetwork, usize>,
    in_all: usize,
}

/// A number of places, and one client's share of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bound {
    pub(super) limit: usize,
    pub(super) share: ClientShare,
}

// === impl ClientCounts ===

impl ClientCounts {
    /// What is counted to this client.
    pub(super) fn of(&self, client: ClientNetwork) -> usize {
        self.counts.get(&client).copied().unwrap_or_default()
    }

    /// While fewer than so many places are taken, the next is free for all.
    pub(super) fn free_for_all(&self, bound: Bound) -> usize {
        bound.share.free_for_all(bound.limit, self.in_all)
    }

    /// Whether a client to whom `of_client` are counted may have `amount` more.
    pub(super) fn allow(&self, bound: Bound, of_client: usize, amount: usize) -> bool {
        bound
            .share
            .allows(bound.limit, of_client, self.in_all, amount)
    }

    pub(super) fn add(&mut self, client: ClientNetwork, amount: usize) {
        *self.counts.entry(client).or_default() += amount;
        self.in_all += amount;
    }

    pub(super) fn subtract(&mut self, client: ClientNetwork, amount: usize) {
        if let Some(count) = self.counts.get_mut(&client) {
            *count = count.saturating_sub(amount);
            if *count == 0 {
                self.counts.remove(&client);
            }
        }
        self.in_all = self.in_all.saturating_sub(amount);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.in_all == 0
    }
}
