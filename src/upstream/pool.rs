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
use super::h1::Link;
use super::multiplex::Multiplex;
use crate::wake::Endpoint;

pub(super) type Sender = SendRequest<RequestBody>;

/// Idle connections.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<Idle>,
    pub(super) multiplex: Multiplex,
    endpoint: Endpoint,
    max_idle: usize,
    idle_timeout: Duration,
    /// Woken by whatever comes on an idle link.
    stirred: Waker,
    stirs: Arc<Stirs>,
}

/// Both kinds, the longest idle first.
#[derive(Debug, Default)]
struct Idle {
    /// Of hyper's, each in a task of its own that sees its end.
    senders: Vec<(Sender, Instant)>,
    links: Vec<(Box<Link>, Instant)>,
}

#[derive(Debug, Default)]
struct Stirs(Notify);

impl Wake for Stirs {
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
        let stirs = Arc::<Stirs>::default();
        Arc::new(Self {
            idle: Mutex::default(),
            multiplex: Multiplex::default(),
            endpoint,
            max_idle,
            idle_timeout,
            stirred: Waker::from(Arc::clone(&stirs)),
            stirs,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that wait for a request.
    pub(super) fn idle(&self) -> usize {
        self.lock().count() + self.multiplex.idle()
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
    pub(super) fn take_link(&self, now: Instant) -> Option<Box<Link>> {
        let mut quiet = Context::from_waker(Waker::noop());
        let mut idle = self.lock();
        while let Some((mut link, since)) = idle.links.pop() {
            if link.is_quiet(&mut quiet) && now < since + self.idle_timeout {
                return Some(link);
            }
        }
        None
    }

    /// Keeps a connection for the next request, if there is room and it may be used again.
    pub(super) fn put(&self, sender: Sender) {
        if sender.is_closed() || self.endpoint.retired().is_cancelled() {
            return;
        }
        let mut idle = self.lock();
        if idle.count() < self.max_idle {
            idle.senders.push((sender, Instant::now()));
        }
    }

    /// The same for a link, which has been idle since it last heard something.
    pub(super) fn put_link(&self, mut link: Box<Link>) {
        if self.endpoint.retired().is_cancelled() {
            return;
        }
        let mut stirred = Context::from_waker(&self.stirred);
        // Under the lock, so that the sweep finds it here when something stirs from now on.
        let mut idle = self.lock();
        if idle.count() < self.max_idle && link.is_quiet(&mut stirred) {
            let since = link.last_heard();
            idle.links.push((link, since));
        }
    }

    /// Closes what is idle for too long or was closed by the instance, until the epoch ends.
    pub(super) async fn sweep(self: Arc<Self>) {
        let pause = (self.idle_timeout / 4).max(Duration::from_millis(10));
        loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stirs.0.notified() => {}
                () = self.endpoint.retired().cancelled() => break,
            }
            self.multiplex.sweep(self.idle_timeout);
            let fresh = |since: &Instant| since.elapsed() < self.idle_timeout;
            let mut stirred = Context::from_waker(&self.stirred);
            let mut idle = self.lock();
            idle.senders
                .retain(|(sender, since)| !sender.is_closed() && fresh(since));
            idle.links
                .retain_mut(|(link, since)| link.is_quiet(&mut stirred) && fresh(since));
        }
        self.multiplex.clear();
        *self.lock() = Idle::default();
    }
}

// === impl Idle ===

impl Idle {
    fn count(&self) -> usize {
        self.senders.len() + self.links.len()
    }
}
