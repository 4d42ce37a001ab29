//! How much an instance sends of a response over HTTP/2 before anybody has taken of it.
//!
//! Guarantees: a stream's window is [`FIRST`] until its reader has taken more than two frames of it, and
//! [`WINDOW`] from then on; it is never more than what the library counts with; frames go out in their order,
//! and nothing but the sizes of windows is changed.
//!
//! A window is a setting of a connection, for all of its streams, and the library has none for one of them. So
//! the library is told [`WINDOW`], and what it says is changed on its way out: its SETTINGS say [`FIRST`], and
//! the first `WINDOW_UPDATE` of each stream gives the rest, too. The library sends one when half of what is left
//! of a window, as it counts, was taken (h2 0.4.20, `FlowControl::unclaimed_capacity`). With [`FIRST`] bytes
//! there that is [`TAKEN`]: fewer, so that no stream stands still, and more than a response has handed on whose
//! client takes nothing, which is a frame that waits to be written and one behind it. Until the instance has
//! acknowledged its SETTINGS, the library counts with 65,535 bytes, so no stream has more before that.
//!
//! [`SPARE`] bytes of the first window are not needed for that. An instance's system may keep the last of what was
//! written until all before it is acknowledged (Nagle), and the gateway's waits 40 ms with that while it has nothing to
//! say: so a stream must not depend on the last bytes of a window. nginx, with 36 KiB, took 44 ms for 100 KB.
//!
//! Whatever the instance does, a stream that is read goes on: an update of the library's is due when what the instance
//! may send has all been taken, since [`FIRST`] is more than a third of [`WINDOW`], and one that is changed too late, or
//! not at all, leaves the stream with [`FIRST`]. Padding counts as taken when it comes, so an instance that pads much,
//! or sends more than it was told, may have [`WINDOW`] waiting of a stream, and no more: the library counts with that.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::flow::poll_write_whole;

/// The window of a stream of which little was taken, in bytes: what waits of a response that nobody reads.
const FIRST: u32 = 56 * 1024;
/// The window of one that is read.
pub(super) const WINDOW: u32 = 124 * 1024;
/// A window is [`WINDOW`] when so much was taken.
const TAKEN: u32 = (WINDOW - FIRST) / 2;
/// The most that a frame has where nothing else was said (RFC 9113 §4.2).
const FRAME: u32 = 16 * 1024;
/// What is left of a first window when the library says more of one of which all that came was taken.
const SPARE: u32 = FIRST - WINDOW.div_ceil(3);
const _: () = assert!(TAKEN < FIRST && TAKEN > 2 * FRAME && SPARE > 14 * 1024);

/// Streams that may still have [`FIRST`], more than a connection carries at once: those that have ended are
/// forgotten when there are more.
const YOUNG: usize = 256;

/// What a connection's client sends first (RFC 9113 §3.4), without the frame that follows it.
const PREFACE: usize = 24;
/// Bytes of a frame's header.
const HEAD: usize = 9;
const HEADERS: u8 = 0x1;
const SETTINGS: u8 = 0x4;
const ACK: u8 = 0x1;
const WINDOW_UPDATE: u8 = 0x8;
/// The setting of the window of all streams (RFC 9113 §6.5.2), and the bytes of each setting.
const INITIAL_WINDOW_SIZE: u16 = 0x4;
const SETTING: usize = 6;

/// The bytes that may be in memory behind what was taken of a stream. The library reads frames into room that
/// it makes larger by halves: a heap profile has 20.2 KiB for a frame of 16.
pub(super) fn backlog(taken: usize) -> usize {
    let window = match taken < TAKEN as usize {
        true => (FIRST as usize).saturating_sub(taken),
        false => WINDOW as usize,
    };
    window + window / 4
}

/// A connection below the library.
#[derive(Debug)]
pub(super) struct Windowed<S> {
    stream: S,
    windows: Windows,
    /// What was changed and has still to be written.
    changed: Bytes,
}

/// What is known of the windows of a connection's streams.
#[derive(Debug)]
struct Windows {
    at: Position,
    /// Whether the instance was told [`FIRST`].
    is_small: bool,
    /// The position in the frames that come, until the instance has acknowledged that.
    unacknowledged: Option<Position>,
    /// The stream that was opened last.
    last: u32,
    /// Those that have [`FIRST`], in order.
    young: VecDeque<u32>,
}

/// The position in the frames that go out.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    head: [u8; HEAD],
    filled: usize,
    /// Bytes of the frame, or of the preface, that are still to come.
    left: usize,
}

/// A frame's header.
#[derive(Debug, Clone, Copy)]
struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

// === impl Frame ===

impl Frame {
    fn of([a, b, c, kind, flags, stream @ ..]: [u8; HEAD]) -> Self {
        Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }
}

// === impl Position ===

impl Position {
    /// Goes on over these bytes; returns how many. `goes_on` hears of each frame whose header has come, with
    /// the bytes behind it where the header is among these, and whether to stop before it.
    fn pass(
        &mut self,
        bytes: &[u8],
        mut goes_on: impl FnMut(Frame, Option<&[u8]>) -> bool,
    ) -> usize {
        let mut rest = bytes;
        loop {
            let skipped = self.left.min(rest.len());
            self.left -= skipped;
            rest = rest.get(skipped..).unwrap_or_default();
            if rest.is_empty() {
                return bytes.len();
            }
            let begun = self.filled;
            let (part, behind) = rest.split_at((HEAD - begun).min(rest.len()));
            if let Some(room) = self.head.get_mut(begun..begun + part.len()) {
                room.copy_from_slice(part);
            }
            self.filled = begun + part.len();
            if self.filled == HEAD {
                self.filled = 0;
                let frame = Frame::of(self.head);
                if !goes_on(frame, (begun == 0).then_some(behind)) {
                    return bytes.len() - rest.len();
                }
                self.left = frame.length;
            }
            rest = behind;
        }
    }
}

// === impl Windows ===

impl Windows {
    fn new() -> Self {
        Self {
            at: Position {
                left: PREFACE,
                ..Position::default()
            },
            is_small: false,
            unacknowledged: Some(Position::default()),
            last: 0,
            young: VecDeque::new(),
        }
    }

    /// How many of these bytes may go as they are, from a position that goes on behind them. A stream that is
    /// opened among them has no response yet, and so no update.
    fn unchanged(&self, at: &mut Position, bytes: &[u8]) -> usize {
        at.pass(bytes, |frame, behind| {
            let is_whole = behind.is_some_and(|behind| behind.len() >= frame.length);
            !is_whole || !self.changes(frame)
        })
    }

    fn changes(&self, frame: Frame) -> bool {
        match frame.kind {
            SETTINGS => frame.flags & ACK == 0 && !self.is_small && self.last == 0,
            WINDOW_UPDATE => {
                let is_young = || self.young.binary_search(&frame.stream).is_ok();
                frame.length == 4 && self.unacknowledged.is_none() && is_young()
            }
            _ => false,
        }
    }

    /// These have come.
    fn came(&mut self, bytes: &[u8]) {
        let Some(at) = &mut self.unacknowledged else {
            return;
        };
        let mut is_acknowledged = false;
        at.pass(bytes, |frame, _| {
            is_acknowledged |= frame.kind == SETTINGS && frame.flags & ACK != 0;
            true
        });
        if is_acknowledged {
            self.unacknowledged = None;
        }
    }

    /// These have gone out as they are.
    fn went(&mut self, bytes: &[u8]) {
        let (is_small, last, young) = (self.is_small, &mut self.last, &mut self.young);
        self.at.pass(bytes, |frame, _| {
            // Trailers are HEADERS, too.
            if frame.kind == HEADERS && frame.stream > *last {
                *last = frame.stream;
                if is_small {
                    young.push_back(frame.stream);
                }
                if young.len() > YOUNG {
                    young.pop_front();
                }
            }
            true
        });
    }

    /// The frame that these bytes begin with, as it is to go out.
    fn change(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let frame = Frame::of(*bytes.first_chunk()?);
        let mut changed = bytes.get(..HEAD + frame.length)?.to_vec();
        let payload = changed.get_mut(HEAD..)?;
        if frame.kind == SETTINGS {
            for setting in payload.chunks_exact_mut(SETTING) {
                if let [a, b, value @ ..] = setting
                    && u16::from_be_bytes([*a, *b]) == INITIAL_WINDOW_SIZE
                    && *value == WINDOW.to_be_bytes()
                {
                    value.copy_from_slice(&FIRST.to_be_bytes());
                    self.is_small = true;
                }
            }
        } else if let Ok(place) = self.young.binary_search(&frame.stream) {
            self.young.remove(place);
            let more = u32::from_be_bytes(payload.try_into().ok()?);
            let more = more.saturating_add(WINDOW - FIRST);
            payload.copy_from_slice(&more.to_be_bytes());
        }
        Some(changed)
    }
}

// === impl Windowed ===

impl<S> Windowed<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            windows: Windows::new(),
            changed: Bytes::new(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Windowed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut me.stream).poll_read(cx, buffer);
        me.windows
            .came(buffer.filled().get(before..).unwrap_or_default());
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Windowed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = &mut *self;
        ready!(poll_write_whole(&mut me.stream, &mut me.changed, cx))?;
        let mut at = me.windows.at;
        let count = me.windows.unchanged(&mut at, bytes);
        if count == 0
            && let Some(changed) = me.windows.change(bytes)
        {
            let length = changed.len();
            me.changed = changed.into();
            // What does not go now goes before anything else.
            if let Poll::Ready(Err(error)) = poll_write_whole(&mut me.stream, &mut me.changed, cx) {
                return Poll::Ready(Err(error));
            }
            return Poll::Ready(Ok(length));
        }
        let part = bytes.get(..count).unwrap_or(bytes);
        let count = ready!(Pin::new(&mut me.stream).poll_write(cx, part))?;
        me.windows.went(part.get(..count).unwrap_or(part));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        ready!(poll_write_whole(&mut me.stream, &mut me.changed, cx))?;
        Pin::new(&mut me.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        ready!(poll_write_whole(&mut me.stream, &mut me.changed, cx))?;
        Pin::new(&mut me.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = &mut *self;
        ready!(poll_write_whole(&mut me.stream, &mut me.changed, cx))?;
        let mut at = me.windows.at;
        let mut all = slices.iter();
        if !all.all(|slice| me.windows.unchanged(&mut at, slice) == slice.len()) {
            let first = slices.iter().find(|slice| !slice.is_empty());
            let first = first.map_or(&[][..], |slice| slice);
            return Pin::new(me).poll_write(cx, first);
        }
        let count = ready!(Pin::new(&mut me.stream).poll_write_vectored(cx, slices))?;
        let mut left = count;
        for slice in slices {
            let part = slice.get(..left).unwrap_or(slice);
            me.windows.went(part);
            left -= part.len();
        }
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
mod tests;
