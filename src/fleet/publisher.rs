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
use super::engine::{MOST_OPERATIONS, Operation, Remembered, read_all};
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
        let done = done.map_err(|error| error.to_string())?;
        // Also what the copy has not heard of yet is known of the engine's past.
        if let Some(last) = some.last() {
            directory.note_written(Remembered::by_us(last, done.revision));
        }
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
    use crate::config::{FleetConfig, WakeConfig};
    use crate::fleet::engine::Engine;
    use crate::fleet::{MemoryEngine, Own, Sink, Step, follow};

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

    struct One;

    impl Host for One {
        fn inventory(&self) -> BoxFuture<'_, Result<Inventory, String>> {
            Box::pin(async {
                let mut inventory = Inventory {
                    is_whole: true,
                    ..Inventory::default()
                };
                inventory.add(None, instances(&[("web", "a1")]));
                Ok(inventory)
            })
        }
    }

    struct Quiet;

    impl Sink for Quiet {
        fn take(&self, step: Step<'_>) {
            step();
        }

        fn is_quick(&self) -> bool {
            true
        }
    }

    #[tokio::test(start_paused = true)]
    #[allow(clippy::disallowed_methods, reason = "the test ends its tasks")]
    async fn what_an_engine_lost_before_the_copy_had_heard_of_it_is_published_again_soon() {
        let engine = MemoryEngine::new();
        let own = Own {
            name: "h1".to_owned(),
            is_node: true,
            meets_nobody: true,
        };
        let shared: Arc<dyn Engine> = Arc::new(engine.clone());
        let (config, wake) = (FleetConfig::default(), WakeConfig::default());
        let copy = Directory::new(own, &config, &wake, "default", shared).unwrap();
        let following = tokio::spawn(follow(Arc::clone(&copy), Arc::new(Quiet)));
        sleep(Duration::from_secs(1)).await;
        let backup = engine.backup();
        let publishing = tokio::spawn(publish(Arc::clone(&copy), Arc::new(One)));
        // What is written is not yet told to anybody as the engine goes back, and somebody else writes.
        while engine.revision() == 1 {
            tokio::task::yield_now().await;
        }
        engine.restore(&backup);
        let other = Operation::Put {
            key: Key::Policy("slow".to_owned()).text(),
            value: b"{}".to_vec(),
            lease: 0,
        };
        engine.commit(Vec::new(), vec![other]).await.unwrap();
        sleep(Duration::from_secs(5)).await;
        let (claims, _) = read_all(&engine, &claims_of("h1")).await.unwrap();
        assert_eq!((claims.len(), copy.status_went_back()), (1, 1));
        // It is said once, and then it is quiet.
        let revision = engine.revision();
        sleep(Duration::from_secs(120)).await;
        assert_eq!((engine.revision(), copy.status_went_back()), (revision, 1));
        following.abort();
        publishing.abort();
    }

    #[test]
    fn a_claim_for_the_first_control_plane_is_written_as_it_always_was() {
        let mut inventory = Inventory::default();
        inventory.add(None, instances(&[("web", "a1")]));
        assert_eq!(write(&inventory.instances["web"]), br#"{"id":"a1"}"#);
    }
}
