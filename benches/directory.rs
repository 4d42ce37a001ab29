//! What a cell's directory costs a front: its copy of a million routes and a million names of 10,000 hosts,
//! and 5,000 changes a second. `cargo bench --bench directory`, with one of these behind `--`: how many routes; `cells`
//! for ten cells of 1,000 hosts, whose copies, ten million routes and names, are all in this one process; `etcd` and how
//! many routes for a real etcd of one member, from which the copy follows. Without the last, what etcd and the way to it cost is not
//! in it. `cargo test --bench directory` only shows that it runs: with few routes, and for a second.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_sign_loss,
    missing_docs,
    unreachable_pub,
    reason = "bench"
)]

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use support::etcd::{Etcd, has_etcd};
use support::eventually_within;
use tokio::task::JoinSet;
use wakegate::config::{FleetConfig, WakeConfig};
use wakegate::fleet::engine::{Change, Engine, Entry, Operation};
use wakegate::fleet::records::PREFIX;
use wakegate::fleet::{Directory, MemoryEngine, Own, Placement as _, Sink, Step, follow};
use wakegate::router::{Route, RouteChange, RouteTable};

/// The gateway's own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const HOSTS: usize = 10_000;
const CELLS: usize = 10;
/// Of one cell.
const ROUTES: usize = 1_000_000;
const LOOK_UPS: usize = 1_000_000;
/// Changes a second, and for how many seconds.
const RATE: usize = 5_000;
const SECONDS: usize = 10;
/// Routes where it is only to run.
const FEW: usize = 5_000;
/// As many come together.
const BATCH: usize = 50;
/// What a transaction of etcd has, and how many are under way at once while it is filled.
const TRANSACTION: usize = 100;
const WRITERS: usize = 8;
/// Within this etcd's copy is there.
const PATIENCE: Duration = Duration::from_secs(240);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let named = arguments.iter().find_map(|argument| argument.parse().ok());
    // `cargo test` does not say so.
    if !has("--bench") {
        let few = Cell::new(named.unwrap_or(FEW), HOSTS);
        return measure(vec![few], 1, FEW);
    }
    if has("etcd") {
        return through_etcd(named.unwrap_or(ROUTES), SECONDS);
    }
    let cells = match has("cells") {
        true => (0..CELLS)
            .map(|_| Cell::new(named.unwrap_or(ROUTES), HOSTS / CELLS))
            .collect(),
        false => vec![Cell::new(named.unwrap_or(ROUTES), HOSTS)],
    };
    measure(cells, SECONDS, LOOK_UPS);
}

/// Memory in pages, in bytes.
fn resident() -> usize {
    resident_of("self")
}

fn resident_of(process: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
    let pages = text.split(' ').nth(1).unwrap();
    pages.parse::<usize>().unwrap() * rustix::param::page_size()
}

/// This thread's processor time, which others' work leaves as it is.
fn processor() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

fn clock(of: ClockId) -> Duration {
    let time = clock_gettime(of);
    Duration::new(
        time.tv_sec.try_into().unwrap(),
        time.tv_nsec.try_into().unwrap(),
    )
}

fn entry(key: &str, value: String, revision: i64) -> Entry {
    Entry {
        key: format!("{PREFIX}{key}"),
        value: value.into_bytes(),
        created: revision,
        modified: revision,
    }
}

fn route(number: usize, port: usize, revision: i64) -> Entry {
    let key = format!("r/op/app-{number:07}.example.com");
    let value = format!("{{\"instance\":\"app-{number:07}\",\"port\":{port}}}");
    entry(&key, value, revision)
}

fn claim(number: usize, host: usize, revision: i64) -> Entry {
    let key = format!("i/h-{host:05}/app-{number:07}");
    entry(&key, format!("{{\"id\":\"id{number:022}\"}}"), revision)
}

fn node(host: usize, revision: i64) -> Entry {
    let address = format!("10.{}.{}.1:7443", host / 256, host % 256);
    let value = format!("{{\"endpoints\":[\"{address}\"],\"zone\":\"z\",\"role\":\"node\"}}");
    entry(&format!("h/h-{host:05}"), value, revision)
}

fn gone(of: Entry, revision: i64) -> Change {
    let key = of.key;
    Change::Deleted { key, revision }
}

/// Makes a change of the table, as the gateway does it: whoever looks something up has the table of before.
fn change_table(table: &mut RouteTable<()>, change: RouteChange) {
    let mut changed = table.clone();
    for old in &change.removed {
        changed.remove(old);
    }
    for new in change.added {
        changed.insert(Route::new(new, ()));
    }
    *table = changed;
}

/// What is true of a cell, and what comes of it by and by.
struct World {
    /// The host of each name.
    hosts: Vec<usize>,
    /// How many hosts there are, and routes.
    all_hosts: usize,
    routes: usize,
    revision: i64,
    random: fastrand::Rng,
}

impl World {
    fn new(count: usize, hosts: usize) -> Self {
        Self {
            hosts: (0..count).map(|number| number % hosts).collect(),
            all_hosts: hosts,
            routes: count,
            revision: 0,
            random: fastrand::Rng::with_seed(7),
        }
    }

    fn next(&mut self) -> i64 {
        self.revision += 1;
        self.revision
    }

    fn entries(&mut self) -> Vec<Entry> {
        let (count, hosts) = (self.hosts.len(), self.all_hosts);
        let mut entries = Vec::with_capacity(2 * count + hosts);
        entries.extend((0..count).map(|number| route(number, 8080, self.next())));
        entries.extend((0..count).map(|number| claim(number, number % hosts, self.next())));
        entries.extend((0..hosts).map(|host| node(host, self.next())));
        entries
    }

    /// Ports change, instances move, and new routes come.
    fn changes(&mut self, count: usize) -> Vec<Change> {
        let mut changes = Vec::with_capacity(count + 1);
        while changes.len() < count {
            let (number, at) = (self.random.usize(..self.hosts.len()), self.next());
            match self.random.u32(..4) {
                0 | 1 => {
                    let port = self.random.usize(1..9000);
                    changes.push(Change::Put(route(number, port, at)));
                }
                2 => {
                    let to = self.random.usize(..self.all_hosts);
                    let from = std::mem::replace(&mut self.hosts[number], to);
                    if from == to {
                        continue;
                    }
                    changes.push(gone(claim(number, from, at), at));
                    changes.push(Change::Put(claim(number, to, at)));
                }
                _ => {
                    changes.push(Change::Put(route(self.routes, 8080, at)));
                    self.routes += 1;
                }
            }
        }
        changes
    }
}

fn directory(engine: Arc<dyn Engine>) -> Arc<Directory> {
    let own = Own {
        name: "front".to_owned(),
        is_node: false,
        ..Own::default()
    };
    let (config, wake) = (FleetConfig::default(), WakeConfig::default());
    Directory::new(own, &config, &wake, "default", engine).unwrap()
}

/// A front's copy of a cell, and its table.
struct Cell {
    world: World,
    copy: Arc<Directory>,
    table: RouteTable<()>,
    /// Bytes, and how long it took to read everything and to build the table.
    bytes: usize,
    read: Duration,
    built: Duration,
}

impl Cell {
    fn new(count: usize, hosts: usize) -> Self {
        let mut world = World::new(count, hosts);
        let copy = directory(Arc::new(MemoryEngine::new()));
        let before = resident();
        let entries = world.entries();
        let (began, revision) = (processor(), world.next());
        let applied = copy.replace(&entries, revision);
        let read = processor().saturating_sub(began);
        drop(entries);
        let began = processor();
        let routes = copy.routes();
        let table = RouteTable::new(&routes);
        let built = processor().saturating_sub(began);
        drop((routes, applied));
        Self {
            world,
            copy,
            table,
            bytes: resident().saturating_sub(before),
            read,
            built,
        }
    }
}

fn micro(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e7).round() / 10.0
}

fn measure(mut cells: Vec<Cell>, seconds: usize, look_ups: usize) {
    let names = |cell: &Cell| cell.world.hosts.len();
    let (all, hosts): (usize, usize) = (
        cells.iter().map(names).sum(),
        cells.iter().map(|cell| cell.world.all_hosts).sum(),
    );
    let bytes: usize = cells.iter().map(|cell| cell.bytes).sum();
    let (read, built): (Duration, Duration) = (
        cells.iter().map(|cell| cell.read).sum(),
        cells.iter().map(|cell| cell.built).sum(),
    );
    println!(
        "{all} routes, {all} names, {hosts} hosts in {} cells: read in {read:.1?}, the table built in {built:.1?}, \
         {} MiB in memory after it",
        cells.len(),
        bytes / 1024 / 1024
    );

    let mut random = fastrand::Rng::with_seed(7);
    let asked = (0..look_ups).map(|_| {
        let cell = random.usize(..cells.len());
        (
            cell,
            format!("app-{:07}", random.usize(..names(&cells[cell]))),
        )
    });
    let asked: Vec<(usize, String)> = asked.collect();
    let began = processor();
    for (cell, name) in &asked {
        black_box(cells[*cell].copy.place(black_box(name)));
    }
    let took = processor().saturating_sub(began);
    let look_up = took.as_secs_f64() * 1e9 / look_ups as f64;
    println!("  where a name is: {look_up:.0} ns");

    // In turn, so that each cell has its part.
    let (mut lags, began, used) = (Vec::new(), Instant::now(), processor());
    for batch in 0..RATE * seconds / BATCH {
        let turn = batch % cells.len();
        let cell = &mut cells[turn];
        let changes = cell.world.changes(BATCH);
        let due = Duration::from_secs_f64((batch * BATCH) as f64 / RATE as f64);
        if let Some(early) = due.checked_sub(began.elapsed()) {
            std::thread::sleep(early);
        }
        change_table(&mut cell.table, cell.copy.apply(&changes).routes);
        lags.push(began.elapsed().saturating_sub(due));
    }
    let used = processor().saturating_sub(used);
    lags.sort_unstable();
    let at = |share: usize| lags[(lags.len() - 1) * share / 100];
    let share = used.as_secs_f64() * 100.0 / seconds as f64;
    println!(
        "  {RATE} changes a second for {seconds} s: {share:.1} % of a processor ({:.1} us a change with its making), \
         lag of a batch of {BATCH} p50 {:.1?}, p99 {:.1?}, at most {:.1?}",
        used.as_secs_f64() * 1e6 / (RATE * seconds) as f64,
        at(50),
        at(99),
        at(100)
    );
    let row = json!({
        "routes": all, "hosts": hosts, "cells": cells.len(), "mib": bytes / 1024 / 1024,
        "read_ms": read.as_millis(), "built_ms": built.as_millis(), "look_up_ns": look_up.round(),
        "processor_percent": (share * 10.0).round() / 10.0,
        "lag_us": [micro(at(50)), micro(at(99)), micro(at(100))],
    });
    println!("{row}");
    black_box(&cells);
}

// === By way of a real etcd ===

/// The table, and which revision it had when.
#[derive(Default)]
struct Follower {
    table: Mutex<Option<RouteTable<()>>>,
    copy: Mutex<Option<Arc<Directory>>>,
    had: Mutex<Vec<(i64, Instant)>>,
}

impl Sink for Follower {
    fn take(&self, step: Step<'_>) {
        let change = step().routes;
        let mut table = self.table.lock().unwrap();
        let copy = self.copy.lock().unwrap().clone().unwrap();
        match &mut *table {
            Some(table) => change_table(table, change),
            None => *table = Some(RouteTable::new(&copy.routes())),
        }
        let had = (copy.known(), Instant::now());
        self.had.lock().unwrap().push(had);
    }
}

fn operation(change: Change) -> Operation {
    match change {
        Change::Put(Entry { key, value, .. }) => Operation::Put {
            key,
            value,
            lease: 0,
        },
        Change::Deleted { key, .. } => Operation::Delete(key),
    }
}

/// Writes at the rate; returns the revision of each transaction and when it was due, and the processor time of that.
async fn write(
    engine: Arc<dyn Engine>,
    mut world: World,
    seconds: usize,
) -> (Vec<(i64, Instant)>, Duration) {
    let (used, began) = (processor(), Instant::now());
    let (mut written, mut under_way) = (Vec::new(), JoinSet::new());
    for batch in 0..RATE * seconds / BATCH {
        let due = began + Duration::from_secs_f64((batch * BATCH) as f64 / RATE as f64);
        // etcd refuses a transaction with a key twice.
        let changes = world.changes(BATCH).into_iter();
        let last: BTreeMap<String, Change> = changes
            .map(|change| (change.key().to_owned(), change))
            .collect();
        let operations = last.into_values().map(operation).collect();
        tokio::time::sleep_until(due.into()).await;
        // A few at once, as by several nodes.
        if under_way.len() == WRITERS {
            written.extend(under_way.join_next().await.map(Result::unwrap));
        }
        let engine = Arc::clone(&engine);
        under_way.spawn(async move {
            let outcome = engine.commit(Vec::new(), operations).await.unwrap();
            (outcome.revision, due)
        });
    }
    written.extend(under_way.join_all().await);
    (written, processor().saturating_sub(used))
}

fn through_etcd(count: usize, seconds: usize) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if has_etcd() {
        runtime.block_on(follow_etcd(count, seconds));
    }
    runtime.shutdown_background();
}

async fn follow_etcd(count: usize, seconds: usize) {
    let etcd = Etcd::start(1).await;
    let engine: Arc<dyn Engine> = Arc::new(etcd.engine());
    let mut world = World::new(count, HOSTS);
    let began = Instant::now();
    let mut filling = JoinSet::new();
    let mut entries = world.entries().into_iter().map(Change::Put).map(operation);
    loop {
        let some: Vec<Operation> = entries.by_ref().take(TRANSACTION).collect();
        if some.is_empty() {
            break;
        }
        if filling.len() == WRITERS {
            filling.join_next().await.unwrap().unwrap();
        }
        let engine = Arc::clone(&engine);
        filling.spawn(async move {
            engine.commit(Vec::new(), some).await.unwrap();
        });
    }
    filling.join_all().await;
    drop(entries);
    let etcd_bytes = resident_of(&etcd.pid(0).to_string());
    println!(
        "{count} routes, {count} names, {HOSTS} hosts, written to etcd in {:.1?}; it has {} MiB in memory",
        began.elapsed(),
        etcd_bytes / 1024 / 1024
    );

    let copy = directory(Arc::new(etcd.engine()));
    let follower = Arc::new(Follower::default());
    *follower.copy.lock().unwrap() = Some(Arc::clone(&copy));
    let (began, used) = (Instant::now(), clock(ClockId::ProcessCPUTime));
    let sink = Arc::clone(&follower) as Arc<dyn Sink>;
    let following = support::spawn(follow(Arc::clone(&copy), sink));
    eventually_within(PATIENCE, "everything is read", async || {
        follower.table.lock().unwrap().is_some()
    })
    .await;
    let (read, read_used) = (
        began.elapsed(),
        clock(ClockId::ProcessCPUTime).saturating_sub(used),
    );
    println!("  read from etcd in {read:.1?}, with {read_used:.1?} of processor time");

    let used = clock(ClockId::ProcessCPUTime);
    // In a thread of its own, so that its processor time can be told.
    let writing = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(write(engine, world, seconds))
    });
    let (mut written, by_writer) = writing.await.unwrap();
    written.sort_unstable();
    let (last, _) = *written.last().unwrap();
    eventually_within(PATIENCE, "all of it is known", async || {
        copy.known() >= last
    })
    .await;
    let used = clock(ClockId::ProcessCPUTime).saturating_sub(used + by_writer);
    let had = std::mem::take(&mut *follower.had.lock().unwrap());
    let mut lags: Vec<Duration> = written
        .iter()
        .filter_map(|(revision, due)| {
            let place = had.partition_point(|(known, _)| known < revision);
            had.get(place)
                .map(|(_, at)| at.saturating_duration_since(*due))
        })
        .collect();
    lags.sort_unstable();
    let at = |share: usize| lags[(lags.len() - 1) * share / 100];
    let share = used.as_secs_f64() * 100.0 / seconds as f64;
    println!(
        "  {RATE} changes a second for {seconds} s, {BATCH} a transaction: {share:.1} % of a processor at the front, \
         lag from when a transaction was due until the table has it p50 {:.1?}, p99 {:.1?}, at most {:.1?}",
        at(50),
        at(99),
        at(100)
    );
    let row = json!({
        "etcd_routes": count, "etcd_mib": etcd_bytes / 1024 / 1024, "read_ms": read.as_millis(), "read_processor_ms": read_used.as_millis(),
        "processor_percent": (share * 10.0).round() / 10.0,
        "lag_us": [micro(at(50)), micro(at(99)), micro(at(100))],
    });
    println!("{row}");
    following.abort();
}
