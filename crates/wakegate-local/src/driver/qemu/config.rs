//! The settings of virtual machines on this machine.
//!
//! Guarantees: nothing of it changes while the control plane runs.

use std::path::PathBuf;

use super::command::Accelerator;
use crate::image::Image;

/// The settings of all virtual machines.
#[derive(Debug, Clone)]
pub(crate) struct QemuConfig {
    pub(crate) qemu: PathBuf,
    pub(crate) image: Image,
    pub(crate) accelerator: Accelerator,
    /// Whether VMs may reach out.
    pub(crate) egress: bool,
    /// Whether they are on a bridge of the host's.
    pub(crate) bridged: bool,
    /// This program, for its `session` subcommand.
    pub(crate) launcher: PathBuf,
    /// The folder that has the instances' folders.
    pub(crate) instances: PathBuf,
    /// The number of QEMUs of each kind of VM that are started before they are needed.
    pub(crate) prestart: usize,
}
