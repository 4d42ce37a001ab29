//! What a client sends, as far as it has been read.
//!
//! Guarantees: no more is read than [`ROOM`] bytes ahead of what is wanted, or than a body's part; a
//! connection that waits has no buffer; a head that comes whole and alone is parsed where it was
//! read to; a head that is large is in the gateway's budget from its first bytes until its exchange
//! is over, and is refused where its client has no room; a client that has said its last has left,
//! unless it may wait for its answer (`server.half_close`).

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::head::{self, Head, Unreadable};
use super::refusal::refusal;
use crate::client::Refusal;
use crate::config::{HalfClose, ServerConfig};
use crate::deadline::Deadline;
use crate::flow::{Buffered, ClientBuffers};
use crate::listener::client_stream::{ClientStream, ResetWatch, has_left_owing};
use http1::{BodyPart, ChunkError, HeadLimits, RequestReader, empty_lines};

/// The most that is read at once of what is not a body.
const ROOM: usize = 8 * 1024;
/// The most that is read at once of a body,
const PART: usize = 128 * 1024;
/// and that of a client that has its share of memory.
const LITTLE: usize = 16 * 1024;
/// The pause between two looks at a client of which nothing can be read.
const LOOK: Duration = Duration::from_secs(5);
/// A head that is no longer does not count. Most are much shorter.
const FREE: usize = 16 * 1024;

/// The bytes of a connection that were read and not used, and the codec.
#[derive(Debug)]
pub(super) struct Input {
    bytes: BytesMut,
    reader: RequestReader,
    keeps_names: bool,
    half_close: HalfClose,
    buffers: ClientBuffers,
    /// Bytes of the body that were handed over before anybody asked for them.
    ahead: usize,
    /// Bytes that are likely to have come when more of a body is read.
    likely: usize,
    /// Made when any of it is needed: an idle connection is to be small.
    seldom: Option<Box<Seldom>>,
}

/// What few requests need.
#[derive(Debug, Default)]
struct Seldom {
    /// The part of a large head in its client's budget.
    head: Option<Buffered>,
    /// The client has said its last, and may wait for its answer.
    ended: Option<ResetWatch>,
    /// The next look at a client of which nothing can be read, since nobody takes what has come.
    look: Option<Deadline>,
}

// === impl Input ===

impl Input {
    pub(super) fn new(config: &ServerConfig, buffers: ClientBuffers) -> Self {
        let limits = HeadLimits {
            bytes: config.max_header_bytes,
            fields: config.max_headers,
        };
        Self {
            bytes: BytesMut::new(),
            reader: RequestReader::new(limits),
            keeps_names: config.keeps_field_names,
            half_close: config.half_close,
            buffers,
            ahead: 0,
            likely: ROOM,
            seldom: None,
        }
    }

    /// Whether the first bytes of something are there.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the client may still send something.
    pub(super) fn may_come(&self) -> bool {
        self.seldom
            .as_ref()
            .is_none_or(|seldom| seldom.ended.is_none())
    }

    /// All of it, for whoever takes the connection over.
    pub(super) fn into_bytes(self) -> BytesMut {
        self.bytes
    }

    /// The last exchange is over: its head is needed no longer.
    pub(super) fn let_head_go(&mut self) {
        self.ahead = 0;
        // What remains is a client's last word.
        let ended = self.seldom.take().and_then(|seldom| seldom.ended);
        self.seldom = ended.map(|ended| {
            Box::new(Seldom {
                ended: Some(ended),
                ..Seldom::default()
            })
        });
    }

    /// Whether the body of the last request was read to its end.
    pub(super) fn is_body_over(&self) -> bool {
        self.reader.body().is_over()
    }

    /// How many bytes the body has, where that is known.
    pub(super) fn body_length(&self) -> Option<u64> {
        self.reader.body().exact()
    }

    /// The next head, which is put into `head`; none at the connection's end. It is large, and not
    /// to be moved about.
    pub(super) fn poll_head<I: AsyncRead + Unpin>(
        &mut self,
        stream: &mut I,
        head: &mut Option<Head>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Result<(), Box<Refusal>>>> {
        loop {
            if !self.bytes.is_empty() {
                let blank = empty_lines(&self.bytes);
                self.bytes.advance(blank);
                match read_head(&mut self.reader, &self.bytes, head, self.keeps_names) {
                    Ok(None) => {}
                    Ok(Some(length)) => {
                        self.pass_head(length);
                        self.note_head(length);
                        return Poll::Ready(Ok(Ok(())));
                    }
                    Err(error) => return Poll::Ready(Ok(Err(error))),
                }
            }
            let mut room = [MaybeUninit::uninit(); ROOM];
            let mut room = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut room))?;
            let fresh = room.filled();
            if fresh.is_empty() {
                return Poll::Ready(Ok(Ok(())));
            }
            // Most heads come whole and alone: they need no buffer.
            if self.bytes.is_empty() && !matches!(fresh, [b'\r' | b'\n', ..]) {
                match read_head(&mut self.reader, fresh, head, self.keeps_names) {
                    Ok(Some(length)) => {
                        let rest = fresh.get(length..).unwrap_or_default();
                        if !rest.is_empty() {
                            self.bytes.extend_from_slice(rest);
                        }
                        return Poll::Ready(Ok(Ok(())));
                    }
                    Ok(None) => {}
                    Err(error) => return Poll::Ready(Ok(Err(error))),
                }
            }
            self.bytes.extend_from_slice(fresh);
            if self.bytes.len() > FREE && !self.count_head(self.bytes.len()) {
                let refusal = refusal(Unreadable::NoRoom, &self.bytes);
                return Poll::Ready(Ok(Err(Box::new(refusal))));
            }
        }
    }

    /// Drops the bytes of a head. What has come behind it may wait for long, and does not keep the room
    /// that a large head needed.
    fn pass_head(&mut self, length: usize) {
        if length > ROOM {
            self.bytes = BytesMut::from(self.bytes.get(length..).unwrap_or_default());
            return;
        }
        self.bytes.advance(length);
        self.release();
    }

    /// Counts a head of which so many bytes have come, unless its client may have no more in
    /// memory; whether it may.
    fn count_head(&mut self, bytes: usize) -> bool {
        let seldom = self.seldom.get_or_insert_default();
        let counted = seldom.head.as_ref().map_or(0, Buffered::bytes);
        let more = bytes.saturating_sub(counted);
        let may = self.buffers.has_room_for_head(more);
        match &mut seldom.head {
            _ if !may => self.buffers.note_refused(),
            Some(head) => head.grow(more),
            None => seldom.head = Some(self.buffers.hold(bytes)),
        }
        may
    }

    /// A head of so many bytes is whole. It is there twice: as it came, and as its instance gets
    /// it.
    fn note_head(&mut self, length: usize) {
        let Some(seldom) = &mut self.seldom else {
            return;
        };
        match &mut seldom.head {
            Some(head) if length > FREE => {
                head.grow((2 * length).saturating_sub(head.bytes()));
            }
            // What came with it is what follows it.
            head => *head = None,
        }
    }

    /// The first part of the body, if it came with the head. It counts as read ahead until more is
    /// asked for.
    pub(super) fn first_part(&mut self) -> Option<Result<BodyPart, ChunkError>> {
        let part = self.next_part()?;
        if let Ok(BodyPart::Data(data)) = &part {
            self.ahead = data.len();
        }
        Some(part)
    }

    /// The next part of the body, if it was read already.
    fn next_part(&mut self) -> Option<Result<BodyPart, ChunkError>> {
        match self.reader.read_body(&mut self.bytes) {
            Ok(BodyPart::More) => None,
            part => {
                self.release();
                Some(part)
            }
        }
    }

    /// The next part of the body; `None` when the connection ends before the body does.
    pub(super) fn poll_body<I: AsyncRead + Unpin>(
        &mut self,
        stream: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Result<Option<BodyPart>, ChunkError>>> {
        self.ahead = 0;
        let left = self.reader.body().useful().unwrap_or(0);
        let is_little = !self.bytes.is_empty() && self.bytes.len() <= ROOM;
        if is_little && self.likely > ROOM && left > (self.bytes.len() + ROOM) as u64 {
            // Only a look whether the client is still there has read it. What has come since is one
            // part with it; an end is there to be read again.
            if let Poll::Ready(Err(error)) = self.poll_more(stream, cx) {
                return Poll::Ready(Err(error));
            }
        }
        loop {
            if let Some(part) = self.next_part() {
                return Poll::Ready(Ok(part.map(Some)));
            }
            if ready!(self.poll_more(stream, cx))? == 0 {
                return Poll::Ready(Ok(Ok(None)));
            }
        }
    }

    /// Reads some more of the body, as much as is worth reading at once; 0 at the connection's end.
    fn poll_more<I: AsyncRead + Unpin>(
        &mut self,
        stream: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let useful = self.reader.body().useful().unwrap_or(0);
        let useful = usize::try_from(useful).unwrap_or(PART).min(self.likely);
        let is_little = useful > LITTLE && !self.buffers.has_room(ROOM);
        let room = if is_little { LITTLE } else { useful.max(ROOM) };
        self.bytes.reserve(room);
        let read = poll_read_into(stream, &mut self.bytes, room, cx);
        match &read {
            Poll::Ready(Ok(count)) => {
                self.note_read(*count, room);
                self.fit();
            }
            Poll::Ready(Err(_)) | Poll::Pending => self.release(),
        }
        read
    }

    /// Lets go of room that was not needed: what is counted as a part's memory is its bytes.
    fn fit(&mut self) {
        let room = self.bytes.capacity();
        if room > 2 * ROOM && self.bytes.len() < room / 2 {
            self.bytes = BytesMut::from(&*self.bytes);
        }
    }

    /// Where there was room for so many bytes, so many had come. A client that sends slowly gets
    /// little room: what it does not fill is memory all the same.
    fn note_read(&mut self, count: usize, room: usize) {
        if count == room {
            self.likely = (2 * self.likely.max(room)).min(PART);
        } else if count < room / 4 {
            self.likely = (self.likely / 2).max(ROOM);
        }
    }

    /// Reads a little ahead, to learn whether the client has left; ready when it has.
    pub(super) fn poll_end<I: ClientStream>(
        &mut self,
        stream: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if let Some(watch) = self
            .seldom
            .as_mut()
            .and_then(|seldom| seldom.ended.as_mut())
        {
            return watch.poll_reset(cx);
        }
        while self.bytes.len() + self.ahead < ROOM {
            let room = ROOM - self.ahead - self.bytes.len();
            let mut fresh = [MaybeUninit::uninit(); ROOM];
            let mut fresh = ReadBuf::uninit(fresh.get_mut(..room).unwrap_or_default());
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut fresh)) {
                Ok(()) if !fresh.filled().is_empty() => {
                    self.bytes.extend_from_slice(fresh.filled());
                    let count = fresh.filled().len();
                    self.note_read(count, room);
                }
                Ok(()) if self.is_answered_when_half_closed() => {
                    let seldom = self.seldom.get_or_insert_default();
                    return seldom.ended.insert(ResetWatch::of(stream)).poll_reset(cx);
                }
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
        self.poll_left(stream, cx)
    }

    /// Looks from time to time whether a client can still send the rest of its body, although
    /// nothing is read of it; ready when it cannot.
    fn poll_left<I: ClientStream>(&mut self, stream: &I, cx: &mut Context<'_>) -> Poll<()> {
        let read = self.bytes.len() as u64;
        let Some(owed) = self.body_length().filter(|left| *left > read) else {
            return Poll::Pending;
        };
        let look = || Instant::now() + LOOK;
        let deadline = &mut self.seldom.get_or_insert_default().look;
        let deadline = deadline.get_or_insert_with(|| Deadline::new(look()));
        loop {
            ready!(deadline.poll_over(cx));
            if has_left_owing(stream, owed - read) {
                return Poll::Ready(());
            }
            deadline.set(look());
        }
    }

    /// Whether a client that has closed its side may wait for its answer: not if the rest of its body
    /// can never come.
    fn is_answered_when_half_closed(&self) -> bool {
        let left = self.body_length().unwrap_or(0);
        self.half_close == HalfClose::Answer && left <= self.bytes.len() as u64
    }

    /// An empty buffer is none.
    fn release(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
    }
}

/// Puts the head that `bytes` begin with into `head`, once it is whole; its length then.
fn read_head(
    reader: &mut RequestReader,
    bytes: &[u8],
    head: &mut Option<Head>,
    keeps_names: bool,
) -> Result<Option<usize>, Box<Refusal>> {
    let read = reader.read_head(bytes, |parsed| head::request(parsed, head, keeps_names));
    let length = match read {
        Ok(None) => Ok(None),
        Ok(Some((length, taken))) => taken.map(|()| Some(length)),
        Err(error) => Err(Unreadable::from(error)),
    };
    length.map_err(|error| Box::new(refusal(error, bytes)))
}

fn poll_read_into<I: AsyncRead + Unpin>(
    stream: &mut I,
    bytes: &mut BytesMut,
    room: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    tokio_util::io::poll_read_buf(Pin::new(stream), cx, &mut bytes::BufMut::limit(bytes, room))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;
    use crate::flow::{BufferBudget, PeekStream, SendTimeout};

    /// The input of a connection whose head of a request, with a body of this length, was read.
    async fn input(length: usize, stream: &mut (impl AsyncRead + Unpin)) -> Input {
        let buffers = BufferBudget::new(1 << 24).of([127, 0, 0, 1].into());
        let (mut input, mut head) = (Input::new(&ServerConfig::default(), buffers), None);
        let read = poll_fn(|cx| input.poll_head(stream, &mut head, cx)).await;
        assert!(read.is_ok_and(|head| head.is_ok()));
        assert_eq!(input.body_length(), Some(length as u64));
        input
    }

    fn post(length: usize) -> Vec<u8> {
        format!("POST / HTTP/1.1\r\ncontent-length: {length}\r\n\r\n").into()
    }

    /// The length of the next part of the body.
    async fn part(input: &mut Input, stream: &mut (impl AsyncRead + Unpin)) -> usize {
        let part = poll_fn(|cx| input.poll_body(stream, cx)).await;
        let Ok(Ok(Some(BodyPart::Data(data)))) = part else {
            panic!("no part: {part:?}");
        };
        data.len()
    }

    #[tokio::test]
    async fn what_has_come_behind_a_large_head_does_not_keep_its_room() {
        let field = "x".repeat(FREE - 1000);
        let sent = format!("GET / HTTP/1.1\r\nhost: a.b\r\nx: {field}\r\n\r\nGET /next");
        let budget = BufferBudget::new(1 << 24);
        let buffers = budget.of([127, 0, 0, 1].into());
        let (mut input, mut head) = (Input::new(&ServerConfig::default(), buffers), None);
        let mut stream = sent.as_bytes();
        let read = poll_fn(|cx| input.poll_head(&mut stream, &mut head, cx)).await;
        assert!(read.is_ok_and(|head| head.is_ok()) && head.is_some());
        assert_eq!((&input.bytes[..], budget.used()), (&b"GET /next"[..], 0));
        // A buffer's capacity does not say what lies before its bytes; a new one has nothing there.
        let room = input.bytes.capacity();
        input.bytes.clear();
        input.bytes.reserve(room + 1);
        assert!(input.bytes.capacity() < ROOM, "{}", input.bytes.capacity());
    }

    #[tokio::test]
    async fn more_is_read_at_once_of_a_body_that_comes_fast() {
        let length = 8 * PART;
        let sent = [post(length), vec![b'x'; length]].concat();
        let mut stream = &*sent;
        let mut input = input(length, &mut stream).await;
        let mut parts = Vec::new();
        while !input.is_body_over() {
            parts.push(part(&mut input, &mut stream).await);
        }
        assert_eq!(parts.iter().sum::<usize>(), length);
        assert_eq!(parts.iter().max(), Some(&PART), "{parts:?}");
        // What was read ahead and what has come since is one part.
        input.likely = PART;
        input.reader = RequestReader::new(HeadLimits {
            bytes: 1000,
            fields: 10,
        });
        let sent = [post(length), vec![b'x'; length]].concat();
        let mut stream = &*sent;
        let mut head = None;
        let read = poll_fn(|cx| input.poll_head(&mut stream, &mut head, cx)).await;
        assert!(read.is_ok_and(|head| head.is_ok()));
        assert!(!input.bytes.is_empty(), "some of it came with the head");
        assert!(part(&mut input, &mut stream).await > PART);
    }

    #[tokio::test]
    async fn a_connection_that_waits_for_more_of_a_body_has_no_buffer() {
        let (mut client, mut stream) = tokio::io::duplex(PART);
        client.write_all(&post(PART)).await.unwrap();
        let mut input = input(PART, &mut stream).await;
        for _ in 0..5 {
            client.write_all(b"a few bytes").await.unwrap();
            assert_eq!(part(&mut input, &mut stream).await, 11);
            assert_eq!(input.likely, ROOM);
            let more = poll_fn(|cx| Poll::Ready(input.poll_body(&mut stream, cx).is_ready())).await;
            assert!(!more && input.bytes.capacity() == 0);
        }
    }

    #[tokio::test]
    async fn a_part_has_little_more_memory_than_bytes() {
        let (mut client, mut stream) = tokio::io::duplex(4 * PART);
        client.write_all(&post(4 * PART)).await.unwrap();
        let mut input = input(4 * PART, &mut stream).await;
        for bytes in [PART / 3, PART / 2, PART] {
            input.likely = PART;
            client.write_all(&vec![b'x'; bytes]).await.unwrap();
            let read = poll_fn(|cx| input.poll_more(&mut stream, cx)).await;
            assert_eq!(read.unwrap(), bytes);
            assert!(input.bytes.capacity() <= 2 * bytes + ROOM, "{bytes}");
            input.bytes.clear();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_cannot_send_the_rest_of_its_body_is_noticed_though_nobody_takes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let stream = SendTimeout::new(listener.accept().await.unwrap().0, LOOK);
        let mut stream = PeekStream::new(stream);
        client.write_all(&post(5 * ROOM)).await.unwrap();
        client.write_all(&vec![b'x'; 3 * ROOM]).await.unwrap();
        let mut input = input(5 * ROOM, &mut stream).await;
        let end = timeout(LOOK * 10, poll_fn(|cx| input.poll_end(&mut stream, cx)));
        assert!(end.await.is_err(), "it may send the rest");
        client.shutdown().await.unwrap();
        let began = Instant::now();
        poll_fn(|cx| input.poll_end(&mut stream, cx)).await;
        assert!(began.elapsed() <= LOOK * 2);
    }
}
