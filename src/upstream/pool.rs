//! Idle connections of one epoch and port, and of one worker.
//!
//! Guarantees: a pool belongs to its epoch and does not keep it alive; the most recently used
//! connection is used first, so that the others grow old; one that is idle for too long, or that
//! the instance has closed, is closed; nothing is kept once the epoch is cut or the gateway ends.
//! Only while something is idle is there a task that looks after it.

use std::mem::take;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use hyper::client::conn::http2;
use tokio::runtime::Handle;
use tokio::sync::{Mutex as TurnMutex, Notify};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bound_auth::ClientConnection;
use super::h1::Connection;
use super::h2_peer::PeerLimits;
use super::h2_pool::{ConnectionId, H2Connections, Stream};
use super::response_clock::ResponseClock;
use super::timed_body::TimedBody;
use crate::instance_tls::TlsHop;
use crate::workers;

/// A connection that has been idle for this long may have been cut off by a nap of its instance
/// that nobody has noticed.
const STALE: Duration = Duration::from_secs(1);

/// What the pools of all epochs share.
#[derive(Debug, Default)]
pub(super) struct Pools {
    /// Connections that wait for a request.
    pub(super) idle: AtomicUsize,
    /// Cancelled when nothing more is sent.
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// The pools of an epoch's port, one for each worker: a connection's events and timers are its
/// worker's runtime's.
pub(super) struct PortPools(Box<[OnceLock<Arc<Pool>>]>);

/// The same for connections over TLS, which are for one name each. Each worker has them by name,
/// those that were used last at the end.
pub(super) struct SecurePools(Box<[Mutex<NamedPools>]>);

type NamedPools = Vec<(TlsHop, Arc<Pool>)>;

/// Clients may choose the names: of so many, connections are kept.
const MOST_NAMES: usize = 32;

/// How many connections a pool keeps, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolLimits {
    pub(super) max_idle: usize,
    pub(super) idle_timeout: Duration,
}

/// Idle connections.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<Idle>,
    /// The lock that whoever dials an HTTP/2 connection holds.
    pub(super) dialling: TurnMutex<()>,
    /// How often one could not be made.
    pub(super) failed_dials: AtomicUsize,
    limits: PoolLimits,
    cut: CancellationToken,
    pools: Arc<Pools>,
    /// Woken by whatever comes on an idle connection.
    idle_waker: Waker,
    idle_events: Arc<IdleEvents>,
}

/// Idle connections of each kind, the longest idle first.
#[derive(Debug, Default)]
struct Idle {
    connections: Vec<(Box<Connection>, Instant)>,
    /// Those on which a client has authenticated itself: nobody else gets them.
    owned: Vec<(Box<Connection>, Instant)>,
    /// Those of HTTP/2, busy ones included.
    h2: H2Connections,
    /// Whether the sweeper runs. It is started and ends under the lock.
    is_swept: bool,
}

/// Tells the sweeper that something has happened on an idle connection, or to the pool.
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

// === impl PoolLimits ===

impl PoolLimits {
    /// How many of the connections that are one client's alone are kept: they are no use to
    /// anybody else, and have no part of the room of those that are.
    const fn max_owned(self) -> usize {
        self.max_idle.div_ceil(4)
    }
}

// === impl PortPools ===

impl PortPools {
    /// This worker's pool, which `make` makes of the number of workers if there is none. Whoever is
    /// no worker shares the first one's.
    pub(super) fn here(&self, make: impl FnOnce(usize) -> Pool) -> Arc<Pool> {
        let number = workers::here().unwrap_or_default();
        let make = || Arc::new(make(self.0.len()));
        match self.0.get(number).or_else(|| self.0.first()) {
            Some(place) => Arc::clone(place.get_or_init(make)),
            None => make(),
        }
    }
}

impl Default for PortPools {
    fn default() -> Self {
        Self((0..workers::count()).map(|_| OnceLock::new()).collect())
    }
}

// === impl SecurePools ===

impl SecurePools {
    /// This worker's pool of connections for `hop`, which `make` makes of the number of workers if
    /// there is none.
    pub(super) fn here(&self, hop: &TlsHop, make: impl FnOnce(usize) -> Pool) -> Arc<Pool> {
        let number = workers::here().unwrap_or_default();
        let make = || Arc::new(make(self.0.len()));
        let Some(place) = self.0.get(number).or_else(|| self.0.first()) else {
            return make();
        };
        let mut pools = place.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut forgotten, mut found) = (None, None);
        if let Some(place) = pools.iter().position(|(other, _)| other == hop) {
            found = Some(pools.remove(place));
        } else if pools.len() >= MOST_NAMES {
            forgotten = Some(pools.remove(0));
        }
        let (hop, pool) = found.unwrap_or_else(|| (hop.clone(), make()));
        pools.push((hop, Arc::clone(&pool)));
        drop(pools);
        // Its connections are closed, but for those that are in use.
        drop(forgotten);
        pool
    }
}

impl Default for SecurePools {
    fn default() -> Self {
        let pools = (0..workers::count()).map(|_| Mutex::default());
        Self(pools.collect())
    }
}

// === impl Pool ===

impl Pool {
    /// A pool of the epoch that is cut by `cut`.
    pub(super) fn new(cut: CancellationToken, limits: PoolLimits, pools: Arc<Pools>) -> Self {
        let idle_events = Arc::<IdleEvents>::default();
        Self {
            idle: Mutex::default(),
            dialling: TurnMutex::default(),
            failed_dials: AtomicUsize::new(0),
            limits,
            cut,
            pools,
            idle_waker: Waker::from(Arc::clone(&idle_events)),
            idle_events,
        }
    }

    /// An HTTP/1.1 connection that can take a request of `client` `now`, and since when it is idle.
    pub(super) fn take_connection(
        &self,
        now: Instant,
        client: Option<ClientConnection>,
    ) -> Option<(Box<Connection>, Instant)> {
        let mut no_wake = Context::from_waker(Waker::noop());
        let limit = self.limits.idle_timeout;
        self.change(|idle| {
            while let Some((mut connection, since)) = idle.pop(client) {
                if connection.reusable_since(&mut no_wake).is_some() && now < since + limit {
                    return Some((connection, since));
                }
            }
            None
        })
    }

    /// A stream of an HTTP/2 connection that can take a request `now`, with a body of this clock or
    /// without one.
    pub(super) fn take_stream(&self, now: Instant, body: Option<&ResponseClock>) -> Option<Stream> {
        self.change(|idle| idle.h2.take(now, self.limits.idle_timeout, body))
    }

    /// The limits of an HTTP/2 connection whose instance has not said them yet.
    pub(super) fn unsettled(&self) -> Option<PeerLimits> {
        self.lock().h2.unsettled()
    }

    /// Keeps an HTTP/1.1 connection for the next request, if there is room and it may be used
    /// again. It has been idle since its last byte came.
    pub(super) fn put_connection(self: &Arc<Self>, mut connection: Box<Connection>) {
        let mut idle_waker = Context::from_waker(&self.idle_waker);
        // Under the lock, so that the sweeper finds it here when an idle event comes from now on.
        self.keep(|idle| {
            let (list, most) = match connection.owner {
                None => (&mut idle.connections, self.limits.max_idle),
                Some(_) => (&mut idle.owned, self.limits.max_owned()),
            };
            if most > 0
                && let Some(since) = connection.reusable_since(&mut idle_waker)
            {
                if list.len() < most {
                    list.push((connection, since));
                } else if connection.owner.is_some() {
                    // Its client may have gone; nobody else can use the one that is idle longest.
                    list.remove(0);
                    list.push((connection, since));
                }
            }
        });
    }

    /// Keeps a new HTTP/2 connection, and takes a stream of it.
    pub(super) fn add_h2(
        &self,
        made: (http2::SendRequest<TimedBody>, PeerLimits),
        body: Option<&ResponseClock>,
    ) -> Stream {
        self.change(|idle| idle.h2.add(made, Instant::now(), body))
    }

    /// A stream of an HTTP/2 connection has ended.
    pub(super) fn end_stream(self: &Arc<Self>, connection: ConnectionId) {
        self.keep(|idle| idle.h2.end_stream(connection, Instant::now()));
    }

    /// A connection that had been idle for `idle_for` proved broken when it was used: what has been
    /// idle as long as it takes to miss a nap is as suspicious, and closed.
    pub(super) fn distrust(&self, idle_for: Duration) {
        if idle_for >= STALE {
            self.change(|idle| idle.retain_fresh(Instant::now(), STALE));
        }
    }

    fn is_over(&self) -> bool {
        self.cut.is_cancelled() || self.pools.stop.is_cancelled()
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Idle) -> T) -> T {
        let mut idle = self.lock();
        self.counted(&mut idle, change)
    }

    /// Makes a change that may leave something idle, which is looked after from then on.
    fn keep(self: &Arc<Self>, change: impl FnOnce(&mut Idle)) {
        let mut idle = self.lock();
        self.counted(&mut idle, change);
        if idle.is_swept || idle.count() == 0 {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => {
                idle.is_swept = true;
                let sweeper = Sweeper {
                    pool: Arc::downgrade(self),
                    events: Arc::clone(&self.idle_events),
                    pause: (self.limits.idle_timeout / 4).max(Duration::from_millis(10)),
                    cut: self.cut.clone(),
                    stop: self.pools.stop.clone(),
                };
                self.pools.tasks.spawn_on(sweeper.run(), &runtime);
            }
            // The runtime ends, and everything with it.
            Err(_) => self.counted(&mut idle, Idle::clear),
        }
    }

    fn counted<T>(&self, idle: &mut Idle, change: impl FnOnce(&mut Idle) -> T) -> T {
        let before = idle.count();
        let result = change(idle);
        let after = idle.count();
        if after > before {
            self.pools.idle.fetch_add(after - before, Ordering::Relaxed);
        } else if after < before {
            self.pools.idle.fetch_sub(before - after, Ordering::Relaxed);
        }
        result
    }

    /// Closes what is idle for too long or was closed by the instance, and everything when the
    /// epoch or the gateway has ended. Returns whether there is still something to look after.
    fn sweep(&self) -> bool {
        let mut idle_waker = Context::from_waker(&self.idle_waker);
        let mut idle = self.lock();
        self.counted(&mut idle, |idle| match self.is_over() {
            true => idle.clear(),
            false => {
                idle.retain_fresh(Instant::now(), self.limits.idle_timeout);
                for list in [&mut idle.connections, &mut idle.owned] {
                    list.retain_mut(|(one, _)| one.reusable_since(&mut idle_waker).is_some());
                }
            }
        });
        idle.is_swept = idle.count() > 0;
        idle.is_swept
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let idle = self.idle.get_mut();
        let idle = idle.unwrap_or_else(PoisonError::into_inner);
        self.pools.idle.fetch_sub(idle.count(), Ordering::Relaxed);
        // The sweeper has nothing left to look after.
        self.idle_events.0.notify_one();
    }
}

// === impl Idle ===

impl Idle {
    fn count(&self) -> usize {
        self.connections.len() + self.owned.len() + self.h2.idle()
    }

    /// The connection that was used last of those that are the client's alone, or else of those that
    /// are nobody's.
    fn pop(&mut self, client: Option<ClientConnection>) -> Option<(Box<Connection>, Instant)> {
        let is_its = |(one, _): &(Box<Connection>, Instant)| one.owner == client;
        match self.owned.iter().rposition(is_its) {
            Some(place) => Some(self.owned.remove(place)),
            None => self.connections.pop(),
        }
    }

    /// Closes what has been idle for `limit`.
    fn retain_fresh(&mut self, now: Instant, limit: Duration) {
        let is_fresh = |since: Instant| now < since + limit;
        self.connections.retain(|(_, since)| is_fresh(*since));
        self.owned.retain(|(_, since)| is_fresh(*since));
        self.h2.retain_fresh(now, limit);
    }

    fn clear(&mut self) {
        let is_swept = self.is_swept;
        let _closed = take(self);
        self.is_swept = is_swept;
    }
}

/// Looks after a pool for as long as something is idle in it.
struct Sweeper {
    /// The pool ends with its epoch, not with this.
    pool: Weak<Pool>,
    events: Arc<IdleEvents>,
    pause: Duration,
    cut: CancellationToken,
    stop: CancellationToken,
}

// === impl Sweeper ===

impl Sweeper {
    async fn run(self) {
        loop {
            tokio::select! {
                () = sleep(self.pause) => {}
                () = self.events.0.notified() => {}
                () = self.cut.cancelled() => {}
                () = self.stop.cancelled() => {}
            }
            if !self.pool.upgrade().is_some_and(|pool| pool.sweep()) {
                return;
            }
        }
    }
}
