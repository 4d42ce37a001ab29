//! A budget of a control plane (restores at once, or questions at once), and who is next.
//!
//! Guarantees: at most so many slots are out, and no client's network has more than its share of
//! them ([`ClientShare::Half`] has the rule), so that one whose calls all hang leaves some for
//! others. One half of the slots goes to the claim whose route, then whose client, has the fewest
//! out; the other half to the claim whose client has the fewest of them, then whose route; among
//! equals the oldest is first. So neither a route's nor a client's crowd of sleeping instances
//! keeps others waiting. Coming, leaving and giving back cost the logarithm of those who wait. A
//! claim that leaves the queue leaves nothing behind; a slot comes back when it is dropped.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::config::{ClientShare, RouteKey};
use crate::names::ClientNetwork;

use fair_queue::{Age, Change, FairQueue};

mod fair_queue;
#[cfg(test)]
mod tests;

/// The request for which a slot is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// Its route.
    pub(super) route: RouteKey,
    /// Its client's network.
    pub(super) client: ClientNetwork,
    /// Since when its oldest request is held.
    pub(super) since: Instant,
}

/// The slots of one budget. Cheap to clone.
#[derive(Clone)]
pub(super) struct FairSlots(Arc<Mutex<SlotQueue>>);

/// One slot, until it is dropped.
pub(super) struct FairSlot {
    slots: FairSlots,
    /// `None` once it has been given back.
    claim: Option<(Claim, Half)>,
}

/// The half of the slots that a slot belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// Those that go by route.
    ByRoute,
    /// Those that go by client, and of which each client has a share.
    ByClient,
}

struct QueuedClaim {
    claim: Claim,
    grant: oneshot::Sender<FairSlot>,
}

struct SlotQueue {
    size: usize,
    out_by_route: usize,
    out_by_client: usize,
    tickets: u64,
    waiting: BTreeMap<Age, QueuedClaim>,
    /// All that wait, with all that are out.
    routes: FairQueue<RouteKey, ClientNetwork>,
    /// All that wait, with those that are out of the half that goes by client.
    clients: FairQueue<ClientNetwork, RouteKey>,
}

/// A claim in the queue; it leaves the queue when dropped.
struct Waiting<'a> {
    slots: &'a FairSlots,
    age: Age,
    granted: oneshot::Receiver<FairSlot>,
}

// === impl FairSlots ===

impl FairSlots {
    pub(super) fn new(size: usize) -> Self {
        Self(Arc::new(Mutex::new(SlotQueue {
            size,
            out_by_route: 0,
            out_by_client: 0,
            tickets: 0,
            waiting: BTreeMap::new(),
            routes: FairQueue::default(),
            clients: FairQueue::default(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, SlotQueue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot, or `None` when it was not this claim's turn until `until`. Cancel safe.
    pub(super) async fn take(&self, claim: Claim, until: Instant) -> Option<FairSlot> {
        let (grant, granted) = oneshot::channel();
        let age = self.lock().join(claim, grant);
        let mut waiting = Waiting {
            slots: self,
            age,
            granted,
        };
        self.grant();
        timeout_at(until, &mut waiting.granted).await.ok()?.ok()
    }

    /// Hands out what is free.
    fn grant(&self) {
        loop {
            let Some((QueuedClaim { claim, grant }, half)) = self.lock().grant_next() else {
                return;
            };
            let slot = FairSlot {
                slots: self.clone(),
                claim: Some((claim, half)),
            };
            // One who left at this very moment: the slot goes back without another round inside
            // its drop, and this loop hands it on.
            if let Err(mut slot) = grant.send(slot) {
                slot.give_back();
            }
        }
    }

    #[cfg(test)]
    fn is_as_new(&self) -> bool {
        let queue = self.lock();
        let is_empty = queue.waiting.is_empty();
        let (routes, clients) = (queue.routes.is_empty(), queue.clients.is_empty());
        is_empty && routes && clients && queue.out_by_route + queue.out_by_client == 0
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }
}

impl fmt::Debug for FairSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.lock();
        let out = queue.out_by_route + queue.out_by_client;
        let (size, waiting) = (queue.size, queue.waiting.len());
        write!(f, "FairSlots({out} of {size} out, {waiting} waiting)")
    }
}

// === impl SlotQueue ===

impl SlotQueue {
    fn join(&mut self, claim: Claim, grant: oneshot::Sender<FairSlot>) -> Age {
        self.tickets += 1;
        let age = (claim.since, self.tickets);
        self.apply(&claim, Change::Join(age));
        self.waiting.insert(age, QueuedClaim { claim, grant });
        age
    }

    /// Takes a claim out of the queue, if it is still there.
    fn leave(&mut self, age: Age) -> Option<QueuedClaim> {
        let queued = self.waiting.remove(&age)?;
        self.apply(&queued.claim, Change::Leave(age));
        Some(queued)
    }

    fn apply(&mut self, claim: &Claim, change: Change) {
        let Claim { route, client, .. } = claim;
        self.routes.apply(route, client, change);
        self.clients.apply(client, route, change);
    }

    /// The claim that has a free slot now, and which one.
    fn next(&self) -> Option<(Age, Half)> {
        let share = ClientShare::Half;
        if self.out_by_route < share.free_for_all(self.size, 0) {
            return self.routes.first().map(|(age, _)| (age, Half::ByRoute));
        }
        let (age, of_client) = self.clients.first()?;
        // It has the fewest: if it has its share, so have all that wait.
        share
            .allows(self.size, of_client, self.out_by_client, 1)
            .then_some((age, Half::ByClient))
    }

    fn grant_next(&mut self) -> Option<(QueuedClaim, Half)> {
        let (age, half) = self.next()?;
        let queued = self.leave(age)?;
        let Claim { route, client, .. } = &queued.claim;
        self.routes.apply(route, client, Change::Take);
        match half {
            Half::ByRoute => self.out_by_route += 1,
            Half::ByClient => {
                self.out_by_client += 1;
                self.clients.apply(client, route, Change::Take);
            }
        }
        Some((queued, half))
    }

    fn give_back(&mut self, claim: &Claim, half: Half) {
        let Claim { route, client, .. } = claim;
        self.routes.apply(route, client, Change::GiveBack);
        match half {
            Half::ByRoute => self.out_by_route -= 1,
            Half::ByClient => {
                self.out_by_client -= 1;
                self.clients.apply(client, route, Change::GiveBack);
            }
        }
    }
}

// === impl Waiting ===

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // What was granted meanwhile comes back with the channel.
        drop(self.slots.lock().leave(self.age));
    }
}

// === impl FairSlot ===

impl FairSlot {
    fn give_back(&mut self) -> bool {
        let Some((claim, half)) = self.claim.take() else {
            return false;
        };
        self.slots.lock().give_back(&claim, half);
        true
    }
}

impl Drop for FairSlot {
    fn drop(&mut self) {
        if self.give_back() {
            self.slots.grant();
        }
    }
}

impl fmt::Debug for FairSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FairSlot({:?})", self.claim)
    }
}
