//! The socket's side of an HTTP/2 connection: what comes in, and when.
//!
//! Guarantees: the preface, with the first frame's head, and each block of header fields have
//! `header_timeout` from their first byte to their last; while the bodies that wait in memory are
//! too many for the client, nothing more is read, unless the connection is of many clients; a client that
//! has gone meanwhile is noticed all the same, as soon as its system says so, and what it has in memory with it;
//! a connection that ends well is closed when its client has closed it, or a moment later.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::activity::Activity;
use super::flood_guard::FloodGuard;
use super::flow::ConnectionFlow;
use super::received::FREE_RECEIVED;
use super::trailer_marks::TrailerMarks;
use crate::deadline::Deadline;
use crate::flow::Place;
use crate::listener::client_stream::{ClientStream, has_left};
use crate::listener::lingering::Lingering;

/// How long a client may go on sending after our side has ended.
const LINGER: Duration = Duration::from_secs(1);
/// How often it is looked whether a client is still there of which nothing is read. One whose last word is
/// behind what it could not send says nothing; but its system answers with a reset what it is sent, a PING at
/// the latest.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A connection between the socket and the library.
#[derive(Debug)]
pub(super) struct Gate<S> {
    stream: TrailerMarks<FloodGuard<S>>,
    flow: Arc<ConnectionFlow>,
    activity: Arc<Activity>,
    header_timeout: Duration,
    deadline: Option<Deadline>,
    began: Instant,
    /// Whether nothing has come since the last look.
    is_quiet: bool,
    place: Place,
    /// The next look at a client of which nothing is read.
    look: Option<Deadline>,
    /// Set once our side has ended.
    lingering: Option<Lingering>,
}

// === impl Gate ===

impl<S> Gate<S> {
    /// A connection that was accepted at `began`, whose preface is to be there `header_timeout` later.
    pub(super) fn new(
        (stream, began): (S, Instant),
        flow: Arc<ConnectionFlow>,
        activity: Arc<Activity>,
        header_timeout: Duration,
    ) -> Self {
        let mut frames = FloodGuard::new(stream, Arc::clone(&flow.abandoned));
        if flow.clients.is_some() {
            frames.of_many();
        }
        Self {
            stream: TrailerMarks::new(frames),
            flow,
            activity,
            header_timeout,
            deadline: None,
            began,
            is_quiet: false,
            place: Place::default(),
            look: None,
            lingering: None,
        }
    }

    /// Whether a head that has begun is late.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let frames = self.stream.get_ref();
        let since = match frames.has_begun() {
            false => self.began,
            true => match frames.head_since() {
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
        let received = &self.flow.received;
        if self.is_quiet && received.bytes() > 0 && self.activity.requests() == 0 {
            received.clear();
        }
        self.is_quiet = true;
    }

    /// Waits until the client may have more in memory. A connection of many clients is always read:
    /// what one of them sends is bounded by its streams' windows, and the others go on.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.flow.clients.is_some() {
            return Poll::Ready(());
        }
        if self.flow.received.poll_below(FREE_RECEIVED, cx).is_ready() {
            // Others wait behind it.
            self.place.leave();
            self.flow.note_held(false);
            return Poll::Ready(());
        }
        if self.activity.requests() == 0 {
            self.look_for_quiet();
        }
        let polled = self.flow.buffers().poll_room(&mut self.place, cx);
        self.flow.note_held(polled.is_pending());
        polled
    }
}

impl<S: ClientStream> Gate<S> {
    /// Whether the client has gone of which nothing is read.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let next = || Instant::now() + LOOK_EVERY;
            ready!(
                self.look
                    .get_or_insert_with(|| Deadline::new(next()))
                    .poll_over(cx)
            );
            if has_left(self.stream.get_ref().get_ref()) {
                return Poll::Ready(());
            }
            self.look = Some(Deadline::new(next()));
        }
    }
}

impl<S: ClientStream> AsyncRead for Gate<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if me.poll_room(cx).is_pending() {
            ready!(me.poll_left(cx));
            let text = "a client has gone whose requests' bodies nobody takes";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, text)));
        }
        me.look = None;
        let polled = Pin::new(&mut me.stream).poll_read(cx, buffer);
        let frames = me.stream.get_mut();
        if let Some(clients) = &me.flow.clients {
            for (stream, bytes) in frames.take_data_of_streams() {
                clients.come(stream, bytes);
            }
        } else {
            let data = frames.take_data();
            if data > 0 {
                me.flow.received.come(data);
            }
        }
        if polled.is_ready() {
            me.is_quiet = false;
            me.flow.note_read();
            return polled;
        }
        me.look_for_quiet();
        ready!(me.poll_late(cx));
        let text = "a head did not come in time";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl<S> Gate<S> {
    fn noted<T>(&self, polled: Poll<T>) -> Poll<T> {
        match polled.is_pending() {
            true => self.flow.note_blocked(),
            false => self.flow.note_written(),
        }
        polled
    }
}

impl<S: ClientStream> AsyncWrite for Gate<S> {
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
        let me = &mut *self;
        if me.lingering.is_none() {
            ready!(Pin::new(&mut me.stream).poll_shutdown(cx))?;
        }
        let lingering = me.lingering.get_or_insert_with(|| Lingering::new(LINGER));
        lingering.poll_over(&mut me.stream, cx).map(Ok)
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
