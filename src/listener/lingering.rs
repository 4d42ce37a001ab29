//! The end of a connection of which the client may not have read all yet.
//!
//! Guarantees: what the client still sends is read and thrown away until it ends, too, its time is
//! over, or it has sent too much; no error of its side is one. Were the connection closed at once,
//! what still comes would make the client's system throw away what it has not read (RFC 9112 §9.6).

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use crate::deadline::Deadline;

/// Bytes that a client may send after our side has ended.
const MOST: usize = 1024 * 1024;
/// Bytes that are read at once.
const AT_ONCE: usize = 4 * 1024;

/// Waits for a client's end after ours.
#[derive(Debug)]
pub(super) struct Lingering {
    deadline: Deadline,
    left: usize,
}

// === impl Lingering ===

impl Lingering {
    /// A wait of `limit` at most, from now on.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            deadline: Deadline::new(Instant::now() + limit),
            left: MOST,
        }
    }

    /// Ready when the connection may be closed.
    pub(super) fn poll_over<S>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<()>
    where
        S: AsyncRead + Unpin,
    {
        let mut room = [0; AT_ONCE];
        while self.left > 0 {
            let mut part = ReadBuf::new(&mut room);
            match Pin::new(&mut *stream).poll_read(cx, &mut part) {
                Poll::Ready(Ok(())) if !part.filled().is_empty() => {
                    self.left = self.left.saturating_sub(part.filled().len());
                }
                Poll::Ready(_) => break,
                Poll::Pending => {
                    ready!(self.deadline.poll_over(cx));
                    break;
                }
            }
        }
        Poll::Ready(())
    }
}
