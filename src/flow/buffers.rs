//! One budget for all bytes of bodies that wait in the gateway's memory.
//!
//! Guarantees: while the budget is used up, or a client network has its share of it (half of what
//! is left once half is taken), whoever asks for room waits; what is given back lets those go on
//! who may, each network in its turn; nobody is remembered to whom nothing is counted. While less
//! than half is used, taking and giving back are one atomic step each.
//!
//! What has come is counted whatever there is left, so the budget is passed by what comes at once:
//! whoever reads asks for room first.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::config::ClientShare;
use crate::names::ClientNetwork;

/// The bytes that somebody who has room is expected to read next.
const UNIT: usize = 16 * 1024;
/// The networks that one giving back lets go on at most.
const AT_ONCE: usize = 64;

/// The budget. Cheap to clone.
#[derive(Clone)]
pub struct BufferBudget(Arc<Shared>);

/// One client's side of the budget. Cheap to clone.
#[derive(Clone)]
pub struct ClientBuffers {
    shared: Arc<Shared>,
    client: ClientNetwork,
}

/// Bytes in memory; they are given back when this is dropped.
pub struct Buffered {
    owner: ClientBuffers,
    bytes: usize,
    /// Of these, what is counted to the client.
    counted: usize,
}

/// The place of somebody who waits for room; it is given up when this is dropped.
#[derive(Default)]
pub struct Place(Option<(ClientBuffers, u64)>);

struct Shared {
    limit: AtomicUsize,
    used: AtomicUsize,
    /// Whether anybody waits.
    crowded: AtomicBool,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// What is counted to clients, in all and to each.
    in_all: usize,
    of: BTreeMap<ClientNetwork, usize>,
    waiting: BTreeMap<ClientNetwork, VecDeque<(u64, Waker)>>,
    /// The network that was let go on last.
    last: Option<ClientNetwork>,
    tickets: u64,
}

// === impl BufferBudget ===

impl BufferBudget {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Shared {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            crowded: AtomicBool::new(false),
            counts: Mutex::default(),
        }))
    }

    /// The budget has so many bytes from now on.
    pub fn set_limit(&self, limit: usize) {
        self.0.limit.store(limit, Ordering::SeqCst);
        self.0.let_go_on(&mut self.0.lock());
    }

    /// The bytes that are used.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::SeqCst)
    }

    /// The side of the client at this address.
    pub fn of(&self, client: IpAddr) -> ClientBuffers {
        ClientBuffers {
            shared: Arc::clone(&self.0),
            client: client.into(),
        }
    }
}

// === impl ClientBuffers ===

impl ClientBuffers {
    /// Counts so many bytes, which are in memory now.
    pub fn hold(&self, bytes: usize) -> Buffered {
        let mut held = Buffered {
            owner: self.clone(),
            bytes: 0,
            counted: 0,
        };
        held.grow(bytes);
        held
    }

    /// Whether the client may have more in memory; if not, the task is woken when it may.
    pub fn poll_room(&self, place: &mut Place, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &self.shared;
        if place.0.is_none() && shared.used.load(Ordering::SeqCst) < shared.for_all(0) {
            return Poll::Ready(());
        }
        let mut counts = shared.lock();
        // Whoever gives back afterwards sees that somebody waits.
        shared.crowded.store(true, Ordering::SeqCst);
        if shared.allows(&counts, self.client) {
            counts.leave(place);
            // There may be room for the next, too.
            shared.let_one_go_on(&mut counts, self.client);
            shared.note_crowd(&counts);
            return Poll::Ready(());
        }
        let (_, ticket) = place.0.get_or_insert_with(|| {
            counts.tickets += 1;
            (self.clone(), counts.tickets)
        });
        let (ticket, queue) = (*ticket, counts.waiting.entry(self.client).or_default());
        match queue.iter_mut().find(|(other, _)| *other == ticket) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => queue.push_back((ticket, cx.waker().clone())),
        }
        Poll::Pending
    }
}

// === impl Buffered ===

impl Buffered {
    /// The bytes that it stands for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// So many more are in memory.
    pub fn grow(&mut self, bytes: usize) {
        let shared = &self.owner.shared;
        self.bytes += bytes;
        let used = shared.used.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if used <= shared.for_all(0) {
            return;
        }
        let mut counts = shared.lock();
        if used > shared.for_all(counts.in_all) {
            *counts.of.entry(self.owner.client).or_default() += bytes;
            counts.in_all += bytes;
            self.counted += bytes;
        }
    }

    /// So many are in memory no longer.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let counted = bytes.min(self.counted);
        self.counted -= counted;
        let shared = &self.owner.shared;
        shared.used.fetch_sub(bytes, Ordering::SeqCst);
        if counted == 0 && !shared.crowded.load(Ordering::SeqCst) {
            return;
        }
        let mut counts = shared.lock();
        counts.subtract(self.owner.client, counted);
        shared.let_go_on(&mut counts);
    }

    /// Makes so many of them another's.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        let counted = bytes.min(self.counted);
        self.bytes -= bytes;
        self.counted -= counted;
        Self {
            owner: self.owner.clone(),
            bytes,
            counted,
        }
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.shrink(self.bytes);
        }
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((owner, _)) = self.0.clone() {
            let shared = &owner.shared;
            let mut counts = shared.lock();
            counts.leave(self);
            // It may have been let go on and gone instead.
            shared.let_one_go_on(&mut counts, owner.client);
            shared.note_crowd(&counts);
        }
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to so many bytes are free for all, when `counted` are counted to clients.
    fn for_all(&self, counted: usize) -> usize {
        let limit = self.limit.load(Ordering::SeqCst);
        ClientShare::Half.free_for_all(limit, counted).min(limit)
    }

    /// Whether a client may have more.
    fn allows(&self, counts: &Counts, client: ClientNetwork) -> bool {
        let used = self.used.load(Ordering::SeqCst);
        if used < self.for_all(counts.in_all) {
            return true;
        }
        let limit = self.limit.load(Ordering::SeqCst);
        let of_client = counts.of.get(&client).copied().unwrap_or_default();
        used < limit && ClientShare::Half.allows(limit, of_client, counts.in_all, UNIT)
    }

    /// Lets the first who waits of this network go on, if it may.
    fn let_one_go_on(&self, counts: &mut Counts, client: ClientNetwork) -> bool {
        if !counts.waiting.contains_key(&client) || !self.allows(counts, client) {
            return false;
        }
        let queue = counts.waiting.get_mut(&client);
        let first = queue.and_then(VecDeque::pop_front);
        if counts.waiting.get(&client).is_some_and(VecDeque::is_empty) {
            counts.waiting.remove(&client);
        }
        counts.last = Some(client);
        if let Some((_, waker)) = &first {
            waker.wake_by_ref();
        }
        first.is_some()
    }

    /// Lets one of each network go on that may.
    fn let_go_on(&self, counts: &mut Counts) {
        let full = self.limit.load(Ordering::SeqCst);
        if !counts.waiting.is_empty() && self.used.load(Ordering::SeqCst) < full {
            let after = counts.last.map_or(Bound::Unbounded, Bound::Excluded);
            let others = counts.waiting.range((after, Bound::Unbounded));
            let networks = others.chain(counts.waiting.iter());
            let networks: Vec<_> = networks.map(|(network, _)| *network).collect();
            let turns = networks.len().min(counts.waiting.len()).min(AT_ONCE);
            for network in networks.into_iter().take(turns) {
                self.let_one_go_on(counts, network);
            }
        }
        self.note_crowd(counts);
    }

    fn note_crowd(&self, counts: &Counts) {
        let crowded = !counts.waiting.is_empty();
        self.crowded.store(crowded, Ordering::SeqCst);
    }
}

// === impl Counts ===

impl Counts {
    fn subtract(&mut self, client: ClientNetwork, bytes: usize) {
        if let Some(count) = self.of.get_mut(&client) {
            *count = count.saturating_sub(bytes);
            if *count == 0 {
                self.of.remove(&client);
            }
        }
        self.in_all = self.in_all.saturating_sub(bytes);
    }

    /// Takes a place out of its queue, if it is still in it.
    fn leave(&mut self, place: &mut Place) {
        let Some((owner, ticket)) = place.0.take() else {
            return;
        };
        if let Some(queue) = self.waiting.get_mut(&owner.client) {
            queue.retain(|(other, _)| *other != ticket);
            if queue.is_empty() {
                self.waiting.remove(&owner.client);
            }
        }
    }
}

impl fmt::Debug for BufferBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferBudget({} used)", self.used())
    }
}

impl fmt::Debug for ClientBuffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientBuffers({})", self.client)
    }
}

impl fmt::Debug for Buffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffered({} bytes)", self.bytes)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place(waiting: {})", self.0.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;

    use super::*;

    const MIB: usize = 1 << 20;

    fn client(budget: &BufferBudget, last: u8) -> ClientBuffers {
        budget.of(IpAddr::from([192, 0, last, 1]))
    }

    fn has_room(client: &ClientBuffers) -> bool {
        let mut place = Place::default();
        poll_fn(|cx| client.poll_room(&mut place, cx))
            .now_or_never()
            .is_some()
    }

    /// What a client can take that reads as long as there is room.
    fn fill(client: &ClientBuffers) -> Vec<Buffered> {
        let mut taken = Vec::new();
        while has_room(client) {
            taken.push(client.hold(UNIT));
        }
        taken
    }

    fn bytes(all: &[Buffered]) -> usize {
        all.iter().map(Buffered::bytes).sum()
    }

    fn is_as_new(budget: &BufferBudget) -> bool {
        let counts = budget.0.lock();
        let nobody = counts.of.is_empty() && counts.waiting.is_empty() && counts.in_all == 0;
        nobody && budget.used() == 0 && !budget.0.crowded.load(Ordering::SeqCst)
    }

    #[test]
    fn one_client_leaves_a_quarter_of_the_budget_to_others_and_all_of_them_stay_within_it() {
        let budget = BufferBudget::new(16 * MIB);
        let greedy = fill(&client(&budget, 1));
        assert!((11 * MIB..=12 * MIB).contains(&bytes(&greedy)));
        let second = fill(&client(&budget, 2));
        assert!(bytes(&second) >= MIB, "{}", bytes(&second));
        let others: Vec<_> = (3..200).map(|last| fill(&client(&budget, last))).collect();
        assert!(budget.used() <= 16 * MIB, "{budget:?}");
        drop((greedy, second, others));
        assert!(is_as_new(&budget));
    }

    #[tokio::test]
    async fn whoever_waits_goes_on_when_there_is_room_and_the_next_after_it() {
        let budget = BufferBudget::new(MIB);
        let one = client(&budget, 1);
        let mut taken = fill(&one);
        let (mut first, mut second) = (Place::default(), Place::default());
        let waiting = async {
            poll_fn(|cx| one.poll_room(&mut first, cx)).await;
            one.hold(UNIT)
        };
        let behind = async {
            poll_fn(|cx| one.poll_room(&mut second, cx)).await;
            one.hold(UNIT)
        };
        let giving = async {
            tokio::task::yield_now().await;
            taken.truncate(taken.len() / 2);
        };
        let (a, b, ()) = tokio::join!(waiting, behind, giving);
        drop((a, b, taken));
        assert!(is_as_new(&budget));
    }

    #[tokio::test]
    async fn whoever_leaves_instead_of_going_on_makes_way_for_the_next() {
        let budget = BufferBudget::new(MIB);
        let one = client(&budget, 1);
        let mut taken = fill(&one);
        let mut places = [Place::default(), Place::default()];
        for place in &mut places {
            let polled = poll_fn(|cx| Poll::Ready(one.poll_room(place, cx))).await;
            assert!(polled.is_pending());
        }
        let [leaves, mut stays] = places;
        taken.pop();
        // It has been let go on, and does not come back.
        drop(leaves);
        poll_fn(|cx| one.poll_room(&mut stays, cx)).await;
        drop((taken, stays));
        assert!(is_as_new(&budget));
    }

    #[test]
    fn parts_are_given_back_one_by_one() {
        let budget = BufferBudget::new(MIB);
        let one = client(&budget, 1);
        let mut held = one.hold(MIB);
        let part = held.split(MIB / 4);
        assert_eq!((held.bytes(), part.bytes()), (MIB * 3 / 4, MIB / 4));
        drop(held);
        assert_eq!(budget.used(), MIB / 4);
        drop(part);
        assert!(is_as_new(&budget));
    }

    #[test]
    fn a_changed_limit_holds_from_now_on() {
        let budget = BufferBudget::new(MIB);
        let one = client(&budget, 1);
        let _taken = fill(&one);
        budget.set_limit(4 * MIB);
        assert!(has_room(&one));
    }
}
