//! Requests to other members of the fleet.
//!
//! Guarantees: each worker has connections of its own to a member, a second one before the first has
//! no room; a request is sent again only when it was certainly not processed (no connection, a refused
//! stream, a GOAWAY that leaves it out), with its body from the beginning; while a member is away it is
//! looked for once a second, and whoever asks meanwhile hears so at once; who is not believed gets
//! nothing.

mod connection;
mod error;
mod request;
mod upload;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Response;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::connection::{Connection, DialError};
pub use self::error::PeerError;
use self::request::Failed;
pub use self::request::PeerRequest;
use super::response_body::UpstreamBody;
use crate::fleet::{Member, PeerIdentity};
use crate::workers;

/// Between two looks at a member that is away.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often a request is sent that nobody has processed.
const MOST_TIMES: u32 = 3;
/// How often a request waits for a connection that has no room when it is there.
const MOST_WAITS: u32 = 16;
/// Connections of a worker to one member.
const MOST_CONNECTIONS: usize = 64;
/// Of ten streams, how many a connection has before there is another.
const FULL_TENTHS: usize = 8;
/// Workers that have connections of their own; more share them.
const SHARDS: usize = 64;
/// How long a member to which nothing is open is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Connections to all members.
pub struct Peers {
    identity: Arc<PeerIdentity>,
    tasks: TaskTracker,
    shards: Vec<Mutex<HashMap<String, Arc<Pool>>>>,
}

/// A worker's connections to one member.
struct Pool {
    member: Arc<Member>,
    connections: Mutex<Vec<Connection>>,
    /// Ends when the connection that is being made is there, or is not to be had.
    dialling: Mutex<Option<watch::Receiver<()>>>,
    /// When it was looked for in vain, and why.
    failed: Mutex<Option<(Instant, DialError)>>,
    used: Mutex<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Pool ===

impl Pool {
    fn new(member: &Arc<Member>) -> Self {
        Self {
            member: Arc::clone(member),
            connections: Mutex::default(),
            dialling: Mutex::default(),
            failed: Mutex::default(),
            used: Mutex::new(Instant::now()),
        }
    }

    /// A connection with room; the second value says whether another one should be made.
    fn find(&self) -> Option<(Connection, bool)> {
        let mut connections = lock(&self.connections);
        connections.retain(|one| !one.is_over());
        let has_room =
            |one: &&Connection| one.streams() * 10 < one.most().saturating_mul(FULL_TENTHS);
        if let Some(one) = connections.iter().find(has_room) {
            return Some((one.clone(), false));
        }
        let may_grow = connections.len() < MOST_CONNECTIONS;
        let fewest = connections.iter().min_by_key(|one| one.streams())?;
        Some((fewest.clone(), may_grow))
    }

    /// The error of a look a moment ago.
    fn failed_lately(&self) -> Option<DialError> {
        let failed = lock(&self.failed);
        let (at, error) = failed.as_ref()?;
        (at.elapsed() < LOOK_AGAIN).then(|| error.clone())
    }

    /// What has become of making a connection.
    fn note(&self, opened: Result<Connection, DialError>) {
        let error = match opened {
            Ok(connection) => {
                *lock(&self.failed) = None;
                return lock(&self.connections).push(connection);
            }
            Err(error) => error,
        };
        let member = &self.member.name;
        match &error {
            DialError::Away(reason) => {
                tracing::debug!(member, %reason, "a member of the fleet cannot be reached");
            }
            DialError::Refused(reason) => {
                tracing::warn!(member, %reason, code = "peer_refused",
                    "a member of the fleet is not believed, or does not believe this one");
            }
        }
        *lock(&self.failed) = Some((Instant::now(), error));
    }

    fn close(&self, reason: &str) {
        for connection in lock(&self.connections).drain(..) {
            connection
                .state()
                .close_for(DialError::Refused(reason.into()));
        }
    }

    fn is_forgotten(&self) -> bool {
        let mut connections = lock(&self.connections);
        connections.retain(|one| !one.is_over());
        connections.is_empty() && lock(&self.used).elapsed() > REMEMBERED
    }
}

// === impl Peers ===

impl Peers {
    /// Without a connection; the tasks of connections go on `tasks`.
    pub fn new(identity: Arc<PeerIdentity>, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self {
            identity,
            tasks,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        })
    }

    /// Sends a request to a member, and returns the response when its head is there.
    pub async fn send(
        &self,
        member: &Arc<Member>,
        request: &PeerRequest,
    ) -> Result<Response<UpstreamBody>, PeerError> {
        let pool = self.pool(member);
        *lock(&pool.used) = Instant::now();
        for _ in 0..MOST_TIMES {
            // In a box: it is large, and seldom waits.
            let connection = match pool.find() {
                Some((connection, false)) => connection,
                Some((_, true)) | None => Box::pin(self.connection(&pool)).await?,
            };
            let Some(body) = request.body_again() else {
                return Err(PeerError::Untaken);
            };
            match request.send(&connection, body, &self.tasks).await {
                Ok(response) => return Ok(response),
                Err(Failed::For(error)) => return Err(error),
                Err(Failed::Unprocessed) => {}
            }
        }
        Err(PeerError::Untaken)
    }

    fn pool(&self, member: &Arc<Member>) -> Arc<Pool> {
        let shard = workers::here().map_or(0, |number| 1 + number % (SHARDS - 1));
        let Some(shard) = self.shards.get(shard) else {
            return Arc::new(Pool::new(member));
        };
        let mut pools = lock(shard);
        if let Some(pool) = pools.get(&member.name)
            && is_reached_alike(&pool.member, member)
        {
            return Arc::clone(pool);
        }
        if let Some(pool) = pools.get(&member.name)
            && (pool.member.spki, pool.member.role) != (member.spki, member.role)
        {
            // Whoever is at the other end may not be believed any more.
            pool.close("its record has another key or role by now");
        }
        pools.retain(|_, pool| !pool.is_forgotten());
        let pool = Arc::new(Pool::new(member));
        pools.insert(member.name.clone(), Arc::clone(&pool));
        pool
    }

    /// A connection of the pool, or a new one. Whoever has none with room waits for the one that is being
    /// made, and its failure is theirs. It is made for all: none of them ends it by leaving.
    async fn connection(&self, pool: &Arc<Pool>) -> Result<Connection, PeerError> {
        for _ in 0..MOST_WAITS {
            let mut dialling = match (pool.find(), pool.failed_lately()) {
                (Some((connection, false)), _) | (Some((connection, true)), Some(_)) => {
                    return Ok(connection);
                }
                (None, Some(error)) => return Err(error.into()),
                (Some((connection, true)), None) => {
                    let dialling = self.dial(pool);
                    if connection.streams() < connection.most() {
                        return Ok(connection);
                    }
                    dialling
                }
                (None, None) => self.dial(pool),
            };
            // It says nothing: it ends.
            let _ended = dialling.changed().await;
        }
        Err(PeerError::Untaken)
    }

    /// Makes another connection in a task of its own, if none is being made; the receiver hears its end.
    fn dial(&self, pool: &Arc<Pool>) -> watch::Receiver<()> {
        let mut dialling = lock(&pool.dialling);
        if let Some(running) = dialling.as_ref().filter(|one| one.has_changed().is_ok()) {
            return running.clone();
        }
        let (end, ended) = watch::channel(());
        *dialling = Some(ended.clone());
        let (identity, tasks) = (Arc::clone(&self.identity), self.tasks.clone());
        let pool = Arc::clone(pool);
        self.tasks.spawn(async move {
            pool.note(Connection::open(&identity, &pool.member, &tasks).await);
            drop(end);
        });
        ended
    }
}

/// Whether connections to the one are connections to the other.
fn is_reached_alike(one: &Arc<Member>, other: &Arc<Member>) -> bool {
    Arc::ptr_eq(one, other)
        || (&one.endpoints, one.spki, one.role) == (&other.endpoints, other.spki, other.role)
}

impl From<DialError> for PeerError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Away(_) => Self::Unreachable,
            DialError::Refused(reason) => Self::Refused(reason),
        }
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peers({:?})", self.identity)
    }
}
