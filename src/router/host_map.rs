//! Routes by a text that is made of their hosts, for a million of them.
//!
//! A tree with sixteen branches a level, by the bits of the text's hash; below it, leaves of a few
//! hosts each. Two maps share all that they have in common: a copy costs nothing, and a change to
//! it copies one leaf and the branches above.
//!
//! Guarantees: a map that was copied does not see the copy's changes; a look-up compares whole
//! texts, so it is exact; what a map answers depends on the routes that are in it, and for routes of
//! one host on their order, never on how they came there.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, LazyLock};

use super::paths::{Order, Paths};
use super::route::Route;

/// Branches of a level, as bits of the hash.
const BITS: u32 = 4;
const BRANCHES: usize = 1 << BITS;
/// As many routes as a leaf has before it becomes a level.
const MOST: usize = 32;

/// By what texts are hashed: nobody can tell beforehand what comes together.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Routes by their hosts.
#[derive(Debug)]
pub(super) struct HostMap<S> {
    root: Node<S>,
    len: usize,
}

#[derive(Debug)]
enum Node<S> {
    Leaf(Arc<[Slot<S>]>),
    Branch(Arc<[Node<S>; BRANCHES]>),
}

/// The routes of one host.
#[derive(Debug)]
struct Slot<S> {
    hash: u32,
    paths: Paths<S>,
}

/// A route, with the hash of the text that it is found by.
#[derive(Debug)]
pub(super) struct Keyed<S> {
    pub(super) hash: u32,
    pub(super) order: Order,
    pub(super) route: Arc<Route<S>>,
}

/// The hash of a text.
pub(super) fn hash_of(text: &str) -> u32 {
    hash_of_parts([text])
}

/// The hash of a text in parts; it differs from that of the whole.
pub(super) fn hash_of_parts<'t>(parts: impl IntoIterator<Item = &'t str>) -> u32 {
    let mut hasher = HASHER.build_hasher();
    for part in parts {
        hasher.write(part.as_bytes());
        hasher.write_u8(0xff);
    }
    u32::try_from(hasher.finish() >> 32).unwrap_or_default()
}

/// Which branch a hash is in, and what is left of it for the next level.
fn step(rest: u32) -> (usize, u32) {
    let branch = usize::try_from(rest).unwrap_or_default() % BRANCHES;
    (branch, rest >> BITS)
}

// === impl HostMap ===

impl<S> HostMap<S> {
    /// Of routes in their order.
    pub(super) fn of(
        routes: Vec<Keyed<S>>,
        is_same: &impl Fn(&Route<S>, &Route<S>) -> bool,
    ) -> Self {
        let len = routes.len();
        let root = Node::of(routes, 0, is_same);
        Self { root, len }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The routes of a host, by its hash and by what tells them from others.
    pub(super) fn get(&self, hash: u32, is_its: impl Fn(&Route<S>) -> bool) -> Option<&Paths<S>> {
        let (mut node, mut rest) = (&self.root, hash);
        loop {
            match node {
                Node::Leaf(slots) => {
                    let mut slots = slots.iter();
                    return slots.find(|slot| slot.is(hash, &is_its)).map(|s| &s.paths);
                }
                Node::Branch(branches) => {
                    let (branch, next) = step(rest);
                    (node, rest) = (branches.get(branch)?, next);
                }
            }
        }
    }

    /// Adds a route behind those of the same host.
    pub(super) fn insert(&mut self, keyed: Keyed<S>, is_its: impl Fn(&Route<S>) -> bool) {
        self.root.change(keyed.hash, 0, |slots| {
            let mut slots = slots.to_vec();
            let found = slots.iter_mut().find(|slot| slot.is(keyed.hash, &is_its));
            match found {
                Some(slot) => slot.paths.add(keyed.order, keyed.route),
                None => slots.push(Slot::of(keyed)),
            }
            slots
        });
        self.len += 1;
    }

    /// Takes out the route of a name; whether it was there.
    pub(super) fn remove(
        &mut self,
        hash: u32,
        label: &str,
        is_its: impl Fn(&Route<S>) -> bool,
    ) -> bool {
        let named = |route: &Arc<Route<S>>| &**route.label() == label;
        let found = self.get(hash, &is_its);
        let count = found.map_or(0, |paths| paths.routes().filter(|one| named(one)).count());
        if count == 0 {
            return false;
        }
        self.root.change(hash, 0, |slots| {
            let rest = slots
                .iter()
                .filter_map(|slot| match slot.is(hash, &is_its) {
                    true => Some(Slot {
                        hash,
                        paths: slot.paths.without(label)?,
                    }),
                    false => Some(slot.clone()),
                });
            rest.collect()
        });
        self.len -= count;
        true
    }

    /// The order of the first route.
    pub(super) fn first(&self) -> Order {
        let mut first = Order::MAX;
        self.root
            .each(&mut |paths| first = first.min(paths.first()));
        first
    }

    /// Shows each route.
    pub(super) fn each<'a>(&'a self, show: &mut dyn FnMut(&'a Arc<Route<S>>)) {
        self.root
            .each(&mut |paths| paths.routes().for_each(&mut *show));
    }
}

impl<S> Default for HostMap<S> {
    fn default() -> Self {
        Self {
            root: Node::default(),
            len: 0,
        }
    }
}

impl<S> Clone for HostMap<S> {
    fn clone(&self) -> Self {
        let Self { root, len } = self;
        Self {
            root: root.clone(),
            len: *len,
        }
    }
}

// === impl Node ===

impl<S> Node<S> {
    /// The levels below whose hashes' first bits are spent.
    const fn is_last(depth: u32) -> bool {
        depth * BITS >= u32::BITS
    }

    fn of(
        routes: Vec<Keyed<S>>,
        depth: u32,
        is_same: &impl Fn(&Route<S>, &Route<S>) -> bool,
    ) -> Self {
        if routes.len() > MOST && !Self::is_last(depth) {
            let mut parts: [Vec<_>; BRANCHES] = Default::default();
            for keyed in routes {
                let (branch, _) = step(keyed.hash >> (depth * BITS));
                if let Some(part) = parts.get_mut(branch) {
                    part.push(keyed);
                }
            }
            let nodes = parts.map(|part| Self::of(part, depth + 1, is_same));
            return Self::Branch(Arc::new(nodes));
        }
        let mut slots: Vec<Slot<S>> = Vec::with_capacity(routes.len());
        for keyed in routes {
            let is_its = |other: &Route<S>| is_same(other, &keyed.route);
            let found = slots.iter_mut().find(|slot| slot.is(keyed.hash, &is_its));
            match found {
                Some(slot) => slot.paths.add(keyed.order, keyed.route),
                None => slots.push(Slot::of(keyed)),
            }
        }
        Self::Leaf(slots.into())
    }

    fn of_slots(slots: Vec<Slot<S>>, depth: u32) -> Self {
        if slots.len() <= MOST || Self::is_last(depth) {
            return Self::Leaf(slots.into());
        }
        let mut parts: [Vec<_>; BRANCHES] = Default::default();
        for slot in slots {
            let (branch, _) = step(slot.hash >> (depth * BITS));
            if let Some(part) = parts.get_mut(branch) {
                part.push(slot);
            }
        }
        let nodes = parts.map(|part| Self::of_slots(part, depth + 1));
        Self::Branch(Arc::new(nodes))
    }

    /// Puts into the place of a hash's leaf what `change` makes of it. What another map shares is
    /// copied on the way there.
    fn change(&mut self, rest: u32, depth: u32, change: impl FnOnce(&[Slot<S>]) -> Vec<Slot<S>>) {
        let slots = match self {
            Self::Branch(nodes) => {
                let (branch, rest) = step(rest);
                if let Some(node) = Arc::make_mut(nodes).get_mut(branch) {
                    node.change(rest, depth + 1, change);
                }
                return;
            }
            Self::Leaf(slots) => change(slots),
        };
        *self = Self::of_slots(slots, depth);
    }

    fn each<'a>(&'a self, show: &mut dyn FnMut(&'a Paths<S>)) {
        match self {
            Self::Leaf(slots) => slots.iter().for_each(|slot| show(&slot.paths)),
            Self::Branch(nodes) => nodes.iter().for_each(|node| node.each(show)),
        }
    }
}

impl<S> Default for Node<S> {
    fn default() -> Self {
        Self::Leaf(Arc::new([]))
    }
}

impl<S> Clone for Node<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Leaf(slots) => Self::Leaf(Arc::clone(slots)),
            Self::Branch(nodes) => Self::Branch(Arc::clone(nodes)),
        }
    }
}

// === impl Slot ===

impl<S> Slot<S> {
    fn of(keyed: Keyed<S>) -> Self {
        Self {
            hash: keyed.hash,
            paths: Paths::of(keyed.order, keyed.route),
        }
    }

    fn is(&self, hash: u32, is_its: &impl Fn(&Route<S>) -> bool) -> bool {
        // All routes of a host have its text.
        self.hash == hash
            && self
                .paths
                .routes()
                .next()
                .is_some_and(|route| is_its(route))
    }
}

impl<S> Clone for Slot<S> {
    fn clone(&self) -> Self {
        Self {
            hash: self.hash,
            paths: self.paths.clone(),
        }
    }
}
