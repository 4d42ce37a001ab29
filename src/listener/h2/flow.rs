//! What an HTTP/2 connection has in memory, and whether it moves.
//!
//! Guarantees: no more than [`PIECE`] bytes of a response are handed to the library at once, and
//! the end of a response only when no more than that waits; a stream of which nothing goes for the
//! whole limit, although others get their turns, is known to be stalled; every byte beyond a few is
//! in the gateway's budget until it has been written, and every head until its stream is over and
//! nothing of it is left.

use std::fmt;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::abandoned::Abandoned;
use super::interim::{InterimBytes, InterimQueue};
use super::received::{FREE_RECEIVED, Received};
use super::starved::Starved;
use super::stream_client::{StreamClient, StreamClients};
use crate::deadline::Deadline;
use crate::flow::{Account, Buffered, ClientBuffers, Place};

/// The most of a response that is handed to the library at once: the largest frame that every
/// client takes (RFC 9113 §4.2).
pub(super) const PIECE: usize = 16 * 1024;
/// What a connection may have in memory even while its client has its share: so that each moves.
const FREE: usize = 16 * 1024;
/// The window of a stream, in bytes: what one held upload has in memory at most.
pub(super) const WINDOW: u32 = 64 * 1024;
/// What a connection may have of heads and streams in memory in any case.
const FREE_HEADS: usize = 64 * 1024;

/// The state of one connection that its streams share.
#[derive(Debug)]
pub(super) struct ConnectionFlow {
    began: Instant,
    send_timeout: Duration,
    buffers: ClientBuffers,
    /// The heads of requests and responses, and the streams themselves.
    heads: Account,
    /// Of these, what belongs to streams that are over and may not have been written.
    unwritten: AtomicUsize,
    /// What came of requests' bodies, on a connection of one client.
    pub(super) received: Received,
    /// The clients of its streams, where it is of many.
    pub(super) clients: Option<StreamClients>,
    /// The streams whose requests' bodies nobody reads.
    pub(super) abandoned: Arc<Abandoned>,
    /// The 1xx responses that may not have been written.
    pub(super) interim: InterimBytes,
    /// Bytes of responses that wait to be written.
    waiting: AtomicUsize,
    /// Bytes of responses that were written so far.
    sent: AtomicU64,
    /// Streams of which something waits.
    busy: AtomicUsize,
    /// The last time when the socket took nothing, in nanoseconds after `began`.
    blocked: AtomicU64,
    /// Whether it takes nothing now.
    is_blocked: AtomicBool,
    /// The last time when the client sent something, in nanoseconds after `began`.
    read: AtomicU64,
    /// Whether the client is not read from, because of what it has in memory.
    is_held: AtomicBool,
    /// The responses that wait until the client may have more of them in memory.
    starved: Starved,
}

/// The state of one response.
#[derive(Debug)]
pub(super) struct StreamFlow {
    connection: Arc<ConnectionFlow>,
    /// Its own client, where the connection is of many.
    client: Option<(u32, Arc<StreamClient>)>,
    /// Its part of the connection's heads.
    heads: AtomicUsize,
    /// Bytes that wait to be written.
    waiting: AtomicUsize,
    /// The last time when something of it was written, or began to wait.
    moved: AtomicU64,
    /// What the connection had sent by then.
    sent_then: AtomicU64,
    /// The task that reads the body, while it waits for bytes to go.
    reader: AtomicWaker,
    /// The 1xx responses that come before it.
    pub(super) interim: InterimQueue,
}

/// Some bytes of a response on their way to the socket.
pub(super) struct Piece {
    bytes: Bytes,
    held: Buffered,
    stream: Arc<StreamFlow>,
}

// === impl ConnectionFlow ===

impl ConnectionFlow {
    /// The state of a new connection whose client may send so many bytes of bodies ahead.
    pub(super) fn new(send_timeout: Duration, buffers: ClientBuffers, window: u32) -> Self {
        Self {
            began: Instant::now(),
            send_timeout,
            heads: Account::new(&buffers, FREE_HEADS),
            unwritten: AtomicUsize::new(0),
            received: Received::new(&buffers, window as usize),
            clients: None,
            abandoned: Arc::default(),
            interim: InterimBytes::default(),
            buffers,
            waiting: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            blocked: AtomicU64::new(0),
            is_blocked: AtomicBool::new(false),
            read: AtomicU64::new(0),
            is_held: AtomicBool::new(false),
            starved: Starved::default(),
        }
    }

    /// The connection is of many clients.
    pub(super) fn of_many(self) -> Self {
        Self {
            clients: Some(StreamClients::default()),
            ..self
        }
    }

    pub(super) fn buffers(&self) -> &ClientBuffers {
        &self.buffers
    }

    /// Bytes of a response, which wait to be written.
    fn hold(&self, bytes: usize) -> Buffered {
        let before = self.waiting.load(Ordering::Relaxed);
        // The few of most responses change no count that connections share.
        self.buffers.hold(match before + bytes <= FREE {
            true => 0,
            false => bytes,
        })
    }

    /// Waits until the client may have more of responses in memory, of which `stream` is to be one.
    fn poll_room(&self, stream: usize, place: &mut Place, cx: &mut Context<'_>) -> Poll<()> {
        let has_little = || self.waiting.load(Ordering::SeqCst) < FREE;
        let room = (&self.buffers, place);
        self.starved.poll_room(stream, has_little, room, cx)
    }

    /// All that there was to be written has been.
    pub(super) fn note_all_written(&self) {
        self.interim.clear();
        if self.unwritten.load(Ordering::Relaxed) > 0 {
            self.heads
                .subtract(self.unwritten.swap(0, Ordering::AcqRel));
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The socket takes nothing at the moment.
    pub(super) fn note_blocked(&self) {
        self.blocked.store(self.now(), Ordering::Relaxed);
        self.is_blocked.store(true, Ordering::Relaxed);
    }

    /// The socket has taken something.
    pub(super) fn note_written(&self) {
        self.is_blocked.store(false, Ordering::Relaxed);
    }

    /// Whether the socket took nothing when it was last asked to.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Relaxed)
    }

    /// The client has sent something.
    pub(super) fn note_read(&self) {
        self.read.store(self.now(), Ordering::Relaxed);
    }

    /// The last time when it did; the connection's beginning, if it has not.
    pub(super) fn last_read(&self) -> Instant {
        self.began + Duration::from_nanos(self.read.load(Ordering::Relaxed))
    }

    /// Whether nothing is read from the client at the moment.
    pub(super) fn note_held(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
    }

    /// Whether the gateway has stopped to read from the client.
    pub(super) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }
}

// === impl StreamFlow ===

impl StreamFlow {
    pub(super) fn new(connection: &Arc<ConnectionFlow>) -> Self {
        Self {
            connection: Arc::clone(connection),
            client: None,
            heads: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
            sent_then: AtomicU64::new(0),
            reader: AtomicWaker::new(),
            interim: InterimQueue::default(),
        }
    }

    /// The stream is of the client at this address, on a connection of many.
    pub(super) fn for_client(mut self, stream: u32, client: IpAddr) -> Self {
        if let Some(clients) = &self.connection.clients {
            let buffers = self.connection.buffers.of(client);
            self.client = Some((stream, clients.enter(stream, buffers)));
        }
        self
    }

    pub(super) fn connection(&self) -> &ConnectionFlow {
        &self.connection
    }

    /// Whether its connection is of many clients.
    pub(super) fn is_of_many(&self) -> bool {
        self.client.is_some()
    }

    fn client(&self) -> Option<&StreamClient> {
        self.client.as_ref().map(|(_, client)| &**client)
    }

    /// The part of the budget of its client.
    pub(super) fn buffers(&self) -> &ClientBuffers {
        let client = self.client().map(StreamClient::buffers);
        client.unwrap_or_else(|| self.connection.buffers())
    }

    /// Bytes of its response, which wait to be written.
    pub(super) fn hold(&self, bytes: usize) -> Buffered {
        match self.client() {
            Some(client) => client.buffers().hold(bytes),
            None => self.connection.hold(bytes),
        }
    }

    /// Waits until its client may have more of its response in memory.
    pub(super) fn poll_room(&self, place: &mut Place, cx: &mut Context<'_>) -> Poll<()> {
        let Some(client) = self.client() else {
            return self.connection.poll_room(self.number(), place, cx);
        };
        if self.waiting() >= FREE {
            if client.buffers().poll_room(place, cx).is_ready() {
                return Poll::Ready(());
            }
            self.reader.register(cx.waker());
            if self.waiting() >= FREE {
                return Poll::Pending;
            }
        }
        place.leave();
        Poll::Ready(())
    }

    /// A number of its own among the streams of its connection that are there.
    fn number(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// A request's body, of a length that may be known, of which nobody has read anything; whether its
    /// client may have as much of it in memory as can come.
    pub(super) fn expect(&self, length: Option<u64>) -> bool {
        let length = length.and_then(|length| usize::try_from(length).ok());
        let window = WINDOW as usize;
        let length = length.map_or(window, |length| length.min(window));
        self.client().is_none_or(|client| client.expect(length))
    }

    /// Somebody reads the request's body, or nobody will.
    pub(super) fn is_read(&self) {
        if let Some(client) = self.client() {
            client.is_read();
        }
    }

    /// So many bytes of the request's body were there before its head was looked at.
    pub(super) fn has_come(&self, bytes: usize) {
        if let Some(client) = self.client() {
            client.come(bytes);
        }
    }

    /// So many bytes of the request's body were taken, or thrown away.
    pub(super) fn went(&self, bytes: usize) {
        match self.client() {
            Some(client) => client.go(bytes),
            None => self.connection.received.go(bytes),
        }
    }

    /// Whether its client may have more of its request's body in memory; if not, the task is woken when
    /// it may.
    pub(super) fn may_receive(&self, place: &mut Place, cx: &mut Context<'_>) -> bool {
        let (number, room) = (self.number(), (self.buffers(), place));
        let polled = match self.client() {
            Some(client) => client.poll_room(FREE, room.1, cx),
            None => {
                let received = &self.connection.received;
                received.poll_room(number, room, cx)
            }
        };
        polled.is_ready()
    }

    /// Whether the client may be unable to send more of its request's body, because of what it and
    /// others have in memory.
    pub(super) fn is_window_shut(&self) -> bool {
        let connection = &self.connection;
        self.client.is_none()
            && (connection.is_held() || connection.received.fill_window(FREE_RECEIVED))
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Ready when nothing of it waits to be written.
    pub(super) fn poll_written(&self, cx: &Context<'_>) -> Poll<()> {
        if self.waiting() == 0 {
            return Poll::Ready(());
        }
        self.reader.register(cx.waker());
        match self.waiting() {
            0 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    /// Whether something of it waits to be written.
    pub(super) fn has_unwritten(&self) -> bool {
        self.waiting() > 0
    }

    /// Counts so many bytes until the stream is over, unless its client may not have them in
    /// memory; whether it may.
    pub(super) fn try_keep(&self, bytes: usize) -> bool {
        if let Some(client) = self.client() {
            return client.try_keep(bytes);
        }
        let may = self.connection.heads.try_add(bytes);
        if may {
            self.heads.fetch_add(bytes, Ordering::AcqRel);
        }
        may
    }

    /// Counts so many bytes, which are in memory now, until the stream is over.
    pub(super) fn keep(&self, bytes: usize) {
        if let Some(client) = self.client() {
            return client.keep(bytes);
        }
        self.connection.heads.add(bytes);
        self.heads.fetch_add(bytes, Ordering::AcqRel);
    }

    /// The stream is over, and its response a head that may wait to be written.
    pub(super) fn keep_unwritten(&self, head: usize) {
        if self.connection.is_blocked() {
            self.connection.heads.add(head);
            self.connection.unwritten.fetch_add(head, Ordering::AcqRel);
        }
    }

    /// Waits until no more than a piece waits to be written.
    pub(super) fn poll_nearly_sent(&self, cx: &Context<'_>) -> Poll<()> {
        if self.waiting() <= PIECE {
            return Poll::Ready(());
        }
        self.reader.register(cx.waker());
        match self.waiting() <= PIECE {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    fn note_moved(&self) {
        let connection = &self.connection;
        self.moved.store(connection.now(), Ordering::Relaxed);
        let sent = connection.sent.load(Ordering::Relaxed);
        self.sent_then.store(sent, Ordering::Relaxed);
    }

    fn begin_to_wait(&self, bytes: usize) {
        if self.waiting() == 0 {
            self.note_moved();
        }
        if bytes > 0 && self.waiting.fetch_add(bytes, Ordering::AcqRel) == 0 {
            self.connection.busy.fetch_add(1, Ordering::Relaxed);
        }
        self.connection.waiting.fetch_add(bytes, Ordering::Relaxed);
    }

    fn wait_no_longer(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let before = self.connection.waiting.fetch_sub(bytes, Ordering::SeqCst);
        if before >= FREE && before - bytes < FREE {
            self.connection.starved.wake();
        }
        let before = self.waiting.fetch_sub(bytes, Ordering::AcqRel);
        if before == bytes {
            self.connection.busy.fetch_sub(1, Ordering::Relaxed);
        }
        if before - bytes <= PIECE {
            self.reader.wake();
        }
    }

    fn note_sent(&self, bytes: usize) {
        let sent = &self.connection.sent;
        sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.note_moved();
        self.wait_no_longer(bytes);
    }

    /// The time when it is stalled unless something of it goes; `None` while nothing waits.
    fn due(&self) -> Option<Instant> {
        let connection = &self.connection;
        let moved = Duration::from_nanos(self.moved.load(Ordering::Relaxed));
        (self.waiting() > 0).then(|| connection.began + moved + connection.send_timeout)
    }

    /// Whether it is the client that keeps it from moving. A stream that moves slowly because the
    /// socket is slow has to wait for its turn among the others; it has missed its turn when they
    /// have had two each.
    fn is_held_back(&self) -> bool {
        let connection = &self.connection;
        let was_blocked =
            connection.blocked.load(Ordering::Relaxed) > self.moved.load(Ordering::Relaxed);
        let sent = connection.sent.load(Ordering::Relaxed);
        let since = sent.saturating_sub(self.sent_then.load(Ordering::Relaxed));
        let turns = 2 * (PIECE * connection.busy.load(Ordering::Relaxed).max(1)) as u64;
        !was_blocked || since >= turns
    }

    /// Runs the task that answers the request; drops it when its response is stalled, which resets
    /// the stream.
    pub(super) async fn watch<F: Future>(&self, task: F) -> Option<F::Output> {
        let (mut task, mut deadline) = (pin!(task), None::<Deadline>);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = task.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            loop {
                let Some(due) = self.due() else {
                    return Poll::Pending;
                };
                let deadline = deadline.get_or_insert_with(|| Deadline::new(due));
                deadline.set(due);
                ready!(deadline.poll_over(cx));
                if self.is_held_back() {
                    tracing::debug!("a client takes nothing of a response");
                    return Poll::Ready(None);
                }
                // Its turn has still to come.
                let moved = &self.moved;
                moved.store(self.connection.now(), Ordering::Relaxed);
            }
        })
        .await
    }
}

impl Drop for StreamFlow {
    fn drop(&mut self) {
        let heads = *self.heads.get_mut();
        if heads > 0 {
            self.connection.heads.subtract(heads);
        }
        let number = self.number();
        self.connection.starved.forget(number);
        self.connection.received.forget(number);
        if let (Some(clients), Some((stream, _))) = (&self.connection.clients, &self.client) {
            clients.leave(*stream);
        }
    }
}

// === impl Piece ===

impl Piece {
    /// Bytes that wait to be written from now on.
    pub(super) fn of(stream: &Arc<StreamFlow>, bytes: Bytes) -> Self {
        let held = stream.hold(bytes.len());
        Self::new(stream, bytes, held)
    }

    /// The same of bytes that count already.
    pub(super) fn new(stream: &Arc<StreamFlow>, bytes: Bytes, held: Buffered) -> Self {
        stream.begin_to_wait(bytes.len());
        Self {
            bytes,
            held,
            stream: Arc::clone(stream),
        }
    }

    /// Nothing: it ends a stream.
    pub(super) fn end(stream: &Arc<StreamFlow>) -> Self {
        Self::of(stream, Bytes::new())
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.stream.note_sent(count);
        self.held.shrink(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.stream.wait_no_longer(self.bytes.len());
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Piece({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests;
