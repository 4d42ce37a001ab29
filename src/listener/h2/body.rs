//! The body of a request of HTTP/2.
//!
//! Guarantees: the stream's window grows only for what the reader has taken and asked beyond, and
//! not while the client has its share of the gateway's memory; a body that the client breaks off,
//! whatever its reason, ends in an error; a client that waits for `100 Continue` gets it when its
//! body is first waited for; trailers that the library has cut short are an error.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use hyper::body::{Body, Frame, SizeHint};

use super::flow::StreamFlow;
use super::trailer_marks;
use crate::client::{ClientBodyError, ClientBodySource};
use crate::flow::Place;

/// The reader's end of a stream.
pub(super) struct StreamBody {
    stream: RecvStream,
    flow: Arc<StreamFlow>,
    /// Bytes that were taken, and for which the window has not grown again.
    unreleased: usize,
    place: Place,
    /// Bytes that are still to come, where that is known.
    left: Option<u64>,
    awaits_continue: bool,
    is_begun: bool,
    is_over: bool,
}

// === impl StreamBody ===

impl StreamBody {
    /// A body of `length` bytes, where that is known.
    pub(super) fn new(
        stream: RecvStream,
        flow: Arc<StreamFlow>,
        length: Option<u64>,
        awaits_continue: bool,
    ) -> Self {
        Self {
            stream,
            flow,
            unreleased: 0,
            place: Place::default(),
            left: length,
            awaits_continue,
            is_begun: false,
            is_over: false,
        }
    }

    /// Lets the window grow for what was taken, if the client may have more in memory.
    fn release(&mut self, cx: &mut Context<'_>) {
        if self.unreleased == 0 {
            return;
        }
        if self.flow.may_receive(&mut self.place, cx) {
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        let unreleased = std::mem::take(&mut self.unreleased);
        // A stream that is over needs no window.
        let _over = self.stream.flow_control().release_capacity(unreleased);
    }

    fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.is_over = true;
        let Some(mut trailers) = trailers.map_err(ClientBodyError::Http2)? else {
            return Poll::Ready(None);
        };
        if !trailer_marks::remove(&mut trailers) {
            return Poll::Ready(Some(Err(ClientBodyError::LargeTrailers)));
        }
        Poll::Ready((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))))
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        let me = &mut *self;
        if me.is_over {
            return Poll::Ready(None);
        }
        if !std::mem::replace(&mut me.is_begun, true) {
            me.flow.is_read();
        }
        me.release(cx);
        let polled = me.stream.poll_data(cx);
        if polled.is_pending() && me.awaits_continue {
            me.flow.interim.ask_for_body();
        }
        me.awaits_continue = false;
        match ready!(polled) {
            Some(Ok(data)) => {
                let length = data.len();
                // Its reader may not ask again for long: the next may be let go on instead.
                me.place.leave();
                me.unreleased += length;
                me.left = me.left.map(|left| left.saturating_sub(length as u64));
                me.flow.went(length);
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => {
                me.is_over = true;
                Poll::Ready(Some(Err(ClientBodyError::Http2(error))))
            }
            None => me.poll_trailers(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl ClientBodySource for StreamBody {
    /// While the window, the stream's or the connection's, or the socket is kept shut because of
    /// what the client has in memory already.
    fn is_held_back(&self) -> bool {
        self.unreleased > 0 || self.flow.is_window_shut()
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        let in_flight = self.stream.flow_control().used_capacity();
        // What nobody has read is thrown away with the stream.
        let unread = in_flight.saturating_sub(self.unreleased);
        let connection = self.flow.connection();
        if !self.is_over {
            connection.abandoned.add(self.stream.stream_id());
        }
        self.flow.is_read();
        self.flow.went(unread);
        self.let_go();
    }
}
