//! What many routes cost: memory, a look-up, a change, and the reading of their file. Run with
//! `cargo bench --bench routes`, with how many routes as an argument, or else for 100,000 and for a
//! million.

#![allow(
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "bench"
)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use wakegate::config::{
    HostPattern, InstanceTemplate, RouteConfig, RoutePolicy, Variables, WakeConfig, load,
};
use wakegate::names::{Hostname, PlaneIndex};
use wakegate::router::{PathReadings, Route, RouteTable};

/// The gateway's own.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Look-ups and changes of each kind.
const LOOK_UPS: usize = 1_000_000;
const CHANGES: usize = 20_000;

fn main() {
    let named = std::env::args().filter_map(|argument| argument.parse().ok());
    let mut counts: Vec<usize> = named.collect();
    if counts.is_empty() {
        counts = vec![100_000, 1_000_000];
    }
    for count in counts {
        measure(count);
    }
}

/// Memory in pages, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = text.split(' ').nth(1).unwrap();
    pages.parse::<usize>().unwrap() * rustix::param::page_size()
}

/// This thread's processor time, which others' work leaves as it is.
fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap(),
        time.tv_nsec.try_into().unwrap(),
    )
}

fn since(began: Duration) -> Duration {
    now().saturating_sub(began)
}

fn host(number: usize) -> String {
    format!("app-{number:06}.example.com")
}

fn each(took: Duration, count: usize) -> f64 {
    took.as_secs_f64() * 1e9 / count as f64
}

fn measure(count: usize) {
    let before = resident();
    let policy = Arc::new(RoutePolicy::new(PlaneIndex(0), &WakeConfig::default()));
    let config = |number: usize| {
        let host = HostPattern::parse(&host(number)).unwrap();
        let instance = InstanceTemplate::parse(&format!("app-{number:06}"), &host).unwrap();
        let route = RouteConfig::new(&host, instance, 8080, Arc::clone(&policy));
        Arc::new(route)
    };
    let routes: Vec<_> = (0..count).map(config).collect();
    let began = now();
    let mut table = RouteTable::new(&routes);
    let built = since(began);
    let bytes = resident().saturating_sub(before) / count;
    println!("{count} routes: {bytes} bytes each, the table built in {built:.0?}");

    let mut random = fastrand::Rng::with_seed(7);
    let mut took = Duration::ZERO;
    for _ in 0..LOOK_UPS / 1_000 {
        let hosts = (0..1_000).map(|_| Hostname::parse(&host(random.usize(..count))).unwrap());
        let hosts: Vec<_> = hosts.collect();
        let began = now();
        for host in &hosts {
            black_box(table.find(black_box(host), &PathReadings::of("/v1/things"), 80)).unwrap();
        }
        took += since(began);
    }
    println!("  a look-up of any: {:.0} ns", each(took, LOOK_UPS));

    let some: Vec<_> = (0..1_000)
        .map(|_| Hostname::parse(&host(random.usize(..count))).unwrap())
        .collect();
    let began = now();
    for number in 0..LOOK_UPS {
        let host = &some[number * 7 % some.len()];
        black_box(table.find(black_box(host), &PathReadings::of("/v1/things"), 80)).unwrap();
    }
    println!(
        "  a look-up of one in use: {:.0} ns",
        each(since(began), LOOK_UPS)
    );

    // As the gateway does it: whoever looks something up has the table of before.
    let mut took = Duration::ZERO;
    for _ in 0..CHANGES {
        let config = &routes[random.usize(..count)];
        let began = now();
        let mut next = table.clone();
        next.remove(config);
        next.insert(Route::new(Arc::clone(config), ()));
        table = next;
        took += since(began);
    }
    println!("  a change: {:.1} µs", each(took, CHANGES) / 1e3);

    let mut text = String::new();
    for number in 0..count {
        let host = host(number);
        writeln!(
            text,
            "[[route]]\nhost = \"{host}\"\ninstance = \"app-{number:06}\""
        )
        .unwrap();
    }
    let began = now();
    let read = load("bench", &text, &Variables::default()).unwrap();
    let loaded = since(began);
    let began = now();
    black_box(RouteTable::new(&read.route));
    println!(
        "  reading their file: {loaded:.0?}, the table of it: {:.0?}",
        since(began)
    );
}
