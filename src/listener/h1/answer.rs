//! A response on its way to its client.
//!
//! Guarantees: a body is framed by its length where that is known, by chunks otherwise, and never
//! differs from what its head has said: one that ends early or late ends its connection (RFC 9112
//! §6.3); while a client is slow to take what there is, no more than [`AHEAD`] bytes and a part are
//! read ahead, and the instance holds the rest.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::response::Parts;
use http::{Response, StatusCode};
use hyper::body::Body;
use hyper::ext::ReasonPhrase;
use tokio::io::AsyncWrite;

use super::date;
use crate::listener::service::ExtraHeaders;
use http1::{digits, line};

/// Bytes of a head, most of the time.
const ROOM: usize = 512;
/// A part of a body that is no longer is copied behind the head, so that both are written at once.
const COPIED: usize = 4 * 1024;
/// Bytes that are put together before they are written.
const FULL: usize = 16 * 1024;
/// Bytes that are read while others are being written: an instance that waits for each writes more
/// slowly.
const AHEAD: usize = 256 * 1024;
/// Parts that are written at once.
const PARTS: usize = 8;

/// The way in which a client recognizes the body's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// There is none.
    Nothing,
    /// So many bytes are left to be read.
    Length(u64),
    Chunked,
}

/// A response, as far as it is not written yet.
#[derive(Debug)]
pub(super) struct Answer<B> {
    body: B,
    /// Read from it, and not taken yet.
    ahead: VecDeque<Bytes>,
    /// All of it was read,
    ended: bool,
    /// and taken.
    over: bool,
    framing: Framing,
    /// To be written: first this, from `written` on,
    out: Vec<u8>,
    written: usize,
    /// then this,
    data: Bytes,
    /// and then this.
    tail: &'static [u8],
    /// Whether the connection ends with it.
    pub(super) last: bool,
}

/// The effect of a response's head on its connection and its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HeadEffect {
    framing: Framing,
    last: bool,
}

// === impl Answer ===

impl<B> Answer<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + ExtraHeaders
        + Unpin,
{
    /// To a request of method HEAD, or to any other; `last`: the connection ends with it.
    pub(super) fn new(response: Response<B>, to_head: bool, last: bool) -> Self {
        let (head, body) = response.into_parts();
        let exact = match body.is_end_stream() {
            true => Some(0),
            false => body.size_hint().exact(),
        };
        let mut out = Vec::with_capacity(ROOM);
        let effect = write_head(&head, &body, exact, to_head, last, &mut out);
        Self {
            body,
            ahead: VecDeque::new(),
            ended: false,
            framing: effect.framing,
            over: matches!(effect.framing, Framing::Nothing | Framing::Length(0)),
            out,
            written: 0,
            data: Bytes::new(),
            tail: b"",
            last: effect.last,
        }
    }

    /// Writes as much as can be; `Ready` when all is written. When it waits for the body, and not
    /// for the client, it is [`Self::is_idle`].
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let waits = self.fill(cx)?.is_pending();
            if !self.data.is_empty() {
                // Large parts are written some at a time.
                self.read_ahead(cx)?;
            }
            while !self.is_idle() {
                match self.poll_some(stream, cx)? {
                    Poll::Ready(count) => self.advance(count)?,
                    Poll::Pending => {
                        self.read_ahead(cx)?;
                        return Poll::Pending;
                    }
                }
            }
            self.out.clear();
            self.written = 0;
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

    /// Takes what there is of the body; `Pending` when there is room for more of it.
    fn fill(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        // What is put into `out` is written before the rest of an earlier part would be.
        let behind = |this: &Self| !(this.data.is_empty() && this.tail.is_empty());
        while !self.over && !behind(self) && self.out.len() < FULL {
            let data = match self.ahead.pop_front() {
                Some(data) => Some(data),
                None if self.ended => None,
                None => match self.poll_data(cx)? {
                    Poll::Pending => return Ok(Poll::Pending),
                    Poll::Ready(data) => data,
                },
            };
            if let Some(data) = data {
                self.take(data)?;
            }
            if self.ended && self.ahead.is_empty() {
                self.end()?;
            }
        }
        Ok(Poll::Ready(()))
    }

    fn read_ahead(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let ahead = |this: &Self| this.ahead.iter().map(Bytes::len).sum::<usize>();
        while !self.over && !self.ended && ahead(self) < AHEAD {
            match self.poll_data(cx)? {
                Poll::Pending => break,
                Poll::Ready(data) => self.ahead.extend(data),
            }
        }
        Ok(())
    }

    /// The next part of the body; `None` after the last.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<Option<Bytes>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return Ok(Poll::Pending);
        };
        // Trailers are for clients that ask for them.
        let data = frame
            .transpose()
            .map_err(io::Error::other)?
            .map(|frame| frame.into_data().unwrap_or_default());
        if let (Framing::Length(left), Some(data)) = (&mut self.framing, &data) {
            let rest = left.checked_sub(data.len() as u64);
            *left = rest.ok_or_else(|| broken("is longer than its Content-Length"))?;
        }
        self.ended = data.is_none() || self.body.is_end_stream();
        Ok(Poll::Ready(data))
    }

    fn take(&mut self, data: Bytes) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let length = data.len();
        let end: &[u8] = match self.framing {
            Framing::Chunked => {
                write!(self.out, "{length:X}\r\n")?;
                b"\r\n"
            }
            Framing::Length(_) => b"",
            Framing::Nothing => return Ok(()),
        };
        if length <= COPIED {
            self.out.extend_from_slice(&data);
            self.out.extend_from_slice(end);
        } else {
            (self.data, self.tail) = (data, end);
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        self.over = true;
        match (self.framing, self.data.is_empty()) {
            (Framing::Length(1..), _) => {
                return Err(broken("is shorter than its Content-Length"));
            }
            (Framing::Chunked, true) => self.out.extend_from_slice(b"0\r\n\r\n"),
            (Framing::Chunked, false) => self.tail = b"\r\n0\r\n\r\n",
            (Framing::Nothing | Framing::Length(0), _) => {}
        }
        Ok(())
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
        let more = matches!(self.framing, Framing::Length(_)).then_some(&self.ahead);
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

fn broken(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the response's body {what}"),
    )
}

/// Writes a head, with the body's extra headers; `exact` is its length, where it is known.
fn write_head(
    head: &Parts,
    body: &impl ExtraHeaders,
    exact: Option<u64>,
    to_head: bool,
    mut last: bool,
    out: &mut Vec<u8>,
) -> HeadEffect {
    status_line(head, out);
    let bodiless = head.status.is_informational()
        || matches!(
            head.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    let length = exact.or_else(|| header_length(&head.headers));
    let (mut dated, mut closes, mut measured) = (false, false, false);
    for (name, value) in &head.headers {
        match *name {
            // Framed anew below.
            TRANSFER_ENCODING => continue,
            CONTENT_LENGTH if bodiless => continue,
            CONTENT_LENGTH if to_head => measured = true,
            CONTENT_LENGTH => {
                if let Some(length) = length.filter(|_| !measured) {
                    measured = true;
                    write_length(length, Some(value), out);
                }
                continue;
            }
            CONNECTION => closes |= says_close(value),
            DATE => dated = true,
            _ => {}
        }
        line(out, name.as_str(), value.as_bytes());
    }
    body.extra_headers(|name, value| line(out, name.as_str(), value.as_bytes()));
    last |= closes;
    if last && !closes {
        out.extend_from_slice(b"connection: close\r\n");
    }
    let framing = match length {
        _ if bodiless => Framing::Nothing,
        Some(length) => {
            if !(measured || to_head && length == 0) {
                write_length(length, None, out);
            }
            match to_head {
                true => Framing::Nothing,
                false => Framing::Length(length),
            }
        }
        None if to_head => Framing::Nothing,
        None => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Framing::Chunked
        }
    };
    if !dated {
        out.extend_from_slice(b"date: ");
        date::write(out);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    HeadEffect { framing, last }
}

fn status_line(head: &Parts, out: &mut Vec<u8>) {
    let reason = head.extensions.get::<ReasonPhrase>();
    if head.status == StatusCode::OK && reason.is_none() {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    let usual = head.status.canonical_reason().unwrap_or("<none>");
    let reason = reason.map_or(usual.as_bytes(), ReasonPhrase::as_bytes);
    for part in [
        b"HTTP/1.1 ",
        head.status.as_str().as_bytes(),
        b" ",
        reason,
        b"\r\n",
    ] {
        out.extend_from_slice(part);
    }
}

/// Writes the field that is there as it is, if its value is the same in the simplest form.
fn write_length(length: u64, header: Option<&HeaderValue>, out: &mut Vec<u8>) {
    match header.filter(|value| digits(value.as_bytes()) == Some(length)) {
        Some(value) => line(out, CONTENT_LENGTH.as_str(), value.as_bytes()),
        None => line(out, CONTENT_LENGTH.as_str(), length.to_string().as_bytes()),
    }
}

/// The length that a head gives a body which does not know its own.
fn header_length(headers: &HeaderMap) -> Option<u64> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (Some(length), None) => digits(length.as_bytes()),
        _ => None,
    }
}

fn says_close(value: &HeaderValue) -> bool {
    let mut options = value.as_bytes().split(|byte| *byte == b',');
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}
