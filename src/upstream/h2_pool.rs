//! HTTP/2 connections of one epoch and port, each carrying many requests at once.
//!
//! Guarantees: a connection gets no more requests at once than [`MAX_STREAMS`], and the next one is
//! dialled by one request while the others wait for it; one that carries nothing for too long is
//! closed; nothing is kept once the epoch is draining.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use tokio::sync::Mutex as TurnMutex;
use tokio::time::Instant;

use super::request_body::RequestBody;

/// Requests at once on a connection; servers commonly allow a hundred.
const MAX_STREAMS: usize = 100;

/// A stream of a connection, for one request and its response.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) sender: SendRequest<RequestBody>,
    token: Arc<()>,
}

/// Keeps a stream taken until the response has ended.
#[derive(Debug)]
pub(super) struct StreamToken(#[allow(dead_code, reason = "it counts by being there")] Arc<()>);

#[derive(Debug)]
struct Shared {
    sender: SendRequest<RequestBody>,
    /// A counter: one reference for the connection and one for each of its streams.
    streams: Arc<()>,
    idle_since: Option<Instant>,
}

/// The connections.
#[derive(Debug, Default)]
pub(super) struct H2Pool {
    shared: Mutex<Vec<Shared>>,
    /// The lock that whoever dials a connection holds.
    pub(super) dialling: TurnMutex<()>,
}

// === impl Stream ===

impl Stream {
    /// The only stream of a connection that nobody else uses.
    pub(super) fn alone(sender: SendRequest<RequestBody>) -> Self {
        let token = Arc::new(());
        Self { sender, token }
    }

    pub(super) fn split(self) -> (SendRequest<RequestBody>, StreamToken) {
        (self.sender, StreamToken(self.token))
    }
}

// === impl H2Pool ===

impl H2Pool {
    /// A stream of a connection that is there.
    pub(super) fn take(&self) -> Option<Stream> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|one| !one.sender.is_closed());
        let one = shared
            .iter_mut()
            .find(|one| Arc::strong_count(&one.streams) <= MAX_STREAMS)?;
        one.idle_since = None;
        Some(Stream {
            sender: one.sender.clone(),
            token: Arc::clone(&one.streams),
        })
    }

    /// Keeps a new connection, and takes a stream of it.
    pub(super) fn add(&self, sender: SendRequest<RequestBody>) -> Stream {
        let streams = Arc::new(());
        let stream = Stream {
            sender: sender.clone(),
            token: Arc::clone(&streams),
        };
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.push(Shared {
            sender,
            streams,
            idle_since: None,
        });
        stream
    }

    /// Connections that carry nothing now.
    pub(super) fn idle(&self) -> usize {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let streams = shared.iter().map(|one| Arc::strong_count(&one.streams));
        streams.filter(|streams| *streams == 1).count()
    }

    /// Closes connections that have carried nothing for `idle_timeout`.
    pub(super) fn sweep(&self, idle_timeout: Duration) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        shared.retain_mut(|one| {
            if Arc::strong_count(&one.streams) > 1 {
                one.idle_since = None;
                return !one.sender.is_closed();
            }
            let since = *one.idle_since.get_or_insert(now);
            !one.sender.is_closed() && now - since < idle_timeout
        });
    }

    pub(super) fn clear(&self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.clear();
    }
}
