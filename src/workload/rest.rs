//! Instances that have said that they are done, and sleep as soon as nobody needs them.
//!
//! Guarantees: an instance that is held awake is not put to sleep, whichever gateway was told; what
//! fails for a moment is tried again. An instance has one wish at most, its last one; it is over when the instance sleeps, when its
//! workload holds it awake again or wants to go on, when it was asleep meanwhile, and after a day;
//! the call that puts it to sleep is the engine's, which no wish takes back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::holds::Holds;
use super::host::{Host, Rested, Sleep};
use super::task::Owner;

/// How long the answer to the workload has to go out.
const ANSWER: Duration = Duration::from_secs(1);
/// How often it is looked whether somebody needs the instance, at first and at last.
const LOOK: Duration = Duration::from_millis(50);
const SLOW_LOOK: Duration = Duration::from_millis(500);
/// So long the hook is not asked again, if nobody has used the instance meanwhile.
const HOOK_AGAIN: Duration = Duration::from_secs(60);
/// The time until what has failed is tried again, at first and at last.
const AGAIN: Duration = Duration::from_secs(1);
const LAST_AGAIN: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The wishes that there are.
#[derive(Debug, Default, Clone)]
pub(super) struct Wishes(Arc<Mutex<HashMap<Owner, (u64, CancellationToken)>>>);

static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Wish {
    wishes: Wishes,
    owner: Owner,
    number: u64,
    over: CancellationToken,
}

// === impl Wishes ===

impl Wishes {
    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, (u64, CancellationToken)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance is done; what it has said before is over.
    pub(super) fn begin(&self, owner: &Owner) -> Wish {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let over = CancellationToken::new();
        let before = self.lock().insert(owner.clone(), (number, over.clone()));
        if let Some((_, before)) = before {
            before.cancel();
        }
        Wish {
            wishes: self.clone(),
            owner: owner.clone(),
            number,
            over,
        }
    }

    /// An instance goes on.
    pub(super) fn end(&self, owner: &Owner) {
        if let Some((_, over)) = self.lock().remove(owner) {
            over.cancel();
        }
    }
}

// === impl Wish ===

impl Wish {
    /// Puts the instance to sleep when nobody needs it. Its answer has gone out when `answered` is
    /// cancelled.
    pub(super) async fn carry_out(
        self,
        host: Arc<dyn Host>,
        holds: Arc<Holds>,
        answered: CancellationToken,
    ) {
        let over = self.over.clone();
        let resting = timeout(LONGEST, self.rest(&*host, &holds, &answered));
        // It is over in any case.
        let _over = over.run_until_cancelled(resting).await;
    }

    async fn rest(&self, host: &dyn Host, holds: &Arc<Holds>, answered: &CancellationToken) {
        let owner = &self.owner;
        let last_wake = || host.facts(owner).last_wake.map(|wake| wake.time);
        let (mut epoch, woken_at) = (host.business(owner).epoch, last_wake());
        let (mut look, mut again) = (LOOK, AGAIN);
        let (mut hooked_at, mut has_failed): (Option<Instant>, bool) = (None, false);
        let _late = timeout(ANSWER, answered.cancelled()).await;
        loop {
            if holds.until(owner).is_some() {
                // Another gateway may have been told so.
                tracing::info!(instance = %owner.id, "its workload holds it awake after all");
                return;
            }
            let business = host.business(owner);
            let is_another = epoch.is_some() && business.epoch != epoch;
            if is_another || (has_failed && last_wake() != woken_at) {
                // It has slept since, and may have been woken for somebody.
                return;
            }
            epoch = business.epoch;
            if business.is_busy {
                (look, hooked_at) = (LOOK, None);
                sleep(LOOK).await;
                continue;
            }
            let began = Instant::now();
            let asks_hook = hooked_at.is_none_or(|at| began >= at + HOOK_AGAIN);
            if asks_hook {
                hooked_at = Some(began);
            }
            match host.rest(owner, Sleep::new(holds, owner, asks_hook)).await {
                Rested::Asleep => {
                    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(instance = %owner.id, ms, "asleep, since its workload is done");
                    return;
                }
                Rested::Busy | Rested::Held => {
                    sleep(look).await;
                    look = (look * 2).min(SLOW_LOOK);
                }
                Rested::Refused(_) => {
                    tracing::info!(instance = %owner.id, "its workload wants to go on after all");
                    return;
                }
                Rested::Later(error) => {
                    tracing::info!(instance = %owner.id, %error,
                        "not put to sleep yet, though its workload is done");
                    sleep(again).await;
                    again = (again * 2).min(LAST_AGAIN);
                    // The gateway's epoch has ended with the try.
                    (epoch, has_failed, hooked_at) = (None, true, None);
                }
                Rested::Failed(error) => {
                    tracing::info!(instance = %owner.id, %error,
                        "not put to sleep, though its workload is done");
                    return;
                }
            }
        }
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        let mut all = self.wishes.lock();
        // Another may have taken its place.
        if all
            .get(&self.owner)
            .is_some_and(|(number, _)| *number == self.number)
        {
            all.remove(&self.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypeman::InstanceId;

    #[test]
    fn the_last_wish_is_the_one_that_counts_and_what_is_over_leaves_nothing() {
        let owner = Owner {
            hypeman: "default".into(),
            id: InstanceId::parse("a").unwrap(),
        };
        let wishes = Wishes::default();
        let (first, second) = (wishes.begin(&owner), wishes.begin(&owner));
        assert!(first.over.is_cancelled() && !second.over.is_cancelled());
        drop(first);
        wishes.end(&owner);
        assert!(second.over.is_cancelled());
        // Said while the one before is still on its way out.
        let third = wishes.begin(&owner);
        drop(second);
        assert!(!third.over.is_cancelled() && wishes.lock().len() == 1);
        drop(third);
        assert!(wishes.lock().is_empty());
    }
}
