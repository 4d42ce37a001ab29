//! What a driver is asked for, and what it says.
//!
//! Guarantees: a [`Handle`] is part of an instance's record on disk.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::state::State;

/// A program to run, and how.
pub(crate) struct Boot {
    pub(crate) id: String,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Whether `program` is our own demo server, wherever the driver keeps that.
    pub(crate) is_hello: bool,
    pub(crate) environment: Vec<(String, String)>,
    /// The port at which the instance's address is to lead to the program.
    pub(crate) port: u16,
    pub(crate) network_enabled: bool,
    /// Whether connections outlive a sleep and hear nothing meanwhile, where the driver can do so.
    pub(crate) keeps_flows: bool,
    /// The program's working directory, unless its environment names another as `PWD`.
    pub(crate) folder: PathBuf,
    /// The file that the program's output goes to.
    pub(crate) log: PathBuf,
    pub(crate) memory_bytes: u64,
    pub(crate) vcpus: u32,
}

/// The result of a start.
#[derive(Debug)]
pub(crate) struct Started {
    /// What of the request could not be honoured, for the instance's log of operations.
    pub(crate) remarks: Vec<String>,
}

/// What became of an instance while no control plane was there.
#[derive(Debug)]
pub(crate) enum Adoption {
    /// It is in this state, and is this driver's again.
    Found(State),
    /// It has gone, for this reason.
    Gone(String),
    /// It is there and does not answer, for this reason; it may be asked again.
    Unsure(String),
}

/// Writes down where an instance runs, before its program begins: it must not begin when that
/// fails.
pub(crate) type Commit<'a> = &'a (dyn Fn(&Handle) -> std::io::Result<()> + Sync);

/// What finds a running instance again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handle {
    /// The process, or 0 where there are only files.
    pub(crate) pid: i32,
    /// The start time, which with the boot id tells the process from a later one with its number.
    pub(super) start_ticks: u64,
    pub(super) boot_id: String,
    /// The address at which it is reached, which is closed while it sleeps.
    pub(crate) address: Option<Ipv4Addr>,
    pub(super) port: u16,
    /// The port that the program learns as `PORT`, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) own_port: Option<u16>,
    #[serde(default)]
    pub(super) keeps_flows: bool,
    /// The process' control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<PathBuf>,
}

/// The resources that an instance has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) memory_rss_bytes: u64,
    pub(crate) memory_vms_bytes: u64,
}

/// The end of a program that nobody asked to end.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) id: String,
    /// The exit code, which nobody knows of an adopted instance.
    pub(crate) code: Option<i32>,
    pub(crate) message: String,
}

/// What happens to an instance without being asked for.
#[derive(Debug)]
pub(crate) enum DriverEvent {
    /// The program of this instance has been started, after a start had returned.
    Started(String),
    /// The program of this instance has ended.
    Ended(Exit),
    /// Something that the owner of this instance should know, for its log of operations.
    Remark(String, String),
}

/// The result of a command in an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandEnd {
    /// The exit code as a shell has it; `None` when it did not end in time.
    pub(crate) code: Option<i32>,
    /// The end of its output.
    pub(crate) output: String,
}

// === impl Handle ===

impl Handle {
    /// The handle of an instance that is found by its files.
    pub(super) fn of_files(address: Option<Ipv4Addr>, port: u16) -> Self {
        Self {
            pid: 0,
            start_ticks: 0,
            boot_id: String::new(),
            address,
            port,
            own_port: None,
            keeps_flows: false,
            group: None,
        }
    }
}
