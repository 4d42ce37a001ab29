//! Watches what an HTTP/2 client sends besides requests.
//!
//! Guarantees: a client that sends control frames (PING, SETTINGS, PRIORITY, `RST_STREAM`) or empty
//! DATA faster than [`PER_SECOND`] for long, beyond a burst of [`BURST`], is cut: each of them
//! costs work and none asks for anything (CVE-2019-9512, -9515, -9518, CVE-2023-44487 and their
//! kin; those that cost memory are bounded by hyper and h2 themselves).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Frames without a request in them that a client may send in a second, for ever.
const PER_SECOND: f64 = 100.0;
/// Such frames that it may send at once.
const BURST: f64 = 2000.0;
/// Such frames that each HEADERS allows besides: a busy client may cancel some of its many
/// requests.
const PER_REQUEST: f64 = 0.1;
/// The client's first bytes (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Bytes of a frame's header.
const HEAD: usize = 9;

/// A connection whose reads are watched.
#[derive(Debug)]
pub(super) struct FloodGuard<S> {
    stream: S,
    frames: Frames,
}

/// The position in the sequence of frames, and what is left of the allowance.
#[derive(Debug)]
struct Frames {
    /// Bytes to skip before the next frame's head.
    skip: usize,
    head: [u8; HEAD],
    filled: usize,
    left: f64,
    since: Instant,
    /// Whether a frame's head has come after the preface.
    has_begun: bool,
    /// The time when a block of header fields began that has not ended.
    head_since: Option<Instant>,
    /// Whether the frame is the last of its block.
    is_last_of_head: bool,
    /// Bytes of DATA frames.
    data: usize,
}

// === impl Frames ===

impl Frames {
    fn new() -> Self {
        Self {
            skip: PREFACE,
            head: [0; HEAD],
            filled: 0,
            left: BURST,
            since: Instant::now(),
            has_begun: false,
            head_since: None,
            is_last_of_head: false,
            data: 0,
        }
    }

    /// Counts the frames in these bytes; returns whether the client may go on.
    fn pass(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        let elapsed: Duration = now - self.since;
        self.since = now;
        self.left = (self.left + elapsed.as_secs_f64() * PER_SECOND).min(BURST);
        while !bytes.is_empty() {
            if self.skip > 0 {
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
                let [a, b, c, kind, flags, ..] = self.head;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                match kind {
                    0x0 => self.data += self.skip,
                    0x1 | 0x9 => {
                        self.head_since.get_or_insert(now);
                        self.is_last_of_head = flags & 4 != 0;
                        self.end_head();
                    }
                    _ => {}
                }
                // Acknowledgements answer us, and an empty DATA may end a request.
                let idle = match kind {
                    0x0 => self.skip == 0 && flags & 1 == 0,
                    0x2 | 0x3 => true,
                    0x4 | 0x6 => flags & 1 == 0,
                    _ => false,
                };
                match (idle, kind) {
                    (true, _) => self.left -= 1.0,
                    (false, 0x1) => self.left = (self.left + PER_REQUEST).min(BURST),
                    (false, _) => {}
                }
                if self.left < 0.0 {
                    return false;
                }
            }
        }
        true
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
    pub(super) fn new(stream: S) -> Self {
        let frames = Frames::new();
        Self { stream, frames }
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
                let why = "the client floods the connection with control frames";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FloodGuard<S> {
    forward_writes!();

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
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

    #[tokio::test(start_paused = true)]
    async fn requests_data_and_acknowledgements_are_free() {
        let mut frames = Frames::new();
        let now = Instant::now();
        assert!(frames.pass(&preface(), now));
        let useful = [
            frame(1, 5, b"headers"),
            frame(0, 0, b"data"),
            frame(0, 1, b""),
            frame(6, 1, &[0; 8]),
            frame(4, 1, b""),
            frame(8, 0, &[0; 4]),
        ];
        for _ in 0..10_000 {
            assert!(frames.pass(&useful.concat(), now));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_cut_and_a_steady_ping_is_not() {
        for (kind, payload) in [
            (6, &[0; 8][..]),
            (4, &[]),
            (2, &[0; 5]),
            (3, &[0; 4]),
            (0, &[]),
        ] {
            let mut frames = Frames::new();
            let now = Instant::now();
            assert!(frames.pass(&preface(), now));
            let flood = frame(kind, 0, payload).repeat(1000);
            assert!(
                frames.pass(&flood, now) && frames.pass(&flood, now),
                "{kind}"
            );
            assert!(!frames.pass(&flood, now), "{kind}");
        }
        let mut frames = Frames::new();
        let start = Instant::now();
        assert!(frames.pass(&preface(), start));
        for second in 0..1000 {
            let pings = frame(6, 0, &[0; 8]).repeat(90);
            assert!(frames.pass(&pings, start + Duration::from_secs(second)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_of_fields_is_open_from_its_first_frame_to_the_end_of_its_last() {
        let mut frames = Frames::new();
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
            kinds in proptest::collection::vec((0_u8..10, 0_usize..40), 1..200),
            cuts in proptest::collection::vec(1_usize..50, 1..50),
        ) {
            let frames: Vec<Vec<u8>> = kinds
                .iter()
                .map(|(kind, length)| frame(*kind, 0, &vec![0; *length]))
                .collect();
            let bytes = [preface(), frames.concat()].concat();
            let now = Instant::now();
            let (mut whole, mut parts) = (Frames::new(), Frames::new());
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
