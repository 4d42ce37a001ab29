//! Snapshots and their schedules.
//!
//! Guarantees: a schedule that was read can be changed and set again without a loss.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::members::Members;
use super::object::{Writer, member, object, request};
use super::open_enum::{CompressionState, Hypervisor, InstanceState, SnapshotKind};
use super::policy::Compression;
use crate::duration::GoDuration;

/// A new snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CreateSnapshot {
    /// What the snapshot holds.
    pub kind: SnapshotKind,
    /// The snapshot's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The compression of the memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
}

/// How an instance goes back to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RestoreSnapshot {
    /// The state afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_state: Option<InstanceState>,
    /// The hypervisor that runs the instance afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_hypervisor: Option<Hypervisor>,
}

/// A new instance that begins as a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ForkSnapshot {
    /// The new instance's name.
    pub name: String,
    /// The new instance's state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_state: Option<InstanceState>,
    /// The hypervisor that runs the new instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_hypervisor: Option<Hypervisor>,
}

/// A filter for the list of snapshots. A snapshot must match everything that is set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListSnapshots {
    /// The id of the instance that the snapshots are of.
    pub source_instance_id: Option<String>,
    /// The kind of snapshot.
    pub kind: Option<SnapshotKind>,
    /// The snapshot's name.
    pub name: Option<String>,
    /// The labels.
    pub tags: BTreeMap<String, String>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The full id.
    pub id: String,
    /// What the snapshot holds.
    pub kind: SnapshotKind,
    /// The id of the instance that the snapshot is of.
    pub source_instance_id: String,
    /// The name of the instance that the snapshot is of.
    pub source_instance_name: String,
    /// The hypervisor that ran the instance.
    pub source_hypervisor: Option<Hypervisor>,
    /// The time of its creation.
    pub created_at: Option<Timestamp>,
    /// The size in bytes.
    pub size_bytes: Option<i64>,
    /// The snapshot's name.
    pub name: Option<String>,
    /// The labels.
    pub tags: BTreeMap<String, String>,
    /// How far the compression has come.
    pub compression_state: Option<CompressionState>,
    /// The reason of [`CompressionState::Error`].
    pub compression_error: Option<String>,
    /// The compression of the memory.
    pub compression: Option<Compression>,
    /// The size after compression.
    pub compressed_size_bytes: Option<i64>,
    /// The size before compression.
    pub uncompressed_size_bytes: Option<i64>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(Snapshot {
    required id, kind, source_instance_id;
    always source_instance_name;
    optional source_hypervisor, created_at, size_bytes, name, compression_state, compression_error,
        compression, compressed_size_bytes, uncompressed_size_bytes;
    each tags;
});

/// How many snapshots a schedule keeps. At least one of the two limits is needed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retention {
    /// The number of snapshots that are kept, the newest ones.
    pub max_count: Option<u32>,
    /// The age up to which snapshots are kept.
    pub max_age: Option<GoDuration>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(Retention {
    optional max_count, max_age;
});

/// A schedule to set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetSnapshotSchedule {
    /// The time between two snapshots, at least a minute.
    pub interval: GoDuration,
    /// How many snapshots are kept.
    pub retention: Retention,
    /// The beginning of the snapshots' names, at most 47 characters.
    pub name_prefix: Option<String>,
    /// The labels of the snapshots.
    pub metadata: BTreeMap<String, String>,
    /// Members that this version does not know.
    pub other: Members,
}

request!(SetSnapshotSchedule {
    always interval, retention;
    optional name_prefix;
    each metadata;
});

/// A schedule of snapshots.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotSchedule {
    /// The id of the instance that the snapshots are of.
    pub instance_id: String,
    /// The time between two snapshots.
    pub interval: GoDuration,
    /// How many snapshots are kept.
    pub retention: Retention,
    /// The time of the next snapshot.
    pub next_run_at: Option<Timestamp>,
    /// The time at which the schedule was set first.
    pub created_at: Option<Timestamp>,
    /// The time at which the schedule was set last.
    pub updated_at: Option<Timestamp>,
    /// The beginning of the snapshots' names.
    pub name_prefix: Option<String>,
    /// The labels of the snapshots.
    pub metadata: BTreeMap<String, String>,
    /// The time of the last run.
    pub last_run_at: Option<Timestamp>,
    /// The id of the last snapshot.
    pub last_snapshot_id: Option<String>,
    /// The reason why the last run made no snapshot.
    pub last_error: Option<String>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(SnapshotSchedule {
    required instance_id, interval, retention;
    optional next_run_at, created_at, updated_at, name_prefix, last_run_at, last_snapshot_id,
        last_error;
    each metadata;
});

// === impl SnapshotSchedule ===

impl SnapshotSchedule {
    /// The request that sets this schedule again, to be changed before it is sent: a schedule is
    /// replaced as a whole.
    pub fn to_request(&self) -> SetSnapshotSchedule {
        SetSnapshotSchedule {
            interval: self.interval,
            retention: self.retention.clone(),
            name_prefix: self.name_prefix.clone(),
            metadata: self.metadata.clone(),
            other: self.other.clone(),
        }
    }
}
