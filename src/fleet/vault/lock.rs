//! A lock that a front has.
//!
//! Guarantees: it is let go of when it is dropped, and ends by itself when its holder is gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::fleet::engine::{Compare, Engine};

/// How long a lock lasts without its holder, in seconds.
pub(super) const LEASE: i64 = 30;
const KEEP_ALIVE: Duration = Duration::from_secs(8);
/// How long the directory is asked to end a lock: it ends by itself, too.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// A lock, until it is dropped.
#[derive(Debug)]
pub struct VaultLock {
    key: String,
    lease: i64,
    created: i64,
    _held: DropGuard,
}

// === impl VaultLock ===

impl VaultLock {
    /// One whose key was written at this revision, with this lease.
    pub(super) fn new(key: String, (lease, held): (i64, DropGuard), created: i64) -> Self {
        Self {
            key,
            lease,
            created,
            _held: held,
        }
    }

    /// What is written with it goes with it.
    pub(super) fn lease(&self) -> i64 {
        self.lease
    }

    /// That it has not been lost.
    pub(super) fn is_held(&self) -> Compare {
        Compare::Created(self.key.clone(), self.created)
    }
}

/// Holds a lease until what is returned is dropped.
pub(super) fn held(tasks: &TaskTracker, engine: &Arc<dyn Engine>, lease: i64) -> (i64, DropGuard) {
    let let_go = CancellationToken::new();
    let guard = let_go.clone().drop_guard();
    tasks.spawn(hold(Arc::clone(engine), lease, let_go));
    (lease, guard)
}

/// Makes a lease last until it is let go of, and ends it.
async fn hold(engine: Arc<dyn Engine>, lease: i64, let_go: CancellationToken) {
    let holding = async {
        loop {
            sleep(KEEP_ALIVE).await;
            if matches!(engine.keep_alive(lease).await, Ok(false)) {
                tracing::warn!("a lock of the fleet's directory has been lost");
                return;
            }
        }
    };
    let _let_go = let_go.run_until_cancelled(holding).await;
    let _gone = timeout(FAREWELL, engine.revoke(lease)).await;
}
