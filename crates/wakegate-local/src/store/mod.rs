//! What the control plane remembers: its records, and the directory that keeps them.
//!
//! Guarantees: nothing here starts, stops or asks an instance; a record on disk stays readable for
//! later versions.

mod disk;
mod draft;
mod ingress;
mod instance;
mod replaced;
pub(crate) mod rotation;
mod snapshot;

pub(crate) use disk::{Kind, Store, StoreError};
pub(crate) use ingress::{IngressRecord, Rule};
pub(crate) use instance::{Instance, Record, Schedule, Spec, without_nulls};
pub(crate) use replaced::MEMORY;
pub(crate) use snapshot::{Snapshot, SnapshotKind};
