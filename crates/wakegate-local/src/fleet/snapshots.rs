//! Snapshots: instances' memory, kept apart from them.
//!
//! Guarantees: a snapshot that is listed is whole; one is made without its instance's connections
//! being cut, and used without being changed; a schedule deletes only what it has made itself.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use hypeman::GoDuration;

use super::lifecycle::gone;
use super::registry::Fleet;
use crate::driver::Handle;
use crate::error::Error;
use crate::id::{new_id, resolve};
use crate::state::State;
use crate::store::{Instance, Kind, Schedule, Snapshot, SnapshotKind};

/// What a caller, or a schedule, asks for.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotRequest {
    pub(crate) kind: SnapshotKind,
    pub(crate) name: Option<String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) scheduled: bool,
}

/// The bytes that a folder occupies on disk.
fn size_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| entry.metadata().ok());
    sizes.map(|info| info.blocks() * 512).sum()
}

fn unsupported() -> Error {
    Error::not_supported("the process driver cannot make snapshots; the qemu driver can")
}

impl Fleet {
    /// Every snapshot, the oldest first.
    pub(crate) fn all_snapshots(&self) -> Vec<Snapshot> {
        let snapshots = self.snapshots.read();
        let snapshots = snapshots.unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Snapshot> = snapshots.values().cloned().collect();
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        all
    }

    /// Finds a snapshot by its id, its name, or an unambiguous beginning of the id.
    pub(crate) fn find_snapshot(&self, text: &str) -> Result<Snapshot, Error> {
        let all = self.all_snapshots();
        resolve(&all, text, |s| s.id.clone(), |s| s.name.clone()).cloned()
    }

    /// The folder of a snapshot's memory.
    fn memory_of(&self, id: &str) -> Result<PathBuf, Error> {
        let folder = self.store.folder(Kind::Snapshot, id);
        let folder = folder.map_err(|_| Error::internal("cannot use the snapshot's folder"))?;
        Ok(folder.join("vm"))
    }

    /// Makes a snapshot.
    pub(crate) async fn snapshot(
        &self,
        instance: &Instance,
        request: SnapshotRequest,
    ) -> Result<Snapshot, Error> {
        let _guard = instance.lock.write().await;
        gone(instance)?;
        let conflict = |text: &str| Err(Error::conflict("conflict", text));
        let SnapshotRequest {
            kind,
            name,
            tags,
            scheduled,
        } = request;
        match (kind, instance.state()) {
            (SnapshotKind::Stopped, State::Stopped)
            | (SnapshotKind::Standby, State::Standby | State::Running) => {}
            (SnapshotKind::Stopped, _) => return conflict("instance is not stopped"),
            (SnapshotKind::Standby, _) => return conflict("instance is not running or in standby"),
        }
        if !self.driver.keeps_memory() {
            return Err(unsupported());
        }
        let same = |other: &Snapshot| other.source() == instance.id && other.name == name;
        if name.is_some() && self.all_snapshots().iter().any(same) {
            return conflict("snapshot name already in use");
        }
        let id = new_id()?;
        let memory = self.memory_of(&id)?;
        if kind == SnapshotKind::Standby
            && let Err(error) = self.driver.export(&instance.id, &memory).await
        {
            self.note(instance, &format!("snapshot failed: {error}"));
            // Nobody will look for what there is of it.
            let _left_behind = self.store.remove(Kind::Snapshot, &id);
            return Err(Error::internal("failed to create snapshot"));
        }
        let snapshot = Snapshot {
            id: id.clone(),
            name,
            kind,
            created_at: self.clock.now(),
            tags,
            size_bytes: size_of(&memory),
            scheduled,
            spec: instance.record().spec.clone(),
        };
        let saved = self.store.save(Kind::Snapshot, &id, &snapshot);
        saved.map_err(|_| Error::internal("failed to save snapshot"))?;
        let mut all = self
            .snapshots
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        all.insert(id, snapshot.clone());
        drop(all);
        self.note(instance, &format!("snapshot {}", snapshot.id));
        Ok(snapshot)
    }

    pub(crate) fn delete_snapshot(&self, id: &str) -> Result<(), Error> {
        let mut all = self
            .snapshots
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if all.remove(id).is_none() {
            return Err(Error::not_found());
        }
        drop(all);
        let removed = self.store.remove(Kind::Snapshot, id);
        removed.map_err(|_| Error::internal("failed to delete snapshot"))
    }

    /// Brings an instance back to one of its own snapshots.
    pub(crate) async fn restore_snapshot(
        self: &Arc<Self>,
        instance: &Instance,
        snapshot: &Snapshot,
        target: State,
    ) -> Result<(), Error> {
        let _guard = instance.lock.write().await;
        gone(instance)?;
        let state = instance.state();
        if !matches!(state, State::Stopped | State::Standby) {
            let text =
                format!("cannot restore a snapshot in state {state}, must be Stopped or Standby");
            return Err(Error::conflict("invalid_state", text));
        }
        possible(snapshot, target)?;
        let former = instance.record().handle.clone();
        self.driver
            .stop(&instance.id, std::time::Duration::ZERO)
            .await;
        {
            let mut record = instance.record();
            record.ends(self.clock.now());
            record.restarts.forget();
        }
        self.enter(instance, State::Stopped, "going back to a snapshot");
        if snapshot.kind == SnapshotKind::Standby {
            self.use_memory(instance, snapshot, former.as_ref()).await?;
        }
        self.note(instance, &format!("back to snapshot {}", snapshot.id));
        self.reach(instance, target).await
    }

    /// Makes a new instance of a snapshot.
    pub(crate) async fn fork_snapshot(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        name: String,
        target: State,
    ) -> Result<Arc<Instance>, Error> {
        possible(snapshot, target)?;
        let copy = self.create_copy(&snapshot.spec, name).await?;
        let guard = copy.lock.write().await;
        self.enter(&copy, State::Stopped, "forked");
        if snapshot.kind == SnapshotKind::Standby {
            self.use_memory(&copy, snapshot, None).await?;
        }
        self.reach(&copy, target).await?;
        drop(guard);
        Ok(copy)
    }

    /// Makes a Stopped instance one that sleeps with the snapshot's memory.
    async fn use_memory(
        &self,
        instance: &Instance,
        snapshot: &Snapshot,
        former: Option<&Handle>,
    ) -> Result<(), Error> {
        let memory = self.memory_of(&snapshot.id)?;
        self.import_memory(instance, &memory, former).await
    }

    /// Makes the snapshot that a schedule asks for, and deletes those that it need not keep.
    pub(crate) async fn run_schedule(&self, instance: &Instance) {
        let Some(schedule) = instance.record().spec.schedule.clone() else {
            return;
        };
        let now = self.clock.now();
        let request = SnapshotRequest {
            kind: if instance.state() == State::Stopped {
                SnapshotKind::Stopped
            } else {
                SnapshotKind::Standby
            },
            name: Some(schedule.snapshot_name(now)),
            tags: schedule.snapshot_tags(&instance.id),
            scheduled: true,
        };
        let result = self.snapshot(instance, request).await;
        if let Some(schedule) = &mut instance.record().spec.schedule {
            match &result {
                Ok(snapshot) => {
                    schedule.last_snapshot_id = Some(snapshot.id.clone());
                    schedule.last_error = None;
                }
                Err(error) => schedule.last_error = Some(error.to_string()),
            }
        }
        let mine = |snapshot: &Snapshot| snapshot.scheduled && snapshot.source() == instance.id;
        let snapshots: Vec<Snapshot> = self.all_snapshots().into_iter().filter(mine).collect();
        for id in superfluous(&schedule, &snapshots, now) {
            if let Err(error) = self.delete_snapshot(&id) {
                tracing::warn!(
                    snapshot = id,
                    %error,
                    "a schedule's snapshot stays"
                );
            }
        }
        self.save_or_warn(instance);
    }
}

/// The snapshots that a schedule need not keep, of its own from the oldest to the newest.
fn superfluous(schedule: &Schedule, snapshots: &[Snapshot], now: Timestamp) -> Vec<String> {
    let number = schedule.retention.get("max_count").and_then(Value::as_u64);
    let number = number.filter(|number| *number > 0);
    let age = schedule.retention.get("max_age").and_then(Value::as_str);
    let age = age.and_then(|text| text.parse::<GoDuration>().ok());
    let age = age.map(|age| SignedDuration::from_nanos(age.nanos()));
    let count = snapshots.len() as u64;
    let surplus = number.map_or(0, |number| count.saturating_sub(number));
    let goes = |(index, snapshot): &(u64, &Snapshot)| {
        *index < surplus || age.is_some_and(|age| now.duration_since(snapshot.created_at) > age)
    };
    (0..)
        .zip(snapshots)
        .filter(goes)
        .map(|(_, snapshot)| snapshot.id.clone())
        .collect()
}

/// Checks that a snapshot can become what is asked for.
fn possible(snapshot: &Snapshot, target: State) -> Result<(), Error> {
    match (snapshot.kind, target) {
        (SnapshotKind::Stopped, State::Standby) => {
            let text = "a Stopped snapshot has no memory to be in Standby with";
            Err(Error::invalid("invalid_request", text))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::Spec;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + minutes * 60).unwrap()
    }

    fn schedule(retention: Value) -> Schedule {
        Schedule {
            interval: "1m".parse().unwrap(),
            retention,
            name_prefix: None,
            metadata: BTreeMap::new(),
            next_run_at: at(0),
            created_at: at(0),
            updated_at: at(0),
            last_run_at: None,
            last_snapshot_id: None,
            last_error: None,
        }
    }

    fn snapshots() -> Vec<Snapshot> {
        let spec: Spec = serde_json::from_value(json!({
            "id": "a", "name": "a", "image": "i", "created_at": at(0), "env": {}, "tags": {},
            "size": 1, "overlay_size": 1, "vcpus": 1, "network_enabled": true,
        }))
        .unwrap();
        let snapshot = |minute: i64| Snapshot {
            id: minute.to_string(),
            name: None,
            kind: SnapshotKind::Standby,
            created_at: at(minute),
            tags: BTreeMap::new(),
            size_bytes: 0,
            scheduled: true,
            spec: spec.clone(),
        };
        (0..5).map(snapshot).collect()
    }

    #[test]
    fn retention_goes_by_count_and_by_age_and_keeps_the_newest() {
        for (retention, gone) in [
            (json!({ "max_count": 3 }), vec!["0", "1"]),
            (json!({ "max_count": 9 }), vec![]),
            (json!({ "max_age": "150s" }), vec!["0", "1"]),
            (
                json!({ "max_count": 4, "max_age": "1m0s" }),
                vec!["0", "1", "2"],
            ),
            (json!({ "max_count": 0, "max_age": "1h0m0s" }), vec![]),
        ] {
            let text = retention.to_string();
            assert_eq!(
                superfluous(&schedule(retention), &snapshots(), at(4)),
                gone,
                "{text}"
            );
        }
    }
}
