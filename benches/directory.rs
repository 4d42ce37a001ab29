//! What a cell's directory costs a front: its copy of a million routes and a million names of 10,000 hosts,
//! and 5,000 changes a second. Run with `cargo bench --bench directory`, with how many routes as an argument,
//! or else for a million. What etcd and the way to it cost is not in it. `cargo test --bench directory` only shows that
//! it runs: with few routes, and for a second.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "bench"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wakegate::config::{FleetConfig, WakeConfig};
use wakegate::fleet::engine::{Change, Entry};
use wakegate::fleet::records::PREFIX;
use wakegate::fleet::{Directory, MemoryEngine, Own, Placement as _};
use wakegate::router::{Route, RouteTable};

/// The gateway's own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const HOSTS: usize = 10_000;
const LOOK_UPS: usize = 1_000_000;
/// Changes a second, and for how many seconds.
const RATE: usize = 5_000;
const SECONDS: usize = 10;
/// Routes where it is only to run.
const FEW: usize = 5_000;
/// As many come together.
const BATCH: usize = 50;

fn main() {
    let named = std::env::args().find_map(|argument| argument.parse().ok());
    // `cargo test` does not say so.
    match std::env::args().any(|argument| argument == "--bench") {
        true => measure(named.unwrap_or(1_000_000), SECONDS, LOOK_UPS),
        false => measure(named.unwrap_or(FEW), 1, FEW),
    }
}

/// Memory in pages, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = text.split(' ').nth(1).unwrap();
    pages.parse::<usize>().unwrap() * rustix::param::page_size()
}

/// This thread's processor time, which others' work leaves as it is.
fn processor() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
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

fn measure(count: usize, seconds: usize, look_ups: usize) {
    let own = Own {
        name: "front".to_owned(),
        is_node: false,
        ..Own::default()
    };
    let (config, wake) = (FleetConfig::default(), WakeConfig::default());
    let engine = Arc::new(MemoryEngine::new());
    let copy = Directory::new(own, &config, &wake, "default", engine).unwrap();
    let before = resident();
    let mut revision = 0;
    let mut next = || {
        revision += 1;
        revision
    };
    let mut entries = Vec::new();
    entries.extend((0..count).map(|number| route(number, 8080, next())));
    entries.extend((0..count).map(|number| claim(number, number % HOSTS, next())));
    entries.extend((0..HOSTS).map(|host| node(host, next())));
    let began = processor();
    let applied = copy.replace(&entries, next());
    let read = processor().saturating_sub(began);
    drop(entries);
    let began = processor();
    let routes = copy.routes();
    let mut table = RouteTable::new(&routes);
    let built = processor().saturating_sub(began);
    drop((routes, applied));
    let bytes = resident().saturating_sub(before);
    println!(
        "{count} routes, {count} names, {HOSTS} hosts: read in {read:.1?}, the table built in {built:.1?}, \
         {} MiB in memory after it",
        bytes / 1024 / 1024
    );

    let mut random = fastrand::Rng::with_seed(7);
    let names = (0..look_ups).map(|_| format!("app-{:07}", random.usize(..count)));
    let names: Vec<String> = names.collect();
    let began = processor();
    for name in &names {
        black_box(copy.place(black_box(name)));
    }
    let took = processor().saturating_sub(began);
    println!(
        "  where a name is: {:.0} ns",
        took.as_secs_f64() * 1e9 / look_ups as f64
    );

    // Ports change, instances move, and new routes come.
    let mut hosts: Vec<usize> = (0..count).map(|number| number % HOSTS).collect();
    let mut fresh = count;
    let (mut lags, began, used) = (Vec::new(), Instant::now(), processor());
    for batch in 0..RATE * seconds / BATCH {
        let mut changes = Vec::with_capacity(BATCH);
        while changes.len() < BATCH {
            let (number, at) = (random.usize(..count), next());
            match random.u32(..4) {
                0 | 1 => {
                    changes.push(Change::Put(route(number, random.usize(1..9000), at)));
                }
                2 => {
                    let to = random.usize(..HOSTS);
                    changes.push(gone(claim(number, hosts[number], at), at));
                    changes.push(Change::Put(claim(number, to, at)));
                    hosts[number] = to;
                }
                _ => {
                    changes.push(Change::Put(route(fresh, 8080, at)));
                    fresh += 1;
                }
            }
        }
        let due = Duration::from_secs_f64((batch * BATCH) as f64 / RATE as f64);
        if let Some(early) = due.checked_sub(began.elapsed()) {
            std::thread::sleep(early);
        }
        let change = copy.apply(&changes).routes;
        // As the gateway does it: whoever looks something up has the table of before.
        let mut changed = table.clone();
        for old in &change.removed {
            changed.remove(old);
        }
        for new in change.added {
            changed.insert(Route::new(new, ()));
        }
        table = changed;
        lags.push(began.elapsed().saturating_sub(due));
    }
    let used = processor().saturating_sub(used);
    lags.sort_unstable();
    let at = |share: usize| lags[(lags.len() - 1) * share / 100];
    println!(
        "  {RATE} changes a second for {seconds} s: {:.1} % of a processor ({:.1} us a change with its making), \
         lag of a batch of {BATCH} p50 {:.1?}, p99 {:.1?}, at most {:.1?}",
        used.as_secs_f64() * 100.0 / seconds as f64,
        used.as_secs_f64() * 1e6 / (RATE * seconds) as f64,
        at(50),
        at(99),
        at(100)
    );
    black_box(table);
}
