//! A stream of an HTTP/2 connection that requests share.
//!
//! Guarantees: a stream stops counting when its response has ended, however it ends, to its connection and to
//! its client.

use std::sync::Arc;

use super::h2_pool::ConnectionId;
use super::pool::Pool;
use crate::flow::{Buffered, ClientBuffers};

/// The window of a stream from another member, in bytes: what waits at most of a response that nobody reads.
pub(super) const STREAM_WINDOW: u32 = 64 * 1024;

/// What a request takes that is on its way over HTTP/2 to its instance, besides what it takes on its way to
/// there (`listener::h2::exchange`), in bytes. By a heap profile of 2,000 of them: the future that sends it
/// 5,120; the library's task for it 3,584; its fields with those that are added 1,280 and 320 more; its places
/// in the library's tables 900; less what one that waits for its turn takes instead, 2,560 (jemalloc's size
/// classes, release).
const STREAM: usize = 8 * 1024;

/// Keeps a stream of an HTTP/2 connection taken until the response has ended.
#[derive(Debug)]
pub(super) struct StreamToken {
    /// One of a connection that nobody else uses has no pool.
    taken: Option<(Arc<Pool>, ConnectionId)>,
    _held: Option<Buffered>,
}

// === impl StreamToken ===

impl StreamToken {
    /// A stream of a connection that nobody else uses.
    pub(super) fn alone(client: Option<&ClientBuffers>) -> Self {
        Self {
            taken: None,
            _held: client.map(|client| client.hold(STREAM)),
        }
    }

    /// A stream of a connection of this pool. The first few of a connection change no count that clients
    /// share; one that `is_crowded` counts to its client.
    pub(super) fn of_pool(
        (pool, connection): (&Arc<Pool>, ConnectionId),
        is_crowded: bool,
        client: Option<&ClientBuffers>,
    ) -> Self {
        let client = client.filter(|_| is_crowded);
        Self {
            taken: Some((Arc::clone(pool), connection)),
            _held: client.map(|client| client.hold(STREAM)),
        }
    }
}

impl Drop for StreamToken {
    fn drop(&mut self) {
        if let Some((pool, connection)) = self.taken.take() {
            pool.end_stream(connection);
        }
    }
}
