//! A stream of an HTTP/2 connection that requests share.
//!
//! Guarantees: a stream stops counting, among its connection's and in its client's budget, when its response has
//! ended, however it ends; the first few of a connection change no count that others share.

use std::sync::Arc;

use super::h2_pool::ConnectionId;
use super::pool::Pool;
use crate::flow::{Buffered, ClientBuffers};

/// The window of a stream from another member, in bytes: what waits at most of a response that nobody reads.
pub(super) const STREAM_WINDOW: u32 = 64 * 1024;

/// What a request takes while it is at an instance, in bytes: the future that waits for its response, its places in
/// the library's tables, and its heads there (a heap profile: 8 KiB more than one over HTTP/1.1).
const IN_FLIGHT: usize = 8 * 1024;
/// So many streams of a connection do not count: most connections have few.
const FREE_STREAMS: usize = 4;

/// Keeps a stream of an HTTP/2 connection taken until the response has ended.
#[derive(Debug)]
pub(super) struct StreamToken {
    /// One of a connection that nobody else uses has no pool.
    pool: Option<(Arc<Pool>, ConnectionId)>,
    /// The streams of its connection when it was taken, itself among them.
    nth: usize,
    held: Option<Buffered>,
}

// === impl StreamToken ===

impl StreamToken {
    /// The `nth` stream of a connection of this pool.
    pub(super) fn of_pool(pool: &Arc<Pool>, connection: ConnectionId, nth: usize) -> Self {
        Self {
            pool: Some((Arc::clone(pool), connection)),
            nth,
            held: None,
        }
    }

    /// The one stream of a connection.
    pub(super) fn of_own() -> Self {
        Self {
            pool: None,
            nth: 1,
            held: None,
        }
    }

    /// Its request counts to this client's budget from now on.
    pub(super) fn count_to(&mut self, buffers: &ClientBuffers) {
        if self.nth > FREE_STREAMS {
            self.held = Some(buffers.hold(IN_FLIGHT));
        }
    }
}

impl Drop for StreamToken {
    fn drop(&mut self) {
        if let Some((pool, connection)) = self.pool.take() {
            pool.end_stream(connection);
        }
        drop(self.held.take());
    }
}
