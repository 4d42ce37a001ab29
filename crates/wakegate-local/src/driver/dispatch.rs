//! The driver of this control plane: one of those that there are.
//!
//! Guarantees of every driver: standby keeps memory and closes the instance's address (new
//! connections do not reach it, open ones are cut), restore undoes both; an instance outlives the
//! control plane, and can be adopted from its [`Handle`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::connections::ConnectionTable;
use super::contract::{Adoption, Boot, CommandEnd, Commit, Handle, Started, Usage};
use super::error::DriverError;
use super::process::ProcessDriver;
use super::qemu::QemuDriver;
use super::traffic::Traffic;
use crate::path_info::PathInfo;

/// The driver that runs all instances.
#[derive(Debug)]
pub(crate) enum Driver {
    /// Instances are processes of this machine.
    Process(ProcessDriver),
    /// Instances are virtual machines.
    Qemu(QemuDriver),
}

// === impl Driver ===

impl Driver {
    /// Its name in `/capabilities` and in messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Process(_) => "process",
            Self::Qemu(_) => "qemu",
        }
    }

    /// The name that the contract has for it, where it is a hypervisor.
    pub(crate) fn hypervisor(&self) -> Option<&'static str> {
        match self {
            Self::Process(_) => None,
            Self::Qemu(_) => Some("qemu-microvm"),
        }
    }

    /// What it can do on this machine, in the words of `/capabilities`.
    pub(crate) fn features(&self) -> Vec<&'static str> {
        match self {
            Self::Process(driver) => driver.features(),
            Self::Qemu(driver) => driver.features(),
        }
    }

    /// Whether a program's start is an event of its own, some time after [`Self::start`].
    pub(crate) fn starts_later(&self) -> bool {
        match self {
            Self::Process(_) => false,
            Self::Qemu(_) => true,
        }
    }

    /// Starts an instance's program, or what its program will run in; only once `commit` has
    /// written down what would find it again. A start that fails leaves nothing.
    pub(crate) async fn start(
        &self,
        boot: &Boot,
        commit: Commit<'_>,
    ) -> Result<Started, DriverError> {
        match self {
            Self::Process(driver) => driver.start(boot, commit).await,
            Self::Qemu(driver) => driver.start(boot, commit).await,
        }
    }

    /// Tells an adopted instance that is coming up what its program is, once more.
    pub(crate) fn order(&self, boot: &Boot) {
        match self {
            // It was started with it.
            Self::Process(_) => {}
            Self::Qemu(driver) => driver.order(boot),
        }
    }

    /// Ends what an earlier control plane has left below the state directory `root`, but what was
    /// adopted.
    pub(crate) async fn end_remnants(&self, root: &Path) {
        match self {
            Self::Process(driver) => driver.end_remnants(root).await,
            Self::Qemu(driver) => driver.end_remnants(root).await,
        }
    }

    /// Whether the instance has a process that has not ended.
    pub(crate) fn is_alive(&self, id: &str) -> bool {
        match self {
            Self::Process(driver) => driver.is_alive(id),
            Self::Qemu(driver) => driver.is_alive(id),
        }
    }

    /// Asks the program to end, and ends it after `grace`; also what was not adopted. This is no
    /// event.
    pub(crate) async fn stop(&self, id: &str, grace: Duration) {
        match self {
            Self::Process(driver) => driver.stop(id, grace).await,
            Self::Qemu(driver) => driver.stop(id, grace).await,
        }
    }

    /// Stops the instance where it is, keeps its memory, and closes its address.
    pub(crate) async fn standby(&self, id: &str) -> Result<(), DriverError> {
        match self {
            Self::Process(driver) => driver.standby(id).await,
            Self::Qemu(driver) => driver.standby(id).await,
        }
    }

    /// Lets the instance go on from where it stopped, and opens its address.
    pub(crate) async fn restore(&self, id: &str) -> Result<(), DriverError> {
        match self {
            Self::Process(driver) => driver.restore(id),
            Self::Qemu(driver) => driver.restore(id).await,
        }
    }

    /// Takes over what an earlier control plane left.
    pub(crate) async fn adopt(&self, id: &str, handle: &Handle) -> Adoption {
        match self {
            Self::Process(driver) => driver.adopt(id, handle),
            Self::Qemu(driver) => driver.adopt(id).await,
        }
    }

    /// Whether memory can be kept apart from its instance, by [`Self::export`].
    pub(crate) fn keeps_memory(&self) -> bool {
        match self {
            Self::Process(_) => false,
            Self::Qemu(_) => true,
        }
    }

    /// Copies an instance's memory, awake or asleep, into the folder `into`, which does not exist.
    pub(crate) async fn export(&self, id: &str, into: &Path) -> Result<(), DriverError> {
        match self {
            Self::Process(_) => Err(DriverError::Unsupported(self.name())),
            Self::Qemu(driver) => driver.export(id, into).await,
        }
    }

    /// Copies a memory that was exported into the folder `into`, which does not exist.
    pub(crate) async fn copy(&self, memory: &Path, into: &Path) -> Result<(), DriverError> {
        match self {
            Self::Process(_) => Err(DriverError::Unsupported(self.name())),
            Self::Qemu(driver) => driver.copy(memory, into).await,
        }
    }

    /// Prepares an exported memory for an instance, with an address of its own or that of its
    /// `former` handle; the handle is to be in the instance's record when the memory is in place.
    pub(crate) fn prepare(
        &self,
        memory: &Path,
        former: Option<&Handle>,
        port: u16,
    ) -> Result<Handle, DriverError> {
        match self {
            Self::Process(_) => Err(DriverError::Unsupported(self.name())),
            Self::Qemu(driver) => driver.prepare(memory, former, port),
        }
    }

    /// Lets go of a sleeping instance whose memory is about to be replaced; nobody reads or writes
    /// that any more.
    pub(crate) async fn release(&self, id: &str) {
        match self {
            Self::Process(_) => {}
            Self::Qemu(driver) => driver.release(id).await,
        }
    }

    /// Makes `id`, whose memory is in its place, a sleeping instance of this driver's.
    pub(crate) fn put_asleep(&self, id: &str) -> Result<(), DriverError> {
        match self {
            Self::Process(_) => Err(DriverError::Unsupported(self.name())),
            Self::Qemu(driver) => driver.put_asleep(id),
        }
    }

    /// Ends what the driver itself has running; instances go on.
    pub(crate) async fn end(&self) {
        match self {
            Self::Process(_) => {}
            Self::Qemu(driver) => driver.end().await,
        }
    }

    /// What is at a path, as the instance's program sees it.
    pub(crate) async fn look(
        &self,
        id: &str,
        path: &str,
        follow: bool,
    ) -> Result<PathInfo, DriverError> {
        match self {
            Self::Process(driver) => driver.look(path, follow).await,
            Self::Qemu(driver) => driver.look(id, path, follow).await,
        }
    }

    /// Runs a command beside the instance's program, to its end or for `patience`.
    pub(crate) async fn run(
        &self,
        id: &str,
        words: &[String],
        folder: Option<&str>,
        patience: Duration,
    ) -> Result<CommandEnd, DriverError> {
        match self {
            Self::Process(driver) => driver.run(id, words, folder, patience).await,
            Self::Qemu(driver) => driver.run(id, words, folder, patience).await,
        }
    }

    /// What the instance uses of this machine.
    pub(crate) fn usage(&self, id: &str) -> Usage {
        match self {
            Self::Process(driver) => driver.usage(id),
            Self::Qemu(driver) => driver.usage(id),
        }
    }

    /// The instance's connections and bytes.
    pub(crate) fn traffic(&self, id: &str) -> Option<Arc<Traffic>> {
        match self {
            Self::Process(driver) => driver.traffic(id),
            Self::Qemu(driver) => driver.traffic(id),
        }
    }

    /// The connections to instances that the machine counts for us; an address of our own counts
    /// its own ([`Traffic::active`]).
    pub(crate) fn connections(&self) -> std::io::Result<ConnectionTable> {
        match self {
            Self::Process(_) => Ok(ConnectionTable::default()),
            Self::Qemu(driver) => driver.connections(),
        }
    }

    /// How instances are reached, in the words of `/capabilities`: model, gateway, subnet.
    pub(crate) fn network(&self) -> (&'static str, Option<String>, &'static str) {
        match self {
            Self::Process(_) => ("nat", None, "127.77.0.0/16"),
            Self::Qemu(driver) => driver.network(),
        }
    }
}
