//! Instances as virtual machines of QEMU.
//!
//! Guarantees: a sleeping instance is files, and no process; it needs no privilege; an instance
//! outlives the control plane, asleep or awake, and is found again by its folder.

mod accelerator;
mod adoption;
mod agent;
mod bridge;
mod command;
mod config;
mod driver;
mod files;
mod network;
mod pool;
mod process;
mod qmp;
mod room;
mod socket;
mod tsc;
mod vm;

pub(crate) use accelerator::detect as detect_accelerator;
pub(crate) use bridge::set_up as set_up_bridge;
pub use command::Accelerator;
pub(crate) use config::QemuConfig;
pub(crate) use driver::QemuDriver;
