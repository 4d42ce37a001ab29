//! One connection, and one exchange on it at a time.
//!
//! Guarantees: a response's head comes before its deadline, or the exchange fails; a connection
//! that is cut fails at once.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::task::AtomicWaker;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::head::{self, Head, HeadError, MOST_BYTES};
use crate::deadline::Deadline;
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

/// Ends a connection from elsewhere.
#[derive(Default)]
pub(in crate::upstream) struct Cut {
    done: AtomicBool,
    waiting: AtomicWaker,
}

/// A connection to an instance.
pub(in crate::upstream) struct Connection {
    stream: LeasedStream,
    input: BytesMut,
    /// How many bytes of a head were examined and have no end in them.
    examined: usize,
    output: Vec<u8>,
    written: usize,
    /// The deadline of the response's head.
    deadline: Deadline,
    cut: Arc<Cut>,
    /// Tells whoever could cut the connection that it is gone.
    _here: oneshot::Sender<()>,
}

// === impl Cut ===

impl Cut {
    /// The connection's reads and writes fail from now on.
    pub(in crate::upstream) fn cut(&self) {
        self.done.store(true, Ordering::Release);
        self.waiting.wake();
    }

    /// Whether it has been cut; if not, the task is woken when it is.
    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.waiting.register(cx.waker());
        match self.done.load(Ordering::Acquire) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

// === impl Connection ===

impl Connection {
    /// On a connection that has carried nothing. The receiver ends when the connection does.
    pub(in crate::upstream) fn new(
        stream: LeasedStream,
    ) -> (Box<Self>, Arc<Cut>, oneshot::Receiver<()>) {
        let (here, gone) = oneshot::channel();
        let cut = Arc::<Cut>::default();
        let connection = Self {
            stream,
            input: BytesMut::new(),
            examined: 0,
            output: Vec::new(),
            written: 0,
            deadline: Deadline::new(Instant::now()),
            cut: Arc::clone(&cut),
            _here: here,
        };
        (Box::new(connection), cut, gone)
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
        self.stream.request_sent(now);
        self.deadline.set(now + response_timeout);
    }

    /// Sends the request and reads its response's head; `interim` gets each 1xx before it.
    pub(in crate::upstream) fn poll_head(
        &mut self,
        request: &Parts,
        interim: &dyn Fn(StatusCode, &HeaderMap),
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Failure>> {
        if self.cut.poll(cx).is_ready() {
            return Poll::Ready(Err(Failure::Severed));
        }
        while let Some(rest) = self
            .output
            .get(self.written..)
            .filter(|rest| !rest.is_empty())
        {
            match self.stream.poll_send(cx, rest) {
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
            match self.poll_more(None, cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Failure::Closed)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Broke(error))),
            }
        }
        self.deadline.poll_over(cx).map(|()| Err(Failure::TimedOut))
    }

    /// Reads some more, of which `useful` bytes are of use; 0 at the connection's end.
    pub(in crate::upstream) fn poll_more(
        &mut self,
        useful: Option<u64>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let useful = useful.unwrap_or(0).min(MOST_AT_ONCE);
        let room = usize::try_from(useful).map_or(ROOM, |useful| useful.max(ROOM));
        if self.input.capacity() - self.input.len() < room / 2 {
            self.input.reserve(room);
        }
        self.stream.poll_receive(cx, &mut self.input)
    }

    /// Whether the connection is cut; if not, the task is woken when it is.
    pub(in crate::upstream) fn poll_severed(&self, cx: &Context<'_>) -> Poll<()> {
        self.cut.poll(cx)
    }

    /// What was read and not used yet.
    pub(in crate::upstream) fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Whether there is nothing left of the last exchange.
    pub(in crate::upstream) fn is_clean(&self) -> bool {
        self.input.is_empty() && self.written == self.output.len()
    }

    /// When the last of its bytes came.
    pub(in crate::upstream) fn last_heard(&self) -> Instant {
        self.stream.last_heard()
    }

    /// Whether nothing has come, nor the connection's end, since the last exchange. If so, the task
    /// is woken when something does.
    pub(in crate::upstream) fn is_reusable(&mut self, cx: &mut Context<'_>) -> bool {
        let is_quiet = match self.stream.poll_readable(cx) {
            Poll::Pending => true,
            // A read that was just filled leaves this open.
            Poll::Ready(()) => self.poll_more(None, cx).is_pending(),
        };
        is_quiet && !self.cut.done.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({:?})", self.stream)
    }
}
