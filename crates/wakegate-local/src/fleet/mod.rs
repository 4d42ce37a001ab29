//! All instances of one control plane: their verbs, their snapshots, and what is done for them when
//! nobody calls.
//!
//! Guarantees: the API decides nothing and the drivers remember nothing: whatever changes an
//! instance's state is in this room and holds the instance's lock, which nobody gets of an instance
//! that is gone.

mod auto_standby;
mod fork;
mod health;
mod lifecycle;
mod logs;
mod memory;
mod names;
mod reconciler;
mod registry;
mod snapshots;
mod startup;

pub(crate) use lifecycle::{EXEC_IMAGE, HELLO_IMAGE};
pub(crate) use registry::Fleet;
pub use registry::{FleetEvent, FleetEvents};
pub(crate) use snapshots::SnapshotRequest;
