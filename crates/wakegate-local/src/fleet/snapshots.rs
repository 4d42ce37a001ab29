//! Snapshots: instances' memory, kept apart from them.
//!
//! Guarantees: a snapshot that is listed is whole, also after a loss of power; one is made without
//! its instance's connections being cut, used without being changed, and not deleted meanwhile; a
//! schedule deletes only what it has made itself.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use hypeman::GoDuration;

use super::fork::Origin;
use super::lifecycle::{port, refusal};
use super::memory::sleeps;
use super::registry::Fleet;
use crate::driver::{DriverError, Handle};
use crate::error::Error;
use crate::id::{new_id, resolve};
use crate::state::State;
use crate::store::{Instance, Kind, MEMORY, Record, Schedule, Snapshot, SnapshotKind, Spec};

const FAILED: &str = "failed to create snapshot";
const RESTORE_FAILED: &str = "failed to restore snapshot";

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

    /// Makes a snapshot.
    pub(crate) async fn snapshot(
        &self,
        instance: &Instance,
        request: SnapshotRequest,
    ) -> Result<Snapshot, Error> {
        let _guard = instance.lock_living().await?;
        self.make_snapshot(instance, request).await
    }

    /// Makes a snapshot. The caller holds the instance's lock.
    async fn make_snapshot(
        &self,
        instance: &Instance,
        request: SnapshotRequest,
    ) -> Result<Snapshot, Error> {
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
        let failed = |error: std::io::Error| {
            self.note(instance, &format!("snapshot failed: {error}"));
            Error::disk(FAILED, &error)
        };
        let draft = self.store.draft(Kind::Snapshot, &id).map_err(failed)?;
        let memory = draft.folder().join(MEMORY);
        if kind == SnapshotKind::Standby
            && let Err(error) = self.driver.export(&instance.id, &memory).await
        {
            self.note(instance, &format!("snapshot failed: {error}"));
            self.fails(instance, instance.state(), &error, "broke in a snapshot");
            return Err(refusal(FAILED, &error));
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
            in_use: Arc::default(),
        };
        let publish = {
            let snapshot = snapshot.clone();
            // It waits for the disk.
            self.tasks
                .spawn_blocking(move || draft.publish_for_good(&snapshot))
        };
        let published = publish.await.unwrap_or_else(|panic| Err(panic.into()));
        published.map_err(failed)?;
        let mut all = self
            .snapshots
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        all.insert(id, snapshot.clone());
        drop(all);
        self.note(instance, &format!("snapshot {}", snapshot.id));
        Ok(snapshot)
    }

    /// Whether the snapshot is still there; who has its `in_use` lock can rely on that.
    fn is_there(&self, id: &str) -> bool {
        let all = self.snapshots.read();
        all.unwrap_or_else(PoisonError::into_inner).contains_key(id)
    }

    /// Deletes a snapshot, when nobody copies it any more.
    pub(crate) async fn delete_snapshot(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let id = &snapshot.id;
        let _nobody_uses_it = snapshot.in_use.write().await;
        if !self.is_there(id) {
            return Err(Error::not_found());
        }
        self.store.remove(Kind::Snapshot, id).map_err(|error| {
            tracing::error!(snapshot = id, %error, "cannot delete the snapshot");
            Error::disk("failed to delete snapshot", &error)
        })?;
        let mut all = self
            .snapshots
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        all.remove(id);
        Ok(())
    }

    /// Brings an instance back to one of its own snapshots: its memory, and what it was asked to
    /// be; it keeps its id, its name, its expiry and its schedule.
    pub(crate) async fn restore_snapshot(
        self: &Arc<Self>,
        instance: &Instance,
        snapshot: &Snapshot,
        target: State,
    ) -> Result<(), Error> {
        let _guard = instance.lock_living().await?;
        let _in_use = snapshot.in_use.read().await;
        if !self.is_there(&snapshot.id) {
            return Err(Error::NotFound("instance or snapshot not found".to_owned()));
        }
        let state = instance.state();
        // Of an Unknown one nobody can say that it has ended.
        if matches!(state, State::Running | State::Unknown) {
            let text = format!("cannot restore a snapshot in state {state}");
            return Err(Error::conflict("invalid_state", text));
        }
        possible(snapshot, target)?;
        let with_memory = snapshot.kind == SnapshotKind::Standby && target != State::Stopped;
        let handle = match with_memory {
            true => Some(self.copy_back(instance, snapshot).await?),
            false => None,
        };
        if !matches!(state, State::Standby | State::Stopped) {
            self.end_program(instance, "going back to a snapshot").await;
        }
        let change = |record: &mut Record| {
            let now = self.clock.now();
            record.spec = spec_of(snapshot, &record.spec);
            record.restarts.forget();
            match &handle {
                Some(handle) => {
                    sleeps(record, handle);
                    record.enter(State::Standby, now);
                }
                None => {
                    record.ends(now);
                    record.enter(State::Stopped, now);
                }
            }
        };
        let before = instance.record().clone();
        let mut record = before.clone();
        change(&mut record);
        let id = &instance.id;
        self.driver.release(id).await;
        let replaced = match with_memory {
            true => self.store.replace_memory(id, &record),
            false => self.store.set_memory_aside(id, &record),
        };
        if let Err(error) = replaced {
            self.note(instance, &format!("{RESTORE_FAILED}: {error}"));
            // What there is of the other one goes.
            let _left_behind = self.store.draft_memory(id);
            if state == State::Standby {
                // As it was.
                self.put_asleep(instance, RESTORE_FAILED)?;
            }
            return Err(Error::disk(RESTORE_FAILED, &error));
        }
        instance.change(change);
        if !self.driver.keeps_memory() {
            // What stood still is dropped.
            self.driver.stop(id, std::time::Duration::ZERO).await;
        }
        let mut brought = match with_memory {
            true => self.put_asleep(instance, RESTORE_FAILED),
            false => Ok(()),
        };
        if brought.is_ok() {
            self.note(instance, &format!("back to snapshot {}", snapshot.id));
            self.tell(instance, "back to a snapshot");
            brought = self.reach(instance, target).await;
        }
        match &brought {
            Ok(()) => self.store.forget_replaced(id),
            Err(_) => self.undo_replacement(instance, before).await,
        }
        brought
    }

    /// Makes an instance again what it was before it went back to a snapshot, since it could not be
    /// brought to what was asked for. `before` was its record, of one that slept or had ended.
    async fn undo_replacement(&self, instance: &Instance, before: Record) {
        self.driver.release(&instance.id).await;
        let undone = self.store.undo_replacement(&instance.id);
        match undone {
            Ok(()) => instance.change(|record| *record = before),
            Err(error) => {
                let id = &instance.id;
                tracing::error!(instance = id, %error, "it cannot be what it was before a snapshot");
            }
        }
        if instance.state() == State::Standby {
            // One that cannot says so by itself.
            let _refused = self.put_asleep(instance, RESTORE_FAILED);
        }
        self.tell(instance, "as before the snapshot");
    }

    /// Copies a snapshot's memory to where it can replace that of its instance, which is not
    /// touched yet.
    async fn copy_back(&self, instance: &Instance, snapshot: &Snapshot) -> Result<Handle, Error> {
        let copied = async {
            let draft = self.store.draft_memory(&instance.id);
            let draft = draft.map_err(DriverError::Files)?;
            let memory = self.store.memory(Kind::Snapshot, &snapshot.id);
            let copied = self.driver.copy(&memory, &draft).await;
            // At its own address, if it has had one.
            let former = instance.record().handle.clone();
            copied.and_then(|()| {
                let guest_port = port(&snapshot.spec);
                self.driver.prepare(&draft, former.as_ref(), guest_port)
            })
        };
        copied.await.map_err(|error: DriverError| {
            self.note(instance, &format!("{RESTORE_FAILED}: {error}"));
            // What there is of it goes.
            let _left_behind = self.store.draft_memory(&instance.id);
            refusal(RESTORE_FAILED, &error)
        })
    }

    /// Makes a new instance of a snapshot.
    pub(crate) async fn fork_snapshot(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        name: String,
        target: State,
    ) -> Result<Arc<Instance>, Error> {
        let in_use = snapshot.in_use.read().await;
        if !self.is_there(&snapshot.id) {
            return Err(Error::not_found());
        }
        possible(snapshot, target)?;
        let spec = self.spec_of_copy(&snapshot.spec, name)?;
        let name = self.take_copys_name(&spec)?;
        let memory = self.store.memory(Kind::Snapshot, &snapshot.id);
        let with_memory = snapshot.kind == SnapshotKind::Standby && target != State::Stopped;
        let origin = with_memory.then_some(Origin::Memory(&memory));
        let copy = self.make_copy(spec, origin).await?;
        name.keep();
        drop(in_use);
        self.bring_copy(copy, target).await
    }

    /// Makes the snapshot that a schedule asks for, if it is due, and deletes those that it need not
    /// keep. The next run is on disk before this one: a kill does not repeat it.
    pub(crate) async fn run_schedule(&self, instance: &Instance) {
        let Ok(_guard) = instance.lock_living().await else {
            return;
        };
        let now = self.clock.now();
        let schedule = instance.record().spec.schedule.clone();
        let Some(schedule) = schedule.filter(|schedule| schedule.is_due(now)) else {
            return;
        };
        let noted = self.update(instance, |record| {
            if let Some(schedule) = &mut record.spec.schedule {
                schedule.begin_run(now);
            }
        });
        if let Err(error) = noted {
            // Due again, but not at once.
            if let Some(schedule) = &mut instance.record().spec.schedule {
                schedule.begin_run(now);
                schedule.last_error = Some(error.to_string());
            }
            return;
        }
        let request = SnapshotRequest {
            kind: match instance.state() == State::Stopped {
                true => SnapshotKind::Stopped,
                false => SnapshotKind::Standby,
            },
            name: Some(schedule.snapshot_name(now)),
            tags: schedule.snapshot_tags(&instance.id),
            scheduled: true,
        };
        let result = self.make_snapshot(instance, request).await;
        if let Some(schedule) = &mut instance.record().spec.schedule {
            match &result {
                Ok(snapshot) => {
                    schedule.last_snapshot_id = Some(snapshot.id.clone());
                    schedule.last_error = None;
                }
                Err(error) => schedule.last_error = Some(error.to_string()),
            }
        }
        self.save(instance);
        let mine = |snapshot: &Snapshot| snapshot.scheduled && snapshot.source() == instance.id;
        let snapshots: Vec<Snapshot> = self.all_snapshots().into_iter().filter(mine).collect();
        for snapshot in superfluous(&schedule, &snapshots, now) {
            if let Err(error) = self.delete_snapshot(snapshot).await {
                let id = &snapshot.id;
                tracing::warn!(snapshot = id, %error, "a schedule's snapshot stays");
            }
        }
    }
}

/// What an instance is asked to be after it has gone back to a snapshot.
fn spec_of(snapshot: &Snapshot, now: &Spec) -> Spec {
    Spec {
        id: now.id.clone(),
        name: now.name.clone(),
        created_at: now.created_at,
        expires_at: now.expires_at,
        schedule: now.schedule.clone(),
        ..snapshot.spec.clone()
    }
}

/// The snapshots that a schedule need not keep, of its own from the oldest to the newest.
fn superfluous<'a>(
    schedule: &Schedule,
    snapshots: &'a [Snapshot],
    now: Timestamp,
) -> Vec<&'a Snapshot> {
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
        .map(|(_, snapshot)| snapshot)
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
            in_use: Arc::default(),
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
            let all = snapshots();
            let superfluous = superfluous(&schedule(retention), &all, at(4));
            let ids: Vec<&str> = superfluous.iter().map(|s| s.id.as_str()).collect();
            assert_eq!(ids, gone, "{text}");
        }
    }
}
