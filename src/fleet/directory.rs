//! The copy of the directory that a member has.
//!
//! Guarantees: changes are made in the order of their revisions, a batch of them at once; the oldest
//! claim of a name wins, at every member alike; many routes that go at once stay in force until an
//! operator accepts it; a host that falls silent keeps its claims.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::copy::{State, is_too_many};
use super::engine::{Change, Engine, Entry, Remembered, Span};
use super::placement::{Claim, Member, Place, Placement, Role};
use super::records::{ClaimRecord, Key, RemovedRecord, read, spans_of, write};
use super::rereads::Rereads;
use super::routes::RouteLine;
use super::seal::SealKeys;
use super::status::{Counts, FleetStatus};
use crate::config::{FleetConfig, RouteConfig, RouteKey, WakeConfig};
use crate::router::RouteChange;

/// What goes within this goes at once.
const AT_ONCE: Duration = Duration::from_secs(10);

/// The copy of the directory.
#[derive(Debug)]
pub struct Directory {
    name: String,
    is_node: bool,
    max_shrink: f64,
    engine: Arc<dyn Engine>,
    state: RwLock<State>,
    rereads: Rereads,
    /// What this member's host lacks in its list and has published.
    unlisted: AtomicUsize,
    /// When the engine was last heard.
    heard: RwLock<Option<Instant>>,
    /// The revision that is in force.
    changed: watch::Sender<i64>,
}

/// Who this member is.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// Its name.
    pub name: String,
    /// Whether it stands beside a Hypeman.
    pub is_node: bool,
    /// Whether it meets no clients, so that other hosts' instances are not its concern: it does not
    /// remember who has them.
    pub meets_nobody: bool,
}

/// How the directory was changed.
#[derive(Debug, Default)]
pub struct Applied {
    /// What changes of the routes in force.
    pub routes: RouteChange,
    /// How many routes are kept from going since this change.
    pub held: usize,
    /// Whether the directory is older than what was known.
    pub went_back: bool,
}

// === impl Directory ===

impl Directory {
    /// One that knows nothing yet. `hypeman` is the name of this member's own control plane.
    pub fn new(
        own: Own,
        config: &FleetConfig,
        wake: &WakeConfig,
        hypeman: &str,
        engine: Arc<dyn Engine>,
    ) -> Result<Arc<Self>, String> {
        let keys = SealKeys::of(config).map_err(|error| error.to_string())?;
        let mut state = State::new(wake, hypeman, keys)?;
        state.claims_of = own.meets_nobody.then(|| own.name.clone());
        Ok(Arc::new(Self {
            name: own.name,
            is_node: own.is_node,
            max_shrink: config.max_shrink,
            engine,
            state: RwLock::new(state),
            rereads: Rereads::default(),
            unlisted: AtomicUsize::new(0),
            heard: RwLock::default(),
            changed: watch::Sender::new(0),
        }))
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What keeps the directory.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// This member's name.
    pub fn own_name(&self) -> &str {
        &self.name
    }

    /// Whether anything is known, from the engine or from a file.
    pub fn is_known(&self) -> bool {
        self.state().is_known
    }

    /// The engine has answered.
    pub fn hear(&self) {
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        *heard = Some(Instant::now());
    }

    /// How long the engine was not heard; none, if it never was.
    pub fn age(&self) -> Option<Duration> {
        let heard = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        heard.map(|heard| heard.elapsed())
    }

    /// The revision that is in force.
    pub fn known(&self) -> i64 {
        self.state().revision
    }

    /// The last changes that are known, the oldest first; also what this member has written and the copy has not
    /// heard of.
    pub fn last_changes(&self) -> Vec<Remembered> {
        let state = self.state();
        state.last.iter().chain(&state.written).cloned().collect()
    }

    /// Which past the directory has, as it was written.
    pub fn past(&self) -> Option<Vec<u8>> {
        let state = self.state();
        state.past.as_ref().map(|entry| entry.value.clone())
    }

    /// This member has written this.
    pub fn note_written(&self, change: Remembered) {
        let mut state = self.state_mut();
        if change.revision > state.revision {
            state.written = Some(change);
        }
    }

    /// The keys that this member reads and watches: all of them, or what concerns a node that meets no clients.
    pub fn spans(&self) -> Vec<Span> {
        spans_of(self.state().claims_of.as_deref())
    }

    /// This cluster is the one that is known.
    pub fn is_of(&self, cluster: u64) {
        self.state_mut().cluster = cluster;
    }

    /// Whether this is another cluster than the one that is known.
    pub fn is_other(&self, cluster: u64) -> bool {
        let known = self.state().cluster;
        known != 0 && cluster != 0 && known != cluster
    }

    /// The engine has another past than what is known: it was restored from a backup.
    pub fn doubt(&self) {
        self.state_mut().has_other_past = true;
    }

    /// Tells of each revision that is in force.
    pub fn revisions(&self) -> watch::Receiver<i64> {
        self.changed.subscribe()
    }

    /// The routes that are in force, the oldest first.
    pub fn routes(&self) -> Vec<Arc<RouteConfig>> {
        self.state().routes.in_force()
    }

    /// Whether a route of this name and port is in force.
    pub fn serves(&self, route: &RouteKey) -> bool {
        self.state().routes.serves(route)
    }

    /// The same as operators see them.
    pub fn lines(&self) -> Vec<RouteLine> {
        self.state().routes.lines()
    }

    /// Takes over what a file had. Its values are not quite as the engine has them.
    pub fn restore(&self, entries: &[Entry], revision: i64) -> Applied {
        let applied = self.replace(entries, revision);
        let mut state = self.state_mut();
        state.last.iter_mut().for_each(|change| change.value = None);
        applied
    }

    /// Takes over everything that there is at a revision. What is in force stays so meanwhile.
    pub fn replace(&self, entries: &[Entry], revision: i64) -> Applied {
        let mut state = self.state_mut();
        let state = &mut *state;
        let other_past = std::mem::take(&mut state.has_other_past);
        let went_back = revision < state.revision || other_past;
        if went_back {
            state.went_back += 1;
        }
        let keys: Vec<(Key, &Entry)> = entries
            .iter()
            .filter_map(|entry| Some((Key::parse(&entry.key)?, entry)))
            .collect();
        let there: HashSet<&Key> = keys.iter().map(|(key, _)| key).collect();
        // What operators took away, and what they have accepted, meanwhile.
        let (removed, accepted) = (state.removed, state.accepted.clone());
        let known = state.routes.len();
        state.past = None;
        for (key, entry) in &keys {
            if matches!(key, Key::Policy(_) | Key::Removed | Key::Accepted) {
                state.put(entry);
            }
        }
        let is_accepted = state.accepted != accepted && state.is_known;
        let by_hand = usize::try_from(state.removed.saturating_sub(removed)).unwrap_or(usize::MAX);
        let gone: Vec<Key> = state
            .routes
            .keys()
            .filter(|key| !there.contains(key))
            .collect();
        let by_itself = gone.len().saturating_sub(by_hand);
        let hold = !is_accepted && is_too_many(by_itself, known, self.max_shrink);
        if is_accepted {
            state.routes.release();
        }
        for key in &gone {
            state.delete(key, hold);
        }
        for (key, entry) in &keys {
            if !matches!(key, Key::Policy(_) | Key::Removed | Key::Accepted) {
                state.put(entry);
            }
        }
        let policies = state.routes.policy_names().into_iter().map(Key::Policy);
        let claims = state.claims.iter().flat_map(|(name, all)| {
            all.iter().map(|claim| Key::Claim {
                host: claim.host.to_string(),
                name: name.to_string(),
            })
        });
        let others: Vec<Key> = policies.chain(claims).collect();
        for key in others.iter().filter(|key| !there.contains(key)) {
            state.delete(key, false);
        }
        let nodes = state.nodes.keys().cloned().map(Key::Node);
        let fronts = state.fronts.keys().cloned().map(Key::Front);
        let members: Vec<Key> = nodes.chain(fronts).collect();
        for key in members.iter().filter(|key| !there.contains(key)) {
            state.delete(key, false);
        }
        let texts: HashSet<&str> = keys.iter().map(|(_, entry)| entry.key.as_str()).collect();
        state.problems.retain(|key, _| texts.contains(key.as_str()));
        state.routes.forget_problems(&texts);
        state.revision = revision;
        state.replaced += 1;
        state.written = None;
        let last = entries.iter().max_by_key(|entry| entry.modified);
        state.last = last.map(Remembered::of_entry).into_iter().collect();
        state.is_known = true;
        let held = if hold { gone.len() } else { 0 };
        self.changed.send_replace(revision);
        Applied {
            routes: state.routes.take_change(),
            held,
            went_back,
        }
    }

    /// Makes changes, one after the other; whoever looks sees all of them or none.
    pub fn apply(&self, changes: &[Change]) -> Applied {
        let mut state = self.state_mut();
        let state = &mut *state;
        let now = Instant::now();
        while state
            .lately
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > AT_ONCE)
        {
            state.lately.pop_front();
        }
        // A route that goes and comes again is not gone.
        let mut gone: HashSet<&str> = HashSet::new();
        let (mut removed, mut removed_before) = (state.removed, state.removed);
        // The place of the last acceptance, and what has gone before it.
        let (mut accepted, mut meant) = (None, 0);
        for (place, change) in changes.iter().enumerate() {
            let key = Key::parse(change.key());
            match (change, key) {
                (Change::Deleted { key, .. }, Some(Key::Route { source, route })) => {
                    if state.routes.has(&route, &source) {
                        gone.insert(key);
                    }
                }
                (Change::Put(entry), Some(Key::Route { .. })) => {
                    gone.remove(entry.key.as_str());
                }
                (Change::Put(entry), Some(Key::Removed)) => {
                    if let Ok(record) = read::<RemovedRecord>(&entry.value) {
                        removed = record.total;
                    }
                }
                (Change::Put(_), Some(Key::Accepted)) => {
                    meant += gone.len();
                    gone.clear();
                    (accepted, removed_before) = (Some(place), removed);
                }
                (Change::Put(_) | Change::Deleted { .. }, _) => {}
            }
        }
        let by_hand = removed.saturating_sub(removed_before);
        let by_hand = usize::try_from(by_hand).unwrap_or(usize::MAX);
        let by_itself = gone.len().saturating_sub(by_hand);
        let over = accepted.map_or(0, |_| meant + state.routes.held());
        if accepted.is_some() {
            state.lately.clear();
        }
        let lately: usize = state.lately.iter().map(|(_, count)| count).sum();
        let known = (state.routes.len() + lately).saturating_sub(over);
        let hold = by_itself > 0 && is_too_many(by_itself + lately, known, self.max_shrink);
        if by_itself > 0 && !hold {
            state.lately.push_back((now, by_itself));
        }
        for (place, change) in changes.iter().enumerate() {
            match change {
                Change::Put(entry) => {
                    state.put(entry);
                }
                Change::Deleted { key, .. } => {
                    if let Some(key) = Key::parse(key) {
                        state.delete(&key, hold && accepted.is_none_or(|at| place > at));
                    }
                }
            }
            if accepted == Some(place) {
                // What goes behind it is not meant by it.
                state.routes.release();
            }
            state.revision = state.revision.max(change.revision());
        }
        state.remember(changes);
        self.changed.send_replace(state.revision);
        Applied {
            routes: state.routes.take_change(),
            held: if hold { by_itself } else { 0 },
            went_back: false,
        }
    }

    /// Other keys open what is sealed from now on, and what could not be opened so far.
    pub fn use_keys(&self, keys: SealKeys) -> Applied {
        let mut state = self.state_mut();
        state.routes.use_keys(keys);
        Applied {
            routes: state.routes.take_change(),
            ..Applied::default()
        }
    }

    /// Everything that is known, for a file: the same comes of it again.
    pub fn entries(&self) -> (Vec<Entry>, i64) {
        let state = self.state();
        let mut entries = state.routes.entries();
        let claims = state.claims.iter().flat_map(|(name, all)| {
            all.iter().map(|claim| Entry {
                key: Key::Claim {
                    host: claim.host.to_string(),
                    name: name.to_string(),
                }
                .text(),
                value: write(&ClaimRecord {
                    id: claim.id.clone(),
                    plane: claim.plane.as_deref().map(str::to_owned),
                    more: serde_json::Map::new(),
                }),
                created: claim.created,
                modified: claim.created,
            })
        });
        entries.extend(claims);
        entries.extend(state.records.values().cloned());
        entries.extend(state.accepted.iter().chain(&state.past).cloned());
        let total = state.removed;
        if total > 0 {
            entries.push(Entry {
                key: Key::Removed.text(),
                value: write(&RemovedRecord { total }),
                created: 1,
                modified: 1,
            });
        }
        (entries, state.revision)
    }

    /// As operators see it.
    pub fn status(&self) -> FleetStatus {
        let unlisted = self.unlisted.load(Ordering::Relaxed);
        FleetStatus::of(&self.state(), self.age(), unlisted)
    }

    /// Whether a node's or a front's record lives.
    pub fn is_alive(&self, key: &Key) -> bool {
        let state = self.state();
        let member = match key {
            Key::Node(name) => state.nodes.get(name),
            Key::Front(name) => state.fronts.get(name),
            Key::Route { .. }
            | Key::Policy(_)
            | Key::Claim { .. }
            | Key::Removed
            | Key::Accepted
            | Key::Past => None,
        };
        member.is_some_and(|member| member.alive)
    }

    /// How often everything was read anew.
    pub fn replaced(&self) -> u64 {
        self.state().replaced
    }

    /// How often the engine went back to an earlier revision.
    pub fn status_went_back(&self) -> u64 {
        self.state().went_back
    }

    /// The share of what is known that may go at once, and the revision at which an operator has accepted last
    /// that things are gone.
    pub(super) fn shrinking(&self) -> (f64, i64) {
        let accepted = self.state().accepted.as_ref().map(|entry| entry.modified);
        (self.max_shrink, accepted.unwrap_or_default())
    }

    /// So many keys stay although this member's host lacks them in its list.
    pub(super) fn note_unlisted(&self, count: usize) {
        self.unlisted.store(count, Ordering::Relaxed);
    }

    /// How many there are of what operators look after.
    pub fn counts(&self) -> Counts {
        let state = self.state();
        Counts {
            revision: state.revision,
            alive: state.members().filter(|member| member.alive).count(),
            held: state.routes.held(),
            unlisted: self.unlisted.load(Ordering::Relaxed),
            claimed_twice: state.claimed_twice,
            problems: state.problems.len() + state.routes.problems().len(),
        }
    }
}

impl Placement for Directory {
    fn place(&self, name: &str) -> Place {
        let state = self.state();
        let Some((_, claim)) = state.claim(name) else {
            // Its own Hypeman may have it since a moment ago.
            return match self.is_node {
                true => Place::Here,
                false => Place::Unclaimed,
            };
        };
        if self.is_node && *claim.host == *self.name {
            return Place::Here;
        }
        match state.nodes.get(&*claim.host) {
            Some(member) if !member.endpoints.is_empty() => Place::Peer {
                host: Arc::clone(member),
                claim: Claim {
                    id: claim.id.clone(),
                    generation: claim.created,
                    plane: claim.plane.clone(),
                },
            },
            Some(_) | None => Place::Unreachable {
                host: claim.host.to_string(),
            },
        }
    }

    fn read_again<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Place> {
        async move {
            let mut changed = self.changed.subscribe();
            changed.borrow_and_update();
            let before = self.place(name);
            let claim = {
                let state = self.state();
                let claim = state.claim(name);
                claim.map(|(name, claim)| (name.to_owned(), claim.clone()))
            };
            let key = match &claim {
                Some((name, claim)) => Key::Claim {
                    host: claim.host.to_string(),
                    name: name.clone(),
                },
                // Any key tells how far the directory is.
                None => Key::Removed,
            };
            let read = self.rereads.read(&self.engine, key.text()).await;
            let Some((read, deadline)) = read else {
                return self.place(name);
            };
            if let (Some((_, claim)), Some(entry)) = (&claim, &read.entry) {
                let record = super::records::read::<ClaimRecord>(&entry.value);
                let is_same = record.is_ok_and(|record| record.id == claim.id);
                if is_same && entry.created == claim.created {
                    return self.place(name);
                }
            }
            // The copy is on its way to what was read.
            loop {
                let place = self.place(name);
                if place != before || self.known() >= read.revision {
                    return place;
                }
                if !matches!(timeout_at(deadline, changed.changed()).await, Ok(Ok(()))) {
                    return self.place(name);
                }
            }
        }
        .boxed()
    }

    fn own_plane(&self, name: &str) -> Option<Arc<str>> {
        self.state().claim_of(&self.name, name)?.plane.clone()
    }

    fn member(&self, name: &str) -> Option<Arc<Member>> {
        let state = self.state();
        let member = state.nodes.get(name).or_else(|| state.fronts.get(name));
        member.cloned()
    }

    fn member_as(&self, role: Role, name: &str) -> Option<Arc<Member>> {
        let state = self.state();
        let members = match role {
            Role::Front => &state.fronts,
            Role::Node | Role::Both => &state.nodes,
        };
        members.get(name).cloned()
    }

    fn revision(&self) -> i64 {
        self.state().revision
    }
}

#[cfg(test)]
mod tests;
