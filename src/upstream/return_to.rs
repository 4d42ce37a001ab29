//! Where a connection goes after its response.
//!
//! Guarantees: a connection goes back to its pool only after a clean end, and soon; a stream of a
//! shared one stops counting when its response has ended, however it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::h2_pool::ConnectionId;
use super::pool::{Pool, Sender};

/// How long one of hyper's connections may take to be ready again: from the end of its response on.
/// Nothing resets it; a connection that is not ready by then is closed.
const SETTLE: Duration = Duration::from_millis(500);

/// Where one of hyper's connections goes after its response.
#[derive(Debug)]
pub(super) enum ReturnTo {
    /// To its pool, after a clean end.
    Pool(Sender, Arc<Pool>, TaskTracker),
    /// Nowhere: it was made for this exchange alone.
    Nowhere(#[allow(dead_code, reason = "the connection lives as long as it")] Sender),
    /// It stays with the other requests that share it, if it is shared.
    Shared(#[allow(dead_code, reason = "the stream is taken as long as it lives")] StreamToken),
}

/// Keeps a stream of an HTTP/2 connection taken until the response has ended. One of a connection
/// that nobody else uses has no pool.
#[derive(Debug)]
pub(super) struct StreamToken(pub(super) Option<(Arc<Pool>, ConnectionId)>);

// === impl ReturnTo ===

impl ReturnTo {
    /// The response is over; `clean` says whether its body was read to the end.
    pub(super) fn finish(self, clean: bool) {
        let Self::Pool(mut sender, pool, tasks) = self else {
            return;
        };
        if !clean {
            // Dropping the sender closes the connection: the rest of the body is in it.
            return;
        }
        if sender.is_ready() {
            pool.put(sender);
        } else if !sender.is_closed() {
            // The request's own end may still be on its way. When the epoch is cut, the connection
            // is closed, and this ends with it.
            tasks.spawn(async move {
                if let Ok(Ok(())) = timeout(SETTLE, sender.ready()).await {
                    pool.put(sender);
                }
            });
        }
    }
}

// === impl StreamToken ===

impl Drop for StreamToken {
    fn drop(&mut self) {
        if let Some((pool, connection)) = self.0.take() {
            pool.end_stream(connection);
        }
    }
}
