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
/// While it is used: this share of the time for which it has been, and the longest.
const BUSY_SHARE: u32 = 16;
const BUSY_LOOK: Duration = Duration::from_secs(2);
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
        let mut busy_since: Option<Instant> = None;
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
                let since = *busy_since.get_or_insert_with(Instant::now);
                sleep((since.elapsed() / BUSY_SHARE).clamp(LOOK, BUSY_LOOK)).await;
                continue;
            }
            busy_since = None;
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
    use std::net::IpAddr;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::workload::{AskError, Business, Facts, Kept, Listing, Resident};
    use futures_util::future::{BoxFuture, FutureExt as _};
    use hypeman::InstanceId;

    /// An instance that is used until a time.
    struct Used {
        until: Instant,
        looks: AtomicUsize,
    }

    impl Host for Used {
        fn planes(&self) -> usize {
            1
        }

        fn last_seen_at(&self, _: IpAddr) -> Option<Owner> {
            None
        }

        fn confirm<'a>(
            &'a self,
            _: &'a Owner,
            _: IpAddr,
        ) -> BoxFuture<'a, Result<Option<Resident>, AskError>> {
            async { Ok(None) }.boxed()
        }

        fn list(&self) -> BoxFuture<'_, Listing> {
            async { Listing::default() }.boxed()
        }

        fn hold<'a>(&'a self, _: &'a Owner, _: Option<Instant>) -> BoxFuture<'a, Kept> {
            async { Kept::Yes }.boxed()
        }

        fn facts(&self, _: &Owner) -> Facts {
            Facts::default()
        }

        fn business(&self, _: &Owner) -> Business {
            self.looks.fetch_add(1, Ordering::Relaxed);
            Business {
                is_busy: Instant::now() < self.until,
                epoch: Some(1),
            }
        }

        fn rest<'a>(&'a self, _: &'a Owner, _: Sleep) -> BoxFuture<'a, Rested> {
            async { Rested::Asleep }.boxed()
        }

        fn note_held(&self, _: &Resident, _: IpAddr, _: &str) {}
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_open_for_a_day_costs_few_looks_and_a_moment_is_noticed_at_once() {
        let owner = Owner {
            hypeman: "default".into(),
            id: InstanceId::parse("a").unwrap(),
        };
        // So long it is used, so much later it sleeps at most, after so many looks.
        for (used, late, looks) in [(1, 70, 30), (20, 1300, 120), (3600, 2000, 2000)] {
            let began = Instant::now();
            let used = Duration::from_secs(used);
            let host = Arc::new(Used {
                until: began + ANSWER + used,
                looks: AtomicUsize::new(0),
            });
            let holds = Holds::none(Arc::default());
            let wish = Wishes::default().begin(&owner);
            wish.carry_out(host.clone(), holds, CancellationToken::new())
                .await;
            let took = began.elapsed().saturating_sub(ANSWER + used);
            assert!(took <= Duration::from_millis(late), "{used:?}: {took:?}");
            let looked = host.looks.load(Ordering::Relaxed);
            assert!(looked <= looks, "{used:?}: {looked} looks");
        }
    }

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
