//! The client of one stream, on a connection that carries those of many: another member's.
//!
//! Guarantees: what a stream has in memory is counted to its own client, and to no other on the
//! connection; a body that nobody has begun to read counts as all that can come of it without being
//! asked for, so that a client who fills its share is refused, and not the next one; a stream that is
//! over has nothing counted.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::flow::{Buffered, ClientBuffers, Place};

/// What one stream has in memory, counted to its client.
pub(super) struct StreamClient {
    buffers: ClientBuffers,
    /// Its heads, and the stream itself.
    heads: Mutex<Buffered>,
    body: Mutex<BodyBytes>,
}

/// What there is, or may be soon, of a request's body.
struct BodyBytes {
    held: Buffered,
    /// Bytes that have come and that nobody has taken.
    come: usize,
    /// Bytes that may come before somebody reads.
    expected: usize,
}

/// The clients of a connection's streams, by the streams' numbers.
#[derive(Debug, Default)]
pub(super) struct StreamClients(Mutex<HashMap<u32, Arc<StreamClient>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl StreamClients ===

impl StreamClients {
    /// A stream of this client's.
    pub(super) fn enter(&self, stream: u32, buffers: ClientBuffers) -> Arc<StreamClient> {
        let client = Arc::new(StreamClient::new(buffers));
        lock(&self.0).insert(stream, Arc::clone(&client));
        client
    }

    /// The stream is over.
    pub(super) fn leave(&self, stream: u32) {
        lock(&self.0).remove(&stream);
    }

    /// So many bytes of a stream's body are there. Of one that nobody has, they are thrown away.
    pub(super) fn come(&self, stream: u32, bytes: usize) {
        let client = lock(&self.0).get(&stream).cloned();
        if let Some(client) = client {
            client.come(bytes);
        }
    }
}

// === impl StreamClient ===

impl StreamClient {
    fn new(buffers: ClientBuffers) -> Self {
        Self {
            heads: Mutex::new(buffers.hold(0)),
            body: Mutex::new(BodyBytes {
                held: buffers.hold(0),
                come: 0,
                expected: 0,
            }),
            buffers,
        }
    }

    pub(super) fn buffers(&self) -> &ClientBuffers {
        &self.buffers
    }

    /// Counts so many bytes of heads, unless the client may not have them; whether it may.
    pub(super) fn try_keep(&self, bytes: usize) -> bool {
        let may = self.buffers.has_room_for_head(bytes);
        match may {
            true => self.keep(bytes),
            false => self.buffers.note_refused(),
        }
        may
    }

    /// Counts so many bytes of heads, which are in memory now.
    pub(super) fn keep(&self, bytes: usize) {
        lock(&self.heads).grow(bytes);
    }

    /// A body of which so many bytes may come before anybody reads it; whether the client may have
    /// them in memory.
    pub(super) fn expect(&self, bytes: usize) -> bool {
        if bytes == 0 {
            return true;
        }
        if !self.buffers.has_room(bytes) {
            self.buffers.note_refused();
            return false;
        }
        lock(&self.body).change(|body| body.expected = bytes);
        true
    }

    /// Somebody reads the body: it counts as what is there of it.
    pub(super) fn is_read(&self) {
        lock(&self.body).change(|body| body.expected = 0);
    }

    /// So many bytes of the body are there.
    pub(super) fn come(&self, bytes: usize) {
        lock(&self.body).change(|body| body.come += bytes);
    }

    /// So many were taken, or thrown away.
    pub(super) fn go(&self, bytes: usize) {
        lock(&self.body).change(|body| body.come = body.come.saturating_sub(bytes));
    }

    /// The bytes that nobody has taken.
    fn received(&self) -> usize {
        lock(&self.body).come
    }

    /// Ready while fewer than so many wait to be taken, or the client may have more in memory.
    pub(super) fn poll_room(
        &self,
        few: usize,
        place: &mut Place,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if self.received() >= few {
            return self.buffers.poll_room(place, cx);
        }
        place.leave();
        Poll::Ready(())
    }
}

// === impl BodyBytes ===

impl BodyBytes {
    fn change(&mut self, change: impl FnOnce(&mut Self)) {
        change(self);
        self.held.set(self.come.max(self.expected));
    }
}

impl fmt::Debug for StreamClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamClient({:?})", self.buffers)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::flow::BufferBudget;

    const KIB: usize = 1024;

    #[test]
    fn a_client_that_has_its_share_is_refused_and_another_is_not() {
        let budget = BufferBudget::new(1024 * KIB);
        let front = budget.of(Ipv4Addr::LOCALHOST.into());
        let (one, other) = ([192, 0, 2, 1].into(), [198, 51, 100, 1].into());
        let streams = StreamClients::default();
        let mut held = Vec::new();
        let refused = (0_u32..50).find(|number| {
            let stream = 2 * number + 1;
            let client = streams.enter(stream, front.of(one));
            let may = client.try_keep(KIB) && client.expect(64 * KIB);
            held.push((stream, client));
            !may
        });
        assert!(refused.is_some_and(|refused| refused < 14), "{refused:?}");
        assert!(budget.used() < 768 * KIB);
        let client = streams.enter(9999, front.of(other));
        assert!(client.try_keep(KIB) && client.expect(16 * KIB));
        streams.leave(9999);
        drop(client);
        for (stream, client) in held {
            streams.leave(stream);
            drop(client);
        }
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_body_counts_as_what_may_come_until_it_is_read_and_then_as_what_is_there() {
        let budget = BufferBudget::new(1024 * KIB);
        let front = budget.of(Ipv4Addr::LOCALHOST.into());
        let streams = StreamClients::default();
        let client = streams.enter(1, front.clone());
        assert!(client.expect(64 * KIB));
        streams.come(1, 10 * KIB);
        streams.come(3, 10 * KIB);
        assert_eq!(
            (budget.used(), client.received()),
            (64 * KIB, 10 * KIB),
            "the other stream is nobody's"
        );
        client.is_read();
        assert_eq!(budget.used(), 10 * KIB);
        client.go(10 * KIB);
        assert_eq!(budget.used(), 0);
    }
}
