//! The bytes of requests' bodies that have come and that nobody has taken yet.
//!
//! Guarantees: beyond a few, they are in the gateway's budget from the head of their frame on
//! until whoever reads the body takes them; there are no more than the connection's window; those
//! of bodies that nobody reads any more count until the connection has no request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::starved::Starved;
use crate::flow::{Buffered, ClientBuffers, Place};

/// What a connection may have in memory without being counted, in bytes: a small body changes no
/// count that connections share.
const FREE: usize = 16 * 1024;
/// What a connection may have in memory even while its client has its share: so that each moves.
pub(super) const FREE_RECEIVED: usize = 64 * 1024;

/// The bytes, and their part of the budget.
#[derive(Debug)]
pub(super) struct Received {
    /// The connection's window.
    window: usize,
    held: Mutex<Buffered>,
    /// To be looked at without the lock; changed by its holder.
    bytes: AtomicUsize,
    /// The task that reads from the client, while it waits until there are fewer.
    reader: AtomicWaker,
    /// The bodies whose windows wait until there are few.
    starved: Starved,
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
            starved: Starved::default(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
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
        let before = self.bytes();
        self.set(&mut held, before.max(self.window.min(before + bytes)));
    }

    /// So many were taken, or thrown away.
    pub(super) fn go(&self, bytes: usize) {
        if bytes > 0 {
            let mut held = self.lock();
            let before = self.bytes();
            self.set(&mut held, before.saturating_sub(bytes));
            self.reader.wake();
            if before >= FREE_RECEIVED && self.bytes() < FREE_RECEIVED {
                self.starved.wake();
            }
        }
    }

    /// Ready while there are few, or the client may have more in memory; else the task of `stream` is
    /// woken when it may.
    pub(super) fn poll_room(
        &self,
        stream: usize,
        room: (&ClientBuffers, &mut Place),
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let are_few = || self.bytes() < FREE_RECEIVED;
        self.starved.poll_room(stream, are_few, room, cx)
    }

    /// The stream is over.
    pub(super) fn forget(&self, stream: usize) {
        self.starved.forget(stream);
    }

    /// There are none.
    pub(super) fn clear(&self) {
        self.go(self.bytes());
    }

    fn lock(&self) -> MutexGuard<'_, Buffered> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, held: &mut Buffered, bytes: usize) {
        self.bytes.store(bytes, Ordering::SeqCst);
        held.set(if bytes > FREE { bytes } else { 0 });
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
        let window = 4 * FREE;
        let received = Received::new(&budget.of(Ipv4Addr::LOCALHOST.into()), window);
        received.come(3 * FREE);
        received.come(3 * FREE);
        assert_eq!((received.bytes(), budget.used()), (window, window));
        received.go(FREE);
        assert_eq!((received.bytes(), budget.used()), (3 * FREE, 3 * FREE));
        // The few of a small body are no client's.
        received.go(2 * FREE);
        assert_eq!((received.bytes(), budget.used()), (FREE, 0));
        // Bytes that were not counted beyond the window are taken, too.
        received.go(5 * FREE);
        assert_eq!((received.bytes(), budget.used()), (0, 0));
        received.come(2 * FREE);
        received.clear();
        assert_eq!(budget.used(), 0);
    }
}
