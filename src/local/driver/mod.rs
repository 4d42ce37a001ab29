//! How the local control plane runs an instance.
//!
//! Guarantees of every driver: standby keeps memory and closes the instance's address (new
//! connections do not reach it, open ones are cut), restore undoes both; an instance outlives the
//! control plane, and can be adopted from its [`Handle`].

mod address;
mod process;
mod procfs;

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

pub(super) use address::Traffic;
pub(super) use process::ProcessDriver;

use super::instance::State;

/// What to run.
pub(super) struct Boot {
    pub(super) id: String,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    /// The guest port that is looked for first.
    pub(super) port: u16,
    pub(super) network_enabled: bool,
    /// Working directory.
    pub(super) folder: PathBuf,
    /// Where the program's output goes.
    pub(super) log: PathBuf,
}

/// What finds a running instance again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Handle {
    pub(super) pid: i32,
    /// With the boot id, tells the process from a later one with its number.
    start_ticks: u64,
    boot_id: String,
    /// Where it is reached; closed while asleep.
    pub(super) address: Option<Ipv4Addr>,
    port: u16,
}

/// Resources used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) memory_rss_bytes: u64,
    pub(super) memory_vms_bytes: u64,
}

/// An instance's program has ended by itself.
#[derive(Debug)]
pub(super) struct Exit {
    pub(super) id: String,
    /// Of an adopted instance nobody knows the code.
    pub(super) code: Option<i32>,
    pub(super) message: String,
}

/// A driver could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum DriverError {
    #[error("cannot run `{}`: {source}", program.display())]
    Spawn {
        program: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot prepare the instance's files: {0}")]
    Files(std::io::Error),
    #[error("no free address in 127.77.0.0/16")]
    NoAddress,
    #[error("the instance's process is gone")]
    Gone,
    #[error("the instance's process did not freeze within a second")]
    NotFrozen,
    #[error("cannot signal the instance's process: {0}")]
    Signal(std::io::Error),
}

/// Runs instances.
pub(super) trait Driver: Send + Sync + fmt::Debug {
    fn start<'a>(&'a self, boot: &'a Boot) -> BoxFuture<'a, Result<Handle, DriverError>>;

    /// Asks the program to end, and ends it after `grace`. Not an [`Exit`].
    fn stop<'a>(&'a self, id: &'a str, grace: Duration) -> BoxFuture<'a, ()>;

    fn standby<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), DriverError>>;

    fn restore<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), DriverError>>;

    /// Takes over what an earlier control plane left; `None` when it is gone.
    fn adopt<'a>(&'a self, id: &'a str, handle: &'a Handle) -> BoxFuture<'a, Option<State>>;

    fn usage(&self, id: &str) -> Usage;

    /// The instance's connections and bytes.
    fn traffic(&self, id: &str) -> Option<Arc<Traffic>>;
}
