//! How the local control plane runs an instance.
//!
//! Guarantees of every driver: standby keeps memory and closes the instance's address (new
//! connections do not reach it, open ones are cut), restore undoes both; an instance outlives the
//! control plane, and can be adopted from its [`Handle`].

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use serde::{Deserialize, Serialize};

use super::address_proxy::Traffic;
use super::connections::ConnectionTable;
use super::error::DriverError;
use crate::path_info::PathInfo;
use crate::state::State;

/// What to run.
pub(crate) struct Boot {
    pub(crate) id: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Whether `program` is our own demo server, wherever the driver keeps that.
    pub(crate) is_hello: bool,
    pub(crate) environment: Vec<(String, String)>,
    /// The guest port that is looked for first.
    pub(crate) port: u16,
    pub(crate) network_enabled: bool,
    /// Working directory.
    pub(crate) folder: PathBuf,
    /// Where the program's output goes.
    pub(crate) log: PathBuf,
    pub(crate) memory_bytes: u64,
    pub(crate) vcpus: u32,
}

/// What came of a start.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) handle: Handle,
    /// What of the request could not be honoured, for the instance's log of operations.
    pub(crate) remarks: Vec<String>,
}

/// What finds a running instance again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handle {
    /// 0 where there is no process, only files.
    pub(crate) pid: i32,
    /// With the boot id, tells the process from a later one with its number.
    pub(super) start_ticks: u64,
    pub(super) boot_id: String,
    /// Where it is reached; closed while asleep.
    pub(crate) address: Option<Ipv4Addr>,
    pub(super) port: u16,
    /// Its control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<PathBuf>,
}

/// Resources used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) memory_rss_bytes: u64,
    pub(crate) memory_vms_bytes: u64,
}

/// An instance's program has ended by itself.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) id: String,
    /// Of an adopted instance nobody knows the code.
    pub(crate) code: Option<i32>,
    pub(crate) message: String,
}

/// What happens to an instance without being asked for.
#[derive(Debug)]
pub(crate) enum Happening {
    /// The program of this instance has been started, after [`Driver::start`] had returned.
    Started(String),
    /// Its program has ended.
    Ended(Exit),
}

/// What a command in an instance came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandEnd {
    /// As a shell has it; `None` when it did not end in time.
    pub(crate) code: Option<i32>,
    /// The end of what it said.
    pub(crate) output: String,
}

// === impl Handle ===

impl Handle {
    /// Of an instance that is found by its files.
    pub(super) fn of_files(address: Option<Ipv4Addr>, port: u16) -> Self {
        Self {
            pid: 0,
            start_ticks: 0,
            boot_id: String::new(),
            address,
            port,
            group: None,
        }
    }
}

/// Runs instances.
pub(crate) trait Driver: Send + Sync + fmt::Debug {
    /// In `/capabilities` and in messages.
    fn name(&self) -> &'static str;

    /// As the contract names it, where it is a hypervisor.
    fn hypervisor(&self) -> Option<&'static str> {
        None
    }

    /// What it can do on this machine, in the words of `/capabilities`.
    fn features(&self) -> Vec<&'static str>;

    /// Whether a program's start is told by [`Happening::Started`], some time after [`Self::start`].
    fn starts_later(&self) -> bool {
        false
    }

    fn start<'a>(&'a self, boot: &'a Boot) -> BoxFuture<'a, Result<Started, DriverError>>;

    /// Asks the program to end, and ends it after `grace`. Not an [`Exit`].
    fn stop<'a>(&'a self, id: &'a str, grace: Duration) -> BoxFuture<'a, ()>;

    fn standby<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), DriverError>>;

    fn restore<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), DriverError>>;

    /// Takes over what an earlier control plane left; `None` when it is gone.
    fn adopt<'a>(&'a self, id: &'a str, handle: &'a Handle) -> BoxFuture<'a, Option<State>>;

    /// Whether memory can be kept apart from its instance, by [`Self::keep`] and [`Self::take`].
    fn keeps_memory(&self) -> bool {
        false
    }

    /// Copies an instance's memory, awake or asleep, into the folder `into`, which does not exist.
    fn keep<'a>(&'a self, _id: &'a str, _into: &'a Path) -> BoxFuture<'a, Result<(), DriverError>> {
        std::future::ready(Err(DriverError::Unsupported(self.name()))).boxed()
    }

    /// Makes `id` a sleeping instance with the memory in `from` and an address of its own, or the
    /// one that it `had`.
    fn take<'a>(
        &'a self,
        _id: &'a str,
        _from: &'a Path,
        _had: Option<&'a Handle>,
        _port: u16,
    ) -> BoxFuture<'a, Result<Handle, DriverError>> {
        std::future::ready(Err(DriverError::Unsupported(self.name()))).boxed()
    }

    /// Ends what the driver itself has running; instances go on.
    fn end(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }

    /// What is at a path, as the instance's program sees it.
    fn look<'a>(
        &'a self,
        id: &'a str,
        path: &'a str,
        follow: bool,
    ) -> BoxFuture<'a, Result<PathInfo, DriverError>>;

    /// Runs a command beside the instance's program, to its end or for `patience`.
    fn run<'a>(
        &'a self,
        id: &'a str,
        words: &'a [String],
        folder: Option<&'a str>,
        patience: Duration,
    ) -> BoxFuture<'a, Result<CommandEnd, DriverError>>;

    fn usage(&self, id: &str) -> Usage;

    /// The instance's connections and bytes.
    fn traffic(&self, id: &str) -> Option<Arc<Traffic>>;

    /// Every connection to instances that the machine knows of.
    fn connections(&self) -> std::io::Result<ConnectionTable> {
        ConnectionTable::read()
    }

    /// How instances are reached, in the words of `/capabilities`: model, gateway, subnet.
    fn network(&self) -> (&'static str, Option<String>, &'static str) {
        ("nat", None, "127.77.0.0/16")
    }
}
