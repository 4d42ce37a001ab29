//! The bytes of requests' bodies that have come and that nobody has taken yet.
//!
//! Guarantees: they are in the gateway's budget from the head of their frame on until whoever reads
//! the body takes them; there are no more than the connection's window; those of bodies that nobody
//! reads any more count until the connection has no request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::flow::{Buffered, ClientBuffers};

/// The bytes, and their part of the budget.
#[derive(Debug)]
pub(super) struct Received {
    /// The connection's window.
    window: usize,
    held: Mutex<Buffered>,
    /// The same number as `held`'s, to be looked at without the lock.
    bytes: AtomicUsize,
    /// The task that reads from the client, while it waits until there are fewer.
    reader: AtomicWaker,
}

// === impl Received ===

impl Received {
    /// None yet; no more than `window` can be in the library's hands.
    pub(super) fn new(buffers: &ClientBuffers, window: usize) -> Self {
        Self {
            window,
            held: Mutex::new(buffers.hold(0)),
            bytes: AtomicUsize::new(0),
            reader: AtomicWaker::new(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ready when there are fewer than `limit`; else the task is woken whenever some go.
    pub(super) fn poll_below(&self, limit: usize, cx: &Context<'_>) -> Poll<()> {
        if self.bytes() < limit {
            return Poll::Ready(());
        }
        self.reader.register(cx.waker());
        match self.bytes() < limit {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Whether there are so many that the client may not be able to send more of any body.
    pub(super) fn fill_window(&self, of_stream: usize) -> bool {
        self.bytes() + of_stream > self.window
    }

    /// So many have come.
    pub(super) fn come(&self, bytes: usize) {
        let mut held = self.lock();
        let room = self.window.saturating_sub(held.bytes());
        held.grow(bytes.min(room));
        self.note(&held);
    }

    /// So many were taken, or thrown away.
    pub(super) fn go(&self, bytes: usize) {
        if bytes > 0 {
            let mut held = self.lock();
            held.shrink(bytes);
            self.note(&held);
            self.reader.wake();
        }
    }

    /// There are none.
    pub(super) fn clear(&self) {
        self.go(self.bytes());
    }

    fn lock(&self) -> MutexGuard<'_, Buffered> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, held: &Buffered) {
        self.bytes.store(held.bytes(), Ordering::Relaxed);
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
        let received = Received::new(&budget.of(Ipv4Addr::LOCALHOST.into()), 1000);
        received.come(700);
        received.come(700);
        assert_eq!((received.bytes(), budget.used()), (1000, 1000));
        received.go(400);
        assert_eq!((received.bytes(), budget.used()), (600, 600));
        // Bytes that were not counted beyond the window are taken, too.
        received.go(900);
        assert_eq!((received.bytes(), budget.used()), (0, 0));
        received.come(5);
        received.clear();
        assert_eq!(budget.used(), 0);
    }
}
