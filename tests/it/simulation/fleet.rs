//! Random histories of a fleet that wakes: fronts that find instances in copies of a directory, nodes that publish
//! and wake, and a directory that delays, breaks watches, compacts, is away and goes back meanwhile.
//!
//! Guarantees of every history: an instance is restored once at a time over all gateways; a request arrives at no
//! instance but the one that a claim has named for it; what must not be repeated arrives once over all hosts;
//! every request is answered; once it is quiet, all fronts have one table, and whatever can be woken is served by
//! them. `SIMULATION_HISTORIES` says how many; `SIMULATION_SEED` plays one and prints its story.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use wakegate::config::{FleetConfig, WakeConfig};
use wakegate::fleet::engine::{Engine, read_all};
use wakegate::fleet::memory::{Backup, Faults};
use wakegate::fleet::presence::{Ending, keep_record};
use wakegate::fleet::publisher::{Host, Inventory, publish};
use wakegate::fleet::records::{ClaimRecord, Key, MemberRecord, PREFIX, RouteRecord, write};
use wakegate::fleet::{
    Directory, MemoryEngine, Own, Place, Placement as _, Sink, Step, follow, operator,
};
use wakegate::proxy::ProxyError;
use wakegate::telemetry::Metrics;

use super::FOREVER;
use super::gateway::{Gateway, Outcome};
use super::script::{NAMES, Request, Script};
use super::world::{Act, Errand, World};
use crate::support::{number, spawn};

/// What goes on for long does so for less, since it is not what this is about.
const LONGEST_MS: u64 = 4_000;
/// Until when something happens.
const EVENTFUL_MS: u64 = 14_000;
/// Longer than any pause of those who follow, and those who announce themselves anew.
const QUIET: Duration = Duration::from_secs(16);
/// The numbers of one host's instances begin here.
const NUMBERS: u32 = 1_000;
const ROUTES: usize = 8;

/// What happens to the directory.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Delays(u64),
    Away(bool),
    Breaks,
    Compacts,
    Saved,
    GoesBack,
    Written(usize),
    Removed(usize),
}

/// A host: its control plane and its gateway.
struct Node {
    name: String,
    world: World,
    gateway: Arc<Gateway>,
    copy: Arc<Directory>,
}

struct Fleet {
    seed: u64,
    engine: MemoryEngine,
    nodes: Vec<Node>,
    fronts: Vec<Arc<Directory>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    stop: CancellationToken,
    backup: Mutex<Option<Backup>>,
    /// The ids that claims have named, by requests.
    named: Mutex<BTreeMap<u32, BTreeSet<String>>>,
    counts: Arc<Counts>,
}

/// What all histories together came to.
#[derive(Debug, Default)]
pub struct Counts {
    served: AtomicUsize,
    refused: AtomicUsize,
    misplaced: AtomicUsize,
    restores: AtomicUsize,
    went_back: AtomicUsize,
}

/// How a front's request ended that no node has answered.
#[derive(Debug)]
enum Unserved {
    /// Nobody claims it.
    Unclaimed,
    /// Its host has no record.
    Unreachable,
    /// Something between front and node, before it was sent.
    Unsent,
    /// The same, afterwards.
    Lost,
    /// The node's word.
    #[allow(dead_code, reason = "the story tells it")]
    Refused(ProxyError),
}

struct Quick;

impl Sink for Quick {
    fn take(&self, step: Step<'_>) {
        step();
    }

    fn is_quick(&self) -> bool {
        true
    }
}

/// What a host has, as its control plane says.
struct Published(World);

impl Host for Published {
    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, String>> {
        Box::pin(async {
            let mut inventory = Inventory {
                is_whole: true,
                ..Inventory::default()
            };
            inventory.add(None, self.0.instances());
            Ok(inventory)
        })
    }

    fn lacks(&self, claims: BTreeMap<String, ClaimRecord>) -> BoxFuture<'_, BTreeSet<String>> {
        let there: BTreeSet<String> = self.0.instances().into_values().collect();
        let lacked = claims
            .into_iter()
            .filter(|(_, claim)| !there.contains(&claim.id));
        let lacked = lacked.map(|(key, _)| key).collect();
        Box::pin(async { lacked })
    }
}

fn directory(name: &str, is_node: bool, engine: &MemoryEngine) -> Arc<Directory> {
    let own = Own {
        name: name.to_owned(),
        is_node,
        meets_nobody: is_node,
    };
    let shared: Arc<dyn Engine> = Arc::new(engine.clone());
    let (config, wake) = (FleetConfig::default(), WakeConfig::default());
    Directory::new(own, &config, &wake, "default", shared).unwrap()
}

// === impl Fleet ===

impl Fleet {
    fn new(
        script: &Script,
        random: &mut fastrand::Rng,
        metrics: &Arc<Metrics>,
        counts: &Arc<Counts>,
    ) -> Self {
        let (engine, stop) = (MemoryEngine::new(), CancellationToken::new());
        let hosts = random.usize(2..4);
        let homes: Vec<usize> = NAMES.iter().map(|_| random.usize(..hosts)).collect();
        let nodes = (0..hosts).map(|index| {
            let first = u32::try_from(index).unwrap() * NUMBERS;
            let seed = script.seed ^ (u64::from(first) << 32);
            let world = World::beside_others(seed, script.troubles, &NAMES, first);
            for (name, home) in NAMES.iter().zip(&homes) {
                if *home != index {
                    world.act(name, Act::Delete);
                }
            }
            let name = format!("h-{index}");
            Node {
                gateway: Gateway::new(script, world.view(0), metrics, &stop),
                copy: directory(&name, true, &engine),
                name,
                world,
            }
        });
        let nodes: Vec<Node> = nodes.collect();
        let fronts =
            (0..random.usize(2..4)).map(|index| directory(&format!("f-{index}"), false, &engine));
        let fleet = Self {
            seed: script.seed,
            fronts: fronts.collect(),
            nodes,
            engine,
            tasks: Mutex::default(),
            stop,
            backup: Mutex::default(),
            named: Mutex::default(),
            counts: Arc::clone(counts),
        };
        for copy in fleet
            .fronts
            .iter()
            .chain(fleet.nodes.iter().map(|node| &node.copy))
        {
            fleet.run(follow(Arc::clone(copy), Arc::new(Quick)));
        }
        for node in &fleet.nodes {
            let host = Arc::new(Published(node.world.clone()));
            fleet.run(publish(Arc::clone(&node.copy), host));
            let record = MemberRecord {
                endpoints: vec![format!("{}:1", node.name)],
                ..MemberRecord::default()
            };
            let ending = Ending {
                draining: CancellationToken::new(),
                ended: CancellationToken::new(),
            };
            let key = Key::Node(node.name.clone());
            fleet.run(keep_record(Arc::clone(&node.copy), key, record, ending));
        }
        fleet
    }

    fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap().push(spawn(task));
    }

    fn tell(&self, line: &str) {
        self.nodes[0].world.tell(line);
    }

    fn wrong(&self, what: String) {
        self.nodes[0].world.wrong(what);
    }

    async fn suffers(&self, trouble: Trouble) {
        self.tell(&format!("the directory: {trouble:?}"));
        let route = |index: usize| Key::Route {
            source: "op".to_owned(),
            route: (&*format!("r{index}.test/")).into(),
        };
        match trouble {
            Trouble::Delays(ms) => self.engine.set_faults(Faults {
                away: false,
                delay: Duration::from_millis(ms),
            }),
            Trouble::Away(away) => self.engine.set_faults(Faults {
                away,
                delay: Duration::ZERO,
            }),
            Trouble::Breaks => self.engine.break_watches(),
            Trouble::Compacts => self.engine.compact(),
            Trouble::Saved => *self.backup.lock().unwrap() = Some(self.engine.backup()),
            Trouble::GoesBack => {
                let backup = self.backup.lock().unwrap().clone();
                if let Some(backup) = backup {
                    self.engine.set_faults(Faults::default());
                    self.engine.restore(&backup);
                    // What is written again at the same revision, together with other keys, is not told apart
                    // from what was there: so something else is written first.
                    let nth = self.counts.went_back.fetch_add(1, Ordering::Relaxed);
                    let record = RouteRecord {
                        instance: format!("back-{nth}"),
                        port: 80,
                        policy: None,
                        more: serde_json::Map::new(),
                    };
                    let pair = (route(0), write(&record));
                    operator::put(&self.engine, vec![pair]).await.unwrap();
                }
            }
            Trouble::Written(index) => {
                let record = RouteRecord {
                    instance: format!("i{}", self.engine.revision()),
                    port: 80,
                    policy: None,
                    more: serde_json::Map::new(),
                };
                let pair = (route(index), write(&record));
                let _away = operator::put(&self.engine, vec![pair]).await;
            }
            Trouble::Removed(index) => {
                let _away = operator::remove(&self.engine, &[route(index)]).await;
            }
        }
    }

    /// What a request of the script asks for, by name or by id.
    fn name_of(&self, request: Request) -> String {
        let name = NAMES[request.name];
        let mut ids = self.nodes.iter().filter_map(|node| node.world.id_of(name));
        let id = request.by_id.then(|| ids.next());
        id.flatten().unwrap_or_else(|| name.to_owned())
    }

    /// A claim names this instance for a request.
    fn note_named(&self, count: u32, id: &str) {
        let mut named = self.named.lock().unwrap();
        named.entry(count).or_default().insert(id.to_owned());
    }

    /// A request from a front to its answer.
    async fn pass(
        &self,
        front: &Directory,
        (count, request): (u32, Request),
        name: &str,
    ) -> Result<(), Unserved> {
        let random = &mut fastrand::Rng::with_seed(self.seed ^ u64::from(count));
        let (mut place, mut is_second) = (front.place(name), false);
        loop {
            let (host, claim) = match place {
                Place::Peer { host, claim } => (host, claim),
                Place::Unreachable { .. } => return Err(Unserved::Unreachable),
                Place::Unclaimed | Place::Here => return Err(Unserved::Unclaimed),
            };
            let node = self.nodes.iter().find(|node| node.name == host.name);
            let node = node.unwrap();
            self.note_named(count, &claim.id);
            sleep(Duration::from_millis(random.u64(..6))).await;
            if random.u8(..40) == 0 {
                return Err(Unserved::Unsent);
            }
            let serving = node
                .gateway
                .serve_claimed(count, request, name, Some(&claim.id));
            // A connection between two members that breaks.
            let breaks = match random.u8(..30) {
                0 => Duration::from_millis(random.u64(..1500)),
                _ => FOREVER,
            };
            let Ok(outcome): Result<Outcome, _> = timeout(breaks, serving).await else {
                return Err(Unserved::Lost);
            };
            match outcome {
                Err(ProxyError::Misplaced) if !is_second => {
                    self.counts.misplaced.fetch_add(1, Ordering::Relaxed);
                    is_second = true;
                    place = front.read_again(name).await;
                }
                outcome => return outcome.map_err(Unserved::Refused),
            }
        }
    }

    async fn serve(&self, count: u32, front: usize, request: Request) -> bool {
        let front = &self.fronts[front % self.fronts.len()];
        let name = self.name_of(request);
        self.tell(&format!(
            "request {count} for {name} at {}: {request:?}",
            front.own_name()
        ));
        let patience = request.leaves_ms.map_or(FOREVER, Duration::from_millis);
        let ended = timeout(patience, self.pass(front, (count, request), &name)).await;
        self.tell(&format!("request {count}: {ended:?}"));
        if ended.is_err() && request.leaves_ms.is_none() {
            self.wrong(format!("request {count} had no answer"));
        }
        let arrivals = self
            .nodes
            .iter()
            .flat_map(|node| node.world.arrivals(count));
        let arrivals: Vec<String> = arrivals.collect();
        if !request.errand.may_repeat() && arrivals.len() > 1 {
            self.wrong(format!(
                "request {count} is a POST and arrived at {arrivals:?}"
            ));
        }
        let named = self
            .named
            .lock()
            .unwrap()
            .remove(&count)
            .unwrap_or_default();
        if let Some(other) = arrivals.iter().find(|id| !named.contains(*id)) {
            self.wrong(format!(
                "request {count} arrived at {other}, and claims named {named:?}"
            ));
        }
        let is_served = matches!(ended, Ok(Ok(())));
        if is_served && arrivals.is_empty() {
            self.wrong(format!("request {count} was answered by nobody"));
        }
        let counted = match is_served {
            true => &self.counts.served,
            false => &self.counts.refused,
        };
        counted.fetch_add(1, Ordering::Relaxed);
        is_served
    }

    /// Everything that happens, until all requests are over.
    async fn play(self: &Arc<Self>, script: &Script, random: &mut fastrand::Rng) {
        // Everybody has announced what there is.
        sleep(Duration::from_secs(3)).await;
        let began = Instant::now();
        let at = |ms: u64| sleep_until(began + Duration::from_millis(ms));
        let mut running = JoinSet::new();
        for (count, request) in (1..).zip(script.requests.iter().copied()) {
            let (fleet, coming) = (Arc::clone(self), at(request.at_ms));
            let (front, request) = (random.usize(..8), shortened(request));
            running.spawn(async move {
                coming.await;
                fleet.serve(count, front, request).await;
            });
        }
        for (at_ms, name, act) in script.acts.iter().copied() {
            let (fleet, coming) = (Arc::clone(self), at(at_ms % EVENTFUL_MS));
            let host = random.usize(..self.nodes.len());
            running.spawn(async move {
                coming.await;
                fleet.nodes[host].world.act(NAMES[name], act);
            });
        }
        // An instance moves, as far as a directory sees that.
        if random.bool() {
            let (fleet, coming) = (Arc::clone(self), at(random.u64(..EVENTFUL_MS)));
            let name = NAMES[random.usize(..NAMES.len())];
            let to = random.usize(..self.nodes.len());
            running.spawn(async move {
                coming.await;
                for (index, node) in fleet.nodes.iter().enumerate() {
                    let act = if index == to {
                        Act::ComeBack
                    } else {
                        Act::Delete
                    };
                    node.world.act(name, act);
                }
            });
        }
        for _ in 0..random.usize(..8) {
            let trouble = drawn(random);
            let (fleet, coming) = (Arc::clone(self), at(random.u64(..EVENTFUL_MS)));
            running.spawn(async move {
                coming.await;
                fleet.suffers(trouble).await;
            });
        }
        if script.upkeep {
            for node in &self.nodes {
                let (gateway, script) = (Arc::clone(&node.gateway), script.clone());
                self.run(async move { gateway.go_on(&script, began).await });
            }
        }
        while let Some(done) = running.join_next().await {
            done.unwrap();
        }
    }

    /// Nothing is in anybody's way any more.
    async fn quiet(&self) {
        self.tell("quiet");
        self.engine.set_faults(Faults::default());
        self.nodes.iter().for_each(|node| node.world.calm_down());
        sleep(QUIET).await;
        let (entries, _) = read_all(&self.engine, PREFIX).await.unwrap();
        let truth = directory("", false, &self.engine);
        truth.replace(&entries, 1);
        for front in &self.fronts {
            let name = front.own_name();
            if front.lines() != truth.lines() {
                self.wrong(format!("{name} has other routes than are written"));
            }
            for instance in NAMES {
                let (place, written) = (front.place(instance), truth.place(instance));
                if place != written {
                    self.wrong(format!(
                        "{name} finds {instance} at {place:?}, not {written:?}"
                    ));
                }
            }
        }
        for node in &self.nodes {
            for (name, id) in node.world.instances() {
                let key = Key::Claim {
                    host: node.name.clone(),
                    name: name.clone(),
                };
                if !entries.iter().any(|entry| entry.key == key.text()) {
                    self.wrong(format!(
                        "{} has {name} ({id}) and does not claim it",
                        node.name
                    ));
                }
            }
        }
    }

    /// Whatever can be woken is served by a front; they have one table, and so one is as good as another.
    async fn serves_all(&self, errand: Request, random: &mut fastrand::Rng) {
        for (index, name) in NAMES.iter().enumerate() {
            let Place::Peer { host, claim } = self.fronts[0].place(name) else {
                continue;
            };
            let node = self.nodes.iter().find(|node| node.name == host.name);
            let is_fit = || node.is_some_and(|node| node.world.is_fit(&claim.id));
            let (front, mut is_served) = (random.usize(..self.fronts.len()), false);
            // A breaker that was opened before may have to close first.
            for again in 0..4 {
                let count = u32::try_from(1_000 + 10 * index + again).unwrap();
                let request = Request {
                    name: index,
                    ..errand
                };
                is_served = self.serve(count, front, request).await;
                if is_served || !is_fit() {
                    break;
                }
                sleep(Duration::from_secs(60)).await;
            }
            if !is_served && is_fit() {
                self.wrong(format!("{name} is not served by front {front}"));
            }
        }
    }
}

fn shortened(request: Request) -> Request {
    let errand = match request.errand {
        Errand::Upload(ms) => Errand::Upload(ms % LONGEST_MS),
        Errand::Tunnel(ms, quiet) => Errand::Tunnel(ms % LONGEST_MS, quiet),
        Errand::Stream(ms) => Errand::Stream(ms % LONGEST_MS),
        other => other,
    };
    Request { errand, ..request }
}

fn drawn(random: &mut fastrand::Rng) -> Trouble {
    match random.u8(..10) {
        0 => Trouble::Delays(random.u64(..1500)),
        1 | 2 => Trouble::Away(random.bool()),
        3 => Trouble::Breaks,
        4 => Trouble::Compacts,
        5 => Trouble::Saved,
        6 => Trouble::GoesBack,
        7 => Trouble::Removed(random.usize(..ROUTES)),
        _ => Trouble::Written(random.usize(..ROUTES)),
    }
}

/// Plays a history; what went wrong, and the story.
fn play(seed: u64, metrics: &Arc<Metrics>, counts: &Arc<Counts>) -> (Vec<String>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    fastrand::seed(seed);
    runtime.block_on(async {
        let (script, random) = (Script::short(seed), &mut fastrand::Rng::with_seed(!seed));
        let fleet = Arc::new(Fleet::new(&script, random, metrics, counts));
        fleet.play(&script, random).await;
        fleet.quiet().await;
        let last = Request {
            at_ms: 0,
            gateway: 0,
            host: 0,
            name: 0,
            by_id: false,
            errand: Errand::Get,
            forbidden: false,
            patience_ms: 60_000,
            leaves_ms: None,
        };
        fleet.serves_all(last, random).await;
        fleet.stop.cancel();
        fleet
            .tasks
            .lock()
            .unwrap()
            .drain(..)
            .for_each(|task| task.abort());
        for node in &fleet.nodes {
            node.gateway.tasks.close();
            if timeout(FOREVER, node.gateway.tasks.wait()).await.is_err() {
                fleet.wrong("a task did not end".to_owned());
            }
        }
        let restores: usize = fleet
            .nodes
            .iter()
            .map(|node| node.world.all_restores())
            .sum();
        counts.restores.fetch_add(restores, Ordering::Relaxed);
        let wrongs = fleet.nodes.iter().flat_map(|node| node.world.wrongs());
        let story = fleet.nodes.iter().map(|node| node.world.story());
        (wrongs.collect(), story.collect::<Vec<_>>().join("\n"))
    })
}

#[test]
fn every_history_of_a_fleet_ends_well() {
    let counts = Arc::new(Counts::default());
    if let Some(seed) = number("SIMULATION_SEED") {
        let (wrongs, story) = play(seed, &Arc::default(), &counts);
        eprintln!("{story}\n{counts:?}");
        assert!(wrongs.is_empty(), "{wrongs:#?}");
        return;
    }
    let first = number("SIMULATION_FIRST").unwrap_or(0);
    let histories = number("SIMULATION_HISTORIES").unwrap_or(2_000);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let counts = &counts;
            scope.spawn(move || {
                let metrics = Arc::default();
                let all = first + thread..first + histories;
                for seed in all.step_by(usize::try_from(threads).unwrap()) {
                    let (wrongs, story) = play(seed, &metrics, counts);
                    assert!(
                        wrongs.is_empty(),
                        "SIMULATION_SEED={seed}: {wrongs:#?}\n{story}"
                    );
                }
            });
        }
    });
    println!(
        "{histories} histories of a fleet in {:?}: {counts:?}",
        began.elapsed()
    );
    for count in [
        &counts.served,
        &counts.refused,
        &counts.misplaced,
        &counts.restores,
        &counts.went_back,
    ] {
        let least = usize::try_from(histories / 100).unwrap();
        assert!(
            count.load(Ordering::Relaxed) >= least,
            "it is not what is meant: {counts:?}"
        );
    }
}
