//! Who is next among those that wait in groups, and in groups of these.
//!
//! Guarantees: the next is of the group that has the fewest out, then, within it, of the member
//! that has the fewest out in it, and among equals the oldest; every change costs the logarithm of
//! those who wait; nothing is remembered of a group that neither waits nor has anything out.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

/// Since when a claim waits, and its ticket, which no other has.
pub(super) type Age = (Instant, u64);

/// Those that wait, in groups of `G`, whose members are `M`.
pub(super) struct FairQueue<G, M> {
    groups: BTreeMap<G, Group<M>>,
    /// The groups of whom somebody waits.
    order: BTreeSet<(usize, Age, G)>,
}

struct Group<M> {
    out: usize,
    waiting: BTreeSet<Age>,
    members: BTreeMap<M, Member>,
    /// The members of whom somebody waits.
    order: BTreeSet<(usize, Age, M)>,
}

#[derive(Default)]
struct Member {
    out: usize,
    waiting: BTreeSet<Age>,
}

/// What happens to a member of a group.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// A claim waits.
    Join(Age),
    /// A claim waits no longer.
    Leave(Age),
    /// It has one more out.
    Take,
    /// It has one less out.
    GiveBack,
}

// === impl FairQueue ===

impl<G: Ord + Clone, M: Ord + Clone> FairQueue<G, M> {
    pub(super) fn apply(&mut self, group: &G, member: &M, change: Change) {
        let entry = self.groups.entry(group.clone()).or_default();
        if let Some(oldest) = entry.waiting.first() {
            self.order.remove(&(entry.out, *oldest, group.clone()));
        }
        entry.apply(member, change);
        if let Some(oldest) = entry.waiting.first() {
            self.order.insert((entry.out, *oldest, group.clone()));
        }
        if entry.members.is_empty() {
            self.groups.remove(group);
        }
    }

    /// The oldest claim of the next member of the next group, and how much the group has out.
    pub(super) fn first(&self) -> Option<(Age, usize)> {
        let (out, _, group) = self.order.first()?;
        let group = self.groups.get(group)?;
        let (_, age, _) = group.order.first()?;
        Some((*age, *out))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.order.is_empty()
    }
}

impl<G, M> Default for FairQueue<G, M> {
    fn default() -> Self {
        Self {
            groups: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }
}

// === impl Group ===

impl<M: Ord + Clone> Group<M> {
    fn apply(&mut self, member: &M, change: Change) {
        let entry = self.members.entry(member.clone()).or_default();
        if let Some(oldest) = entry.waiting.first() {
            self.order.remove(&(entry.out, *oldest, member.clone()));
        }
        match change {
            Change::Join(age) => {
                self.waiting.insert(age);
                entry.waiting.insert(age);
            }
            Change::Leave(age) => {
                self.waiting.remove(&age);
                entry.waiting.remove(&age);
            }
            Change::Take => {
                self.out += 1;
                entry.out += 1;
            }
            Change::GiveBack => {
                self.out = self.out.saturating_sub(1);
                entry.out = entry.out.saturating_sub(1);
            }
        }
        match entry.waiting.first() {
            Some(oldest) => {
                self.order.insert((entry.out, *oldest, member.clone()));
            }
            None if entry.out == 0 => {
                self.members.remove(member);
            }
            None => {}
        }
    }
}

impl<M> Default for Group<M> {
    fn default() -> Self {
        Self {
            out: 0,
            waiting: BTreeSet::new(),
            members: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }
}
