//! Random histories of a fleet's directory on paused time: fronts that follow, nodes that publish, an
//! operator who writes, and an engine that delays, breaks watches, compacts, is away, goes back and is
//! emptied.
//!
//! Guarantees of every history: nothing is served and no host is asked that was never written so; routes
//! that nobody took away go a tenth at a time at most; once it is quiet, all members have one copy, which is
//! what is written. A history is drawn from one seed, which a failure names; `SIMULATION_SEED` repeats it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use wakegate::config::{FleetConfig, WakeConfig};
use wakegate::fleet::engine::{Engine, Operation, read_all};
use wakegate::fleet::memory::{Backup, Faults};
use wakegate::fleet::publisher::{Host, Inventory, publish};
use wakegate::fleet::records::{ClaimRecord, Key, PREFIX, RouteRecord, write};
use wakegate::fleet::{
    Directory, MemoryEngine, Own, Place, Placement as _, Sink, Step, follow, operator,
};

use crate::support::{number, spawn};

const HOSTS: usize = 3;
const FRONTS: usize = 3;
const NAMES: usize = 6;
/// So many that they may not all go at once.
const ROUTES: usize = 40;
const STEPS: usize = 24;

/// What a host has, as its Hypeman says; the test changes it.
#[derive(Default)]
struct Instances(Mutex<BTreeMap<String, String>>);

impl Instances {
    fn claims(&self) -> BTreeMap<String, ClaimRecord> {
        let instances = self.0.lock().unwrap();
        let claim = |(name, id): (&String, &String)| {
            let record = ClaimRecord {
                id: id.clone(),
                ..ClaimRecord::default()
            };
            (name.clone(), record)
        };
        instances.iter().map(claim).collect()
    }
}

impl Host for Instances {
    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, String>> {
        Box::pin(async {
            Ok(Inventory {
                instances: self.claims(),
                is_whole: true,
                ..Inventory::default()
            })
        })
    }

    fn lacks(&self, claims: BTreeMap<String, ClaimRecord>) -> BoxFuture<'_, BTreeSet<String>> {
        let there = self.0.lock().unwrap();
        let is_lacked = |claim: &ClaimRecord| there.values().all(|id| *id != claim.id);
        let lacked = claims.into_iter().filter(|(_, claim)| is_lacked(claim));
        let lacked = lacked.map(|(key, _)| key).collect();
        Box::pin(async { lacked })
    }
}

/// What a member has seen of the table, step by step.
#[derive(Default)]
struct Seen {
    /// How many routes it had at least and at most between two looks of the test.
    fewest: Mutex<Option<usize>>,
    /// Whether anything has changed since the test looked.
    is_new: AtomicBool,
}

impl Sink for Follower {
    fn take(&self, step: Step<'_>) {
        step();
        self.seen.is_new.store(true, Ordering::Relaxed);
        let count = self.copy.lines().len();
        let mut fewest = self.seen.fewest.lock().unwrap();
        *fewest = Some(fewest.map_or(count, |fewest| fewest.min(count)));
    }

    fn is_quick(&self) -> bool {
        true
    }
}

#[derive(Clone)]
struct Follower {
    copy: Arc<Directory>,
    seen: Arc<Seen>,
}

struct History {
    seed: u64,
    random: fastrand::Rng,
    engine: MemoryEngine,
    /// Fronts, then nodes.
    members: Vec<Follower>,
    hosts: Vec<Arc<Instances>>,
    tasks: Vec<JoinHandle<()>>,
    /// Everything that was ever published of a name: its host and its id.
    published: BTreeMap<String, BTreeSet<(String, String)>>,
    /// Everything that was ever written of a route: its instance.
    written: BTreeMap<String, BTreeSet<String>>,
    next: u64,
    backup: Option<Backup>,
    story: Vec<String>,
}

fn host(index: usize) -> String {
    format!("h-{index}")
}

// === impl History ===

impl History {
    fn new(seed: u64) -> Self {
        let engine = MemoryEngine::new();
        let member = |name: String, is_node: bool| {
            let config = FleetConfig::default();
            let shared: Arc<dyn Engine> = Arc::new(engine.clone());
            let own = Own {
                name,
                is_node,
                ..Own::default()
            };
            let copy = Directory::new(own, &config, &WakeConfig::default(), "default", shared);
            Follower {
                copy: copy.unwrap(),
                seen: Arc::default(),
            }
        };
        let fronts = (0..FRONTS).map(|index| member(format!("f-{index}"), false));
        let nodes = (0..HOSTS).map(|index| member(host(index), true));
        let members: Vec<Follower> = fronts.chain(nodes).collect();
        let hosts: Vec<Arc<Instances>> = (0..HOSTS).map(|_| Arc::default()).collect();
        let mut tasks = Vec::new();
        for member in &members {
            let sink = Arc::new(member.clone());
            tasks.push(spawn(follow(Arc::clone(&member.copy), sink)));
        }
        for (node, host) in members.iter().skip(FRONTS).zip(&hosts) {
            let host: Arc<dyn Host> = Arc::clone(host) as _;
            tasks.push(spawn(publish(Arc::clone(&node.copy), host)));
        }
        Self {
            seed,
            random: fastrand::Rng::with_seed(seed),
            engine,
            members,
            hosts,
            tasks,
            published: BTreeMap::new(),
            written: BTreeMap::new(),
            next: 0,
            backup: None,
            story: Vec::new(),
        }
    }

    fn tell(&mut self, what: String) {
        self.story.push(what);
    }

    fn fail(&self, what: &str) -> ! {
        panic!("seed {}: {what}\n{}", self.seed, self.story.join("\n"));
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn put(&mut self, index: usize) -> Operation {
        let (host, instance) = (format!("a{index}.test"), format!("i{}", self.fresh()));
        self.written
            .entry(host.clone())
            .or_default()
            .insert(instance.clone());
        let (source, route) = ("op".to_owned(), (&*format!("{host}/")).into());
        let record = RouteRecord {
            instance,
            port: 8080,
            policy: None,
            more: serde_json::Map::new(),
        };
        Operation::Put {
            key: Key::Route { source, route }.text(),
            value: write(&record),
            lease: 0,
        }
    }

    /// Makes, changes, moves or deletes an instance at its host.
    fn change_instance(&mut self) {
        let (at, name) = (
            self.random.usize(..HOSTS),
            format!("web-{}", self.random.usize(..NAMES)),
        );
        let is_gone = self.random.u32(..3) == 0;
        if is_gone {
            self.hosts[at].0.lock().unwrap().remove(&name);
            self.tell(format!("{} deletes {name}", host(at)));
            return;
        }
        let id = format!("id-{}", self.fresh());
        self.published
            .entry(name.clone())
            .or_default()
            .insert((host(at), id.clone()));
        self.tell(format!("{} has {name} as {id}", host(at)));
        self.hosts[at].0.lock().unwrap().insert(name, id);
    }

    async fn step(&mut self) {
        match self.random.u32(..20) {
            0..=5 => self.change_instance(),
            6..=8 => {
                let index = self.random.usize(..ROUTES);
                let put = self.put(index);
                let done = self.engine.commit(Vec::new(), vec![put]).await;
                self.tell(format!("route {index} is written: {}", done.is_ok()));
            }
            9 => {
                let index = self.random.usize(..ROUTES);
                let route = (&*format!("a{index}.test/")).into();
                let source = "op".to_owned();
                let done = operator::remove(&self.engine, &[Key::Route { source, route }]).await;
                self.tell(format!("route {index} is removed: {}", done.is_ok()));
            }
            10 => {
                let faults = Faults {
                    away: false,
                    delay: Duration::from_millis(self.random.u64(..1500)),
                };
                self.tell(format!("{faults:?}"));
                self.engine.set_faults(faults);
            }
            11 | 12 => {
                let away = self.random.bool();
                self.tell(format!("the engine is away: {away}"));
                self.engine.set_faults(Faults {
                    away,
                    delay: Duration::ZERO,
                });
            }
            13 | 14 => {
                self.tell("watches break".to_owned());
                self.engine.break_watches();
            }
            15 | 16 => {
                self.tell("it is compacted".to_owned());
                self.engine.compact();
            }
            17 => {
                self.tell("a backup is made".to_owned());
                self.backup = Some(self.engine.backup());
            }
            18 => {
                if let Some(backup) = self.backup.clone() {
                    self.tell("the backup is restored".to_owned());
                    self.engine.set_faults(Faults::default());
                    self.engine.restore(&backup);
                    // Somebody writes what nobody has written before: what is written again at the same
                    // revision, together with other keys, is not told apart.
                    let index = self.random.usize(..ROUTES);
                    let first = self.put(index);
                    self.engine.commit(Vec::new(), vec![first]).await.unwrap();
                }
            }
            _ => {
                let (all, _) = read_all(&self.engine, &format!("{PREFIX}r/"))
                    .await
                    .unwrap_or_default();
                let gone: Vec<Operation> = all
                    .into_iter()
                    .map(|entry| Operation::Delete(entry.key))
                    .collect();
                self.tell(format!("somebody deletes {} routes", gone.len()));
                let _away = self.engine.commit(Vec::new(), gone).await;
            }
        }
        let pause = Duration::from_millis(self.random.u64(..3000));
        sleep(pause).await;
        self.judge();
    }

    /// What is always so.
    fn judge(&self) {
        // What was once right stays so: all that was ever written counts.
        let changed = |member: &&Follower| member.seen.is_new.swap(false, Ordering::Relaxed);
        for member in self.members.iter().filter(changed) {
            for line in member.copy.lines() {
                let written = self.written.get(&line.host);
                if !written.is_some_and(|written| written.contains(&line.instance)) {
                    self.fail(&format!("{} is served by {}", line.host, line.instance));
                }
            }
            for index in 0..NAMES {
                let name = format!("web-{index}");
                let Place::Peer { host, claim } = member.copy.place(&name) else {
                    continue;
                };
                let pair = (host.name.clone(), claim.id.clone());
                let published = self.published.get(&name);
                if !published.is_some_and(|published| published.contains(&pair)) {
                    self.fail(&format!("{name} is asked for at {pair:?}"));
                }
            }
        }
    }

    /// Everything is well again, and what is gone is accepted.
    async fn quiet(&mut self) {
        self.engine.set_faults(Faults::default());
        sleep(Duration::from_secs(20)).await;
        operator::accept(&self.engine).await.unwrap();
        sleep(Duration::from_secs(10)).await;
        self.judge();
        let (entries, _) = read_all(&self.engine, PREFIX).await.unwrap();
        let config = FleetConfig::default();
        let shared: Arc<dyn Engine> = Arc::new(self.engine.clone());
        let own = Own {
            name: String::new(),
            is_node: false,
            ..Own::default()
        };
        let truth =
            Directory::new(own, &config, &WakeConfig::default(), "default", shared).unwrap();
        truth.replace(&entries, 1);
        let wanted: BTreeMap<String, BTreeSet<String>> = {
            let mut wanted = BTreeMap::new();
            for (index, instances) in self.hosts.iter().enumerate() {
                for (name, id) in &*instances.0.lock().unwrap() {
                    let all: &mut BTreeSet<String> = wanted.entry(name.clone()).or_default();
                    all.insert(format!("{} {id}", host(index)));
                }
            }
            wanted
        };
        let mut claimed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for entry in &entries {
            if let Some(Key::Claim { host, name }) = Key::parse(&entry.key) {
                let record: ClaimRecord = wakegate::fleet::records::read(&entry.value).unwrap();
                claimed
                    .entry(name)
                    .or_default()
                    .insert(format!("{host} {}", record.id));
            }
        }
        if claimed != wanted {
            self.fail(&format!("hosts have {wanted:?}, and claim {claimed:?}"));
        }
        for (index, member) in self.members.iter().enumerate() {
            let (copy, status) = (&member.copy, member.copy.status());
            if copy.lines() != truth.lines() {
                let (has, written) = (copy.lines().len(), truth.lines().len());
                self.fail(&format!(
                    "member {index} has {has} routes, and {written} are written"
                ));
            }
            if status.claimed_twice.len() != truth.status().claimed_twice.len()
                || status.shrink.is_some()
            {
                self.fail(&format!("member {index} stands otherwise: {status:?}"));
            }
            for name in (0..NAMES).map(|index| format!("web-{index}")) {
                let (place, other) = (copy.place(&name), truth.place(&name));
                let is_own = matches!(place, Place::Here);
                if place != other && !is_own {
                    self.fail(&format!(
                        "member {index} finds {name} at {place:?}, and it is at {other:?}"
                    ));
                }
            }
        }
    }

    /// Somebody empties the directory of routes behind everybody's back: nobody loses them.
    async fn emptied(&mut self) {
        let mut puts = Vec::new();
        for index in 0..ROUTES {
            puts.push(self.put(index));
        }
        self.engine.commit(Vec::new(), puts).await.unwrap();
        sleep(Duration::from_secs(30)).await;
        for member in &self.members {
            *member.seen.fewest.lock().unwrap() = None;
        }
        let keys =
            (0..ROUTES).map(|index| Operation::Delete(format!("{PREFIX}r/op/a{index}.test")));
        let is_read = self.random.bool();
        if is_read {
            // Some hear of it by reading everything, others by a watch.
            self.engine.set_faults(Faults {
                away: true,
                delay: Duration::ZERO,
            });
            sleep(Duration::from_secs(5)).await;
            self.engine.set_faults(Faults::default());
        }
        self.engine
            .commit(Vec::new(), keys.collect())
            .await
            .unwrap();
        if is_read {
            self.engine.compact();
        }
        sleep(Duration::from_secs(20)).await;
        for (index, member) in self.members.iter().enumerate() {
            let fewest = member.seen.fewest.lock().unwrap().unwrap_or(ROUTES);
            let held = member.copy.status().shrink.map(|shrink| shrink.routes);
            if fewest < ROUTES || held != Some(ROUTES) {
                self.fail(&format!(
                    "member {index} had {fewest} of {ROUTES} routes, held {held:?}"
                ));
            }
        }
    }

    async fn play(mut self) -> Self {
        for _ in 0..STEPS {
            self.step().await;
        }
        self.quiet().await;
        // It takes long, and there is little to be drawn in it.
        if self.seed.is_multiple_of(4) {
            self.emptied().await;
            self.quiet().await;
        }
        for task in &self.tasks {
            task.abort();
        }
        self
    }
}

fn play(seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async { History::new(seed).play().await });
}

#[test]
fn after_any_history_all_members_have_one_directory_which_is_the_hosts_truth() {
    if let Some(seed) = number("SIMULATION_SEED") {
        return play(seed);
    }
    let first = number("SIMULATION_FIRST").unwrap_or(0);
    let histories = number("SIMULATION_HISTORIES").unwrap_or(2_000);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let all = first + thread..first + histories;
                all.step_by(usize::try_from(threads).unwrap())
                    .for_each(play);
            });
        }
    });
    println!(
        "{histories} histories of a directory in {:?}",
        began.elapsed()
    );
}
