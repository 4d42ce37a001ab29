//! Snapshots of an instance and their schedule.

use http::Method;

use super::client::{Call, HypemanClient};
use super::error::ControlPlaneError;
use super::instances::to_body;
use super::wire::{
    CreateSnapshot, Instance, RestoreSnapshot, SetSnapshotSchedule, Snapshot, SnapshotSchedule,
};
use crate::InstanceRef;

impl HypemanClient {
    /// `Snapshots.New`: `POST /instances/{id}/snapshots`.
    pub async fn create_snapshot(
        &self,
        id: &InstanceRef,
        request: &CreateSnapshot,
    ) -> Result<Snapshot, ControlPlaneError> {
        let path = ["instances", id.as_str(), "snapshots"];
        let call = self.change_call("snapshot_create", Method::POST, &path);
        self.json(Call {
            body: to_body(request),
            ..call
        })
        .await
    }

    /// `Snapshots.Restore`: `POST /instances/{id}/snapshots/{snapshot}/restore`. The body is
    /// required, if only `{}`.
    pub async fn restore_snapshot(
        &self,
        id: &InstanceRef,
        snapshot: &InstanceRef,
        request: &RestoreSnapshot,
    ) -> Result<Instance, ControlPlaneError> {
        let path = [
            "instances",
            id.as_str(),
            "snapshots",
            snapshot.as_str(),
            "restore",
        ];
        let call = self.change_call("snapshot_restore", Method::POST, &path);
        self.json(Call {
            body: to_body(request),
            ..call
        })
        .await
    }

    /// `SnapshotSchedule.Get`: `GET /instances/{id}/snapshot-schedule`.
    pub async fn snapshot_schedule(
        &self,
        id: &InstanceRef,
    ) -> Result<SnapshotSchedule, ControlPlaneError> {
        self.json(self.get_call(
            "schedule_get",
            &["instances", id.as_str(), "snapshot-schedule"],
        ))
        .await
    }

    /// `SnapshotSchedule.Update`: `PUT /instances/{id}/snapshot-schedule`.
    pub async fn set_snapshot_schedule(
        &self,
        id: &InstanceRef,
        request: &SetSnapshotSchedule,
    ) -> Result<SnapshotSchedule, ControlPlaneError> {
        let path = ["instances", id.as_str(), "snapshot-schedule"];
        let call = self.change_call("schedule_set", Method::PUT, &path);
        self.json(Call {
            body: to_body(request),
            ..call
        })
        .await
    }

    /// `SnapshotSchedule.Delete`: `DELETE /instances/{id}/snapshot-schedule`.
    pub async fn delete_snapshot_schedule(
        &self,
        id: &InstanceRef,
    ) -> Result<(), ControlPlaneError> {
        let path = ["instances", id.as_str(), "snapshot-schedule"];
        self.nothing(self.change_call("schedule_delete", Method::DELETE, &path))
            .await
    }
}
