//! Snapshots and their schedules (contract A.6, A.8).

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::policy::Compression;
use super::{Hypervisor, InstanceState, SnapshotKind, nullable};
use crate::GoDuration;

/// A new snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CreateSnapshot {
    /// What it holds.
    pub kind: SnapshotKind,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// Compression of its memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

/// How an instance goes back to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RestoreSnapshot {
    /// The state after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_state: Option<InstanceState>,
    /// What runs it then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_hypervisor: Option<Hypervisor>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Full id.
    pub id: String,
    /// What it holds.
    pub kind: SnapshotKind,
    /// Of which instance.
    pub source_instance_id: String,
    /// That one's name.
    pub source_instance_name: String,
    /// What ran it.
    pub source_hypervisor: Hypervisor,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its size.
    pub size_bytes: i64,
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// Labels.
    #[serde(default, deserialize_with = "nullable")]
    pub tags: BTreeMap<String, String>,
    /// `none`, `compressing`, `compressed` or `error`.
    #[serde(default)]
    pub compression_state: Option<String>,
    /// Why `error`.
    #[serde(default)]
    pub compression_error: Option<String>,
    /// How it is compressed.
    #[serde(default)]
    pub compression: Option<Compression>,
    /// Size after compression.
    #[serde(default)]
    pub compressed_size_bytes: Option<i64>,
    /// Size before.
    #[serde(default)]
    pub uncompressed_size_bytes: Option<i64>,
}

/// How many snapshots a schedule keeps; at least one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// The newest so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_count: Option<u32>,
    /// Those younger than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<GoDuration>,
}

/// A schedule to set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetSnapshotSchedule {
    /// At least a minute.
    pub interval: GoDuration,
    /// What is kept.
    pub retention: Retention,
    /// At most 47 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name_prefix: Option<String>,
    /// Labels of the snapshots.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotSchedule {
    /// Of which instance.
    pub instance_id: String,
    /// Between snapshots.
    pub interval: GoDuration,
    /// What is kept.
    pub retention: Retention,
    /// The next one.
    pub next_run_at: Timestamp,
    /// When it was set first.
    pub created_at: Timestamp,
    /// When it was set last.
    pub updated_at: Timestamp,
    /// Of the snapshots' names.
    #[serde(default)]
    pub name_prefix: Option<String>,
    /// Labels of the snapshots.
    #[serde(default, deserialize_with = "nullable")]
    pub metadata: BTreeMap<String, String>,
    /// The last one.
    #[serde(default)]
    pub last_run_at: Option<Timestamp>,
    /// Its snapshot.
    #[serde(default)]
    pub last_snapshot_id: Option<String>,
    /// Why there is none.
    #[serde(default)]
    pub last_error: Option<String>,
}
