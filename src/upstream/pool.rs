//! Idle connections of one epoch and port.
//!
//! Guarantees: the most recently used is used first, so that the others grow old; one that is idle
//! for too long, or that the instance has closed, is closed; nothing is kept once the epoch is retired.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::body::RequestBody;
use super::h1::Connection;
use super::h2_pool::H2Pool;
use crate::wake::Endpoint;

pub(super) type Sender = SendRequest<RequestBody>;

/// Idle connections.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<Idle>,
    pub(super) h2: H2Pool,
    endpoint: Endpoint,
    max_idle: usize,
    idle_timeout: Duration,
    /// Woken by whatever comes on an idle link.
    idle_waker: Waker,
    idle_events: Arc<IdleEvents>,
}

/// Both kinds, the longest idle first.
#[derive(Debug, Default)]
struct Idle {
    /// Of hyper's, each in a task of its own that sees its end.
    senders: Vec<(Sender, Instant)>,
    connections: Vec<(Box<Connection>, Instant)>,
}

#[derive(Debug, Default)]
struct IdleEvents(Notify);

impl Wake for IdleEvents {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(endpoint: Endpoint, max_idle: usize, idle_timeout: Duration) -> Arc<Self> {
        // A quarter of the instance's own timeout: then three quarters are left to fall asleep in.
        let quarter = endpoint
            .idle_timeout()
            .map_or(idle_timeout, |idle| idle / 4);
        let idle_timeout = idle_timeout.min(quarter);
        let idle_events = Arc::<IdleEvents>::default();
        Arc::new(Self {
            idle: Mutex::default(),
            h2: H2Pool::default(),
            endpoint,
            max_idle,
            idle_timeout,
            idle_waker: Waker::from(Arc::clone(&idle_events)),
            idle_events,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that wait for a request.
    pub(super) fn idle(&self) -> usize {
        self.lock().count() + self.h2.idle()
    }

    /// A connection of hyper's that can take a request now.
    pub(super) fn take(&self) -> Option<Sender> {
        let mut idle = self.lock();
        while let Some((sender, since)) = idle.senders.pop() {
            if sender.is_ready() && since.elapsed() < self.idle_timeout {
                return Some(sender);
            }
        }
        None
    }

    /// A link that can take a request `now`.
    pub(super) fn take_connection(&self, now: Instant) -> Option<Box<Connection>> {
        let mut quiet = Context::from_waker(Waker::noop());
        let mut idle = self.lock();
        while let Some((mut connection, since)) = idle.connections.pop() {
            if connection.is_reusable(&mut quiet) && now < since + self.idle_timeout {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request, if there is room and it may be used again.
    pub(super) fn put(&self, sender: Sender) {
        if sender.is_closed() || self.endpoint.draining().is_cancelled() {
            return;
        }
        let mut idle = self.lock();
        if idle.count() < self.max_idle {
            idle.senders.push((sender, Instant::now()));
        }
    }

    /// The same for a link, which has been idle since it last heard something.
    pub(super) fn put_connection(&self, mut connection: Box<Connection>) {
        if self.endpoint.draining().is_cancelled() {
            return;
        }
        let mut idle_waker = Context::from_waker(&self.idle_waker);
        // Under the lock, so that the sweep finds it here when something stirs from now on.
        let mut idle = self.lock();
        if idle.count() < self.max_idle && connection.is_reusable(&mut idle_waker) {
            let since = connection.last_heard();
            idle.connections.push((connection, since));
        }
    }

    /// Closes what is idle for too long or was closed by the instance, until the epoch ends.
    pub(super) async fn sweep(self: Arc<Self>) {
        let pause = (self.idle_timeout / 4).max(Duration::from_millis(10));
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = self.idle_events.0.notified() => {}
                () = self.endpoint.draining().cancelled() => break,
            }
            self.h2.sweep(self.idle_timeout);
            let fresh = |since: &Instant| since.elapsed() < self.idle_timeout;
            let mut idle_waker = Context::from_waker(&self.idle_waker);
            let mut idle = self.lock();
            idle.senders
                .retain(|(sender, since)| !sender.is_closed() && fresh(since));
            idle.connections.retain_mut(|(connection, since)| {
                connection.is_reusable(&mut idle_waker) && fresh(since)
            });
        }
        self.h2.clear();
        *self.lock() = Idle::default();
    }
}

// === impl Idle ===

impl Idle {
    fn count(&self) -> usize {
        self.senders.len() + self.connections.len()
    }
}
