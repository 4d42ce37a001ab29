//! One budget for all bytes of heads and bodies that wait in the gateway's memory.
//!
//! Guarantees: while the budget is used up, or a client network has its share of it (half of what
//! is left once half is taken), whoever asks for room waits; what is given back lets those go on
//! who may, each network in its turn; nobody is remembered to whom nothing is counted. While less
//! than three eighths are used, taking and giving back are one atomic step each.
//!
//! Bodies wait, and have three quarters of the budget. Heads cannot wait and are refused: the last
//! quarter is theirs, so that bodies that nobody reads do not keep new requests out.
//!
//! What has come is counted whatever there is left, so the budget is passed by what comes at once:
//! whoever reads asks for room first.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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

/// One client's side of the budget. Cheap to clone, and then no count changes that others share.
#[derive(Clone)]
pub struct ClientBuffers(Arc<Side>);

struct Side {
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

/// The place of somebody who waits for room; it is given up when this is dropped. Whoever goes on without
/// asking again [leaves](Place::leave) it: one at a time is let go on, and lets the next.
#[derive(Default)]
pub struct Place(Option<(ClientBuffers, u64)>);

/// What room is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Bodies,
    Heads,
}

struct Shared {
    limit: AtomicUsize,
    used: AtomicUsize,
    /// Whether anybody waits.
    crowded: AtomicBool,
    /// What was refused for want of room.
    refused: AtomicU64,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// What is counted to clients, in all and to each.
    in_all: usize,
    of: BTreeMap<ClientNetwork, usize>,
    /// By their tickets: whoever is let go on and refused again has its place of before.
    waiting: BTreeMap<ClientNetwork, BTreeMap<u64, Waker>>,
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
            refused: AtomicU64::new(0),
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

    /// How often something was refused for want of room.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// The side of the client at this address.
    pub fn of(&self, client: IpAddr) -> ClientBuffers {
        ClientBuffers(Arc::new(Side {
            shared: Arc::clone(&self.0),
            client: client.into(),
        }))
    }
}

// === impl ClientBuffers ===

impl ClientBuffers {
    /// The side of another client, at this address.
    pub fn of(&self, client: IpAddr) -> Self {
        Self(Arc::new(Side {
            shared: Arc::clone(&self.0.shared),
            client: client.into(),
        }))
    }

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

    /// Whether the client may have so many more bytes of bodies in memory now.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.may_have(bytes, For::Bodies)
    }

    /// Whether the client may have a head of so many bytes in memory now.
    pub fn has_room_for_head(&self, bytes: usize) -> bool {
        self.may_have(bytes, For::Heads)
    }

    fn may_have(&self, bytes: usize, what: For) -> bool {
        let shared = &self.0.shared;
        let used = shared.used.load(Ordering::SeqCst);
        if used.saturating_add(bytes) <= shared.for_all(0) {
            return true;
        }
        shared.allows(&shared.lock(), self.0.client, bytes, what)
    }

    /// Something is refused, since the client may have no more in memory.
    pub fn note_refused(&self) {
        self.0.shared.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the client may have more in memory; if not, the task is woken when it may.
    pub fn poll_room(&self, place: &mut Place, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &self.0.shared;
        if place.0.is_none() && shared.used.load(Ordering::SeqCst) < shared.for_all(0) {
            return Poll::Ready(());
        }
        let mut counts = shared.lock();
        // Whoever gives back afterwards sees that somebody waits.
        shared.crowded.store(true, Ordering::SeqCst);
        if shared.allows(&counts, self.0.client, UNIT, For::Bodies) {
            counts.leave(place);
            // There may be room for the next, too.
            shared.let_one_go_on(&mut counts, self.0.client);
            shared.note_crowd(&counts);
            return Poll::Ready(());
        }
        let (_, ticket) = place.0.get_or_insert_with(|| {
            counts.tickets += 1;
            (self.clone(), counts.tickets)
        });
        let (ticket, queue) = (*ticket, counts.waiting.entry(self.0.client).or_default());
        match queue.entry(ticket) {
            Entry::Occupied(waker) => waker.into_mut().clone_from(cx.waker()),
            Entry::Vacant(place) => {
                place.insert(cx.waker().clone());
            }
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
        if bytes == 0 {
            return;
        }
        let shared = &self.owner.0.shared;
        self.bytes += bytes;
        let used = shared.used.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if used <= shared.for_all(0) {
            return;
        }
        let mut counts = shared.lock();
        // What is free for all is used up to its last byte: else the rest of it would be, for ever.
        let counted = used
            .saturating_sub(shared.for_all(counts.in_all))
            .min(bytes);
        if counted > 0 {
            *counts.of.entry(self.owner.0.client).or_default() += counted;
            counts.in_all += counted;
            self.counted += counted;
        }
    }

    /// So many are in memory no longer.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        if bytes == 0 {
            return;
        }
        self.bytes -= bytes;
        let counted = bytes.min(self.counted);
        self.counted -= counted;
        let shared = &self.owner.0.shared;
        shared.used.fetch_sub(bytes, Ordering::SeqCst);
        if counted == 0 && !shared.crowded.load(Ordering::SeqCst) {
            return;
        }
        let mut counts = shared.lock();
        counts.subtract(self.owner.0.client, counted);
        shared.let_go_on(&mut counts);
    }

    /// So many are in memory now.
    pub fn set(&mut self, bytes: usize) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.grow(more),
            None => self.shrink(self.bytes - bytes),
        }
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

impl Place {
    /// Whoever has it needs no room any more: the next may be let go on instead.
    pub fn leave(&mut self) {
        if self.0.is_some() {
            drop(std::mem::take(self));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((owner, _)) = self.0.clone() {
            let Side { shared, client } = &*owner.0;
            let mut counts = shared.lock();
            counts.leave(self);
            // It may have been let go on and gone instead.
            shared.let_one_go_on(&mut counts, *client);
            shared.note_crowd(&counts);
        }
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes that there may be, of all or of what room is asked for.
    fn most(&self, what: For) -> usize {
        let limit = self.limit.load(Ordering::SeqCst);
        match what {
            For::Bodies => limit - limit / 4,
            For::Heads => limit,
        }
    }

    /// Up to so many bytes are free for all, when `counted` are counted to clients.
    fn for_all(&self, counted: usize) -> usize {
        let most = self.most(For::Bodies);
        ClientShare::Half.free_for_all(most, counted).min(most)
    }

    /// Whether a client may have `amount` more.
    fn allows(&self, counts: &Counts, client: ClientNetwork, amount: usize, what: For) -> bool {
        let used = self.used.load(Ordering::SeqCst);
        if used < self.for_all(counts.in_all) {
            return true;
        }
        let most = self.most(what);
        // What is not free for all is shared by halves.
        let shared = 2 * (most - self.for_all(0));
        let of_client = counts.of.get(&client).copied().unwrap_or_default();
        used < most && ClientShare::Half.allows(shared, of_client, counts.in_all, amount)
    }

    /// Lets the first who waits of this network go on, if it may.
    fn let_one_go_on(&self, counts: &mut Counts, client: ClientNetwork) -> bool {
        if !counts.waiting.contains_key(&client) || !self.allows(counts, client, UNIT, For::Bodies)
        {
            return false;
        }
        let queue = counts.waiting.get_mut(&client);
        let first = queue.and_then(BTreeMap::pop_first);
        if counts.waiting.get(&client).is_some_and(BTreeMap::is_empty) {
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
        let full = self.most(For::Bodies);
        if !counts.waiting.is_empty() && self.used.load(Ordering::SeqCst) < full {
            let after = counts.last.map_or(Bound::Unbounded, Bound::Excluded);
            let others = counts.waiting.range((after, Bound::Unbounded));
            let networks = others.chain(counts.waiting.iter());
            let turns = counts.waiting.len().min(AT_ONCE);
            let networks: Vec<_> = networks.map(|(network, _)| *network).take(turns).collect();
            for network in networks {
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
        if let Some(queue) = self.waiting.get_mut(&owner.0.client) {
            queue.remove(&ticket);
            if queue.is_empty() {
                self.waiting.remove(&owner.0.client);
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
        write!(f, "ClientBuffers({})", self.0.client)
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
mod tests;
