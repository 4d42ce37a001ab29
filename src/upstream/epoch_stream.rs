//! A connection's stream that its epoch can take away.
//!
//! Guarantees: when the epoch is cut, the stream is closed and stops counting at once, whether or
//! not anybody reads or writes it at the moment; whoever waits on it is woken. Until then it costs
//! a place in the epoch's list of what to tell, and no task.

use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::leased_stream::LeasedStream;

/// A stream until its owner or its epoch ends.
pub(super) struct EpochStream {
    shared: Arc<Shared>,
    /// The place in the epoch's list. It holds `shared` by its waker, and goes with this.
    _place: Pin<Box<WaitForCancellationFutureOwned>>,
}

#[derive(Default)]
struct Shared {
    stream: Mutex<Option<LeasedStream>>,
    /// Whoever reads the stream, and writes it if nobody else does.
    user: AtomicWaker,
    /// Whoever writes it at the same time.
    sender: AtomicWaker,
}

/// A second way to a stream, for whoever writes it while it is read. It does not keep it open.
pub(super) struct SendingHalf(Arc<Shared>);

// === impl EpochStream ===

impl EpochStream {
    /// A stream of the epoch that is cut by `cut`.
    pub(super) fn new(stream: LeasedStream, cut: &CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            stream: Mutex::new(Some(stream)),
            ..Shared::default()
        });
        let mut place = Box::pin(cut.clone().cancelled_owned());
        let told = Waker::from(Arc::clone(&shared));
        if place
            .as_mut()
            .poll(&mut Context::from_waker(&told))
            .is_ready()
        {
            shared.close();
        }
        Self {
            shared,
            _place: place,
        }
    }

    /// The stream; `None` once the epoch has been cut.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<LeasedStream>> {
        self.shared.lock()
    }

    /// The task is woken when the epoch is cut. To be called before [`Self::lock`].
    pub(super) fn register(&self, cx: &Context<'_>) {
        self.shared.user.register(cx.waker());
    }

    /// A second way to it.
    pub(super) fn sending_half(&self) -> SendingHalf {
        SendingHalf(Arc::clone(&self.shared))
    }

    /// The stream, which the epoch cannot take away any more; `None` once it has.
    pub(super) fn take(&self) -> Option<LeasedStream> {
        self.lock().take()
    }
}

impl Drop for EpochStream {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.sender.wake();
    }
}

// === impl SendingHalf ===

impl SendingHalf {
    /// The stream; `None` once it is closed.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<LeasedStream>> {
        self.0.lock()
    }

    /// The task is woken when the stream is closed. To be called before [`Self::lock`].
    pub(super) fn register(&self, cx: &Context<'_>) {
        self.0.sender.register(cx.waker());
    }

    /// Closes the stream for whoever reads it, too.
    pub(super) fn close(&self) {
        self.0.close();
        self.0.user.wake();
    }
}

impl fmt::Debug for SendingHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendingHalf({:?})", self.lock())
    }
}

impl fmt::Debug for EpochStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochStream({:?})", self.lock())
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<LeasedStream>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let stream = self.lock().take();
        drop(stream);
    }
}

/// The epoch has been cut: nothing else wakes what waits for it.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.close();
        self.user.wake();
        self.sender.wake();
    }
}
