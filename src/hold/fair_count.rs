//! A bounded count of which each client has a share.
//!
//! Guarantees: never more than the limit is taken; nobody passes its share ([`ClientShare`] has the
//! rule); what is given back leaves nothing behind. While the first half is not taken, taking and
//! giving back are one atomic step.
//!
//! [`ClientShare`]: crate::config::ClientShare

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::client_counts::{Bound, ClientCounts};
use crate::names::ClientNetwork;

/// What is taken, and how much of it by whom.
#[derive(Debug, Default)]
pub(super) struct FairCount {
    taken: AtomicUsize,
    counts: Mutex<ClientCounts>,
}

/// What a client took of a [`FairCount`], to be given back.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(super) struct Taken {
    amount: usize,
    /// The client, if it is counted to it.
    counted: Option<ClientNetwork>,
}

/// The reason for which nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shortage {
    /// There is not so much left.
    Full,
    /// The client has its share.
    OverShare,
}

// === impl FairCount ===

impl FairCount {
    fn lock(&self) -> MutexGuard<'_, ClientCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds unless that would go over `limit`.
    fn add_below(&self, amount: usize, limit: usize) -> bool {
        let add = |taken: usize| taken.checked_add(amount).filter(|taken| *taken <= limit);
        self.taken
            .fetch_update(Ordering::SeqCst, Ordering::Acquire, add)
            .is_ok()
    }

    /// Takes `amount` for a client.
    pub(super) fn take(
        &self,
        client: ClientNetwork,
        amount: usize,
        bound: Bound,
    ) -> Result<Taken, Shortage> {
        let counted = None;
        let for_all = bound.share.free_for_all(bound.limit, 0).min(bound.limit);
        if self.add_below(amount, for_all) {
            return Ok(Taken { amount, counted });
        }
        let mut counts = self.lock();
        if self.add_below(amount, counts.free_for_all(bound).min(bound.limit)) {
            return Ok(Taken { amount, counted });
        }
        let is_allowed = counts.allow(bound, counts.of(client), amount);
        if is_allowed && self.add_below(amount, bound.limit) {
            counts.add(client, amount);
            let counted = Some(client);
            return Ok(Taken { amount, counted });
        }
        let is_full = self.taken().saturating_add(amount) > bound.limit;
        Err(match is_full {
            true => Shortage::Full,
            false => Shortage::OverShare,
        })
    }

    pub(super) fn give_back(&self, taken: Taken) {
        let mut counts = None;
        if let Some(client) = taken.counted {
            counts.insert(self.lock()).subtract(client, taken.amount);
        }
        self.taken.fetch_sub(taken.amount, Ordering::AcqRel);
    }

    /// How much is taken.
    pub(super) fn taken(&self) -> usize {
        // Sequentially consistent, like taking: see `Endpoint::is_resting`.
        self.taken.load(Ordering::SeqCst)
    }

    #[cfg(test)]
    pub(super) fn is_as_new(&self) -> bool {
        self.taken() == 0 && self.lock().is_empty()
    }
}
