//! Wakes an instance, waits until it runs, and keeps it awake for one idle time.
//!
//! `HYPEMAN_API_KEY=... cargo run --example wake -- INSTANCE`, with `HYPEMAN_BASE_URL` for a server
//! that is not at `http://localhost:4973`.

#![allow(clippy::print_stdout, reason = "it is a program for a terminal")]

use std::time::Duration;

use hypeman::wire::InstanceState;
use hypeman::{Client, Config, InstanceRef};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("which instance?")?;
    let name: InstanceRef = name.parse()?;
    let client = Client::new(&Config::from_env())?;

    // Nothing happens to an instance that is awake, so there is no need to look first.
    let mut state = client.restore_instance(&name).await?.state;
    while state == InstanceState::Initializing {
        let patience = Duration::from_secs(30);
        let running = InstanceState::Running;
        let outcome = client.wait_instance(&name, &running, patience).await?;
        // Not `timed_out`: a wait also ends when the state cannot be reached any more.
        state = outcome.state;
    }
    if state != InstanceState::Running {
        return Err(format!("{name} is {state}").into());
    }

    match client.auto_standby_hold(&name).await {
        Ok(status) => match status.hold_until {
            Some(end) => println!("{name} runs, and does not sleep before {end}"),
            None => println!("{name} runs; auto-standby is {}", status.status),
        },
        Err(error) if error.is_missing_operation() => {
            println!("{name} runs; this server is too old for holds");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
