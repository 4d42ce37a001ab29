//! Prints the last lines of an instance's log, then each new one, until the instance goes or ^C.
//!
//! `HYPEMAN_API_KEY=... cargo run --example follow_logs -- INSTANCE`, with `HYPEMAN_BASE_URL` for a
//! server that is not at `http://localhost:4973`.

#![allow(clippy::print_stdout, reason = "it is a program for a terminal")]

use hypeman::{Client, Config, InstanceRef, LogQuery, LogSource};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("which instance?")?;
    let name: InstanceRef = name.parse()?;
    let client = Client::new(&Config::from_env())?;
    let query = LogQuery {
        tail: Some(10),
        follow: true,
        source: LogSource::App,
    };
    let mut lines = client.logs(&name, query).await?;
    while let Some(line) = lines.next().await? {
        println!("{line}");
    }
    Ok(())
}
