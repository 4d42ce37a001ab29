//! What a request costs in the gateway's own code while its instance is awake: the route, the lease
//! and what is counted. Run with `make bench`; compare figures of one machine and one run only.

#![allow(clippy::unwrap_used, missing_docs, reason = "bench")]

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use divan::{Bencher, black_box};
use http::{HeaderMap, HeaderValue};
use hypeman::GoDuration;
use wakegate::config::{Variables, load};
use wakegate::names::Hostname;
use wakegate::router::{PathReadings, RouteTable};
use wakegate::telemetry::{LeaseCheck, Metrics, UpstreamUse, WakeKind, trace_id_of};

fn main() {
    divan::main();
}

fn table(hosts: usize) -> RouteTable {
    let mut text = String::new();
    for index in 0..hosts {
        writeln!(
            text,
            "[[route]]\nhost = \"app{index}.example.com\"\ninstance = \"app{index}\""
        )
        .unwrap();
    }
    writeln!(
        text,
        "[[route]]\nhost = \"{{app}}.example.org\"\ninstance = \"{{app}}\""
    )
    .unwrap();
    RouteTable::new(&load("bench", &text, &Variables::default()).unwrap().route)
}

#[divan::bench(args = [10, 1_000, 100_000])]
fn exact_host(bencher: Bencher<'_, '_>, hosts: usize) {
    let (table, host) = (table(hosts), Hostname::parse("app0.example.com").unwrap());
    bencher.bench(|| {
        table
            .find(
                black_box(&host),
                &PathReadings::of(black_box("/v1/things")),
                black_box(80),
            )
            .unwrap()
    });
}

#[divan::bench(args = [10, 100_000])]
fn captured_host(bencher: Bencher<'_, '_>, hosts: usize) {
    let (table, host) = (table(hosts), Hostname::parse("blue.example.org").unwrap());
    bencher.bench(|| {
        table
            .find(
                black_box(&host),
                &PathReadings::of(black_box("/")),
                black_box(80),
            )
            .unwrap()
    });
}

#[divan::bench]
fn unknown_host(bencher: Bencher<'_, '_>) {
    let (table, host) = (table(1_000), Hostname::parse("nobody.example.net").unwrap());
    bencher.bench(|| {
        table
            .find(
                black_box(&host),
                &PathReadings::of(black_box("/")),
                black_box(80),
            )
            .unwrap_err()
    });
}

#[divan::bench]
fn pattern_among_a_hundred_thousand(bencher: Bencher<'_, '_>) {
    let text = (0..100_000).fold(String::new(), |mut text, index| {
        let host = format!("{{app}}.t{index}.example.org");
        writeln!(text, "[[route]]\nhost = \"{host}\"\ninstance = \"{{app}}\"").unwrap();
        text
    });
    let table = RouteTable::new(&load("bench", &text, &Variables::default()).unwrap().route);
    let host = Hostname::parse("blue.t99999.example.org").unwrap();
    bencher.bench(|| {
        table
            .find(
                black_box(&host),
                &PathReadings::of(black_box("/")),
                black_box(80),
            )
            .unwrap()
    });
}

/// Everything that is counted for one warm request, by one thread and by two at once. Samples are
/// folded every so often, as the gateway's upkeep does.
#[divan::bench(threads = [1, 2])]
fn metrics_of_a_request(bencher: Bencher<'_, '_>) {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    let routes = METRICS.set_routes(&[&Arc::from("{app}.example.org/")]);
    let route = routes.first().unwrap();
    let (folded, took) = (AtomicU32::new(0), Duration::from_micros(120));
    bencher.bench(|| {
        METRICS.count_lease(LeaseCheck::Hit);
        METRICS.count_upstream_use(UpstreamUse::Pooled);
        METRICS.count_request(black_box(200), WakeKind::Warm, took);
        route.count(black_box(200), took);
        METRICS.count_bytes(black_box(0), black_box(60));
        if folded.fetch_add(1, Ordering::Relaxed) % 50_000 == 0 {
            METRICS.upkeep();
        }
    });
}

/// What a `traceparent` costs while nothing is traced: its id for the access line.
#[divan::bench]
fn trace_id_of_a_request(bencher: Bencher<'_, '_>) {
    let mut headers = HeaderMap::new();
    let value = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    headers.insert("traceparent", HeaderValue::from_static(value));
    bencher.bench(|| trace_id_of(black_box(&headers)));
}

#[divan::bench]
fn go_duration(bencher: Bencher<'_, '_>) {
    bencher.bench(|| black_box("1h30m0.25s").parse::<GoDuration>().unwrap());
}
