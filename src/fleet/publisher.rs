//! What a node says of its host: its instances, its ingress resources.
//!
//! Guarantees: a list that cannot be read changes nothing, and one that can be read only in part takes
//! nothing away; only keys of this member are written.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::directory::Directory;
use super::engine::{MOST_OPERATIONS, Operation, read_all};
use super::records::{ClaimRecord, Key, RouteRecord, claims_of, routes_of, write};

/// How often the host's lists are compared with what is published.
const LOOK: Duration = Duration::from_secs(1);
/// How often what is published is read anew, in case somebody else has changed it.
const READ: Duration = Duration::from_secs(30);

/// What a host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// What is claimed, by the instances' names.
    pub instances: BTreeMap<String, ClaimRecord>,
    /// Routes by their names (host and path), of the host's ingress resources.
    pub routes: BTreeMap<String, RouteRecord>,
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

    /// Adds a route of a control plane's, unless its instance is claimed for another one, or an earlier one has
    /// such a route.
    pub fn add_route(&mut self, plane: Option<&str>, name: String, record: RouteRecord) {
        let claim = self.instances.get(&record.instance);
        if claim.is_none_or(|claim| claim.plane.as_deref() == plane) {
            self.routes.entry(name).or_insert(record);
        }
    }
}

/// What this member's keys are.
struct Published {
    there: BTreeMap<String, Vec<u8>>,
    /// When that was read.
    at: Instant,
    /// How often the engine had gone back by then.
    went_back: u64,
    /// What the host had when all of it was published.
    of: Option<Inventory>,
}

/// Whoever knows what a host has.
pub trait Host: Send + Sync + 'static {
    /// Asks.
    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, String>>;
}

/// Publishes what the host has; never ends.
pub async fn publish(directory: Arc<Directory>, host: Arc<dyn Host>) {
    let mut published: Option<Published> = None;
    let mut trouble: Option<String> = None;
    loop {
        let outcome = look(&directory, &*host, &mut published).await;
        let said = outcome.err();
        match (&said, &trouble) {
            (Some(said), None) => {
                tracing::warn!(error = %said, "what this host has cannot be published");
            }
            (None, Some(_)) => tracing::info!("what this host has is published again"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        if said.is_some() {
            published = None;
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
) -> Result<(), String> {
    let inventory = host.inventory().await?;
    let (engine, name) = (directory.engine(), directory.own_name());
    // An engine that went back has lost some of it.
    let went_back = directory.status_went_back();
    let fresh = published
        .as_ref()
        .filter(|known| known.at.elapsed() < READ && known.went_back == went_back);
    if fresh.is_some_and(|known| known.of.as_ref() == Some(&inventory)) {
        return Ok(());
    }
    let is_fresh = fresh.is_some();
    let mut wanted: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (instance, record) in &inventory.instances {
        let key = Key::Claim {
            host: name.to_owned(),
            name: instance.clone(),
        };
        wanted.insert(key.text(), write(record));
    }
    for (route, record) in &inventory.routes {
        let key = Key::Route {
            source: name.to_owned(),
            name: route.clone(),
        };
        wanted.insert(key.text(), write(record));
    }
    if !is_fresh {
        let mut there = BTreeMap::new();
        for prefix in [claims_of(name), routes_of(name)] {
            let (entries, _) = read_all(&**engine, &prefix)
                .await
                .map_err(|e| e.to_string())?;
            there.extend(entries.into_iter().map(|entry| (entry.key, entry.value)));
        }
        *published = Some(Published {
            there,
            at: Instant::now(),
            went_back,
            of: None,
        });
    }
    let Some(Published { there, of, .. }) = published else {
        return Ok(());
    };
    let put = wanted
        .iter()
        .filter(|(key, value)| there.get(*key) != Some(value));
    let mut operations: Vec<Operation> = put
        .map(|(key, value)| Operation::Put {
            key: key.clone(),
            value: value.clone(),
            lease: 0,
        })
        .collect();
    if inventory.is_whole {
        let gone = there.keys().filter(|key| !wanted.contains_key(*key));
        operations.extend(gone.map(|key| Operation::Delete(key.clone())));
    }
    for some in operations.chunks(MOST_OPERATIONS) {
        let done = engine.commit(Vec::new(), some.to_vec()).await;
        done.map_err(|error| error.to_string())?;
        for operation in some {
            match operation {
                Operation::Put { key, value, .. } => there.insert(key.clone(), value.clone()),
                Operation::Delete(key) => there.remove(key),
            };
        }
    }
    *of = Some(inventory);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(name, id)| ((*name).to_owned(), (*id).to_owned()))
            .collect()
    }

    fn route(instance: &str) -> RouteRecord {
        RouteRecord {
            instance: instance.to_owned(),
            port: 80,
            policy: None,
            more: serde_json::Map::new(),
        }
    }

    #[test]
    fn a_name_of_two_control_planes_is_the_first_ones_and_so_are_its_routes() {
        let mut inventory = Inventory::default();
        assert!(inventory.add(None, instances(&[("web", "a1")])).is_empty());
        let both = instances(&[("api", "b1"), ("web", "b2")]);
        assert_eq!(inventory.add(Some("b"), both), ["web"]);
        let said = |name: &str| {
            let claim = &inventory.instances[name];
            (claim.id.clone(), claim.plane.clone())
        };
        assert_eq!(said("web"), ("a1".to_owned(), None));
        assert_eq!(said("api"), ("b1".to_owned(), Some("b".to_owned())));
        // A tenant of one is not served by another's instance of the same name.
        inventory.add_route(Some("b"), "b.test/".to_owned(), route("web"));
        assert!(inventory.routes.is_empty());
        inventory.add_route(Some("b"), "b.test/".to_owned(), route("api"));
        inventory.add_route(None, "a.test/".to_owned(), route("web"));
        inventory.add_route(Some("b"), "a.test/".to_owned(), route("api"));
        let of = |name: &str| inventory.routes[name].instance.clone();
        assert_eq!((of("a.test/"), of("b.test/")), ("web".into(), "api".into()));
    }

    #[test]
    fn a_claim_for_the_first_control_plane_is_written_as_it_always_was() {
        let mut inventory = Inventory::default();
        inventory.add(None, instances(&[("web", "a1")]));
        assert_eq!(write(&inventory.instances["web"]), br#"{"id":"a1"}"#);
    }
}
