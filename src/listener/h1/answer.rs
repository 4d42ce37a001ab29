//! A response on its way to its client.
//!
//! Guarantees: a body is framed by its length where that is known, by chunks otherwise, and never
//! differs from what its head has said: one that ends early or late ends its connection (RFC 9112
//! §6.3), after what has come of it; while a client is slow to take what there is, no more than
//! [`AHEAD`] bytes, in [`AHEAD_PARTS`] parts, and a part are read ahead, and the instance holds the
//! rest; what a client does not take is in its budget, and one that has its share is read little
//! for.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Response};
use hyper::body::Body;
use tokio::io::AsyncWrite;

use crate::flow::{Buffered, ClientBuffers, Place};
use crate::listener::date;
use crate::listener::service::{Backlog, ExtraHeaders};
use http1::{Audience, BodyEncoder, BodyLength, Final, Reason, line, write_response};

/// Bytes of a head, most of the time.
const ROOM: usize = 512;
/// A part of a body that is no longer is copied behind the head, so that both are written at once.
const COPIED: usize = 4 * 1024;
/// Bytes that are put together before they are written.
const FULL: usize = 16 * 1024;
/// Bytes that are read while others are being written: an instance that waits for each writes more
/// slowly.
const AHEAD: usize = 256 * 1024;
/// Parts that are read ahead: each costs more than its bytes.
const AHEAD_PARTS: usize = 1024;
/// Parts that are written at once.
const PARTS: usize = 8;
/// The most that is read at once for a client that has its share of memory, and what waits to be
/// written in any case.
const LITTLE: usize = 16 * 1024;

/// The body of a response.
pub(super) trait AnswerBody:
    Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
    + ExtraHeaders
    + Backlog
    + Unpin
{
}

impl<B> AnswerBody for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + ExtraHeaders
        + Backlog
        + Unpin
{
}

/// A response, as far as it is not written yet.
#[derive(Debug)]
pub(super) struct Answer<B> {
    body: B,
    /// Read from it, and not taken yet.
    ahead: VecDeque<Bytes>,
    /// The client's side of the budget, once something had to be read ahead.
    held: Option<Buffered>,
    /// The same for what is being written, once the client has not taken it at once.
    stalled: Option<Buffered>,
    /// The body may have more than [`LITTLE`] bytes.
    is_large: bool,
    place: Place,
    /// What followed the last part of it.
    trailers: Option<HeaderMap>,
    /// The client takes them (RFC 9110 §6.5.1).
    wants_trailers: bool,
    /// It broke after what is `ahead`.
    failure: Option<io::Error>,
    /// All of it was read,
    ended: bool,
    /// and taken.
    over: bool,
    encoder: BodyEncoder,
    /// To be written: first this, from `written` on,
    out: Vec<u8>,
    written: usize,
    /// then this,
    data: Bytes,
    /// and then this.
    tail: &'static [u8],
    /// Whether the connection ends with it.
    pub(super) is_last: bool,
    ends_with_connection: bool,
}

// === impl Answer ===

impl<B: AnswerBody> Answer<B> {
    /// A response to a request with this audience.
    pub(super) fn new(response: Response<B>, audience: Audience, wants_trailers: bool) -> Self {
        let (head, mut body) = response.into_parts();
        let lines = body.take_lines();
        let length = match body.is_end_stream() {
            true => Some(0),
            false => body.size_hint().exact(),
        };
        let reason = head.extensions.get::<Reason>();
        let response = Final {
            status: head.status,
            reason: reason.map(Reason::as_bytes),
            lines: lines.as_ref(),
            headers: &head.headers,
            length,
        };
        let is_large = length.is_none_or(|length| length > LITTLE as u64);
        let mut out = Vec::with_capacity(ROOM);
        let add = |out: &mut Vec<u8>| {
            body.extra_headers(|name, value| line(out, name.as_str(), value.as_bytes()));
        };
        let outcome = write_response(&mut out, response, audience, add, date::write);
        let encoder = BodyEncoder::new(outcome.body);
        Self {
            body,
            ahead: VecDeque::new(),
            held: None,
            stalled: None,
            is_large,
            place: Place::default(),
            trailers: None,
            wants_trailers,
            failure: None,
            ended: false,
            over: encoder.is_nothing(),
            encoder,
            out,
            written: 0,
            data: Bytes::new(),
            tail: b"",
            is_last: outcome.is_last,
            ends_with_connection: outcome.body == BodyLength::UntilClose,
        }
    }

    /// Writes as much as can be; `Ready` when all is written. When it waits for the body, and not
    /// for the client, it is [`Self::is_idle`]. What is read ahead counts in `buffers`.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        buffers: &ClientBuffers,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.is_large {
                let has_room = buffers.has_room(LITTLE);
                let at_once = if has_room { usize::MAX } else { LITTLE };
                self.body.read_at_once(at_once);
            }
            let waits = self.fill(cx)?.is_pending();
            if !self.data.is_empty() {
                // Large parts are written some at a time.
                self.read_ahead(buffers, cx);
            }
            while !self.is_idle() {
                match self.poll_some(stream, cx)? {
                    Poll::Ready(count) => self.advance(count)?,
                    Poll::Pending => {
                        self.read_ahead(buffers, cx);
                        self.count_stalled(buffers);
                        return Poll::Pending;
                    }
                }
            }
            self.stalled = None;
            self.out.clear();
            self.written = 0;
            if self.is_broken() {
                // What has come of it goes first. TLS may have kept some of it, and the failure
                // stays until that has gone, too.
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                let failure = self.failure.take();
                return Poll::Ready(Err(
                    failure.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
                ));
            }
            if waits || self.over {
                // TLS may have kept some of it.
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
            }
            match (self.over, waits) {
                (true, _) => return Poll::Ready(Ok(())),
                (false, true) => return Poll::Pending,
                (false, false) => {}
            }
        }
    }

    /// Whether there is nothing to be written now.
    pub(super) fn is_idle(&self) -> bool {
        self.written == self.out.len() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Whether the body broke after all of it that was to be written.
    fn is_broken(&self) -> bool {
        self.failure.is_some() && self.ended && self.ahead.is_empty()
    }

    /// Whether nothing but the end of the connection says where the body ends (RFC 9112 §6.3, rule
    /// 8), so that a client takes an early end for a whole body unless it is a reset.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.ends_with_connection
    }

    /// Takes what there is of the body; `Pending` when there is room for more of it.
    fn fill(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        // What is put into `out` is written before the rest of an earlier part would be.
        let behind = |this: &Self| !(this.data.is_empty() && this.tail.is_empty());
        while !self.over && !behind(self) && self.out.len() < FULL {
            let data = match self.ahead.pop_front() {
                Some(data) => {
                    self.let_go(data.len());
                    Some(data)
                }
                None if self.ended => None,
                None => match self.poll_data(cx) {
                    Poll::Pending => return Ok(Poll::Pending),
                    Poll::Ready(data) => data,
                },
            };
            if let Some(data) = data {
                self.take(data)?;
            }
            if self.ended && self.ahead.is_empty() {
                if self.failure.is_none() {
                    self.end();
                }
                if self.failure.is_some() {
                    return Ok(Poll::Ready(()));
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    /// Reads what there is beyond what is being written, as far as the budget of bytes in memory
    /// lets this client. What is being written is read in any case: everybody moves a little.
    fn read_ahead(&mut self, buffers: &ClientBuffers, cx: &mut Context<'_>) {
        while !self.over
            && !self.ended
            && self.held_bytes() < AHEAD
            && self.ahead.len() < AHEAD_PARTS
        {
            if buffers.poll_room(&mut self.place, cx).is_pending() {
                return;
            }
            let Poll::Ready(data) = self.poll_data(cx) else {
                break;
            };
            let Some(data) = data.filter(|data| !data.is_empty()) else {
                continue;
            };
            match &mut self.held {
                Some(held) => held.grow(data.len()),
                None => self.held = Some(buffers.hold(data.len())),
            }
            self.ahead.push_back(data);
        }
        self.place.leave();
    }

    /// Counts what the client does not take, and what may wait behind it.
    fn count_stalled(&mut self, buffers: &ClientBuffers) {
        let own = self.out.len() - self.written + self.data.len();
        let bytes = own + self.body.backlog();
        match &mut self.stalled {
            None if bytes <= LITTLE => {}
            None => self.stalled = Some(buffers.hold(bytes)),
            Some(stalled) => stalled.set(bytes),
        }
    }

    fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, Buffered::bytes)
    }

    /// So many bytes that were read ahead are being written, or have been.
    fn let_go(&mut self, bytes: usize) {
        if let Some(held) = &mut self.held {
            held.shrink(bytes);
        }
    }

    /// The next part of the body; `None` after the last, or where it broke.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            None => {
                self.ended = true;
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                self.failure = Some(io::Error::other(error));
                self.ended = true;
                return Poll::Ready(None);
            }
            Some(Ok(frame)) => frame,
        };
        self.ended = self.body.is_end_stream();
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                self.trailers = frame.into_trailers().ok().filter(|_| self.wants_trailers);
                return Poll::Ready(Some(Bytes::new()));
            }
        };
        // Plain parts are not touched again, and counted here.
        if self.encoder.is_plain()
            && let Err(error) = self.encoder.begin_part(data.len(), &mut self.out)
        {
            (self.failure, self.ended) = (Some(invalid(error)), true);
            return Poll::Ready(None);
        }
        Poll::Ready(Some(data))
    }

    fn take(&mut self, data: Bytes) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let tail = match self.encoder.is_plain() {
            true => b"",
            false => self
                .encoder
                .begin_part(data.len(), &mut self.out)
                .map_err(invalid)?,
        };
        if data.len() <= COPIED {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(tail);
        } else {
            (self.data, self.tail) = (data, tail);
        }
        Ok(())
    }

    fn end(&mut self) {
        if !(self.data.is_empty() && self.tail.is_empty()) {
            // Once the last part has gone.
            return;
        }
        match self.encoder.end(self.trailers.as_ref(), &mut self.out) {
            Ok(()) => self.over = true,
            // After what has come of it.
            Err(error) => self.failure = Some(invalid(error)),
        }
    }

    fn poll_some<W: AsyncWrite + Unpin>(
        &self,
        stream: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let out = self.out.get(self.written..).unwrap_or_default();
        if self.data.is_empty() && self.tail.is_empty() {
            return Pin::new(stream).poll_write(cx, out);
        }
        let mut parts = [IoSlice::new(&[]); PARTS];
        let first = [out, &self.data, self.tail].into_iter();
        // Between chunks there is something else.
        let more = self.encoder.is_plain().then_some(&self.ahead);
        let all = first.chain(more.into_iter().flatten().map(|data| &**data));
        for (part, bytes) in parts.iter_mut().zip(all) {
            *part = IoSlice::new(bytes);
        }
        Pin::new(stream).poll_write_vectored(cx, &parts)
    }

    fn advance(&mut self, mut count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_out = count.min(self.out.len() - self.written);
        self.written += of_out;
        count -= of_out;
        let of_data = count.min(self.data.len());
        self.data.advance(of_data);
        count -= of_data;
        let of_tail = count.min(self.tail.len());
        self.tail = self.tail.get(of_tail..).unwrap_or_default();
        count -= of_tail;
        self.let_go(count);
        while count > 0
            && let Some(next) = self.ahead.front_mut()
        {
            let of_next = count.min(next.len());
            next.advance(of_next);
            count -= of_next;
            if next.is_empty() {
                self.ahead.pop_front();
            }
        }
        Ok(())
    }
}

fn invalid(error: http1::EncodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
