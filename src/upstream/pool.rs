//! Idle connections of one epoch and port.
//!
//! Guarantees: the most recently used is used first, so that the others grow old; one that is idle
//! for too long, or that the instance has closed, is closed; nothing is kept once the epoch is
//! draining.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;

use super::h1::Connection;
use super::h2_pool::{H2Pool, StreamToken};
use super::request_body::RequestBody;
use crate::wake::Endpoint;

/// How long one of hyper's connections may take to be ready again: from the end of its response on.
/// Nothing resets it; a connection that is not ready by then is closed.
const SETTLE: Duration = Duration::from_millis(500);

pub(super) type Sender = SendRequest<RequestBody>;

/// Idle connections.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<Idle>,
    pub(super) h2: H2Pool,
    endpoint: Endpoint,
    max_idle: usize,
    idle_timeout: Duration,
    /// Woken by whatever comes on an idle connection.
    idle_waker: Waker,
    idle_events: Arc<IdleEvents>,
}

/// Idle connections of both kinds, the longest idle first.
#[derive(Debug, Default)]
struct Idle {
    /// Those of hyper, each in a task of its own that notices its end.
    senders: Vec<(Sender, Instant)>,
    connections: Vec<(Box<Connection>, Instant)>,
}

/// Where one of hyper's connections goes after its response.
#[derive(Debug)]
pub(super) enum ReturnTo {
    /// To its pool, after a clean end.
    Pool(Sender, Arc<Pool>, TaskTracker),
    /// Nowhere: it was made for this exchange alone.
    Nowhere(#[allow(dead_code, reason = "the connection lives as long as it")] Sender),
    /// It stays with the other requests that share it.
    Shared(#[allow(dead_code, reason = "the stream is taken as long as it lives")] StreamToken),
}

/// Tells the sweep that something has happened on an idle connection.
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

    /// One of hyper's connections that can take a request now.
    pub(super) fn take(&self) -> Option<Sender> {
        let mut idle = self.lock();
        while let Some((sender, since)) = idle.senders.pop() {
            if sender.is_ready() && since.elapsed() < self.idle_timeout {
                return Some(sender);
            }
        }
        None
    }

    /// One of our own connections that can take a request `now`.
    pub(super) fn take_connection(&self, now: Instant) -> Option<Box<Connection>> {
        let mut no_wake = Context::from_waker(Waker::noop());
        let mut idle = self.lock();
        while let Some((mut connection, since)) = idle.connections.pop() {
            if connection.is_reusable(&mut no_wake) && now < since + self.idle_timeout {
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

    /// The same for one of our own connections, which has been idle since its last byte came.
    pub(super) fn put_connection(&self, mut connection: Box<Connection>) {
        if self.endpoint.draining().is_cancelled() {
            return;
        }
        let mut idle_waker = Context::from_waker(&self.idle_waker);
        // Under the lock, so that the sweep finds it here when an idle event comes from now on.
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
            // The request's own end may still be on its way.
            tasks.spawn(async move {
                if let Ok(Ok(())) = timeout(SETTLE, sender.ready()).await {
                    pool.put(sender);
                }
            });
        }
    }
}
