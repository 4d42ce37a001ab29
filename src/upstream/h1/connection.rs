//! One connection, and one exchange on it at a time.
//!
//! Guarantees: a response's head comes before its deadline, or the exchange fails; when its epoch
//! is cut, the connection is closed and its exchange fails at once.

use std::fmt;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::head::{self, Head, HeadError, MOST_BYTES};
use crate::deadline::Deadline;
use crate::upstream::epoch_stream::EpochStream;
use crate::upstream::leased_stream::LeasedStream;
use crate::upstream::outgoing::Outgoing;

/// Room that a head is read into; most responses fit whole.
const ROOM: usize = 8 * 1024;
/// The most that is read at once of a body whose length is known.
const MOST_AT_ONCE: u64 = 256 * 1024;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(in crate::upstream) enum Failure {
    /// Nothing was sent.
    #[error("closed before the request")]
    Unsent,
    /// The connection ended.
    #[error("closed without a response")]
    Closed,
    /// The connection broke.
    #[error(transparent)]
    Broke(io::Error),
    /// It is not HTTP.
    #[error(transparent)]
    Malformed(#[from] HeadError),
    /// It did not come in time.
    #[error("no response in time")]
    TimedOut,
    /// The instance's epoch has ended.
    #[error("the instance went to sleep")]
    Severed,
}

/// A connection to an instance.
pub(in crate::upstream) struct Connection {
    stream: EpochStream,
    input: BytesMut,
    /// How many bytes of a head were examined and have no end in them.
    examined: usize,
    output: Vec<u8>,
    written: usize,
    /// The deadline of the response's head.
    deadline: Deadline,
}

// === impl Connection ===

impl Connection {
    /// On a stream that has carried nothing, of the epoch that is cut by `cut`.
    pub(in crate::upstream) fn new(stream: LeasedStream, cut: &CancellationToken) -> Self {
        Self {
            stream: EpochStream::new(stream, cut),
            input: BytesMut::new(),
            examined: 0,
            output: Vec::new(),
            written: 0,
            deadline: Deadline::new(Instant::now()),
        }
    }

    /// Prepares a request to be sent `now`. Its response's head has to come within
    /// `response_timeout`, which runs from `now` on and which nothing resets.
    pub(in crate::upstream) fn begin(
        &mut self,
        request: &Outgoing,
        now: Instant,
        response_timeout: Duration,
    ) {
        self.output.clear();
        (self.written, self.examined) = (0, 0);
        head::write(&request.head, request.forwarded.as_ref(), &mut self.output);
        if let Some(stream) = &*self.stream.lock() {
            stream.request_sent(now);
        }
        self.deadline.set(now + response_timeout);
    }

    /// Sends the request and reads its response's head; `interim` gets each 1xx before it.
    pub(in crate::upstream) fn poll_head(
        &mut self,
        request: &Parts,
        interim: &dyn Fn(StatusCode, &HeaderMap),
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Failure>> {
        self.stream.register(cx);
        let mut stream = self.stream.lock();
        let Some(stream) = &mut *stream else {
            return Poll::Ready(Err(Failure::Severed));
        };
        while let Some(rest) = self
            .output
            .get(self.written..)
            .filter(|rest| !rest.is_empty())
        {
            match stream.poll_send(cx, rest) {
                Poll::Pending => break,
                Poll::Ready(Ok(count @ 1..)) => self.written += count,
                // What the instance has sent before it closed is read below.
                Poll::Ready(_) if self.written > 0 => break,
                Poll::Ready(_) => return Poll::Ready(Err(Failure::Unsent)),
            }
        }
        loop {
            // A head that comes byte by byte is read at its beginning and once for each line.
            let fresh = self.input.get(self.examined..).unwrap_or_default();
            let worth = match self.examined {
                0 => !fresh.is_empty(),
                _ => fresh.contains(&b'\n') || self.input.len() >= MOST_BYTES,
            };
            self.examined = self.input.len();
            if worth && let Some(head) = head::read(&mut self.input, &request.method)? {
                self.examined = 0;
                let status = head.response.status();
                if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(head));
                }
                interim(status, head.response.headers());
                continue;
            }
            match receive(stream, &mut self.input, None, cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Failure::Closed)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Broke(error))),
            }
        }
        self.deadline.poll_over(cx).map(|()| Err(Failure::TimedOut))
    }

    /// Reads some more, of which `useful` bytes are of use: 0 at the connection's end, and `None`
    /// once its epoch has been cut.
    pub(in crate::upstream) fn poll_more(
        &mut self,
        useful: Option<u64>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<usize>>> {
        self.stream.register(cx);
        match &mut *self.stream.lock() {
            Some(stream) => receive(stream, &mut self.input, useful, cx).map(Some),
            None => Poll::Ready(None),
        }
    }

    /// What was read and not used yet.
    pub(in crate::upstream) fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Whether there is nothing left of the last exchange.
    pub(in crate::upstream) fn is_clean(&self) -> bool {
        self.input.is_empty() && self.written == self.output.len()
    }

    /// The time when its last byte came, if nothing has come, nor the connection's end, since the
    /// last exchange. If so, the task is woken when something does.
    pub(in crate::upstream) fn reusable_since(&mut self, cx: &mut Context<'_>) -> Option<Instant> {
        let mut stream = self.stream.lock();
        let stream = stream.as_mut()?;
        let since = stream.last_heard();
        let is_quiet = match stream.poll_readable(cx) {
            Poll::Pending => true,
            // A read that was just filled leaves this open.
            Poll::Ready(()) => receive(stream, &mut self.input, None, cx).is_pending(),
        };
        is_quiet.then_some(since)
    }
}

/// Reads some more into `input`, of which `useful` bytes are of use; 0 at the stream's end.
fn receive(
    stream: &mut LeasedStream,
    input: &mut BytesMut,
    useful: Option<u64>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let useful = useful.unwrap_or(0).min(MOST_AT_ONCE);
    let room = usize::try_from(useful).map_or(ROOM, |useful| useful.max(ROOM));
    if input.capacity() - input.len() < room / 2 {
        input.reserve(room);
    }
    stream.poll_receive(cx, input)
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({:?})", self.stream)
    }
}
