//! What one connection has in memory of one kind, where most connections have little.
//!
//! Guarantees: bytes up to a free size change no count that connections share; those beyond it are
//! in the gateway's budget, in steps of [`STEP`]; whoever asks first is refused what its client may
//! not have.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::buffers::{Buffered, ClientBuffers};

/// What is taken from the budget and given back to it at once, in bytes.
const STEP: usize = 16 * 1024;

/// The bytes of one connection.
#[derive(Debug)]
pub struct Account {
    client: ClientBuffers,
    free: usize,
    bytes: AtomicUsize,
    /// As many are free or in the budget; the lock's holder changes it.
    covered: AtomicUsize,
    held: Mutex<Buffered>,
}

// === impl Account ===

impl Account {
    /// An account whose first `free` bytes do not count.
    pub fn new(client: &ClientBuffers, free: usize) -> Self {
        Self {
            client: client.clone(),
            free,
            bytes: AtomicUsize::new(0),
            covered: AtomicUsize::new(free),
            held: Mutex::new(client.hold(0)),
        }
    }

    /// The bytes in memory, those that are free among them.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    /// Counts so many more, unless the client may not have them; whether it may.
    pub fn try_add(&self, bytes: usize) -> bool {
        let after = self.bytes().saturating_add(bytes);
        let beyond = after.saturating_sub(self.covered.load(Ordering::Acquire));
        if beyond > 0 && !self.client.has_room_for_head(beyond) {
            self.client.note_refused();
            return false;
        }
        self.add(bytes);
        true
    }

    /// Counts so many more, which are in memory now.
    pub fn add(&self, bytes: usize) {
        let after = self.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if after > self.covered.load(Ordering::Acquire) {
            self.settle();
        }
    }

    /// So many are in memory no longer.
    pub fn subtract(&self, bytes: usize) {
        let left = self.bytes.fetch_sub(bytes, Ordering::AcqRel) - bytes;
        let covered = self.covered.load(Ordering::Acquire);
        // One that comes and goes at the edge of a step moves nothing.
        if covered > self.free && (left == 0 || left + 2 * STEP < covered) {
            self.settle();
        }
    }

    /// Takes as many steps from the budget as there are bytes beyond those that are free.
    fn settle(&self) {
        let mut held = self.lock();
        let beyond = self.bytes().saturating_sub(self.free);
        held.set(beyond.next_multiple_of(STEP));
        self.covered
            .store(self.free + held.bytes(), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Buffered> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::BufferBudget;

    const FREE: usize = 2 * STEP;

    #[test]
    fn what_is_free_is_not_in_the_budget_and_what_is_beyond_it_is_until_it_goes() {
        let budget = BufferBudget::new(64 * STEP);
        let account = Account::new(&budget.of(Ipv4Addr::LOCALHOST.into()), FREE);
        account.add(FREE);
        assert_eq!(budget.used(), 0);
        account.add(1);
        assert_eq!(budget.used(), STEP);
        account.subtract(1);
        account.subtract(FREE);
        assert_eq!((account.bytes(), budget.used()), (0, 0));
    }

    #[test]
    fn a_client_without_room_keeps_what_is_free_and_is_refused_more() {
        let budget = BufferBudget::new(64 * STEP);
        let client = budget.of(Ipv4Addr::LOCALHOST.into());
        let all = client.hold(64 * STEP);
        let account = Account::new(&client, FREE);
        assert!(account.try_add(FREE) && !account.try_add(1));
        assert_eq!((account.bytes(), budget.refused()), (FREE, 1));
        // What is in memory already counts all the same.
        account.add(1);
        assert_eq!(budget.used(), 65 * STEP);
        drop(all);
        assert!(account.try_add(1));
        drop(account);
        assert_eq!(budget.used(), 0);
    }

    proptest! {
        #[test]
        fn the_budget_has_what_is_beyond_the_free_size_and_little_more(
            steps in prop::collection::vec((any::<bool>(), 0..3 * STEP), 1..100),
        ) {
            let budget = BufferBudget::new(1 << 30);
            let account = Account::new(&budget.of(Ipv4Addr::LOCALHOST.into()), FREE);
            for (is_more, bytes) in steps {
                match is_more {
                    true => account.add(bytes),
                    false => account.subtract(bytes.min(account.bytes())),
                }
                let beyond = account.bytes().saturating_sub(FREE);
                prop_assert!(budget.used() >= beyond);
                prop_assert!(budget.used() <= beyond + 3 * STEP);
            }
        }
    }
}
