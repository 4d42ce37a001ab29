//! Those streams of a connection that wait for room in the budget, or until their connection has little in memory.
//!
//! Guarantees: when a connection has little, all of its streams that wait are woken, whatever others have taken of
//! the budget, each time another one first: the first may take all that there is; a stream that is over is
//! forgotten; where nobody waits that costs one look.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::flow::{ClientBuffers, Place};

/// The streams that wait, by a number that each of them has for itself.
#[derive(Debug, Default)]
pub(super) struct Starved {
    any: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    wakers: BTreeMap<usize, Waker>,
    /// The number from which on one is woken first.
    first: usize,
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
            self.lock().wakers.insert(stream, cx.waker().clone());
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
            let (later, first) = self.lock().take();
            let wakers = first.into_values().chain(later.into_values());
            wakers.for_each(Waker::wake);
        }
    }

    /// The stream is over.
    pub(super) fn forget(&self, stream: usize) {
        if self.any.load(Ordering::SeqCst) {
            self.lock().wakers.remove(&stream);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Waiting ===

impl Waiting {
    /// All of them: those who are woken last, and those who are woken first. Next time whoever is the
    /// first now comes last.
    fn take(&mut self) -> (BTreeMap<usize, Waker>, BTreeMap<usize, Waker>) {
        let mut later = std::mem::take(&mut self.wakers);
        let first = later.split_off(&self.first);
        let number = first.keys().chain(later.keys()).next();
        self.first = number.map_or(0, |number| number.wrapping_add(1));
        (later, first)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

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
            assert_eq!(starved.lock().wakers.len(), 2);
            starved.wake();
            bytes.store(4, Ordering::SeqCst);
            tokio::task::yield_now().await;
            starved.wake();
        };
        tokio::join!(wait(1), wait(2), going);
        assert!(starved.lock().wakers.is_empty());
        bytes.store(5, Ordering::SeqCst);
        let mut place = Place::default();
        let polled =
            poll_fn(|cx| Poll::Ready(starved.poll_room(3, has_little, (&buffers, &mut place), cx)));
        assert!(polled.await.is_pending());
        starved.forget(3);
        assert!(starved.lock().wakers.is_empty());
    }

    /// Notes that its stream was woken.
    struct Noted(usize, Arc<Mutex<Vec<usize>>>);

    impl Wake for Noted {
        fn wake(self: Arc<Self>) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    #[test]
    fn each_stream_is_the_first_to_be_woken_in_its_turn() {
        let budget = BufferBudget::new(1 << 20);
        let buffers = budget.of(Ipv4Addr::LOCALHOST.into());
        let _others = buffers.hold(1 << 20);
        let (starved, woken) = (Starved::default(), Arc::default());
        let mut places = [(); 3].map(|()| Place::default());
        let mut firsts = Vec::new();
        for _ in 0..4 {
            for (stream, place) in (10..).zip(&mut places) {
                let waker = Arc::new(Noted(stream, Arc::clone(&woken))).into();
                let mut cx = Context::from_waker(&waker);
                let polled = starved.poll_room(stream, || false, (&buffers, place), &mut cx);
                assert!(polled.is_pending());
            }
            starved.wake();
            let order = std::mem::take(&mut *woken.lock().unwrap());
            assert_eq!(order.len(), 3);
            firsts.push(order[0]);
        }
        assert_eq!(firsts, [10, 11, 12, 10]);
    }
}
