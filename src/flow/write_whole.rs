//! Bytes that are written before anything else.
//!
//! Guarantees: they go in their order, and none goes twice, however much is taken of them at once; a side
//! that takes nothing and says so is an error.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use tokio::io::AsyncWrite;

/// Writes these bytes to `stream`, and takes away what has gone; ready when all have.
pub fn poll_write_whole(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &mut impl Buf,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while bytes.has_remaining() {
        let count = ready!(Pin::new(&mut *stream).poll_write(cx, bytes.chunk()))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        bytes.advance(count);
    }
    Poll::Ready(Ok(()))
}
