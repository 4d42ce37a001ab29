//! Bytes both ways between a client and an instance.
//!
//! Guarantees: bytes are taken from a side only as the other takes them, at most [`ROOM`] of them
//! ahead; a direction in which nothing moves has no buffer; a half-closed side stays half-closed; where
//! frames are known, it is known of what has been *written* to a side whether it ends between two.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::carried::{Carried, Side};
use super::websocket::FrameReader;
use crate::flow::Buffered;
use crate::telemetry::TunnelEnd as EndedBy;

/// The bytes that are on their way at most, in each direction.
pub(super) const ROOM: usize = 16 * 1024;
/// So much of what a client has sent is kept for an instance that is not ready, whatever else the client has
/// in memory.
pub(super) const KEPT_FREE: usize = 4 * 1024;

/// Both sides.
pub(super) struct Relay<'a, C, I> {
    pub(super) client: Side<'a, C>,
    /// It goes before its epoch's end.
    pub(super) instance: Option<Side<'a, I>>,
    pub(super) to_client: Flow,
    pub(super) to_instance: Flow,
}

/// One direction.
pub(super) struct Flow {
    /// What was read and is not written yet.
    pub(super) rest: BytesMut,
    /// The frames that were written; `None` where bytes are all that is known.
    pub(super) frames: Option<FrameReader>,
    source: Source,
    needs_flush: bool,
    /// Whether the source's end is told before it is passed on, where it comes without a close.
    holds_end: bool,
    /// Whether that has happened, and the end is to be passed on.
    is_end_held: bool,
    /// Whether an end is an error, and is not passed on: an instance that sleeps ends nothing.
    pub(super) takes_no_end: bool,
    /// Whether payload was written since that was asked last.
    has_payload: bool,
    /// The part of the client's budget that `rest` is in, where more is kept than what is on its way.
    pub(super) held: Option<Buffered>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Open,
    /// The sink has to be told.
    Ended,
    Done,
}

// === impl Relay ===

impl<'a, C, I> Relay<'a, C, I>
where
    C: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(client: C, instance: I, carried: &'a Carried, has_frames: bool) -> Self {
        let mut to_client = Flow::new(has_frames);
        to_client.holds_end = has_frames;
        Self {
            client: Side::new(client, carried, EndedBy::Client),
            instance: Some(Side::new(instance, carried, EndedBy::Instance)),
            to_client,
            to_instance: Flow::new(has_frames),
        }
    }

    /// Carries what can be carried; ready when both sides have ended. An instance's end without a close
    /// is an error first, and is passed on if this is polled again.
    pub(super) fn poll_copy(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(instance) = &mut self.instance else {
            return Poll::Ready(Ok(()));
        };
        let there = self.to_instance.poll_copy(&mut self.client, instance, cx)?;
        let back = self.to_client.poll_copy(instance, &mut self.client, cx)?;
        match there.is_ready() && back.is_ready() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// The instance's side is lost, and what it has said at last; nothing of either direction may be
    /// under way.
    pub(super) fn lose_instance(&mut self) {
        self.instance = None;
        self.to_client.begin_anew();
        self.to_instance.needs_flush = false;
    }

    /// There is another one, which knows nothing of what was carried before.
    pub(super) fn regain_instance(&mut self, instance: I, carried: &'a Carried) {
        self.instance = Some(Side::new(instance, carried, EndedBy::Instance));
        self.to_client.frames = Some(FrameReader::new());
        self.to_instance.frames = Some(FrameReader::new());
    }

    /// Whether payload has gone either way since this was asked last.
    pub(super) fn take_payload(&mut self) -> bool {
        let there = self.to_instance.take_payload();
        self.to_client.take_payload() || there
    }
}

// === impl Flow ===

impl Flow {
    fn new(has_frames: bool) -> Self {
        Self {
            rest: BytesMut::new(),
            frames: has_frames.then(FrameReader::new),
            source: Source::Open,
            needs_flush: false,
            holds_end: false,
            is_end_held: false,
            takes_no_end: false,
            has_payload: false,
            held: None,
        }
    }

    /// Whether the frames are known.
    pub(super) fn has_frames(&self) -> bool {
        self.frames.as_ref().is_some_and(|frames| !frames.is_lost())
    }

    /// Whether the sink has whole frames only, and none that closes the connection.
    pub(super) fn lacks_close(&self) -> bool {
        let frames = self.frames.as_ref();
        frames.is_some_and(|frames| frames.is_between() && !frames.has_closed())
    }

    /// Whether the source has ended just now, and the sink has not been told.
    pub(super) fn take_held_end(&mut self) -> bool {
        std::mem::take(&mut self.is_end_held)
    }

    /// Carries what can be carried; ready when the source has ended and the sink has been told.
    pub(super) fn poll_copy(
        &mut self,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let rest = self.rest.len();
            ready!(self.poll_write_rest(sink, rest, cx))?;
            match self.source {
                Source::Open => {}
                Source::Ended => {
                    ready!(Pin::new(&mut *sink).poll_shutdown(cx))?;
                    self.source = Source::Done;
                }
                Source::Done => return Poll::Ready(Ok(())),
            }
            if self.source == Source::Open && self.poll_step(source, sink, cx)?.is_pending() {
                ready!(self.poll_flush(sink, cx))?;
                return Poll::Pending;
            }
        }
    }

    /// Reads once, and writes of that what is taken at once.
    fn poll_step(
        &mut self,
        source: &mut (impl AsyncRead + Unpin),
        sink: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut room = [MaybeUninit::uninit(); ROOM];
        let mut read = ReadBuf::uninit(&mut room);
        ready!(Pin::new(source).poll_read(cx, &mut read))?;
        let bytes = read.filled();
        if bytes.is_empty() {
            self.source = Source::Ended;
            if self.takes_no_end {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let is_held = std::mem::take(&mut self.holds_end) && self.lacks_close();
            self.is_end_held = is_held;
            return Poll::Ready(match is_held {
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                false => Ok(()),
            });
        }
        let written = match Pin::new(sink).poll_write(cx, bytes)? {
            Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(count) => count,
            Poll::Pending => 0,
        };
        let (gone, rest) = bytes.split_at(written.min(bytes.len()));
        self.note_written(gone);
        self.rest.extend_from_slice(rest);
        Poll::Ready(Ok(()))
    }

    /// Reads at most so much more of the source, to be written later; whether there was any. An end is
    /// passed on when all of that has been written.
    pub(super) fn poll_fill(
        &mut self,
        source: &mut (impl AsyncRead + Unpin),
        room: usize,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        if self.source != Source::Open {
            return Poll::Ready(false);
        }
        let mut part = [MaybeUninit::uninit(); ROOM];
        let room = room.min(part.len());
        let mut read = ReadBuf::uninit(part.get_mut(..room).unwrap_or_default());
        let polled = ready!(Pin::new(source).poll_read(cx, &mut read));
        self.rest.extend_from_slice(read.filled());
        self.count_rest();
        let is_more = polled.is_ok() && !read.filled().is_empty();
        if !is_more {
            self.source = Source::Ended;
        }
        Poll::Ready(is_more)
    }

    /// Whether nothing of it is under way: everything that was read is written, and ends between two
    /// frames where those are known.
    pub(super) fn is_at_border(&self) -> bool {
        let is_between = |frames: &FrameReader| frames.is_between() && !frames.has_closed();
        let frames = self.frames.as_ref().filter(|frames| !frames.is_lost());
        let is_written = self.rest.is_empty() && !self.needs_flush;
        is_written && self.source == Source::Open && frames.is_none_or(is_between)
    }

    /// Whether a frame of the gateway's own may be written next.
    pub(super) fn has_border(&self) -> bool {
        let frames = self.frames.as_ref().filter(|frames| !frames.is_lost());
        frames.is_some_and(|frames| frames.is_between() && !frames.has_closed())
    }

    /// Whether all that was written is whole messages of frames that are known, with more to come.
    pub(super) fn is_between_messages(&self) -> bool {
        let frames = self.frames.as_ref().filter(|frames| !frames.is_lost());
        frames.is_some_and(|frames| frames.is_between_messages() && !frames.has_closed())
    }

    /// Its source is another one from now on.
    fn begin_anew(&mut self) {
        self.rest = BytesMut::new();
        self.source = Source::Open;
        self.holds_end = self.frames.is_some();
        self.is_end_held = false;
    }

    /// Whether payload was written since this was asked last.
    pub(super) fn take_payload(&mut self) -> bool {
        std::mem::take(&mut self.has_payload)
    }

    /// Reads more of the source behind what is not written yet; whether there was any.
    pub(super) fn poll_read_more(
        &mut self,
        source: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        if self.source != Source::Open {
            return Poll::Ready(false);
        }
        let mut room = [MaybeUninit::uninit(); ROOM];
        let mut read = ReadBuf::uninit(&mut room);
        let polled = ready!(Pin::new(source).poll_read(cx, &mut read));
        self.rest.extend_from_slice(read.filled());
        let is_more = polled.is_ok() && !read.filled().is_empty();
        if !is_more {
            self.source = Source::Done;
        }
        Poll::Ready(is_more)
    }

    /// Writes the first bytes of what was read; ready when they are written.
    pub(super) fn poll_write_rest(
        &mut self,
        sink: &mut (impl AsyncWrite + Unpin),
        mut count: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while count > 0 {
            let rest = self.rest.get(..count).unwrap_or_default();
            let written = ready!(Pin::new(&mut *sink).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let gone = self.rest.split_to(written.min(count));
            self.note_written(&gone);
            self.count_rest();
            count = count.saturating_sub(written);
        }
        if self.rest.is_empty() && self.rest.capacity() > 0 {
            self.rest = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_flush(
        &mut self,
        sink: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.needs_flush {
            ready!(Pin::new(sink).poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    fn count_rest(&mut self) {
        if let Some(held) = &mut self.held {
            held.set(self.rest.len());
        }
    }

    fn note_written(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.needs_flush = true;
        self.has_payload |= match &mut self.frames {
            Some(frames) => frames.read(bytes),
            None => true,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes everything, and does not pass it on.
    struct Keeps;

    impl AsyncWrite for Keeps {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn what_is_not_flushed_is_under_way() {
        let (mut near, mut far) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut near, b"\x89\0")
            .await
            .unwrap();
        let mut flow = Flow::new(true);
        assert!(flow.is_at_border());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(flow.poll_copy(&mut far, &mut Keeps, &mut cx).is_pending());
        assert!(flow.has_border() && flow.rest.is_empty());
        assert!(!flow.is_at_border(), "the sink has not passed it on");
    }
}
