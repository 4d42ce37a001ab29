//! Lists the instances of a server, with the time that each call took.
//!
//! `HYPEMAN_API_KEY=... cargo run --example list_instances -- [STATE]`, with `HYPEMAN_BASE_URL` for
//! a server that is not at `http://localhost:4973`.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a program for a terminal"
)]

use std::time::Duration;

use hypeman::wire::{InstanceState, ListInstances};
use hypeman::{Attempt, ClientBuilder, Config, Observer, Outcome};

struct Stopwatch;

impl Observer for Stopwatch {
    fn attempt_ended(&self, attempt: Attempt, outcome: Outcome, duration: Duration) {
        let Attempt { operation, number } = attempt;
        eprintln!("{operation}, attempt {number}: {outcome} after {duration:.1?}");
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = ClientBuilder::from(Config::from_env())
        .observer(Stopwatch)
        .build()?;
    let state = std::env::args().nth(1);
    let filter = ListInstances {
        state: state.as_deref().map(InstanceState::from),
        ..ListInstances::default()
    };
    for instance in client.list_instances(&filter).await? {
        let address = instance.network.and_then(|network| network.ip);
        let address = address.as_deref().unwrap_or("-");
        println!("{:<32} {:<13} {address}", instance.name, instance.state);
    }
    Ok(())
}
