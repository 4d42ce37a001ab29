//! What a request costs in the gateway's own code while its instance is awake: the route and the
//! lease. Run with `make bench`; compare figures of one machine and one run only.

#![allow(clippy::unwrap_used, missing_docs, reason = "bench")]

use std::fmt::Write as _;

use divan::{Bencher, black_box};
use wakegate::config::{Variables, load};
use wakegate::names::{GoDuration, Hostname};
use wakegate::router::RouteTable;

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
            .find(black_box(&host), black_box("/v1/things"), black_box(80))
            .unwrap()
    });
}

#[divan::bench(args = [10, 100_000])]
fn captured_host(bencher: Bencher<'_, '_>, hosts: usize) {
    let (table, host) = (table(hosts), Hostname::parse("blue.example.org").unwrap());
    bencher.bench(|| {
        table
            .find(black_box(&host), black_box("/"), black_box(80))
            .unwrap()
    });
}

#[divan::bench]
fn unknown_host(bencher: Bencher<'_, '_>) {
    let (table, host) = (table(1_000), Hostname::parse("nobody.example.net").unwrap());
    bencher.bench(|| {
        table
            .find(black_box(&host), black_box("/"), black_box(80))
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
            .find(black_box(&host), black_box("/"), black_box(80))
            .unwrap()
    });
}

#[divan::bench]
fn go_duration(bencher: Bencher<'_, '_>) {
    bencher.bench(|| black_box("1h30m0.25s").parse::<GoDuration>().unwrap());
}
