//! Instances whose holds the engine is to be told of.
//!
//! Guarantees: a control plane that hangs delays no other's instances, nor what else is done about
//! holds; each control plane has one round at a time, in which an instance is once at most.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, StreamExt as _};

use super::task::Owner;

/// Instances of a control plane that are told of at once.
const AT_ONCE: usize = 16;

/// Those that are due, by control plane; one that has an entry is being worked on.
#[derive(Debug, Default)]
pub(super) struct Due(Mutex<BTreeMap<Arc<str>, BTreeSet<Owner>>>);

// === impl Due ===

impl Due {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, BTreeSet<Owner>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// They are due. Returns the control planes whose round is to be begun.
    pub(super) fn add(&self, owners: Vec<Owner>) -> Vec<Arc<str>> {
        let (mut all, mut begun) = (self.lock(), Vec::new());
        for owner in owners {
            let due = all.entry(Arc::clone(&owner.hypeman)).or_insert_with(|| {
                begun.push(Arc::clone(&owner.hypeman));
                BTreeSet::new()
            });
            due.insert(owner);
        }
        begun
    }

    fn next(&self, plane: &str) -> Option<Owner> {
        self.lock().get_mut(plane)?.pop_first()
    }

    /// Does it for all that are due at a control plane, until none is.
    pub(super) async fn work_off<F>(&self, plane: &str, tell: impl Fn(Owner) -> F)
    where
        F: Future<Output = ()>,
    {
        loop {
            stream::iter(std::iter::from_fn(|| self.next(plane)))
                .for_each_concurrent(AT_ONCE, &tell)
                .await;
            let mut all = self.lock();
            if all.get(plane).is_none_or(BTreeSet::is_empty) {
                all.remove(plane);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use hypeman::InstanceId;
    use tokio::time::timeout;

    use super::*;

    fn owner(hypeman: &str, number: usize) -> Owner {
        Owner {
            hypeman: hypeman.into(),
            id: InstanceId::parse(&format!("i{number}")).unwrap(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_control_plane_that_hangs_delays_no_other_one_and_has_one_round() {
        let due = Due::default();
        let planes = ["hangs", "healthy"];
        let all = planes.map(|plane| (0..100).map(move |number| owner(plane, number)));
        let begun = due.add(all.into_iter().flatten().collect());
        assert_eq!(begun, planes.map(Arc::from));
        let (hanging, told) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let hangs = due.work_off("hangs", |_| {
            hanging.fetch_add(1, Ordering::Relaxed);
            pending()
        });
        let healthy = due.work_off("healthy", |owner| {
            assert_eq!(&*owner.hypeman, "healthy");
            told.fetch_add(1, Ordering::Relaxed);
            ready(())
        });
        let both = async { tokio::join!(hangs, healthy) };
        timeout(Duration::from_secs(1), both).await.unwrap_err();
        assert_eq!(told.load(Ordering::Relaxed), 100);
        assert_eq!(hanging.load(Ordering::Relaxed), AT_ONCE);
        let begun = due.add(vec![owner("hangs", 5), owner("healthy", 5)]);
        assert_eq!(begun, ["healthy".into()], "the other one's is not over");
    }
}
