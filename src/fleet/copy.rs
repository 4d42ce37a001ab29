//! What is in a member's copy of the directory, key by key.
//!
//! Guarantees: the oldest claim of a name is the first; a value that cannot be read changes nothing; a
//! member whose record is gone is remembered with where it was, as long as it has something, or is one of
//! the last so many.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::engine::{Change, Entry, Remembered};
use super::placement::Member;
use super::records::{AcceptedRecord, ClaimRecord, Key, MemberRecord, RemovedRecord, read};
use super::routes::Routes;
use super::seal::SealKeys;
use crate::config::WakeConfig;

/// Fewer routes than these may always go at once.
const FREELY: usize = 20;

/// As many of the last changes are remembered.
const LAST: usize = 8;
/// As many names of control planes are kept before those that no claim has go.
const PLANES: usize = 1_024;

/// As many members that fell silent are remembered, of each kind, though they have nothing.
pub(super) const MOST_SILENT: usize = 256;

/// A host's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostClaim {
    pub(super) host: Arc<str>,
    pub(super) id: String,
    pub(super) created: i64,
    /// Which of the host's control planes has it; none for the first.
    pub(super) plane: Option<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) revision: i64,
    /// The last changes that are known: by them another past is noticed.
    pub(super) last: VecDeque<Remembered>,
    /// What this member has written last, until the copy has come as far.
    pub(super) written: Option<Remembered>,
    /// The cluster that is known; 0, if none is.
    pub(super) cluster: u64,
    /// Whether the engine has another past than what is known.
    pub(super) has_other_past: bool,
    /// Whether anything was ever known.
    pub(super) is_known: bool,
    pub(super) routes: Routes,
    pub(super) claims: HashMap<Box<str>, Vec<HostClaim>>,
    /// The host whose claims alone are remembered.
    pub(super) claims_of: Option<String>,
    /// The names of control planes that claims have.
    planes: HashSet<Arc<str>>,
    /// How many names several hosts claim.
    pub(super) claimed_twice: usize,
    /// Names by ids.
    pub(super) names: HashMap<String, Box<str>>,
    /// Nodes and those that are both: whoever has instances.
    pub(super) nodes: BTreeMap<String, Arc<Member>>,
    pub(super) fronts: BTreeMap<String, Arc<Member>>,
    pub(super) records: BTreeMap<Key, Entry>,
    pub(super) problems: BTreeMap<String, String>,
    pub(super) removed: u64,
    pub(super) accepted: Option<Entry>,
    /// Which past the directory has.
    pub(super) past: Option<Entry>,
    /// Routes that went lately.
    pub(super) lately: VecDeque<(Instant, usize)>,
    pub(super) went_back: u64,
    /// How often everything was read anew.
    pub(super) replaced: u64,
}

// === impl State ===

impl State {
    /// Nothing is known.
    pub(super) fn new(wake: &WakeConfig, hypeman: &str, keys: SealKeys) -> Result<Self, String> {
        Ok(Self {
            revision: 0,
            last: VecDeque::new(),
            written: None,
            cluster: 0,
            has_other_past: false,
            is_known: false,
            routes: Routes::new(wake.clone(), hypeman.to_owned(), keys)?,
            claims: HashMap::new(),
            claims_of: None,
            planes: HashSet::new(),
            claimed_twice: 0,
            names: HashMap::new(),
            nodes: BTreeMap::new(),
            fronts: BTreeMap::new(),
            records: BTreeMap::new(),
            problems: BTreeMap::new(),
            removed: 0,
            accepted: None,
            past: None,
            lately: VecDeque::new(),
            went_back: 0,
            replaced: 0,
        })
    }

    pub(super) fn put(&mut self, entry: &Entry) {
        let Some(key) = Key::parse(&entry.key) else {
            return;
        };
        let member = |name: &str, is_front| {
            let record = read::<MemberRecord>(&entry.value);
            record.map(|record| Arc::new(record.member(name, is_front)))
        };
        let problem = match &key {
            Key::Route { source, route } => {
                self.routes.put_route((source, route), entry);
                None
            }
            Key::Policy(name) => {
                self.routes.put_policy(name, entry);
                None
            }
            Key::Claim { host, .. } if self.claims_of.as_ref().is_some_and(|own| own != host) => {
                None
            }
            Key::Claim { host, name } => match read::<ClaimRecord>(&entry.value) {
                Ok(record) => {
                    self.put_claim(host, name, record, entry.created);
                    None
                }
                Err(problem) => Some(problem),
            },
            Key::Node(name) | Key::Front(name) => {
                let is_front = matches!(key, Key::Front(_));
                match member(name, is_front) {
                    Ok(member) => {
                        self.members_mut(is_front).insert(name.clone(), member);
                        self.records.insert(key.clone(), entry.clone());
                        None
                    }
                    Err(problem) => Some(problem),
                }
            }
            Key::Removed => match read::<RemovedRecord>(&entry.value) {
                Ok(record) => {
                    self.removed = record.total;
                    None
                }
                Err(problem) => Some(problem),
            },
            Key::Accepted => {
                self.accepted = Some(entry.clone());
                read::<AcceptedRecord>(&entry.value).err()
            }
            Key::Past => {
                self.past = Some(entry.clone());
                None
            }
        };
        match problem {
            Some(problem) => self.problems.insert(entry.key.clone(), problem),
            None => self.problems.remove(&entry.key),
        };
    }

    fn put_claim(&mut self, host: &str, name: &str, record: ClaimRecord, created: i64) {
        let host: Arc<str> = match self.nodes.get_key_value(host) {
            Some((name, _)) => name.as_str().into(),
            None => host.into(),
        };
        let plane = record.plane.map(|plane| self.plane_name(plane));
        let id = record.id;
        let all = self.claims.entry(name.into()).or_default();
        let was_twice = all.len() > 1;
        let before = all.iter().position(|claim| claim.host == host);
        let before = before.map(|index| all.remove(index));
        forget_id(&mut self.names, before.as_ref(), name, all);
        self.names.insert(id.clone(), name.into());
        all.push(HostClaim {
            host,
            id,
            created,
            plane,
        });
        self.claimed_twice += usize::from(all.len() > 1 && !was_twice);
        // The oldest has it; of one revision the first by its name.
        all.sort_by(|one, other| (one.created, &one.host).cmp(&(other.created, &other.host)));
    }

    /// The name, once for all claims that have it.
    fn plane_name(&mut self, name: String) -> Arc<str> {
        if let Some(known) = self.planes.get(name.as_str()) {
            return Arc::clone(known);
        }
        if self.planes.len() >= PLANES {
            self.planes.retain(|plane| Arc::strong_count(plane) > 1);
        }
        let plane: Arc<str> = name.into();
        self.planes.insert(Arc::clone(&plane));
        plane
    }

    /// Remembers these as the last changes, and forgets what is older.
    pub(super) fn remember(&mut self, changes: &[Change]) {
        let last = changes.iter().skip(changes.len().saturating_sub(LAST));
        self.last.extend(last.map(Remembered::of));
        // Spans are told of independently of each other.
        let last = self.last.make_contiguous();
        last.sort_by_key(|change| change.revision);
        let over = self.last.len().saturating_sub(LAST);
        self.last.drain(..over);
        self.written
            .take_if(|written| written.revision <= self.revision);
    }

    pub(super) fn delete(&mut self, key: &Key, hold: bool) {
        match key {
            Key::Route { source, route } => self.routes.delete_route((source, route), hold),
            Key::Policy(name) => self.routes.delete_policy(name),
            Key::Claim { host, name } => self.delete_claim(host, name),
            Key::Node(name) => self.silence(name, false),
            Key::Front(name) => self.silence(name, true),
            Key::Removed | Key::Accepted => {}
            Key::Past => self.past = None,
        }
        self.problems.remove(&key.text());
    }

    pub(super) fn delete_claim(&mut self, host: &str, name: &str) {
        let Some(all) = self.claims.get_mut(name) else {
            return;
        };
        let was_twice = all.len() > 1;
        let gone = all.iter().position(|claim| &*claim.host == host);
        let gone = gone.map(|index| all.remove(index));
        forget_id(&mut self.names, gone.as_ref(), name, all);
        self.claimed_twice -= usize::from(was_twice && all.len() <= 1);
        if all.is_empty() {
            self.claims.remove(name);
        }
    }

    fn members_mut(&mut self, is_front: bool) -> &mut BTreeMap<String, Arc<Member>> {
        match is_front {
            true => &mut self.fronts,
            false => &mut self.nodes,
        }
    }

    /// Everybody of whom there is or was a record.
    pub(super) fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.nodes.values().chain(self.fronts.values())
    }

    /// A member's record is gone. Where it was is not forgotten.
    fn silence(&mut self, name: &str, is_front: bool) {
        if let Some(member) = self.members_mut(is_front).get_mut(name) {
            let mut silent = Member::clone(member);
            silent.alive = false;
            *member = Arc::new(silent);
            self.forget_silent(is_front);
        }
    }

    /// Of members that fell silent and have nothing, no more than so many are remembered: names may be
    /// another at each start.
    fn forget_silent(&mut self, is_front: bool) {
        let members = if is_front { &self.fronts } else { &self.nodes };
        let silent = || members.iter().filter(|(_, member)| !member.alive);
        if silent().count() <= MOST_SILENT {
            return;
        }
        let claims = self.claims.values().flatten();
        let hosts: HashSet<&str> = match is_front {
            true => HashSet::new(),
            false => claims.map(|claim| &*claim.host).collect(),
        };
        let key = |name: &String| match is_front {
            true => Key::Front(name.clone()),
            false => Key::Node(name.clone()),
        };
        let written = |name: &String| self.records.get(&key(name)).map(|entry| entry.modified);
        let without = silent().filter(|(name, _)| !hosts.contains(name.as_str()));
        let oldest = without
            .map(|(name, _)| name)
            .min_by_key(|name| written(name));
        if let Some(oldest) = oldest.cloned() {
            self.records.remove(&key(&oldest));
            self.members_mut(is_front).remove(&oldest);
        }
    }

    /// What a host claims by a name, or by an id.
    pub(super) fn claim_of(&self, host: &str, name: &str) -> Option<&HostClaim> {
        let by_name = self.claims.get(name);
        let all = by_name.or_else(|| self.claims.get(self.names.get(name)?))?;
        let is_meant = |claim: &&HostClaim| by_name.is_some() || claim.id == name;
        let mut own = all.iter().filter(|claim| &*claim.host == host);
        own.find(is_meant)
    }

    /// The first claim of a name, or of an id; and the name.
    pub(super) fn claim(&self, name: &str) -> Option<(&str, &HostClaim)> {
        if let Some((name, all)) = self.claims.get_key_value(name) {
            return Some((&**name, all.first()?));
        }
        let (claimed, all) = self.claims.get_key_value(self.names.get(name)?)?;
        let claim = all.iter().find(|claim| claim.id == name)?;
        Some((&**claimed, claim))
    }
}

/// Forgets the id of a claim of a name, unless others have the same.
fn forget_id(
    names: &mut HashMap<String, Box<str>>,
    gone: Option<&HostClaim>,
    name: &str,
    others: &[HostClaim],
) {
    let Some(gone) = gone else {
        return;
    };
    let is_its = names.get(&gone.id).is_some_and(|named| **named == *name);
    if is_its && others.iter().all(|other| other.id != gone.id) {
        names.remove(&gone.id);
    }
}

/// Whether so many routes may not go without being asked for.
pub(super) fn is_too_many(gone: usize, known: usize, max_shrink: f64) -> bool {
    gone >= FREELY && gone as f64 > known as f64 * max_shrink
}
