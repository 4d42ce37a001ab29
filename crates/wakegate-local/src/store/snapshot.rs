//! The record of a snapshot, and how the API shows it.
//!
//! Guarantees: the record is what is on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::RwLock;

use super::instance::{Spec, without_nulls};
use crate::state::State;

/// A snapshot as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) kind: SnapshotKind,
    pub(crate) created_at: Timestamp,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) size_bytes: u64,
    /// Whether a schedule has made it.
    pub(crate) scheduled: bool,
    /// The instance as it was.
    pub(crate) spec: Spec,
    /// A lock that those who copy its memory read, and who deletes it writes.
    #[serde(skip)]
    pub(crate) in_use: Arc<RwLock<()>>,
}

/// What a snapshot keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SnapshotKind {
    /// The memory of an instance.
    Standby,
    /// Its specification; the memory of a VM without a disk is all that it has.
    Stopped,
}

// === impl Snapshot ===

impl Snapshot {
    /// The snapshot as the API shows it (contract A.8).
    pub(crate) fn view(&self) -> Value {
        without_nulls(json!({
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "source_instance_id": self.spec.id,
            "source_instance_name": self.spec.name,
            "source_hypervisor": self.spec.hypervisor,
            "created_at": self.created_at,
            "size_bytes": self.size_bytes,
            "tags": (!self.tags.is_empty()).then_some(&self.tags),
            "compression_state": "none",
        }))
    }

    pub(crate) fn source(&self) -> &str {
        &self.spec.id
    }
}

impl SnapshotKind {
    /// The state after it is used, when none is asked for.
    pub(crate) fn default_target(self) -> State {
        match self {
            Self::Standby => State::Running,
            Self::Stopped => State::Stopped,
        }
    }
}
