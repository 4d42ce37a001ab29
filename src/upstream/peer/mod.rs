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
    dialling: tokio::sync::Mutex<()>,
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
            dialling: tokio::sync::Mutex::default(),
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
            let connection = self.connection(&pool).await?;
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
        pools.retain(|_, pool| !pool.is_forgotten());
        let pool = Arc::new(Pool::new(member));
        pools.insert(member.name.clone(), Arc::clone(&pool));
        pool
    }

    /// A connection of the pool, or a new one. While one request dials, those that have no other
    /// connection wait for it, and its failure is theirs.
    async fn connection(&self, pool: &Arc<Pool>) -> Result<Connection, PeerError> {
        loop {
            let found = pool.find();
            let failed = pool.failed_lately();
            let found = match (found, failed) {
                (Some((connection, false)), _) | (Some((connection, true)), Some(_)) => {
                    return Ok(connection);
                }
                (None, Some(error)) => return Err(error.into()),
                (Some((connection, true)), None) => Some(connection),
                (None, None) => None,
            };
            let Ok(_mine) = pool.dialling.try_lock() else {
                // Another one is being made: this one may have some room left.
                if let Some(connection) = found.filter(|one| one.streams() < one.most()) {
                    return Ok(connection);
                }
                drop(pool.dialling.lock().await);
                continue;
            };
            // In a box: it is large, and seldom needed.
            return match (Box::pin(self.dial(pool)).await, found) {
                (Ok(connection), _) | (Err(_), Some(connection)) => Ok(connection),
                (Err(error), None) => Err(error.into()),
            };
        }
    }

    async fn dial(&self, pool: &Pool) -> Result<Connection, DialError> {
        let opened = Connection::open(&self.identity, &pool.member, &self.tasks).await;
        match opened {
            Ok(connection) => {
                *lock(&pool.failed) = None;
                lock(&pool.connections).push(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                let member = &pool.member.name;
                match &error {
                    DialError::Away(reason) => {
                        tracing::debug!(member, %reason, "a member of the fleet cannot be reached");
                    }
                    DialError::Refused(reason) => {
                        tracing::warn!(member, %reason, code = "peer_refused",
                            "a member of the fleet is not believed, or does not believe this one");
                    }
                }
                *lock(&pool.failed) = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
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
