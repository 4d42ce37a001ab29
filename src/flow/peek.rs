//! A connection whose first bytes can be looked at before they are read.
//!
//! Guarantees: whoever reads it gets every byte once, in order; where its client's budget is known, what was
//! looked at is in that until it is read.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffers::{Buffered, ClientBuffers};
use super::forward_writes::forward_writes;

/// The most that is read at once.
const AT_ONCE: usize = 4096;

/// A stream, and the bytes that were read of it beforehand.
#[derive(Debug)]
pub struct PeekStream<S> {
    stream: S,
    /// None once they are read: most connections live much longer than their first bytes.
    peeked: Option<Box<Peeked>>,
}

/// Bytes that were read and not consumed.
#[derive(Debug, Default)]
struct Peeked {
    bytes: BytesMut,
    /// The part of the client's budget that they are in, where that is counted.
    held: Option<Buffered>,
}

// === impl Peeked ===

impl Peeked {
    fn count(&mut self) {
        if let Some(held) = &mut self.held {
            held.set(self.bytes.len());
        }
    }
}

// === impl PeekStream ===

impl<S: AsyncRead + Unpin> PeekStream<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self::of(stream, &[])
    }

    /// A stream with the bytes that were read of it already. They are copied: most connections live
    /// much longer than the room that their first bytes were read into.
    pub(crate) fn of(stream: S, peeked: &[u8]) -> Self {
        let peeked = (!peeked.is_empty()).then(|| {
            Box::new(Peeked {
                bytes: BytesMut::from(peeked),
                held: None,
            })
        });
        Self { stream, peeked }
    }

    /// The same stream; what is looked at from now on is in this budget until it is read.
    pub(crate) fn counted(mut self, buffers: &ClientBuffers) -> Self {
        let peeked = self.peeked.get_or_insert_default();
        peeked.held = Some(buffers.hold(peeked.bytes.len()));
        self
    }

    /// The stream itself.
    pub(crate) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The bytes that were read and not consumed.
    pub(crate) fn peeked(&self) -> &[u8] {
        self.peeked.as_ref().map_or(&[], |peeked| &peeked.bytes)
    }

    /// Reads some more, at most to `limit` bytes in all; an end or a full buffer is an error.
    pub(crate) async fn peek_more(&mut self, limit: usize) -> io::Result<()> {
        let room = limit.saturating_sub(self.peeked().len()).min(AT_ONCE);
        if room == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the connection does not begin as it should",
            ));
        }
        // A connection that says nothing for long has no buffer.
        poll_fn(|cx| {
            let mut part = [MaybeUninit::uninit(); AT_ONCE];
            let mut part = ReadBuf::uninit(part.get_mut(..room).unwrap_or_default());
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
            if part.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let peeked = self.peeked.get_or_insert_default();
            peeked.bytes.extend_from_slice(part.filled());
            peeked.count();
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Takes `count` bytes off the beginning.
    pub(crate) fn consume(&mut self, count: usize) {
        if let Some(peeked) = &mut self.peeked {
            peeked.bytes.advance(count.min(peeked.bytes.len()));
            peeked.count();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PeekStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let peeked = this.peeked.as_mut();
        let Some(peeked) = peeked.filter(|peeked| !peeked.bytes.is_empty()) else {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        };
        let count = peeked.bytes.len().min(buffer.remaining());
        buffer.put_slice(&peeked.bytes.split_to(count));
        peeked.count();
        if peeked.bytes.is_empty() {
            this.peeked = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PeekStream<S> {
    forward_writes!();
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::flow::BufferBudget;

    #[tokio::test]
    async fn what_was_looked_at_is_in_its_clients_budget_until_it_is_read() {
        let budget = BufferBudget::new(1 << 20);
        let (mut near, far) = tokio::io::duplex(64);
        let client = budget.of([192, 0, 2, 1].into());
        let mut stream = PeekStream::new(far).counted(&client);
        near.write_all(b"PROXY rest").await.unwrap();
        stream.peek_more(100).await.unwrap();
        assert_eq!(budget.used(), 10);
        stream.consume(6);
        assert_eq!(budget.used(), 4);
        stream.read_u8().await.unwrap();
        assert_eq!(budget.used(), 3);
        stream.read_exact(&mut [0; 3]).await.unwrap();
        assert_eq!(budget.used(), 0);
        near.write_all(b"more").await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn what_was_looked_at_is_still_read() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(b"PROXY rest").await.unwrap();
        let mut stream = PeekStream::new(far);
        stream.peek_more(100).await.unwrap();
        assert_eq!(stream.peeked(), b"PROXY rest");
        stream.consume(6);
        near.write_all(b" and more").await.unwrap();
        drop(near);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "rest and more");
    }

    #[test]
    fn a_stream_of_which_nothing_was_looked_at_has_no_room_for_that() {
        let kept = |peeked: &[u8]| {
            let stream = PeekStream::of(tokio::io::empty(), peeked);
            stream.peeked.map(|peeked| peeked.bytes.capacity())
        };
        assert_eq!(kept(b""), None);
        assert!(kept(b"first").is_some_and(|room| room < 100));
    }

    #[tokio::test]
    async fn no_more_is_read_than_the_limit() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(b"0123456789").await.unwrap();
        let mut stream = PeekStream::new(far);
        stream.peek_more(4).await.unwrap();
        assert_eq!(stream.peeked(), b"0123");
        assert!(stream.peek_more(4).await.is_err());
    }
}
