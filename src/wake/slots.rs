//! How many instances a control plane wakes at once, and who is next.
//!
//! Guarantees: at most so many slots are out; a free slot goes to the claim whose route, then whose
//! client, has the fewest out, and among equals to the oldest, so that one route's or one client's
//! crowd of sleeping instances cannot keep the others waiting; a claim that leaves the queue costs
//! nothing; a slot comes back when it is dropped.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::names::ClientNetwork;

/// The request for which a slot is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// Its route.
    pub(super) route: Arc<str>,
    /// Its client's network.
    pub(super) client: ClientNetwork,
    /// Since when its oldest request is held.
    pub(super) since: Instant,
}

struct QueuedClaim {
    claim: Claim,
    ticket: u64,
    grant: oneshot::Sender<WakeSlot>,
}

#[derive(Default)]
struct SlotQueue {
    free: usize,
    tickets: u64,
    out: Vec<Claim>,
    waiting: Vec<QueuedClaim>,
}

/// A control plane's slots.
#[derive(Clone)]
pub(super) struct WakeSlots(Arc<Mutex<SlotQueue>>);

/// One slot, until it is dropped.
pub(super) struct WakeSlot {
    slots: WakeSlots,
    /// `None` once it has been given back.
    claim: Option<Claim>,
}

// === impl WakeSlots ===

impl WakeSlots {
    pub(super) fn new(free: usize) -> Self {
        let queue = SlotQueue {
            free,
            ..SlotQueue::default()
        };
        Self(Arc::new(Mutex::new(queue)))
    }

    fn lock(&self) -> MutexGuard<'_, SlotQueue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot, or `None` when it was not this claim's turn until `until`. Cancel safe.
    pub(super) async fn take(&self, claim: Claim, until: Instant) -> Option<WakeSlot> {
        let (grant, granted) = oneshot::channel();
        {
            let mut queue = self.lock();
            queue.tickets += 1;
            let ticket = queue.tickets;
            queue.waiting.push(QueuedClaim {
                claim,
                ticket,
                grant,
            });
        }
        self.grant();
        timeout_at(until, granted).await.ok()?.ok()
    }

    /// Hands out what is free.
    fn grant(&self) {
        loop {
            let mut queue = self.lock();
            if queue.free == 0 {
                return;
            }
            queue.waiting.retain(|waiting| !waiting.grant.is_closed());
            let Some(next) = queue.next() else { return };
            let QueuedClaim { claim, grant, .. } = queue.waiting.swap_remove(next);
            queue.free -= 1;
            queue.out.push(claim.clone());
            drop(queue);
            let slot = WakeSlot {
                slots: self.clone(),
                claim: Some(claim),
            };
            // One who left at this very moment: the slot goes back without another round inside
            // its drop, and this loop hands it on.
            if let Err(mut slot) = grant.send(slot) {
                slot.give_back();
            }
        }
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        let mut queue = self.lock();
        queue.waiting.retain(|waiting| !waiting.grant.is_closed());
        queue.waiting.len()
    }
}

impl SlotQueue {
    fn next(&self) -> Option<usize> {
        let out =
            |same: &dyn Fn(&Claim) -> bool| self.out.iter().filter(|claim| same(claim)).count();
        let rank = |waiting: &QueuedClaim| {
            let Claim {
                route,
                client,
                since,
            } = &waiting.claim;
            (
                out(&|claim| claim.route == *route),
                out(&|claim| claim.client == *client),
                *since,
                waiting.ticket,
            )
        };
        let ranks = self.waiting.iter().map(rank).enumerate();
        ranks
            .min_by(|(_, a), (_, b)| a.cmp(b))
            .map(|(index, _)| index)
    }
}

impl fmt::Debug for WakeSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.lock();
        write!(
            f,
            "WakeSlots({} free, {} waiting)",
            queue.free,
            queue.waiting.len()
        )
    }
}

// === impl WakeSlot ===

impl WakeSlot {
    fn give_back(&mut self) -> bool {
        let Some(claim) = self.claim.take() else {
            return false;
        };
        let mut queue = self.slots.lock();
        if let Some(index) = queue.out.iter().position(|out| *out == claim) {
            queue.out.swap_remove(index);
        }
        queue.free += 1;
        true
    }
}

impl Drop for WakeSlot {
    fn drop(&mut self) {
        if self.give_back() {
            self.slots.grant();
        }
    }
}

impl fmt::Debug for WakeSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WakeSlot({:?})", self.claim)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tokio::task::JoinSet;

    use super::*;

    fn claim(route: &str, client: u8) -> Claim {
        Claim {
            route: route.into(),
            client: IpAddr::from([10, 0, client, 1]).into(),
            since: Instant::now(),
        }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_waits_for_a_slot_and_gives_up_in_time() {
        let slots = WakeSlots::new(1);
        let first = slots.take(claim("a", 1), later()).await.unwrap();
        let soon = Instant::now() + Duration::from_secs(1);
        assert!(slots.take(claim("a", 1), soon).await.is_none());
        assert_eq!(slots.waiting(), 0, "who gave up is not in the queue");
        drop(first);
        assert!(
            slots
                .take(claim("a", 1), soon)
                .now_or_never()
                .flatten()
                .is_some()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_one_route_does_not_keep_another_waiting() {
        let slots = WakeSlots::new(2);
        let held = [
            slots.take(claim("crowd", 1), later()).await.unwrap(),
            slots.take(claim("crowd", 1), later()).await.unwrap(),
        ];
        let mut tasks = JoinSet::new();
        for (route, client) in [("crowd", 1), ("crowd", 1), ("crowd", 2), ("quiet", 3)] {
            let (slots, claim) = (slots.clone(), claim(route, client));
            tasks.spawn(async move {
                let slot = slots.take(claim.clone(), later()).await.unwrap();
                (claim.route.to_string(), client, slot)
            });
            tokio::time::advance(Duration::from_millis(1)).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(slots.waiting(), 4);
        let mut order = Vec::new();
        drop(held);
        while let Some(done) = tasks.join_next().await {
            let (route, client, slot) = done.unwrap();
            order.push((route, client));
            drop(slot);
        }
        let place = |what: (&str, u8)| {
            order
                .iter()
                .position(|(r, c)| (r.as_str(), *c) == what)
                .unwrap()
        };
        assert!(place(("quiet", 3)) < 2, "{order:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn among_equals_the_oldest_is_first() {
        let slots = WakeSlots::new(1);
        let held = slots.take(claim("x", 9), later()).await.unwrap();
        let old = claim("a", 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        let young = claim("b", 2);
        // The younger one asked for the slot first.
        let mut second = Box::pin(slots.take(young, later()));
        assert!(second.as_mut().now_or_never().is_none());
        let mut first = Box::pin(slots.take(old, later()));
        assert!(first.as_mut().now_or_never().is_none());
        drop(held);
        let slot = first.now_or_never().flatten();
        assert!(slot.is_some());
        assert!(second.as_mut().now_or_never().is_none());
        drop(slot);
        assert!(second.now_or_never().flatten().is_some());
    }
}
