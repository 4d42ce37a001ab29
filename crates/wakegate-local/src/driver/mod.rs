//! How the local control plane runs an instance.
//!
//! Guarantees of every driver: standby keeps memory and closes the instance's address (new
//! connections do not reach it, open ones are cut), restore undoes both; an instance outlives the
//! control plane, and can be adopted from its [`Handle`].

mod address_proxy;
mod cgroup;
mod connections;
mod contract;
mod error;
mod process;
mod procfs;
mod qemu;

pub(crate) use connections::{Connection, ConnectionTable};
pub(crate) use contract::{Boot, Driver, Exit, Handle, Happening, Started};
pub(crate) use error::DriverError;
pub(crate) use process::ProcessDriver;
pub use qemu::Accelerator;
pub(crate) use qemu::{QemuConfig, QemuDriver, detect_accelerator, set_up_bridge};
