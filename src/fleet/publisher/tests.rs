//! What a node publishes, with an engine in memory.

use std::sync::Mutex;

use serde_json::json;

use super::*;
use crate::config::{FleetConfig, WakeConfig};
use crate::fleet::operator::{accept, put};
use crate::fleet::{Engine, MemoryEngine, Own, Sink, Step, follow};

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
        more: Map::new(),
    }
}

fn routes(all: &[(&str, u16, &str)]) -> BTreeMap<RouteKey, RouteRecord> {
    let one = |(name, port, instance): &(&str, u16, &str)| {
        (RouteKey::from(*name).at(Some(*port)), route(instance))
    };
    all.iter().map(one).collect()
}

/// What is published: names, ports, instances.
fn of(inventory: &Inventory) -> Vec<(&str, Option<u16>, &str)> {
    let routes = inventory.routes.iter();
    routes
        .map(|(key, record)| (&**key.label(), key.port(), &*record.instance))
        .collect()
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
    inventory.add_routes(Some("b"), routes(&[("b.test/", 80, "web")]));
    assert!(inventory.routes.is_empty());
    inventory.add_routes(Some("b"), routes(&[("b.test/", 80, "api")]));
    inventory.add_routes(None, routes(&[("a.test/", 80, "web")]));
    inventory.add_routes(Some("b"), routes(&[("a.test/", 80, "api")]));
    assert_eq!(
        of(&inventory),
        [("a.test/", None, "web"), ("b.test/", None, "api")]
    );
}

#[test]
fn of_two_routes_of_one_name_for_different_ports_both_are_published() {
    let mut inventory = Inventory::default();
    let two = [("a.test/", 8443, "admin"), ("a.test/", 80, "web")];
    inventory.add_routes(None, routes(&two));
    let both = [("a.test/", None, "web"), ("a.test/", Some(8443), "admin")];
    assert_eq!(of(&inventory), both);
    // One that says the same needs no key of its own.
    inventory.add_routes(None, routes(&[("a.test/", 443, "web")]));
    assert_eq!(of(&inventory), both);
    // What an earlier control plane has for a port stays its own, and what is for all others, too.
    let later = [
        ("a.test/", 80, "x"),
        ("a.test/", 443, "x"),
        ("a.test/", 79, "x"),
    ];
    inventory.add_routes(Some("b"), routes(&later));
    let three = [both[0], ("a.test/", Some(79), "x"), both[1]];
    assert_eq!(of(&inventory), three);
}

#[test]
fn a_claim_for_the_first_control_plane_is_written_as_it_always_was() {
    let mut inventory = Inventory::default();
    inventory.add(None, instances(&[("web", "a1")]));
    assert_eq!(write(&inventory.instances["web"]), br#"{"id":"a1"}"#);
}

/// A host whose list and whose answers the test says.
#[derive(Default)]
struct Said {
    listed: Mutex<BTreeMap<String, String>>,
    /// The ids that it has, listed or not.
    there: Mutex<BTreeSet<String>>,
}

impl Host for Said {
    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, String>> {
        let mut inventory = Inventory {
            is_whole: true,
            ..Inventory::default()
        };
        inventory.add(None, self.listed.lock().unwrap().clone());
        Box::pin(async { Ok(inventory) })
    }

    fn lacks(&self, claims: BTreeMap<String, ClaimRecord>) -> BoxFuture<'_, BTreeSet<String>> {
        let there = self.there.lock().unwrap();
        let lacked = claims
            .into_iter()
            .filter(|(_, one)| !there.contains(&one.id));
        let lacked = lacked.map(|(key, _)| key).collect();
        Box::pin(async { lacked })
    }
}

struct World {
    engine: MemoryEngine,
    directory: Arc<Directory>,
    host: Arc<Said>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
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

impl World {
    fn new(count: usize) -> Self {
        let engine = MemoryEngine::new();
        let own = Own {
            name: "h".to_owned(),
            is_node: true,
            meets_nobody: true,
        };
        let shared: Arc<dyn Engine> = Arc::new(engine.clone());
        let (config, wake) = (FleetConfig::default(), WakeConfig::default());
        let directory = Directory::new(own, &config, &wake, "default", shared).unwrap();
        let host = Arc::new(Said::default());
        for number in 0..count {
            host.has(number, number);
        }
        let runtime = tokio::runtime::Handle::current();
        let publishing = publish(Arc::clone(&directory), Arc::clone(&host) as Arc<dyn Host>);
        let following = follow(Arc::clone(&directory), Arc::new(Quiet));
        let tasks = vec![runtime.spawn(publishing), runtime.spawn(following)];
        Self {
            engine,
            directory,
            host,
            tasks,
        }
    }

    /// What it claims, after so much time.
    async fn claims(&self, after: Duration) -> BTreeMap<String, Value> {
        sleep(after).await;
        let (entries, _) = read_all(&self.engine, &claims_of("h")).await.unwrap();
        let entries = entries.into_iter().map(|entry| {
            let name = entry.key.rsplit('/').next().unwrap().to_owned();
            (name, serde_json::from_slice(&entry.value).unwrap())
        });
        entries.collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Said {
    fn has(&self, number: usize, id: usize) {
        let (name, id) = (format!("a{number}"), format!("id{id}"));
        self.listed.lock().unwrap().insert(name, id.clone());
        self.there.lock().unwrap().insert(id);
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn an_empty_list_takes_no_claim_away_that_the_host_still_has() {
    let world = World::new(60);
    assert_eq!(world.claims(3 * SECOND).await.len(), 60);
    world.host.listed.lock().unwrap().clear();
    let gone: Vec<String> = (0..10).map(|number| format!("id{number}")).collect();
    world
        .host
        .there
        .lock()
        .unwrap()
        .retain(|id| !gone.contains(id));
    assert_eq!(world.claims(25 * SECOND).await.len(), 60);
    assert_eq!(world.directory.status().unlisted, 60);
    assert_eq!(world.directory.counts().unlisted, 60);
    // By then it is asked for each.
    assert_eq!(world.claims(15 * SECOND).await.len(), 50);
    assert_eq!(world.directory.status().unlisted, 50);
    for number in 10..60 {
        world.host.has(number, number);
    }
    assert_eq!(world.claims(60 * SECOND).await.len(), 50);
    assert_eq!(world.directory.status().unlisted, 0);
}

#[tokio::test(start_paused = true)]
async fn an_operator_can_accept_that_a_host_has_nothing_any_more() {
    let world = World::new(60);
    assert_eq!(world.claims(3 * SECOND).await.len(), 60);
    world.host.listed.lock().unwrap().clear();
    assert_eq!(world.claims(5 * SECOND).await.len(), 60);
    accept(&world.engine).await.unwrap();
    assert_eq!(world.claims(5 * SECOND).await.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_few_instances_that_are_deleted_are_gone_at_once() {
    let world = World::new(60);
    assert_eq!(world.claims(3 * SECOND).await.len(), 60);
    world
        .host
        .listed
        .lock()
        .unwrap()
        .retain(|name, _| name != "a3");
    assert_eq!(world.claims(3 * SECOND).await.len(), 59);
}

#[tokio::test(start_paused = true)]
async fn what_another_version_says_in_a_claim_stays_when_its_id_changes() {
    let world = World::new(2);
    assert_eq!(world.claims(3 * SECOND).await["a1"], json!({ "id": "id1" }));
    let key = Key::Claim {
        host: "h".to_owned(),
        name: "a1".to_owned(),
    };
    let later = br#"{"weight":7,"id":"id1"}"#.to_vec();
    put(&world.engine, vec![(key, later)]).await.unwrap();
    let said = json!({ "id": "id1", "weight": 7 });
    assert_eq!(world.claims(40 * SECOND).await["a1"], said);
    world.host.has(1, 9);
    let said = json!({ "id": "id9", "weight": 7 });
    assert_eq!(world.claims(3 * SECOND).await["a1"], said);
    // One that was written since it was read, too.
    let key = Key::Claim {
        host: "h".to_owned(),
        name: "a0".to_owned(),
    };
    let later = br#"{"id":"id0","weight":8}"#.to_vec();
    put(&world.engine, vec![(key, later)]).await.unwrap();
    world.host.has(0, 8);
    let said = json!({ "id": "id8", "weight": 8 });
    assert_eq!(world.claims(5 * SECOND).await["a0"], said);
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

    fn lacks(&self, claims: BTreeMap<String, ClaimRecord>) -> BoxFuture<'_, BTreeSet<String>> {
        Box::pin(async { claims.into_keys().collect() })
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
