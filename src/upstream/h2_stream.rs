//! A stream of an HTTP/2 connection that requests share.
//!
//! Guarantees: a stream stops counting when its response has ended, however it ends.

use std::sync::Arc;

use super::h2_pool::ConnectionId;
use super::pool::Pool;

/// The window of a stream from another member, in bytes: what waits at most of a response that nobody reads.
pub(super) const STREAM_WINDOW: u32 = 64 * 1024;

/// Keeps a stream of an HTTP/2 connection taken until the response has ended. One of a connection
/// that nobody else uses has no pool.
#[derive(Debug)]
pub(super) struct StreamToken(pub(super) Option<(Arc<Pool>, ConnectionId)>);

// === impl StreamToken ===

impl Drop for StreamToken {
    fn drop(&mut self) {
        if let Some((pool, connection)) = self.0.take() {
            pool.end_stream(connection);
        }
    }
}
