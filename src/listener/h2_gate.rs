//! The socket's side of an HTTP/2 connection: what comes in, and when.
//!
//! Guarantees: the preface, with the first frame's head, and each block of header fields have
//! `header_timeout` from their first byte to their last; while the bodies that wait in memory are
//! too many for the client, nothing more is read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::h2_flood_guard::FloodGuard;
use super::h2_flow::ConnectionFlow;
use crate::deadline::Deadline;
use crate::flow::{Buffered, Place};

/// What a connection may have of requests' bodies in memory even while its client has its share:
/// so that each moves.
const FREE: usize = 64 * 1024;

/// A connection between the socket and the library.
#[derive(Debug)]
pub(super) struct Gate<S, R> {
    stream: FloodGuard<S>,
    flow: Arc<ConnectionFlow>,
    /// How many requests the connection has.
    requests: R,
    header_timeout: Duration,
    deadline: Option<Deadline>,
    began: Instant,
    /// At most so many bytes of bodies can be in the library's hands: the connection's window.
    window: usize,
    /// The bytes of bodies that came since the connection last had no request.
    received: Buffered,
    /// Whether nothing has come since the last look.
    is_quiet: bool,
    place: Place,
}

// === impl Gate ===

impl<S, R: Fn() -> usize> Gate<S, R> {
    /// A connection whose preface is to be there `header_timeout` from now on.
    pub(super) fn new(
        stream: S,
        flow: Arc<ConnectionFlow>,
        requests: R,
        header_timeout: Duration,
        window: u32,
    ) -> Self {
        Self {
            stream: FloodGuard::new(stream),
            received: flow.buffers().hold(0),
            flow,
            requests,
            header_timeout,
            deadline: None,
            began: Instant::now(),
            window: window as usize,
            is_quiet: false,
            place: Place::default(),
        }
    }

    /// Whether a head that has begun is late.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = match self.stream.has_begun() {
            false => self.began,
            true => match self.stream.head_since() {
                Some(since) => since,
                None => return Poll::Pending,
            },
        };
        let due = since + self.header_timeout;
        let deadline = self.deadline.get_or_insert_with(|| Deadline::new(due));
        deadline.set(due);
        deadline.poll_over(cx)
    }

    /// Nothing more has come.
    fn look_for_quiet(&mut self) {
        // A request that came with the last bytes may not be known yet; at the second look it is.
        if self.is_quiet && self.received.bytes() > 0 && (self.requests)() == 0 {
            self.received.shrink(self.received.bytes());
        }
        self.is_quiet = true;
    }
}

impl<S: AsyncRead + Unpin, R: Fn() -> usize + Unpin> AsyncRead for Gate<S, R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if me.received.bytes() >= FREE {
            if (me.requests)() == 0 {
                me.look_for_quiet();
            }
            ready!(me.flow.buffers().poll_room(&mut me.place, cx));
        }
        let polled = Pin::new(&mut me.stream).poll_read(cx, buffer);
        let data = me.stream.take_data();
        if data > 0 {
            let room = me.window.saturating_sub(me.received.bytes());
            me.received.grow(data.min(room));
        }
        if polled.is_ready() {
            me.is_quiet = false;
            return polled;
        }
        me.look_for_quiet();
        ready!(me.poll_late(cx));
        let text = "a head did not come in time";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl<S: AsyncWrite + Unpin, R: Unpin> Gate<S, R> {
    fn noted<T>(&self, polled: Poll<T>) -> Poll<T> {
        if polled.is_pending() {
            self.flow.note_blocked();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin, R: Unpin> AsyncWrite for Gate<S, R> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.noted(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.noted(polled)
    }
}
