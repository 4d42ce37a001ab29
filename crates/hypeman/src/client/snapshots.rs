//! Operations on snapshots and on the schedules that make them.
//!
//! Guarantees: see [`Client`]. These are the snapshots that a person or a schedule makes, not the
//! one of an instance in standby.

use http::Method;

use super::error::Error;
use super::handle::Client;
use super::listed::Listed;
use super::name::{InstanceRef, ResourceRef};
use super::wire::{
    CreateSnapshot, ForkSnapshot, Instance, ListSnapshots, RestoreSnapshot, SetSnapshotSchedule,
    Snapshot, SnapshotSchedule,
};

impl Client {
    /// Makes a snapshot of an instance: of memory and disk while it is `Running` or in `Standby`,
    /// of the disk while it is `Stopped`, as the request's kind says.
    ///
    /// `POST /instances/{id}/snapshots` (seed: `Instances.Snapshots.New`), operation
    /// `snapshot_create`.
    ///
    /// # Errors
    /// - 400 `invalid_request`, `invalid_snapshot_compression`.
    /// - 409 `conflict`: the state does not fit the kind, or another snapshot has the name.
    /// - 501 `not_supported`: the hypervisor cannot.
    pub async fn create_snapshot(
        &self,
        id: &InstanceRef,
        request: &CreateSnapshot,
    ) -> Result<Snapshot, Error> {
        let path = ["instances", id.as_str(), "snapshots"];
        let call = self.change("snapshot_create", Method::POST, path);
        call.body(request).json().await
    }

    /// Takes an instance back to one of its snapshots.
    ///
    /// `POST /instances/{id}/snapshots/{snapshot}/restore` (seed: `Instances.Snapshots.Restore`),
    /// operation `snapshot_restore`.
    ///
    /// # Errors
    /// - 404 `not_found`: there is no such instance or snapshot.
    /// - 409 `invalid_state`: not from the instance's state.
    /// - 501 `not_supported`: the hypervisor cannot.
    pub async fn restore_snapshot(
        &self,
        id: &InstanceRef,
        snapshot: &ResourceRef,
        request: &RestoreSnapshot,
    ) -> Result<Instance, Error> {
        let (id, snapshot) = (id.as_str(), snapshot.as_str());
        let path = ["instances", id, "snapshots", snapshot, "restore"];
        // The server requires a body, if only `{}`.
        let call = self.change("snapshot_restore", Method::POST, path);
        call.body(request).json().await
    }

    /// Lists the snapshots that match the filter; all of them with the default filter. An element
    /// that cannot be read is among [`Listed::odd`] and fails nothing.
    ///
    /// `GET /snapshots` (beside the seed; the official SDKs' `Snapshots.List`), operation
    /// `snapshot_list`.
    ///
    /// # Errors
    /// 500 `internal_error`.
    pub async fn list_snapshots(&self, filter: &ListSnapshots) -> Result<Listed<Snapshot>, Error> {
        let call = self.read("snapshot_list", ["snapshots"]);
        let call = call
            .query_opt("source_instance_id", filter.source_instance_id.as_ref())
            .query_opt("kind", filter.kind.as_ref())
            .query_opt("name", filter.name.as_ref());
        call.tags(&filter.tags).list().await
    }

    /// Reads a snapshot.
    ///
    /// `GET /snapshots/{id}` (beside the seed; the official SDKs' `Snapshots.Get`), operation
    /// `snapshot_get`.
    ///
    /// # Errors
    /// 404 `not_found`: there is no such snapshot.
    pub async fn get_snapshot(&self, snapshot: &ResourceRef) -> Result<Snapshot, Error> {
        let path = ["snapshots", snapshot.as_str()];
        self.read("snapshot_get", path).json().await
    }

    /// Deletes a snapshot.
    ///
    /// `DELETE /snapshots/{id}` (beside the seed; the official SDKs' `Snapshots.Delete`), operation
    /// `snapshot_delete`.
    ///
    /// # Errors
    /// 404 `not_found`: there is no such snapshot.
    pub async fn delete_snapshot(&self, snapshot: &ResourceRef) -> Result<(), Error> {
        let path = ["snapshots", snapshot.as_str()];
        let call = self.change("snapshot_delete", Method::DELETE, path);
        call.nothing().await
    }

    /// Makes a new instance that begins as a snapshot.
    ///
    /// `POST /snapshots/{id}/fork` (beside the seed; the official SDKs' `Snapshots.Fork`),
    /// operation `snapshot_fork`.
    ///
    /// # Errors
    /// - 404 `not_found`: there is no such snapshot.
    /// - 409 `name_conflict`: another instance has the name.
    /// - 501 `not_supported`: the hypervisor cannot.
    pub async fn fork_snapshot(
        &self,
        snapshot: &ResourceRef,
        request: &ForkSnapshot,
    ) -> Result<Instance, Error> {
        let path = ["snapshots", snapshot.as_str(), "fork"];
        let call = self.change("snapshot_fork", Method::POST, path);
        call.body(request).json().await
    }

    /// Reads the schedule that makes snapshots of an instance.
    ///
    /// `GET /instances/{id}/snapshot-schedule` (seed: `Instances.SnapshotSchedule.Get`), operation
    /// `schedule_get`.
    ///
    /// # Errors
    /// 404 `not_found`: there is no such instance, or it has no schedule.
    pub async fn snapshot_schedule(&self, id: &InstanceRef) -> Result<SnapshotSchedule, Error> {
        let path = ["instances", id.as_str(), "snapshot-schedule"];
        self.read("schedule_get", path).json().await
    }

    /// Sets the schedule that makes snapshots of an instance, and replaces the one before. To
    /// change a schedule, begin with [`SnapshotSchedule::to_request`].
    ///
    /// `PUT /instances/{id}/snapshot-schedule` (seed: `Instances.SnapshotSchedule.Update`),
    /// operation `schedule_set`.
    ///
    /// # Errors
    /// 400 `invalid_request`: the interval is below a minute, the retention has no limit, or a name
    /// is wrong.
    pub async fn set_snapshot_schedule(
        &self,
        id: &InstanceRef,
        request: &SetSnapshotSchedule,
    ) -> Result<SnapshotSchedule, Error> {
        let path = ["instances", id.as_str(), "snapshot-schedule"];
        let call = self.change("schedule_set", Method::PUT, path);
        call.body(request).json().await
    }

    /// Deletes the schedule that makes snapshots of an instance. The snapshots stay.
    ///
    /// `DELETE /instances/{id}/snapshot-schedule` (seed: `Instances.SnapshotSchedule.Delete`),
    /// operation `schedule_delete`.
    ///
    /// # Errors
    /// 404 `not_found`: there is no such instance, or it has no schedule.
    pub async fn delete_snapshot_schedule(&self, id: &InstanceRef) -> Result<(), Error> {
        let path = ["instances", id.as_str(), "snapshot-schedule"];
        let call = self.change("schedule_delete", Method::DELETE, path);
        call.nothing().await
    }
}
