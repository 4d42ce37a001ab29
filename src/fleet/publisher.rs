//! What a node says of its host: its instances, its ingress resources.
//!
//! Guarantees: a list that cannot be read changes nothing, and one that can be read only in part takes
//! nothing away; one that suddenly lacks much takes that away when it is confirmed; only keys of this member
//! are written, and none that somebody else has changed since it was read; what another version says in one
//! stays.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use super::directory::Directory;
use super::engine::{Compare, MOST_OPERATIONS, Operation, Remembered, read_all};
use super::past::renew;
use super::records::{ClaimRecord, Key, RouteRecord, claims_of, read, routes_of, write};
use super::unlisted::Unlisted;
use crate::config::RouteKey;

/// How often the host's lists are compared with what is published.
const LOOK: Duration = Duration::from_secs(1);
/// How often what is published is read anew, in case somebody else has changed it.
const READ: Duration = Duration::from_secs(30);

/// What a host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// What is claimed, by the instances' names.
    pub instances: BTreeMap<String, ClaimRecord>,
    /// Routes of the host's ingress resources, as they are published: the first of a name is for every port, and
    /// another one, for another port, that says something else is for that alone.
    pub routes: BTreeMap<RouteKey, RouteRecord>,
    /// The names and ports that they were declared for.
    pub places: BTreeSet<RouteKey>,
    /// Whether that is all; or else nothing is taken away.
    pub is_whole: bool,
}

// === impl Inventory ===

impl Inventory {
    /// Adds the instances, ids by names, of the host's next control plane, which has this name unless it is the
    /// first. What an earlier one has is the earlier one's: those names are returned.
    pub fn add(&mut self, plane: Option<&str>, instances: BTreeMap<String, String>) -> Vec<String> {
        let mut taken = Vec::new();
        for (name, id) in instances {
            match self.instances.entry(name) {
                Entry::Occupied(earlier) => taken.push(earlier.key().clone()),
                Entry::Vacant(place) => {
                    place.insert(ClaimRecord {
                        id,
                        plane: plane.map(str::to_owned),
                        ..ClaimRecord::default()
                    });
                }
            }
        }
        taken
    }

    /// Adds the routes of a control plane, except those whose instance is claimed for another one, and those of
    /// which an earlier one has such a route.
    pub fn add_routes(&mut self, plane: Option<&str>, routes: BTreeMap<RouteKey, RouteRecord>) {
        for (route, record) in routes {
            let claim = self.instances.get(&record.instance);
            let is_its = claim.is_none_or(|claim| claim.plane.as_deref() == plane);
            if !is_its || !self.places.insert(route.clone()) {
                continue;
            }
            match self.routes.entry(route.at(None)) {
                Entry::Vacant(first) => {
                    first.insert(record);
                }
                Entry::Occupied(first) if *first.get() == record => {}
                Entry::Occupied(_) => {
                    self.routes.insert(route, record);
                }
            }
        }
    }
}

/// What this member's keys are.
struct Published {
    /// By their keys, with the revisions at which they were changed.
    there: BTreeMap<String, (Vec<u8>, i64)>,
    /// When that was read.
    at: Instant,
    /// How often the copy had been read anew by then.
    replaced: u64,
    /// Whether it may be otherwise since.
    is_stale: bool,
    /// What the host had when all of it was published.
    of: Option<Inventory>,
}

/// Whoever knows what a host has.
pub trait Host: Send + Sync + 'static {
    /// Asks.
    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, String>>;

    /// Of these claims, by their keys, those of which the host's control plane says that it has no such instance.
    fn lacks(&self, claims: BTreeMap<String, ClaimRecord>) -> BoxFuture<'_, BTreeSet<String>>;
}

/// Publishes what the host has; never ends.
pub async fn publish(directory: Arc<Directory>, host: Arc<dyn Host>) {
    let mut published: Option<Published> = None;
    let mut unlisted = Unlisted::default();
    let mut trouble: Option<String> = None;
    loop {
        let outcome = look(&directory, &*host, &mut published, &mut unlisted).await;
        directory.note_unlisted(unlisted.count());
        let said = outcome.err();
        match (&said, &trouble) {
            (Some(said), None) => {
                tracing::warn!(error = %said, "what this host has cannot be published");
            }
            (None, Some(_)) => tracing::info!("what this host has is published again"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        if let Some(published) = published.as_mut().filter(|_| said.is_some()) {
            published.is_stale = true;
        }
        trouble = said;
        sleep(LOOK).await;
    }
}

/// Makes this member's keys what its host has.
async fn look(
    directory: &Directory,
    host: &dyn Host,
    published: &mut Option<Published>,
    unlisted: &mut Unlisted,
) -> Result<(), String> {
    let inventory = host.inventory().await?;
    let (engine, name) = (directory.engine(), directory.own_name());
    // Perhaps since the engine went back, and has lost some of it.
    let replaced = directory.replaced();
    let fresh = published
        .as_ref()
        .filter(|known| !known.is_stale && known.at.elapsed() < READ && known.replaced == replaced);
    if fresh.is_some_and(|known| known.of.as_ref() == Some(&inventory)) {
        return Ok(());
    }
    if fresh.is_none() {
        let mut there = BTreeMap::new();
        for prefix in [claims_of(name), routes_of(name)] {
            let (entries, _) = read_all(&**engine, &prefix)
                .await
                .map_err(|e| e.to_string())?;
            let entries = entries.into_iter();
            there.extend(entries.map(|entry| (entry.key, (entry.value, entry.modified))));
        }
        // Before it is written again: perhaps the engine went back, and the copy has not noticed yet.
        let has_all = published
            .as_ref()
            .is_some_and(|known| known.there.keys().all(|key| there.contains_key(key)));
        if !has_all {
            let renewed = renew(directory, &**engine).await;
            renewed.map_err(|error| error.to_string())?;
        }
        *published = Some(Published {
            there,
            at: Instant::now(),
            replaced,
            is_stale: false,
            of: None,
        });
    }
    let Some(Published {
        there,
        of,
        is_stale,
        ..
    }) = published
    else {
        return Ok(());
    };
    let (listed, mut operations) = changes(name, &inventory, there);
    if inventory.is_whole {
        let lacked = there.keys().filter(|key| !listed.contains(*key));
        let lacked: BTreeSet<String> = lacked.cloned().collect();
        let gone = gone_of(directory, host, unlisted, &lacked, there).await;
        operations.extend(gone.into_iter().map(Operation::Delete));
    }
    for some in operations.chunks(MOST_OPERATIONS) {
        let compares = some.iter().map(|operation| {
            let (Operation::Put { key, .. } | Operation::Delete(key)) = operation;
            Compare::unchanged(key, there.get(key).map(|(_, modified)| *modified))
        });
        let done = engine.commit(compares.collect(), some.to_vec()).await;
        let done = done.map_err(|error| error.to_string())?;
        if !done.is_done {
            // Somebody else has changed one of them: all are read anew at the next look.
            *is_stale = true;
            return Ok(());
        }
        // Also what the copy has not heard of yet is known of the engine's past.
        if let Some(last) = some.last() {
            directory.note_written(Remembered::by_us(last, done.revision));
        }
        for operation in some {
            match operation {
                Operation::Put { key, value, .. } => {
                    there.insert(key.clone(), (value.clone(), done.revision))
                }
                Operation::Delete(key) => there.remove(key),
            };
        }
    }
    // What its list lacks and is still there is looked at each time.
    *of = (unlisted.count() == 0).then_some(inventory);
    Ok(())
}

/// The keys of what the host has, and what is to be written of them.
fn changes(
    name: &str,
    inventory: &Inventory,
    there: &BTreeMap<String, (Vec<u8>, i64)>,
) -> (BTreeSet<String>, Vec<Operation>) {
    let (mut listed, mut operations) = (BTreeSet::new(), Vec::new());
    let known = |key: &str| there.get(key).map(|(value, _)| value.as_slice());
    let mut note = |key: String, value: Option<Vec<u8>>| {
        operations.extend(value.map(|value| Operation::Put {
            key: key.clone(),
            value,
            lease: 0,
        }));
        listed.insert(key);
    };
    for (instance, record) in &inventory.instances {
        let key = Key::Claim {
            host: name.to_owned(),
            name: instance.clone(),
        };
        let key = key.text();
        let value = changed(known(&key), record, |one| &mut one.more);
        note(key, value);
    }
    for (route, record) in &inventory.routes {
        let key = Key::Route {
            source: name.to_owned(),
            route: route.clone(),
        };
        let key = key.text();
        let value = changed(known(&key), record, |one| &mut one.more);
        note(key, value);
    }
    (listed, operations)
}

/// The value of a key whose value is known, if there is one; none, if it says that already. What another version
/// says in it stays.
fn changed<T>(
    known: Option<&[u8]>,
    record: &T,
    more: impl Fn(&mut T) -> &mut Map<String, Value>,
) -> Option<Vec<u8>>
where
    T: Clone + PartialEq + Serialize + for<'v> Deserialize<'v>,
{
    let Some(mut before) = known.and_then(|value| read::<T>(value).ok()) else {
        return Some(write(record));
    };
    let mut record = record.clone();
    more(&mut record).clone_from(more(&mut before));
    (record != before).then(|| write(&record))
}

/// Which of the keys that the host's whole list lacks go now.
async fn gone_of(
    directory: &Directory,
    host: &dyn Host,
    unlisted: &mut Unlisted,
    lacked: &BTreeSet<String>,
    there: &BTreeMap<String, (Vec<u8>, i64)>,
) -> BTreeSet<String> {
    let verdict = unlisted.judge(lacked, there.len(), directory.shrinking());
    if verdict.begun > 0 {
        tracing::warn!(
            lacked = verdict.begun,
            published = there.len(),
            "this host's list lacks much of what is published at once: that stays until the list has lacked it \
             for half a minute and each instance is asked for in vain, or until `wakegate fleet accept`"
        );
    }
    let (mut gone, doubtful) = (verdict.gone, verdict.doubtful);
    if doubtful.is_empty() {
        return gone;
    }
    let claims = doubtful.iter().filter_map(|key| {
        let is_claim = matches!(Key::parse(key), Some(Key::Claim { .. }));
        let (value, _) = there.get(key).filter(|_| is_claim)?;
        Some((key.clone(), read::<ClaimRecord>(value).ok()?))
    });
    let claims: BTreeMap<String, ClaimRecord> = claims.collect();
    let asked: BTreeSet<String> = claims.keys().cloned().collect();
    let lacking = match claims.is_empty() {
        true => BTreeSet::new(),
        false => host.lacks(claims).await,
    };
    let (mut confirmed, mut there_after_all) = (BTreeSet::new(), 0);
    for key in doubtful {
        // A route is nothing that could be asked for.
        if asked.contains(&key) && !lacking.contains(&key) {
            unlisted.stays(&key);
            there_after_all += 1;
        } else {
            confirmed.insert(key);
        }
    }
    unlisted.are_gone(&confirmed);
    if !confirmed.is_empty() {
        let count = confirmed.len();
        tracing::warn!(
            count,
            "what this host's list lacks is gone, and not published any more"
        );
    }
    if there_after_all > 0 {
        tracing::warn!(
            count = there_after_all,
            "this host's list lacks instances of which its control plane does not say that they are gone: they \
             stay published"
        );
    }
    gone.extend(confirmed);
    gone
}

#[cfg(test)]
mod tests;
