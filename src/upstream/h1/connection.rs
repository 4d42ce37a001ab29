//! One connection, and one exchange on it at a time.
//!
//! Guarantees: a response's head comes before its deadline, or the exchange fails; the time in which
//! the client owes a part of the request's body does not count; when its epoch is cut, the
//! connection is closed and its exchange fails at once.

use std::fmt;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use http1::{BodyDecoder, HeadError, HeadLimits, ResponseReader};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::head::Head;
use super::partial::{NoRoom, Partial};
use super::rest::Rest;
use super::sending::{SendFailure, Sending};
use crate::deadline::Deadline;
use crate::flow::{ClientBuffers, PeekStream};
use crate::upstream::bound_auth::ClientConnection;
use crate::upstream::epoch_stream::EpochStream;
use crate::upstream::leased_stream::LeasedStream;
use crate::upstream::request_body::BodyFailure;

/// Room that a head is read into; most responses fit whole.
const ROOM: usize = 8 * 1024;
/// What an idle connection keeps of the room that it reads into, at most: few heads need more, and
/// a connection may be idle for long.
const KEPT_ROOM: usize = 2 * ROOM;
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
    /// It switches protocols in the middle of the request (RFC 9110 §7.8).
    #[error("it switches protocols before the request's end")]
    EarlySwitch,
    /// It did not come in time.
    #[error("no response in time")]
    TimedOut,
    /// The client did not send the request's body as it should.
    #[error("the request's body did not come as it should")]
    Client(BodyFailure),
    /// Its head is large, and its client may have no more in memory.
    #[error("there is no room for the head")]
    NoRoom,
    /// The instance's epoch has ended.
    #[error("the instance went to sleep")]
    Severed,
}

/// A connection to an instance.
pub(in crate::upstream) struct Connection {
    stream: EpochStream,
    input: BytesMut,
    /// The most room that `input` may still have, though parts of it were taken.
    largest: usize,
    /// What is counted to the client of a large head that has come in part.
    partial: Partial,
    reader: ResponseReader,
    /// The client whose connection this is alone, since it has authenticated itself on it.
    pub(in crate::upstream) owner: Option<ClientConnection>,
    /// Room for the next request's head.
    spare: Vec<u8>,
    patience: Patience,
}

/// How long the instance may owe something: to take the next part of the request, or to respond.
struct Patience {
    limit: Duration,
    deadline: Deadline,
    /// It is the client's turn, and the deadline does not count.
    is_stopped: bool,
}

// === impl Connection ===

impl Connection {
    /// On a stream that has carried nothing, of the epoch that is cut by `cut`. Heads of responses
    /// are read up to these limits.
    pub(in crate::upstream) fn new(
        stream: LeasedStream,
        cut: &CancellationToken,
        limits: HeadLimits,
    ) -> Self {
        Self {
            stream: EpochStream::new(stream, cut),
            input: BytesMut::new(),
            largest: 0,
            partial: Partial::default(),
            reader: ResponseReader::new(limits),
            owner: None,
            spare: Vec::new(),
            patience: Patience {
                limit: Duration::ZERO,
                deadline: Deadline::new(Instant::now()),
                is_stopped: false,
            },
        }
    }

    /// A request is sent from `now` on. The instance may owe something for `response_timeout`.
    pub(in crate::upstream) fn begin(&mut self, now: Instant, response_timeout: Duration) {
        if let Some(stream) = &*self.stream.lock() {
            stream.request_sent(now);
        }
        self.patience.limit = response_timeout;
        self.patience.restart(now);
    }

    /// Sends the request and reads its response's head; `interim` gets each 1xx before it. What a
    /// head takes that is not read at once, beyond its first [`ROOM`], counts to the `client`.
    pub(in crate::upstream) fn poll_head(
        &mut self,
        sending: &mut Sending,
        method: &Method,
        interim: &dyn Fn(StatusCode, &HeaderMap),
        client: &dyn Fn() -> Option<ClientBuffers>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Failure>> {
        self.stream.register(cx);
        let mut stream = self.stream.lock();
        let Some(stream) = &mut *stream else {
            // Of what has not begun to go out, the instance has seen nothing.
            return Poll::Ready(Err(match sending.has_begun() {
                true => Failure::Severed,
                false => Failure::Unsent,
            }));
        };
        let (was_over, had_begun) = (sending.is_over(), sending.has_begun());
        if !was_over {
            send(stream, sending, &mut self.patience, cx)?;
        }
        loop {
            let read = match self.input.is_empty() {
                true => None,
                false => self.reader.read_head(&self.input, method, Head::of)?,
            };
            if let Some((length, head)) = read {
                self.input.advance(length);
                if length > KEPT_ROOM {
                    (self.input, self.largest) = (BytesMut::from(&*self.input), 0);
                }
                self.partial.clear();
                let mut head = head?;
                if !head.framing.is_interim {
                    // Of a request whose last part was sent just now, the response lay there before.
                    head.is_early = !was_over && (had_begun || !sending.is_over());
                    return Poll::Ready(match head.is_switch() && !sending.is_over() {
                        true => Err(Failure::EarlySwitch),
                        false => Ok(head),
                    });
                }
                interim(head.response.status(), head.response.headers());
                self.patience.restart(Instant::now());
                continue;
            }
            if !self.input.is_empty() && needs_room(&self.input, ROOM) {
                // It becomes so large, as a rule: `BytesMut::reserve` doubles it.
                let room = 2 * self.input.capacity();
                let counted = ready!(self.partial.poll_count(room, client, cx));
                if counted.map_err(|NoRoom| Failure::NoRoom)? {
                    // The instance was not read from meanwhile.
                    self.patience.restart(Instant::now());
                }
            }
            let received = receive(stream, &mut self.input, None, cx);
            self.largest = self.largest.max(self.input.capacity());
            match received {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Failure::Closed)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Broke(error))),
            }
        }
        self.patience.poll_over(cx).map(|()| Err(Failure::TimedOut))
    }

    /// The decoder of the body of the response whose head was read last.
    pub(in crate::upstream) fn body(&self) -> BodyDecoder {
        self.reader.body()
    }

    /// What is left of a request whose response has begun.
    pub(in crate::upstream) fn rest_of(&self, sending: Sending) -> Rest {
        Rest::new(self.stream.sending_half(), sending)
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
            Some(stream) => {
                let received = receive(stream, &mut self.input, useful, cx);
                self.largest = self.largest.max(self.input.capacity());
                received.map(Some)
            }
            None => Poll::Ready(None),
        }
    }

    /// What was read and not used yet.
    pub(in crate::upstream) fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Whether there is nothing left of the last exchange.
    pub(in crate::upstream) fn is_clean(&self) -> bool {
        self.input.is_empty()
    }

    /// Room for the head of a request.
    pub(in crate::upstream) fn take_spare(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.spare)
    }

    /// Room that was used. It is never large: see `Sending::clear_out`.
    pub(in crate::upstream) fn keep_spare(&mut self, room: Vec<u8>) {
        self.spare = room;
    }

    /// The stream with what was read of it, for another protocol; `None` once the epoch has been
    /// cut.
    pub(in crate::upstream) fn into_stream(self) -> Option<PeekStream<LeasedStream>> {
        let stream = self.stream.take()?;
        Some(PeekStream::of(stream, &self.input))
    }

    /// The time when its last byte came, if nothing has come, nor the connection's end, since the
    /// last exchange. If so, the task is woken when something does. Room that a large head or body
    /// needed is let go.
    pub(in crate::upstream) fn reusable_since(&mut self, cx: &mut Context<'_>) -> Option<Instant> {
        if self.input.is_empty() && self.largest > KEPT_ROOM {
            (self.input, self.largest) = (BytesMut::new(), 0);
        }
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

/// Writes what can be written of a request.
fn send(
    stream: &mut LeasedStream,
    sending: &mut Sending,
    patience: &mut Patience,
    cx: &mut Context<'_>,
) -> Result<(), Failure> {
    let (had_begun, mut progress) = (sending.has_begun(), false);
    match sending.poll_write(stream, &mut progress, cx) {
        Poll::Pending | Poll::Ready(Ok(())) => {}
        Poll::Ready(Err(SendFailure::Client(failure))) => return Err(Failure::Client(failure)),
        // What the instance has sent before it closed is read all the same.
        Poll::Ready(Err(SendFailure::Connection)) if sending.has_begun() => sending.give_up(),
        Poll::Ready(Err(SendFailure::Connection)) => return Err(Failure::Unsent),
    }
    if sending.waits_for_client() {
        patience.is_stopped = true;
    }
    if progress && had_begun {
        stream.note_sent();
    }
    if (progress && had_begun || patience.is_stopped) && !sending.waits_for_client() {
        patience.restart(Instant::now());
    }
    Ok(())
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
    if needs_room(input, room) {
        // Many wait for a response that has still to come: they need no room.
        if input.is_empty() {
            ready!(stream.poll_readable(cx));
        }
        input.reserve(room);
    }
    stream.poll_receive(cx, input)
}

/// Whether there is too little room to read into.
fn needs_room(input: &BytesMut, room: usize) -> bool {
    input.capacity() - input.len() < room / 2
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({:?})", self.stream)
    }
}

// === impl Patience ===

impl Patience {
    /// The instance has its whole time from `now` on.
    fn restart(&mut self, now: Instant) {
        self.is_stopped = false;
        self.deadline.set(now + self.limit);
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.is_stopped {
            true => Poll::Pending,
            false => self.deadline.poll_over(cx),
        }
    }
}

#[cfg(test)]
mod tests;
