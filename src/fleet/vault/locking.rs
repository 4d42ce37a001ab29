//! Locks of names, which one front has at a time.
//!
//! Guarantees: whoever gets a lock knows all that was written before it did; without the directory nobody
//! gets one.

use std::time::Duration;

use tokio::time::timeout;

use super::copy::{Vault, VaultError, key_of};
use super::lock::{FAREWELL, LEASE, VaultLock, held};
use crate::fleet::engine::{Compare, Operation};

/// How long it may take to hear of what was written before.
const CATCH_UP: Duration = Duration::from_secs(5);

// === impl Vault ===

impl Vault {
    /// The lock of a name, unless another has it.
    pub async fn try_lock(&self, name: &str) -> Result<Option<VaultLock>, VaultError> {
        let name = format!("locks/{name}");
        // Who has it is known most of the time.
        if self.is_read() && self.version(&name).is_some() {
            return Ok(None);
        }
        let key = key_of(&name);
        let lease = self.engine.grant(LEASE).await?;
        let held = held(&self.locks, &self.engine, lease);
        let put = Operation::Put {
            key: key.clone(),
            value: b"{}".to_vec(),
            lease,
        };
        let free = vec![Compare::Absent(key.clone())];
        let outcome = self.engine.commit(free, vec![put]).await?;
        if !outcome.is_done {
            return Ok(None);
        }
        self.catch_up(outcome.revision).await?;
        Ok(Some(VaultLock::new(key, held, outcome.revision)))
    }

    /// Waits until the locks that were dropped have ended in the directory, too, but not for long.
    pub async fn let_go(&self) {
        self.locks.close();
        let _ended = timeout(FAREWELL, self.locks.wait()).await;
    }

    /// Waits until all is known up to a revision.
    async fn catch_up(&self, revision: i64) -> Result<(), VaultError> {
        let mut known = self.known.subscribe();
        let caught_up = known.wait_for(|known| *known >= revision);
        match timeout(CATCH_UP, caught_up).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(VaultError::Behind),
        }
    }
}
