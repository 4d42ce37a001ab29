//! Idle connections of one epoch and port.
//!
//! Guarantees: the most recently used is used first, so that the others grow old; one that is idle
//! for too long is closed; nothing is kept once the epoch is retired.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::time::{Instant, sleep};

use super::body::RequestBody;
use super::multiplex::Multiplex;
use crate::wake::Endpoint;

pub(super) type Sender = SendRequest<RequestBody>;

/// Idle connections, the longest idle first.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<Vec<(Sender, Instant)>>,
    pub(super) multiplex: Multiplex,
    endpoint: Endpoint,
    max_idle: usize,
    idle_timeout: Duration,
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(endpoint: Endpoint, max_idle: usize, idle_timeout: Duration) -> Arc<Self> {
        // A quarter of the instance's own timeout: then three quarters are left to fall asleep in.
        let quarter = endpoint
            .idle_timeout()
            .map_or(idle_timeout, |idle| idle / 4);
        let idle_timeout = idle_timeout.min(quarter);
        Arc::new(Self {
            idle: Mutex::default(),
            multiplex: Multiplex::default(),
            endpoint,
            max_idle,
            idle_timeout,
        })
    }

    /// Connections that wait for a request.
    pub(super) fn idle(&self) -> usize {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.len() + self.multiplex.idle()
    }

    /// A connection that can take a request now.
    pub(super) fn take(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((sender, since)) = idle.pop() {
            if sender.is_ready() && since.elapsed() < self.idle_timeout {
                return Some(sender);
            }
        }
        None
    }

    /// Keeps a connection for the next request, if there is room and it may be used again.
    pub(super) fn put(&self, sender: Sender) {
        if sender.is_closed() || self.endpoint.retired().is_cancelled() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.max_idle {
            idle.push((sender, Instant::now()));
        }
    }

    /// Closes what is idle for too long, until the epoch ends.
    pub(super) async fn sweep(self: Arc<Self>) {
        let pause = (self.idle_timeout / 4).max(Duration::from_millis(10));
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = self.endpoint.retired().cancelled() => break,
            }
            self.multiplex.sweep(self.idle_timeout);
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(sender, since)| {
                !sender.is_closed() && since.elapsed() < self.idle_timeout
            });
        }
        self.multiplex.clear();
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}
