//! How the local control plane runs an instance.
//!
//! Guarantees: what every driver promises is at [`Driver`]; nothing in this room knows the API, a
//! record, or another instance's owner.

mod address_proxy;
mod address_range;
mod beside;
mod cgroup;
mod connections;
mod contract;
mod dispatch;
mod end_of_process;
mod error;
mod launch;
mod listeners;
mod own_port;
mod place;
mod port_watch;
mod process;
mod procfs;
mod qemu;
mod remnants;
mod traffic;

pub(crate) use connections::{Connection, ConnectionTable};
pub(crate) use contract::{Adoption, Boot, DriverEvent, Exit, Handle, Started};
pub(crate) use dispatch::Driver;
pub(crate) use error::DriverError;
#[cfg(test)]
pub(crate) use launch::SESSION_OF_TESTS;
pub(crate) use process::ProcessDriver;
pub use qemu::Accelerator;
pub(crate) use qemu::{QemuConfig, QemuDriver, detect_accelerator, set_up_bridge};
pub(crate) use traffic::Traffic;
