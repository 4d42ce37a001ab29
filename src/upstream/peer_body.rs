//! What comes back from another member: a response's body, or a stream of bytes both ways.
//!
//! Guarantees: the stream's window grows for what was taken alone; a stream that is dropped before its
//! end is reset, so that the other end hears at once that nobody waits; a body of a known length is
//! known to have it; what a stream has in memory is in its client's budget.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::arrivals::Arrived;
use super::timed_body::{Part, UploadGuard, Waiting};
use crate::flow::{
    ClientBuffers, Place, poll_not_reset, poll_read_stream, poll_window, stream_error,
};

/// The bytes that are handed to the library at once.
const PIECE: usize = 16 * 1024;

/// A stream of a connection, which counts among its streams for as long as this lives.
#[derive(Debug)]
pub(super) struct Seat(Arc<AtomicUsize>);

/// A response's body that comes from a member.
#[derive(Debug)]
pub(super) struct PeerBody {
    /// `None` of a response that has switched.
    receive: Option<RecvStream>,
    switched: Option<Box<PeerStream>>,
    left: Option<u64>,
    is_over: bool,
    /// The rest of the request's body is not sent when this has gone.
    _upload: Option<UploadGuard>,
    _seat: Option<Seat>,
}

/// A stream of bytes both ways, through another member.
pub struct PeerStream {
    send: SendStream<Part>,
    receive: RecvStream,
    rest: Bytes,
    is_shut: bool,
    counts: Option<Counts>,
    _seat: Seat,
}

/// What a stream has in memory, in its client's budget.
#[derive(Debug)]
struct Counts {
    buffers: ClientBuffers,
    /// Bytes that wait to be sent.
    waiting: Arc<Waiting>,
    place: Place,
    arrived: Arrived,
}

// === impl Seat ===

impl Seat {
    /// One more of these.
    pub(super) fn of(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(streams))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl PeerBody ===

impl PeerBody {
    pub(super) fn new(
        receive: RecvStream,
        left: Option<u64>,
        upload: Option<UploadGuard>,
        seat: Seat,
    ) -> Self {
        Self {
            receive: Some(receive),
            switched: None,
            left,
            is_over: false,
            _upload: upload,
            _seat: Some(seat),
        }
    }

    pub(super) fn of_switch(stream: PeerStream) -> Self {
        Self {
            receive: None,
            switched: Some(Box::new(stream)),
            left: None,
            is_over: true,
            _upload: None,
            _seat: None,
        }
    }

    /// No body at all.
    pub(super) fn nothing() -> Self {
        Self {
            receive: None,
            switched: None,
            left: None,
            is_over: true,
            _upload: None,
            _seat: None,
        }
    }

    pub(super) fn take_stream(&mut self) -> Option<PeerStream> {
        self.switched.take().map(|stream| *stream)
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Some(receive) = self.receive.as_mut().filter(|_| !self.is_over) else {
            return Poll::Ready(None);
        };
        match ready!(receive.poll_data(cx)) {
            Some(Ok(data)) => {
                // A stream that is over needs no window.
                let _over = receive.flow_control().release_capacity(data.len());
                let length = data.len() as u64;
                self.left = self.left.map(|left| left.saturating_sub(length));
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => {
                self.is_over = true;
                Poll::Ready(Some(Err(error)))
            }
            None => {
                let trailers = ready!(receive.poll_trailers(cx));
                self.is_over = true;
                Poll::Ready(
                    trailers
                        .transpose()
                        .map(|trailers| trailers.map(Frame::trailers)),
                )
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.is_over || self.receive.as_ref().is_none_or(RecvStream::is_end_stream)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None if self.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::new(),
        }
    }
}

// === impl PeerStream ===

impl PeerStream {
    /// A stream that counts to this client's budget, if it has one, with what has come of it.
    pub(super) fn new(
        (send, receive): (SendStream<Part>, RecvStream),
        seat: Seat,
        counts: Option<(ClientBuffers, Arrived)>,
    ) -> Self {
        let counts = counts.map(|(buffers, arrived)| Counts {
            arrived,
            buffers,
            waiting: Arc::default(),
            place: Place::default(),
        });
        Self {
            send,
            receive,
            rest: Bytes::new(),
            is_shut: false,
            counts,
            _seat: seat,
        }
    }

    fn poll_capacity(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        poll_not_reset(&mut self.send, cx)?;
        if let Some(counts) = &mut self.counts {
            let (waiting, place) = (&counts.waiting, &mut counts.place);
            ready!(waiting.poll_room(&counts.buffers, place, cx));
        }
        poll_window(&mut self.send, most, cx)
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (me, before) = (&mut *self, buffer.filled().len());
        let polled = poll_read_stream(&mut me.receive, &mut me.rest, buffer, cx, |_| ());
        if let Some(counts) = &me.counts {
            counts.arrived.go(buffer.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = &mut *self;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = ready!(me.poll_capacity(bytes.len().min(PIECE), cx))?;
        let data = Bytes::copy_from_slice(bytes.get(..count).unwrap_or(bytes));
        let part = match &me.counts {
            Some(counts) => Part::counted(data, &counts.buffers, &counts.waiting),
            None => Part::uncounted(data),
        };
        let sent = me.send.send_data(part, false);
        Poll::Ready(sent.map(|()| count).map_err(stream_error))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if !std::mem::replace(&mut me.is_shut, true) {
            let end = Part::uncounted(Bytes::new());
            me.send.send_data(end, true).map_err(stream_error)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl std::fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PeerStream({:?})", self.receive.stream_id())
    }
}
