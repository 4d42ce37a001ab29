//! What the library does not say of trailers: whether they have a pseudo-field, and whether it has
//! cut them short.
//!
//! Guarantees: trailers with a pseudo-field are malformed (RFC 9113 §8.1) and reset their stream;
//! trailers that are larger than a head may be are known to be cut; everything but trailers passes
//! as it is, and without a copy; the work for a frame is proportional to its bytes, and no more of
//! it is kept than its first few.
//!
//! h2 drops pseudo-fields of trailers, but it refuses one that comes after a field, and it drops
//! the fields that are beyond its limit. So a block of trailers is given a field of ours at its
//! beginning and one at its end: `HEADERS` becomes a `HEADERS` with ours and a `CONTINUATION` with
//! the client's, and another `CONTINUATION` with ours ends the block. Our field is a literal that
//! goes into no table (RFC 7541 §6.2.2), so the tables of both sides stay the same.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::{HeaderMap, HeaderName};
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::flow::forward_writes;

/// The name of our field, which no client has a use for; it is taken out again.
const NAME: &str = "~";
/// It, without a value, as a literal that goes into no table.
const MARK: [u8; 4] = [0, 1, b'~', 0];
/// The client's first bytes (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Bytes of a frame's header.
const HEAD: usize = 9;
/// Bytes that are read at once while a block of trailers is under way.
const PART: usize = 1024;
/// The largest frame that a client may send, which is what the library says (RFC 9113 §4.2).
const MAX_FRAME: usize = 16 * 1024;
/// Bytes of updates of the table's size at the beginning of a block: two are allowed (RFC 7541
/// §4.2), and each needs no more than five.
const MAX_UPDATES: usize = 16;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Takes our fields out of trailers; whether the library has left the trailers whole.
pub(super) fn remove(trailers: &mut HeaderMap) -> bool {
    let marks = trailers.get_all(NAME).iter().count();
    trailers.remove(HeaderName::from_static(NAME));
    marks >= 2
}

/// A connection whose trailers are marked.
#[derive(Debug)]
pub(super) struct TrailerMarks<S> {
    stream: S,
    marker: Marker,
    /// Bytes that were changed, or held back, and can be read now.
    out: BytesMut,
}

/// The position in the sequence of frames.
#[derive(Debug)]
struct Marker {
    place: Place,
    /// The start of a frame's header, or of the trailers' payload, that has to be whole first.
    start: Vec<u8>,
    /// The last stream that the client has opened.
    last: u32,
    /// Whether a block of trailers goes on with the next frame.
    is_open: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Bytes that pass until the next frame.
    Passing(usize),
    /// The fields of a block of trailers, and what follows them in the frame.
    Fields {
        left: usize,
        padding: usize,
        is_last: bool,
        stream: u32,
    },
    /// Bytes of padding, which are dropped.
    Padding(usize),
    /// The beginning of the payload of a `HEADERS` with trailers.
    Beginning(Head),
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

// === impl Head ===

impl Head {
    fn read(bytes: &[u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = *bytes;
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }

    fn write(self, out: &mut BytesMut) {
        let [_, _, _, _, _, a, b, c] = (self.length as u64).to_be_bytes();
        out.extend_from_slice(&[a, b, c, self.kind, self.flags]);
        out.extend_from_slice(&self.stream.to_be_bytes());
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A `CONTINUATION` of so many bytes.
fn continuation(length: usize, is_last: bool, stream: u32, out: &mut BytesMut) {
    let flags = if is_last { END_HEADERS } else { 0 };
    let kind = CONTINUATION;
    Head {
        length,
        kind,
        flags,
        stream,
    }
    .write(out);
}

/// The bytes of the updates of the table's size that a block begins with (RFC 7541 §6.3); `None` if
/// it may have more of them.
fn table_updates(block: &[u8], is_whole: bool) -> Option<usize> {
    let mut count = 0;
    loop {
        let Some(first) = block.get(count) else {
            return is_whole.then_some(count);
        };
        if first & 0xe0 != 0x20 {
            return Some(count);
        }
        let mut end = count + 1;
        if first & 0x1f == 0x1f {
            let is_more = |byte: &u8| byte & 0x80 != 0;
            end += block
                .get(end..)?
                .iter()
                .take_while(|byte| is_more(byte))
                .count()
                + 1;
        }
        if end > block.len() {
            return is_whole.then_some(count);
        }
        count = end;
    }
}

// === impl Marker ===

impl Marker {
    /// Whether what comes next may pass without a copy.
    fn is_plain(&self) -> bool {
        matches!(self.place, Place::Passing(_)) && self.start.is_empty()
    }

    /// A frame's header has come: whether the frame passes as it is.
    fn passes(&mut self, head: Head) -> bool {
        match head.kind {
            HEADERS if head.stream > self.last => self.last = head.stream,
            HEADERS => return false,
            CONTINUATION if self.is_open => return false,
            _ => self.is_open = false,
        }
        true
    }

    /// How many of these bytes pass as they are; the rest is for [`Self::take`].
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let (mut at, Place::Passing(mut skip)) = (0, self.place) else {
            return 0;
        };
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.len() <= skip {
                self.place = Place::Passing(skip - rest.len());
                return bytes.len();
            }
            at += skip;
            self.place = Place::Passing(0);
            let Some(head) = bytes.get(at..).and_then(<[u8]>::first_chunk) else {
                return at;
            };
            let head = Head::read(head);
            if head.kind == HEADERS && head.stream <= self.last || self.is_open {
                return at;
            }
            self.passes(head);
            at += HEAD;
            skip = head.length;
        }
    }

    /// Takes bytes as they come, and writes out what the library is to read.
    fn take(&mut self, mut bytes: &[u8], out: &mut BytesMut) {
        loop {
            match self.place {
                Place::Passing(0) => {
                    let Some(head) = self.start_of(HEAD, &mut bytes) else {
                        return;
                    };
                    self.begin(head, out);
                }
                Place::Passing(left) => {
                    let part = split(&mut bytes, left);
                    out.extend_from_slice(part);
                    self.place = Place::Passing(left - part.len());
                }
                Place::Padding(left) => {
                    let part = split(&mut bytes, left);
                    self.place = match left - part.len() {
                        0 => Place::Passing(0),
                        left => Place::Padding(left),
                    };
                }
                Place::Fields {
                    left: 0,
                    padding,
                    is_last,
                    stream,
                } => {
                    if is_last {
                        continuation(MARK.len(), true, stream, out);
                        out.extend_from_slice(&MARK);
                    }
                    self.is_open = !is_last;
                    self.place = match padding {
                        0 => Place::Passing(0),
                        padding => Place::Padding(padding),
                    };
                    continue;
                }
                Place::Fields {
                    left,
                    padding,
                    is_last,
                    stream,
                } => {
                    let part = split(&mut bytes, left);
                    out.extend_from_slice(part);
                    let left = left - part.len();
                    self.place = Place::Fields {
                        left,
                        padding,
                        is_last,
                        stream,
                    };
                    if left == 0 {
                        continue;
                    }
                }
                Place::Beginning(head) => {
                    if !self.begin_trailers(head, &mut bytes, out) {
                        return;
                    }
                    continue;
                }
            }
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// Puts bytes together until there are `count`.
    fn start_of(&mut self, count: usize, bytes: &mut &[u8]) -> Option<[u8; HEAD]> {
        let part = split(bytes, count - self.start.len());
        self.start.extend_from_slice(part);
        let whole = self.start.first_chunk().copied();
        if whole.is_some() {
            self.start.clear();
        }
        whole
    }

    fn begin(&mut self, head: [u8; HEAD], out: &mut BytesMut) {
        let read = Head::read(&head);
        // One that is too long ends the connection.
        if read.length > MAX_FRAME || self.passes(read) {
            out.extend_from_slice(&head);
            self.place = Place::Passing(read.length);
        } else if read.kind == HEADERS {
            self.place = Place::Beginning(read);
        } else {
            continuation(read.length, false, read.stream, out);
            self.place = Place::Fields {
                left: read.length,
                padding: 0,
                is_last: read.has(END_HEADERS),
                stream: read.stream,
            };
        }
    }

    /// Marks the beginning of trailers once enough of their payload is there; whether it is.
    fn begin_trailers(&mut self, head: Head, bytes: &mut &[u8], out: &mut BytesMut) -> bool {
        loop {
            let is_whole = self.start.len() == head.length;
            if let Poll::Ready(begun) = beginning(head, &self.start, is_whole) {
                match begun {
                    Some(begun) => self.mark(head, begun, out),
                    None => {
                        // The library is to see what is wrong.
                        head.write(out);
                        out.extend_from_slice(&self.start);
                        self.place = Place::Passing(head.length - self.start.len());
                    }
                }
                self.start.clear();
                return true;
            }
            let Some((first, rest)) = bytes.split_first() else {
                return false;
            };
            self.start.push(*first);
            *bytes = rest;
        }
    }

    fn mark(&mut self, head: Head, begun: Begun, out: &mut BytesMut) {
        let Begun {
            from,
            updates,
            padding,
        } = begun;
        let fields = head.length - from - padding;
        let block = self.start.get(from..).unwrap_or_default();
        let (updates, block) = block.split_at_checked(updates).unwrap_or_default();
        Head {
            length: updates.len() + MARK.len(),
            flags: head.flags & END_STREAM,
            ..head
        }
        .write(out);
        out.extend_from_slice(updates);
        out.extend_from_slice(&MARK);
        let length = fields - updates.len();
        continuation(length, false, head.stream, out);
        out.extend_from_slice(block);
        self.place = Place::Fields {
            left: length - block.len(),
            padding,
            is_last: head.has(END_HEADERS),
            stream: head.stream,
        };
    }
}

/// Where the fields of a `HEADERS` begin.
#[derive(Debug, Clone, Copy)]
struct Begun {
    from: usize,
    /// Bytes of updates of the table's size before the fields.
    updates: usize,
    padding: usize,
}

/// Reads the beginning of a payload; `Pending` while it is too short to tell, and nothing if it is
/// no beginning.
fn beginning(head: Head, start: &[u8], is_whole: bool) -> Poll<Option<Begun>> {
    let padding = match (head.has(PADDED), start.first()) {
        (false, _) => 0,
        (true, Some(length)) => usize::from(*length),
        (true, None) if is_whole => return Poll::Ready(None),
        (true, None) => return Poll::Pending,
    };
    let from = usize::from(head.has(PADDED)) + if head.has(PRIORITY) { 5 } else { 0 };
    if from + padding > head.length {
        return Poll::Ready(None);
    }
    let (Some(block), fields) = (start.get(from..), head.length - from - padding) else {
        return Poll::Pending;
    };
    match table_updates(block, block.len() >= fields) {
        Some(updates) if updates <= MAX_UPDATES => Poll::Ready(Some(Begun {
            from,
            updates,
            padding,
        })),
        None if block.len() < MAX_UPDATES => Poll::Pending,
        Some(_) | None => Poll::Ready(None),
    }
}

fn split<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (part, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    part
}

// === impl TrailerMarks ===

impl<S> TrailerMarks<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            marker: Marker {
                place: Place::Passing(PREFACE),
                start: Vec::new(),
                last: 0,
                is_open: false,
            },
            out: BytesMut::new(),
        }
    }

    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    pub(super) fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TrailerMarks<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        loop {
            if !me.out.is_empty() {
                let count = me.out.len().min(buffer.remaining());
                buffer.put_slice(me.out.get(..count).unwrap_or_default());
                me.out.advance(count);
                return Poll::Ready(Ok(()));
            }
            if !me.marker.is_plain() {
                let mut room = [0; PART];
                let mut part = ReadBuf::new(&mut room);
                ready!(Pin::new(&mut me.stream).poll_read(cx, &mut part))?;
                if part.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                me.marker.take(part.filled(), &mut me.out);
                continue;
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut me.stream).poll_read(cx, buffer))?;
            let read = buffer.filled().get(before..).unwrap_or_default();
            let count = me.marker.pass(read);
            if count == read.len() {
                return Poll::Ready(Ok(()));
            }
            me.marker
                .take(read.get(count..).unwrap_or_default(), &mut me.out);
            buffer.set_filled(before + count);
            if count > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrailerMarks<S> {
    forward_writes!();
}

#[cfg(test)]
mod tests;
