//! The bytes of requests' bodies that have come and that nobody has taken yet.
//!
//! Guarantees: beyond a few, they are in the gateway's budget from the head of their frame on
//! until whoever reads the body takes them; there are no more than the connection's window; those
//! of bodies that nobody reads any more count until the connection has no request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::flow::{Buffered, ClientBuffers};

/// What a connection may have in memory without being counted, in bytes: a small body changes no
/// count that connections share.
const FREE: usize = 16 * 1024;

/// The bytes, and their part of the budget.
#[derive(Debug)]
pub(super) struct Received {
    held: Mutex<Buffered>,
    /// To be looked at without the lock; changed by its holder.
    bytes: AtomicUsize,
}

// === impl Received ===

impl Received {
    pub(super) fn new(buffers: &ClientBuffers) -> Self {
        Self {
            held: Mutex::new(buffers.hold(0)),
            bytes: AtomicUsize::new(0),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// So many have come, of which `most` can be in memory.
    pub(super) fn come(&self, bytes: usize, most: usize) {
        let mut held = self.lock();
        let before = self.bytes();
        self.set(&mut held, before.max(most.min(before + bytes)));
    }

    /// So many were taken, or thrown away.
    pub(super) fn go(&self, bytes: usize) {
        if bytes > 0 {
            let mut held = self.lock();
            self.set(&mut held, self.bytes().saturating_sub(bytes));
        }
    }

    /// There are none.
    pub(super) fn clear(&self) {
        self.go(self.bytes());
    }

    fn lock(&self) -> MutexGuard<'_, Buffered> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, held: &mut Buffered, bytes: usize) {
        self.bytes.store(bytes, Ordering::Relaxed);
        let due = if bytes > FREE { bytes } else { 0 };
        match due.checked_sub(held.bytes()) {
            Some(more) => held.grow(more),
            None => held.shrink(held.bytes() - due),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::flow::BufferBudget;

    #[test]
    fn what_has_come_is_in_the_budget_until_it_is_taken_and_never_more_than_the_window() {
        let budget = BufferBudget::new(1 << 20);
        let received = Received::new(&budget.of(Ipv4Addr::LOCALHOST.into()));
        let window = 4 * FREE;
        received.come(3 * FREE, window);
        received.come(3 * FREE, window);
        assert_eq!((received.bytes(), budget.used()), (window, window));
        received.go(FREE);
        assert_eq!((received.bytes(), budget.used()), (3 * FREE, 3 * FREE));
        // The few of a small body are no client's.
        received.go(2 * FREE);
        assert_eq!((received.bytes(), budget.used()), (FREE, 0));
        // Bytes that were not counted beyond the window are taken, too.
        received.go(5 * FREE);
        assert_eq!((received.bytes(), budget.used()), (0, 0));
        received.come(2 * FREE, window);
        received.clear();
        assert_eq!(budget.used(), 0);
    }
}
