//! HTTP/2 connections of one epoch and port, each carrying many requests at once.
//!
//! Guarantees: a connection gets no more requests at once than [`MAX_STREAMS`]; one that is closed
//! is not used; how long one has been idle is counted from the end of its last stream.

use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use tokio::time::Instant;

use super::request_body::RequestBody;

/// Requests at once on a connection; servers commonly allow a hundred.
const MAX_STREAMS: usize = 100;

/// A connection among those of its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionId(u64);

/// A stream of a connection, for one request and its response.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) sender: SendRequest<RequestBody>,
    pub(super) connection: ConnectionId,
    /// How long the connection had carried nothing.
    pub(super) idle_for: Duration,
}

#[derive(Debug)]
struct Shared {
    id: ConnectionId,
    sender: SendRequest<RequestBody>,
    streams: usize,
    /// The end of the last stream; of use while there is none.
    idle_since: Instant,
}

/// The connections, those that were made first before the others.
#[derive(Debug, Default)]
pub(super) struct H2Connections {
    shared: Vec<Shared>,
    made: u64,
}

// === impl H2Connections ===

impl H2Connections {
    /// A stream of a connection that is there, and not idle for `idle_timeout`.
    pub(super) fn take(&mut self, now: Instant, idle_timeout: Duration) -> Option<Stream> {
        self.retain_fresh(now, idle_timeout);
        let mut all = self.shared.iter_mut();
        let one = all.find(|one| one.streams < MAX_STREAMS)?;
        let idle_for = match one.streams {
            0 => now.saturating_duration_since(one.idle_since),
            _ => Duration::ZERO,
        };
        one.streams += 1;
        Some(Stream {
            sender: one.sender.clone(),
            connection: one.id,
            idle_for,
        })
    }

    /// Keeps a new connection, and takes a stream of it.
    pub(super) fn add(&mut self, sender: SendRequest<RequestBody>, now: Instant) -> Stream {
        let id = ConnectionId(self.made);
        self.made += 1;
        self.shared.push(Shared {
            id,
            sender: sender.clone(),
            streams: 1,
            idle_since: now,
        });
        Stream {
            sender,
            connection: id,
            idle_for: Duration::ZERO,
        }
    }

    /// One of a connection's streams has ended.
    pub(super) fn end_stream(&mut self, id: ConnectionId, now: Instant) {
        let place = self.shared.iter().position(|one| one.id == id);
        let Some((place, one)) = place.and_then(|place| Some((place, self.shared.get_mut(place)?)))
        else {
            return;
        };
        one.streams = one.streams.saturating_sub(1);
        if one.streams == 0 {
            one.idle_since = now;
            if one.sender.is_closed() {
                self.shared.remove(place);
            }
        }
    }

    /// Connections that carry nothing.
    pub(super) fn idle(&self) -> usize {
        self.shared.iter().filter(|one| one.streams == 0).count()
    }

    /// Closes what is closed already or has been idle for `limit`.
    pub(super) fn retain_fresh(&mut self, now: Instant, limit: Duration) {
        self.shared.retain(|one| {
            let is_fresh = one.streams > 0 || now < one.idle_since + limit;
            is_fresh && !one.sender.is_closed()
        });
    }
}
