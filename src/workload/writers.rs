//! How often an instance may change its holds.
//!
//! Guarantees: an instance has one change under way, and those beyond its rate are refused; so the
//! disk is shared by instances, not by requests. Whoever has changed nothing for a while is forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout};

use super::refusal::Refusal;
use super::task::Owner;

/// Changes at once, after a while without any.
const BURST: u32 = 100;
/// The time after which one more is allowed.
const PACE: Duration = Duration::from_millis(100);
/// How long a change waits for the same instance's ones before.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many instances are remembered before those that need not be are forgotten.
const REMEMBERED: usize = 4096;

/// The instances that change their holds.
#[derive(Debug, Default)]
pub(super) struct Writers(Mutex<HashMap<Owner, Arc<AsyncMutex<Spent>>>>);

/// When an instance has its whole burst again; `None` before its first change.
#[derive(Debug, Default)]
pub(super) struct Spent(Option<Instant>);

// === impl Writers ===

impl Writers {
    /// An instance's turn to change something, until it is dropped.
    pub(super) async fn turn(&self, owner: &Owner) -> Result<OwnedMutexGuard<Spent>, Refusal> {
        let spent = self.spent(owner);
        let turn = timeout(PATIENCE, spent.lock_owned()).await;
        let mut turn = turn.map_err(|_| Refusal::TooOften)?;
        let now = Instant::now();
        let whole_at = turn.0.map_or(now, |at| at.max(now)) + PACE;
        if whole_at - now > PACE * BURST {
            return Err(Refusal::TooOften);
        }
        turn.0 = Some(whole_at);
        Ok(turn)
    }

    fn spent(&self, owner: &Owner) -> Arc<AsyncMutex<Spent>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED && !all.contains_key(owner) {
            let now = Instant::now();
            all.retain(|_, spent| {
                let is_whole = |spent: &Spent| spent.0.is_none_or(|at| at <= now);
                // Whoever waits for it has it, too.
                Arc::strong_count(spent) > 1
                    || !spent.try_lock().is_ok_and(|spent| is_whole(&spent))
            });
        }
        Arc::clone(all.entry(owner.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use hypeman::InstanceId;

    use super::*;

    fn owner(id: &str) -> Owner {
        Owner {
            hypeman: "default".into(),
            id: InstanceId::parse(id).unwrap(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_that_changes_too_often_is_refused_and_no_other_one() {
        let writers = Writers::default();
        for _ in 0..BURST {
            drop(writers.turn(&owner("a")).await.unwrap());
        }
        let refused = writers.turn(&owner("a")).await;
        assert!(matches!(refused, Err(Refusal::TooOften)));
        let others = writers.turn(&owner("b")).await.unwrap();
        tokio::time::advance(PACE).await;
        drop(writers.turn(&owner("a")).await.unwrap());
        // Two changes of one instance are not under way at once.
        let refused = writers.turn(&owner("b")).await;
        assert!(matches!(refused, Err(Refusal::TooOften)));
        drop(others);
        drop(writers.turn(&owner("b")).await.unwrap());
    }
}
