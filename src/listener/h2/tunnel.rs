//! A stream that carries another protocol (extended CONNECT, RFC 8441 §5).
//!
//! Guarantees: bytes are taken from either side only as the other takes them; a stream that its
//! client resets is an error and not an end; what waits to be written is in the gateway's budget; a
//! connection with a tunnel is not idle.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Busy;
use super::flow::{PIECE, Piece, StreamFlow};
use crate::flow::{Place, poll_not_reset, poll_read_stream, poll_window, stream_error};

/// Both directions of a stream.
pub(super) struct Tunnel {
    send: SendStream<Piece>,
    receive: RecvStream,
    flow: Arc<StreamFlow>,
    /// What was received and not read.
    rest: Bytes,
    place: Place,
    /// Our side has ended.
    is_shut: bool,
    _busy: Busy,
}

// === impl Tunnel ===

impl Tunnel {
    /// `busy` keeps the connection from being idle for as long as the tunnel lives.
    pub(super) fn new(
        send: SendStream<Piece>,
        receive: RecvStream,
        flow: Arc<StreamFlow>,
        busy: Busy,
    ) -> Self {
        Self {
            send,
            receive,
            flow,
            rest: Bytes::new(),
            place: Place::default(),
            is_shut: false,
            _busy: busy,
        }
    }

    /// Waits until something can be sent; how much that is.
    fn poll_capacity(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        poll_not_reset(&mut self.send, cx)?;
        // As of any response: a piece is being written, and another waits.
        ready!(self.flow.poll_nearly_sent(cx));
        ready!(self.flow.poll_room(&mut self.place, cx));
        poll_window(&mut self.send, most, cx)
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        let flow = &me.flow;
        let went = |count| flow.went(count);
        poll_read_stream(&mut me.receive, &mut me.rest, buffer, cx, went)
    }
}

impl AsyncWrite for Tunnel {
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
        let piece = Piece::of(&me.flow, data);
        let sent = me.send.send_data(piece, false);
        Poll::Ready(sent.map(|()| count).map_err(stream_error))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Ends our side, and waits until all of it has been written.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        if !std::mem::replace(&mut me.is_shut, true) {
            let sent = me.send.send_data(Piece::end(&me.flow), true);
            sent.map_err(stream_error)?;
        }
        poll_not_reset(&mut me.send, cx)?;
        me.flow.poll_written(cx).map(Ok)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if self.is_shut && self.flow.has_unwritten() {
            // The library would keep it for as long as the connection lives.
            self.send.send_reset(Reason::CANCEL);
        }
        let rest = self.rest.remaining();
        let unread = self.receive.flow_control().used_capacity();
        let connection = self.flow.connection();
        if !self.receive.is_end_stream() {
            connection.abandoned.add(self.receive.stream_id());
        }
        self.flow.went(unread.saturating_sub(rest));
        // A stream that is over needs no window.
        let _over = self.receive.flow_control().release_capacity(rest);
    }
}
