//! Those streams of a connection that wait for room in the budget, or until their connection has little in memory.
//!
//! Guarantees: when a connection has little, all of its streams that wait are woken, whatever others have taken of
//! the budget; a stream that is over is forgotten; where nobody waits that costs one look.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::flow::{ClientBuffers, Place};

/// The streams that wait, by a number that each of them has for itself.
#[derive(Debug, Default)]
pub(super) struct Starved {
    any: AtomicBool,
    wakers: Mutex<BTreeMap<usize, Waker>>,
}

// === impl Starved ===

impl Starved {
    /// Ready while the connection has little, or its client may have more.
    pub(super) fn poll_room(
        &self,
        stream: usize,
        has_little: impl Fn() -> bool,
        (buffers, place): (&ClientBuffers, &mut Place),
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !has_little() {
            if buffers.poll_room(place, cx).is_ready() {
                return Poll::Ready(());
            }
            self.lock().insert(stream, cx.waker().clone());
            self.any.store(true, Ordering::SeqCst);
            // It may have become so meanwhile, and nobody was woken.
            if !has_little() {
                return Poll::Pending;
            }
        }
        place.leave();
        Poll::Ready(())
    }

    /// The connection has little.
    pub(super) fn wake(&self) {
        if self.any.load(Ordering::SeqCst) && self.any.swap(false, Ordering::SeqCst) {
            let wakers = std::mem::take(&mut *self.lock());
            wakers.into_values().for_each(Waker::wake);
        }
    }

    /// The stream is over.
    pub(super) fn forget(&self, stream: usize) {
        if self.any.load(Ordering::SeqCst) {
            self.lock().remove(&stream);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::flow::BufferBudget;

    #[tokio::test]
    async fn all_that_wait_go_on_when_their_connection_has_little_and_none_is_left() {
        let budget = BufferBudget::new(1 << 20);
        let buffers = budget.of(Ipv4Addr::LOCALHOST.into());
        let _others = buffers.hold(1 << 20);
        let (starved, bytes) = (Starved::default(), AtomicUsize::new(9));
        let has_little = || bytes.load(Ordering::SeqCst) < 5;
        let wait = async |stream| {
            let mut place = Place::default();
            poll_fn(|cx| starved.poll_room(stream, has_little, (&buffers, &mut place), cx)).await;
        };
        let going = async {
            assert_eq!(starved.lock().len(), 2);
            starved.wake();
            bytes.store(4, Ordering::SeqCst);
            tokio::task::yield_now().await;
            starved.wake();
        };
        tokio::join!(wait(1), wait(2), going);
        assert!(starved.lock().is_empty());
        bytes.store(5, Ordering::SeqCst);
        let mut place = Place::default();
        let polled =
            poll_fn(|cx| Poll::Ready(starved.poll_room(3, has_little, (&buffers, &mut place), cx)));
        assert!(polled.await.is_pending());
        starved.forget(3);
        assert!(starved.lock().is_empty());
    }
}
