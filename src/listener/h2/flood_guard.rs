//! Watches what an HTTP/2 client sends besides requests.
//!
//! Guarantees: each frame that carries no part of a request counts, whatever its type, those that
//! nobody knows included; a client that sends them faster than [`PER_SECOND`] for long, beyond a
//! burst of [`BURST`], is cut: each of them costs work and none asks for anything (CVE-2019-9511
//! to -9518, CVE-2023-44487, CVE-2024-27316 and their kin; those that cost memory are bounded by
//! h2 itself). Frames that honest clients send with each request, or for what they
//! receive, are free as long as there are requests and responses for them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::abandoned::Abandoned;

/// Frames without a request in them that a client may send in a second, for ever.
const PER_SECOND: f64 = 100.0;
/// Such frames that it may send at once.
const BURST: f64 = 2000.0;
/// Such frames that each HEADERS allows besides: a busy client may cancel some of its many
/// requests.
const PER_REQUEST: f64 = 0.1;
/// Companions (see [`Cost::Companion`]) that each HEADERS allows: Firefox sends a `WINDOW_UPDATE`
/// and a priority with each request.
const COMPANIONS_PER_REQUEST: f64 = 3.0;
/// Companions that each byte for the client allows. A client may answer each small DATA frame with
/// a `WINDOW_UPDATE` for its stream and one for the connection, and measure with a PING; a PING
/// that is answered must not allow the next, and such an answer has 17 bytes.
const COMPANIONS_PER_BYTE: f64 = 1.0 / 32.0;
/// Companions that may be saved up: a client may empty its whole window at once.
const MOST_COMPANIONS: f64 = 65_536.0;
/// The least that a CONTINUATION carries which does not end its head, in bytes: a client splits
/// a head because it is large.
const SPLIT: usize = 1024;
/// The client's first bytes (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Bytes of a frame's header.
const HEAD: usize = 9;

/// The types of frames (RFC 9113 §6, RFC 9218 §7.1).
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const PRIORITY: u8 = 0x2;
const PING: u8 = 0x6;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
const PRIORITY_UPDATE: u8 = 0x10;
/// Their flags.
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

/// A connection whose frames are watched.
#[derive(Debug)]
pub(super) struct FloodGuard<S> {
    stream: S,
    frames: Frames,
}

/// What a frame takes of the allowances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cost {
    /// It begins a request, or trailers.
    Request,
    /// It carries a part of a request.
    Nothing,
    /// It goes with requests or answers what the client receives.
    Companion,
    /// It does neither.
    Idle,
}

/// The position in the sequence of frames, and what is left of the allowances.
#[derive(Debug)]
struct Frames {
    /// Bytes to skip before the next frame's head.
    skip: usize,
    head: [u8; HEAD],
    filled: usize,
    /// Whether the next byte is the length of a DATA frame's padding.
    has_padding: bool,
    /// Whether that frame is the last of its request.
    is_last_data: bool,
    left: f64,
    companions: f64,
    since: Instant,
    /// Whether a frame's head has come after the preface.
    has_begun: bool,
    /// The time when a block of header fields began that has not ended.
    head_since: Option<Instant>,
    /// Whether the frame is the last of its block.
    is_last_of_head: bool,
    /// Bytes of DATA frames that somebody reads, without their padding.
    data: usize,
    /// Whether the frame is one of those.
    is_read: bool,
    /// The same for each stream, where that counts.
    of_streams: Option<Vec<(u32, usize)>>,
    /// Frames without a request in them that each HEADERS allows.
    per_request: f64,
    abandoned: Arc<Abandoned>,
}

/// What a frame takes, by its head. A DATA frame with padding is judged by its padding's length.
fn cost(kind: u8, flags: u8, length: usize) -> Cost {
    match kind {
        HEADERS => Cost::Request,
        // An empty one may end a request.
        DATA if length > 0 || flags & END_STREAM != 0 => Cost::Nothing,
        CONTINUATION if length >= SPLIT || length > 0 && flags & END_HEADERS != 0 => Cost::Nothing,
        // The gateway's own PINGs are few.
        PING if flags & ACK == 0 => Cost::Companion,
        WINDOW_UPDATE | PRIORITY | PRIORITY_UPDATE => Cost::Companion,
        _ => Cost::Idle,
    }
}

// === impl Frames ===

impl Frames {
    fn new(abandoned: Arc<Abandoned>) -> Self {
        Self {
            skip: PREFACE,
            head: [0; HEAD],
            filled: 0,
            has_padding: false,
            is_last_data: false,
            left: BURST,
            companions: 0.0,
            since: Instant::now(),
            has_begun: false,
            head_since: None,
            is_last_of_head: false,
            data: 0,
            is_read: false,
            of_streams: None,
            per_request: PER_REQUEST,
            abandoned,
        }
    }

    /// So many bytes of a stream's DATA are announced.
    fn announce(&mut self, stream: u32, bytes: usize) {
        self.data += bytes;
        if let Some(streams) = &mut self.of_streams {
            streams.push((stream, bytes));
        }
    }

    /// So many of the last that were announced are padding.
    fn is_padding(&mut self, bytes: usize) {
        self.data = self.data.saturating_sub(bytes);
        let last = self.of_streams.as_mut().and_then(|all| all.last_mut());
        if let Some((_, announced)) = last {
            *announced = announced.saturating_sub(bytes);
        }
    }

    /// So many bytes have gone to the client.
    fn sent(&mut self, bytes: usize) {
        let allowed = bytes as f64 * COMPANIONS_PER_BYTE;
        self.companions = (self.companions + allowed).min(MOST_COMPANIONS);
    }

    fn take(&mut self, cost: Cost) {
        match cost {
            Cost::Request => {
                self.left = (self.left + self.per_request).min(BURST);
                let companions = self.companions + COMPANIONS_PER_REQUEST;
                self.companions = companions.min(MOST_COMPANIONS);
            }
            Cost::Nothing => {}
            Cost::Companion if self.companions >= 1.0 => self.companions -= 1.0,
            Cost::Companion | Cost::Idle => self.left -= 1.0,
        }
    }

    /// Counts the frames in these bytes; returns whether the client may go on.
    fn pass(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        let elapsed: Duration = now - self.since;
        self.since = now;
        self.left = (self.left + elapsed.as_secs_f64() * PER_SECOND).min(BURST);
        while let Some(first) = bytes.first() {
            if self.skip > 0 {
                if std::mem::take(&mut self.has_padding) {
                    let padding = usize::from(*first) + 1;
                    // An empty DATA that ends its request does so with padding, too.
                    if padding >= self.skip && !self.is_last_data {
                        self.take(Cost::Idle);
                    }
                    if self.is_read {
                        self.is_padding(padding);
                    }
                }
                let count = self.skip.min(bytes.len());
                self.skip -= count;
                self.end_head();
                bytes = bytes.get(count..).unwrap_or_default();
                continue;
            }
            let (count, start) = ((HEAD - self.filled).min(bytes.len()), self.filled);
            let (part, rest) = bytes.split_at(count);
            if let Some(room) = self.head.get_mut(start..start + count) {
                room.copy_from_slice(part);
            }
            (self.filled, bytes) = (start + count, rest);
            if self.filled == HEAD {
                (self.filled, self.has_begun) = (0, true);
                let [a, b, c, kind, flags, stream @ ..] = self.head;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
                self.is_read = kind == DATA && !self.abandoned.has(stream);
                match kind {
                    DATA if self.is_read => self.announce(stream, self.skip),
                    HEADERS | CONTINUATION => {
                        self.head_since.get_or_insert(now);
                        self.is_last_of_head = flags & END_HEADERS != 0;
                        self.end_head();
                    }
                    _ => {}
                }
                self.has_padding = kind == DATA && flags & PADDED != 0;
                self.is_last_data = flags & END_STREAM != 0;
                self.take(cost(kind, flags, self.skip));
            }
            if self.left < 0.0 {
                return false;
            }
        }
        self.left >= 0.0
    }

    /// The block of header fields is over, if its last frame is.
    fn end_head(&mut self) {
        if self.skip == 0 && self.is_last_of_head {
            (self.head_since, self.is_last_of_head) = (None, false);
        }
    }
}

// === impl FloodGuard ===

impl<S> FloodGuard<S> {
    /// Data of the streams that are `abandoned` is not counted.
    pub(super) fn new(stream: S, abandoned: Arc<Abandoned>) -> Self {
        let frames = Frames::new(abandoned);
        Self { stream, frames }
    }

    /// The connection itself.
    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Whether the client has sent its preface and the head of a frame.
    pub(super) fn has_begun(&self) -> bool {
        self.frames.has_begun
    }

    /// The time when a block of header fields began of which something is still to come.
    pub(super) fn head_since(&self) -> Option<Instant> {
        self.frames.head_since
    }

    /// The bytes of DATA that were announced since the last call.
    pub(super) fn take_data(&mut self) -> usize {
        std::mem::take(&mut self.frames.data)
    }

    /// The connection carries the requests of many clients: the bytes of each stream are known apart, and
    /// each request may be cancelled.
    pub(super) fn of_many(&mut self) {
        self.frames.of_streams = Some(Vec::new());
        self.frames.per_request = 1.0;
    }

    /// The same for each stream.
    pub(super) fn take_data_of_streams(&mut self) -> impl Iterator<Item = (u32, usize)> {
        self.frames.data = 0;
        self.frames
            .of_streams
            .iter_mut()
            .flat_map(|all| all.drain(..))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FloodGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if matches!(polled, Poll::Ready(Ok(()))) {
            let read = buffer.filled().get(before..).unwrap_or_default();
            if !self.frames.pass(read, Instant::now()) {
                let why = "the client floods the connection with frames that carry no request";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FloodGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.frames.sent(count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        self.frames.sent(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let [_, _, _, _, _, a, b, c] = (payload.len() as u64).to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn preface() -> Vec<u8> {
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()
    }

    fn opened() -> (Frames, Instant) {
        let mut frames = Frames::new(Arc::default());
        let now = Instant::now();
        assert!(frames.pass(&preface(), now));
        (frames, now)
    }

    #[tokio::test(start_paused = true)]
    async fn requests_and_their_parts_are_free_and_so_is_what_goes_with_them() {
        let (mut frames, now) = opened();
        let useful = [
            frame(HEADERS, 4, b"headers"),
            frame(WINDOW_UPDATE, 0, &[0; 4]),
            frame(PRIORITY_UPDATE, 0, &[0; 8]),
            frame(DATA, 0, b"data"),
            frame(DATA, PADDED, &[2, 1, 0, 0]),
            frame(DATA, END_STREAM, b""),
            frame(HEADERS, 1, &[0; 1200]),
            frame(CONTINUATION, 0, &[0; SPLIT]),
            frame(CONTINUATION, END_HEADERS, b"x"),
        ];
        for _ in 0..10_000 {
            assert!(frames.pass(&useful.concat(), now));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_receives_may_open_windows_and_measure() {
        // Events of a hundred bytes, each of which is acknowledged twice and measured once.
        let (mut frames, now) = opened();
        let answers = [
            frame(WINDOW_UPDATE, 0, &[0; 4]),
            frame(WINDOW_UPDATE, 0, &[0; 4]),
            frame(PING, 0, &[0; 8]),
        ];
        for _ in 0..100_000 {
            frames.sent(HEAD + 100);
            assert!(frames.pass(&answers.concat(), now));
        }
        // A whole window of 16 MiB, in DATA frames of 16 KiB that are acknowledged at the end.
        let (mut frames, now) = opened();
        for _ in 0..1024 {
            frames.sent(HEAD + 16 * 1024);
        }
        let updates = frame(WINDOW_UPDATE, 0, &[0; 4]).repeat(2048);
        assert!(frames.pass(&updates, now));
        assert!(frames.left > BURST - 1.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_any_frame_without_a_request_is_cut() {
        for (kind, flags, payload) in [
            (DATA, 0, &[][..]),
            (DATA, PADDED, &[0]),
            (DATA, PADDED, &[7; 8]),
            (PRIORITY, 0, &[0; 5]),
            (0x3, 0, &[0; 4]),
            (0x4, 0, &[]),
            (0x4, ACK, &[]),
            (0x5, 0, &[0; 4]),
            (PING, 0, &[0; 8]),
            (PING, ACK, &[0; 8]),
            (0x7, 0, &[0; 8]),
            (WINDOW_UPDATE, 0, &[0; 4]),
            (CONTINUATION, 0, &[]),
            (CONTINUATION, 0, b"x"),
            (CONTINUATION, END_HEADERS, &[]),
            (PRIORITY_UPDATE, 0, &[0; 8]),
            (0x0b, 0, &[]),
            (0xff, 0xff, &[0; 100]),
        ] {
            let (mut frames, now) = opened();
            let flood = frame(kind, flags, payload).repeat(1000);
            assert!(
                frames.pass(&flood, now) && frames.pass(&flood, now),
                "{kind} {flags}"
            );
            assert!(!frames.pass(&flood, now), "{kind} {flags}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_may_cancel_each_request_of_its_clients_and_its_streams_are_told_apart() {
        let mut guard = FloodGuard::new(tokio::io::empty(), Arc::default());
        guard.of_many();
        let (frames, now) = (&mut guard.frames, Instant::now());
        assert!(frames.pass(&preface(), now));
        let cancelled = [frame(HEADERS, 4, b"headers"), frame(0x3, 0, &[0; 4])];
        for _ in 0..100_000 {
            assert!(frames.pass(&cancelled.concat(), now));
        }
        let mut third = frame(DATA, PADDED, &[2, 1, 0, 0]);
        third[8] = 3;
        assert!(frames.pass(&[frame(DATA, 0, b"data"), third].concat(), now));
        let streams: Vec<_> = guard.take_data_of_streams().collect();
        assert_eq!(streams, [(1, 4), (3, 1)]);
        assert_eq!(guard.take_data_of_streams().count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_answers_to_pings_do_not_pay_for_pings() {
        let (mut frames, now) = opened();
        let ping = frame(PING, 0, &[0; 8]);
        let mut count = 0;
        while frames.pass(&ping, now) {
            frames.sent(HEAD + 8);
            count += 1;
            assert!(count < 10_000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_ping_is_not_cut() {
        let (mut frames, start) = opened();
        for second in 0..1000 {
            let pings = frame(PING, 0, &[0; 8]).repeat(90);
            assert!(frames.pass(&pings, start + Duration::from_secs(second)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_of_fields_is_open_from_its_first_frame_to_the_end_of_its_last() {
        let mut frames = Frames::new(Arc::default());
        let now = Instant::now();
        assert!(frames.pass(&preface(), now) && !frames.has_begun);
        let (first, last) = (frame(1, 1, b"a"), frame(9, 4, b"bcd"));
        assert!(frames.pass(&first, now) && frames.has_begun);
        assert_eq!(frames.head_since, Some(now));
        let (most, end) = last.split_at(last.len() - 1);
        assert!(frames.pass(most, now + Duration::from_secs(1)));
        assert_eq!(frames.head_since, Some(now));
        assert!(frames.pass(end, now));
        assert_eq!(frames.head_since, None);
        for whole in [frame(1, 5, b""), frame(1, 4, b"abc"), frame(0, 0, b"data")] {
            assert!(frames.pass(&whole, now) && frames.head_since.is_none());
        }
        assert_eq!(frames.data, 4);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(
            kinds in proptest::collection::vec((0_u8..20, 0_usize..40), 1..200),
            cuts in proptest::collection::vec(1_usize..50, 1..50),
        ) {
            let frames: Vec<Vec<u8>> = kinds
                .iter()
                .map(|(kind, length)| frame(*kind, *kind << 3, &vec![*kind; *length]))
                .collect();
            let bytes = [preface(), frames.concat()].concat();
            let now = Instant::now();
            let (mut whole, mut parts) = (Frames::new(Arc::default()), Frames::new(Arc::default()));
            parts.since = whole.since;
            whole.pass(&bytes, now);
            let (mut rest, mut cuts) = (bytes.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (part, more) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                parts.pass(part, now);
                rest = more;
            }
            prop_assert!((whole.left - parts.left).abs() < 1e-6);
            prop_assert_eq!((whole.skip, whole.filled), (parts.skip, parts.filled));
        }
    }
}
