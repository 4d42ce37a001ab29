//! What an instance allows on an HTTP/2 connection.
//!
//! Guarantees: how many requests it takes at once (SETTINGS, RFC 9113 §6.5.2) is known as soon as
//! it has said so; one that says nothing for [`SETTLE`] is taken to allow what servers commonly do.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::h2_windows::Windowed;
use super::leased_stream::LeasedStream;
use crate::flow::forward_writes;

/// How long others wait for the settings of a new connection, which come with its first bytes.
const SETTLE: Duration = Duration::from_millis(100);
/// What the library says before it knows: no setting can be so much.
pub(super) const UNKNOWN: usize = usize::MAX - 1;

/// How many requests at once an instance takes on a connection. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct PeerLimits(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_known: AtomicBool,
    streams: AtomicUsize,
    known: Notify,
    /// The task that can ask the library.
    asker: AtomicWaker,
}

/// The connection below the library, which tells the asking task that something has come.
#[derive(Debug)]
pub(super) struct Heard {
    stream: TokioIo<Windowed<LeasedStream>>,
    limits: PeerLimits,
}

// === impl PeerLimits ===

impl PeerLimits {
    /// How many; one, until that is known.
    pub(super) fn streams(&self) -> usize {
        match self.is_known() {
            true => self.0.streams.load(Ordering::Relaxed),
            false => 1,
        }
    }

    pub(super) fn is_known(&self) -> bool {
        self.0.is_known.load(Ordering::Acquire)
    }

    /// Waits until it is known.
    pub(super) async fn settled(&self) {
        let known = async {
            loop {
                let known = self.0.known.notified();
                if self.is_known() {
                    return;
                }
                known.await;
            }
        };
        if timeout(SETTLE, known).await.is_err() {
            self.set(UNKNOWN);
        }
    }

    fn set(&self, streams: usize) {
        self.0.streams.store(streams, Ordering::Relaxed);
        if !self.0.is_known.swap(true, Ordering::AcqRel) {
            self.0.known.notify_waiters();
        }
    }

    /// Keeps up with what the library says in the task that runs it.
    pub(super) fn follow(&self, streams: usize, cx: &Context<'_>) {
        if streams != UNKNOWN {
            self.set(streams);
        } else if !self.is_known() {
            self.0.asker.register(cx.waker());
        }
    }
}

// === impl Heard ===

impl Heard {
    pub(super) fn new(stream: LeasedStream, limits: PeerLimits) -> Self {
        let stream = TokioIo::new(Windowed::new(stream));
        Self { stream, limits }
    }
}

impl Read for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // The library has looked at all that came before.
        if !self.limits.is_known() {
            self.limits.0.asker.wake();
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Heard {
    forward_writes!();
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_says_nothing_is_waited_for_a_moment() {
        let (limits, began) = (PeerLimits::default(), Instant::now());
        assert_eq!(limits.streams(), 1);
        limits.settled().await;
        assert_eq!(began.elapsed(), SETTLE);
        assert!(limits.is_known() && limits.streams() > 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn what_it_says_is_known_at_once() {
        let (limits, began) = (PeerLimits::default(), Instant::now());
        let saying = async {
            tokio::task::yield_now().await;
            limits.set(7);
        };
        tokio::join!(limits.settled(), saying);
        assert_eq!((limits.streams(), began.elapsed()), (7, Duration::ZERO));
    }
}
