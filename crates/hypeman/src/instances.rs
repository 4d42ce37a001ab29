//! The instance service: every operation on instances, auto-standby and volumes.
//!
//! Guarantees: see [`HypemanClient`]. Reads and `hold` are repeated after a passing error; verbs
//! are not, since a verb's answer tells what the state was. The [`ControlPlane`] implementation
//! repeats nothing: the wake engine decides.

use std::time::Duration;

use http::Method;

use super::client::{Call, HypemanClient};
use super::error::ControlPlaneError;
use super::plane::ControlPlane;
use super::wire::{
    AttachVolume, AutoStandbyStatus, CreateInstance, ForkInstance, Instance, InstanceState,
    InstanceStats, ListInstances, PathInfo, StandbyRequest, StartRequest, UpdateInstance,
    WaitOutcome,
};
use crate::{GoDuration, InstanceId, InstanceRef};

/// The server's own deadline is 60 s; a longer wait comes back timed out (contract B.4).
const MAX_WAIT: Duration = Duration::from_secs(55);

pub(super) fn to_body<T: serde::Serialize>(value: &T) -> Option<Vec<u8>> {
    // Our request types have string keys and plain values only, which always serialise.
    serde_json::to_vec(value).ok()
}

impl HypemanClient {
    /// New: `POST /instances`.
    pub async fn create_instance(
        &self,
        request: &CreateInstance,
    ) -> Result<Instance, ControlPlaneError> {
        let call = self.change_call("create", Method::POST, &["instances"]);
        self.json(Call {
            body: to_body(request),
            ..call
        })
        .await
    }

    /// List: `GET /instances`.
    pub async fn list_instances(
        &self,
        filter: &ListInstances,
    ) -> Result<Vec<Instance>, ControlPlaneError> {
        let mut query = Vec::new();
        query.extend(
            filter
                .state
                .iter()
                .map(|s| ("state".to_owned(), s.to_string())),
        );
        query.extend(
            filter
                .tags
                .iter()
                .map(|(key, value)| (format!("tags[{key}]"), value.clone())),
        );
        self.json(Call {
            query,
            ..self.get_call("list", &["instances"])
        })
        .await
    }

    /// Get: `GET /instances/{id}`.
    pub async fn get_instance(&self, id: &InstanceRef) -> Result<Instance, ControlPlaneError> {
        self.json(self.get_call("get", &["instances", id.as_str()]))
            .await
    }

    /// Update: `PATCH /instances/{id}`.
    pub async fn update_instance(
        &self,
        id: &InstanceRef,
        change: &UpdateInstance,
    ) -> Result<Instance, ControlPlaneError> {
        let path = ["instances", id.as_str()];
        let call = self.change_call("update", Method::PATCH, &path);
        self.json(Call {
            body: to_body(change),
            ..call
        })
        .await
    }

    /// Delete: `DELETE /instances/{id}`.
    pub async fn delete_instance(&self, id: &InstanceRef) -> Result<(), ControlPlaneError> {
        let path = ["instances", id.as_str()];
        self.nothing(self.change_call("delete", Method::DELETE, &path))
            .await
    }

    /// Fork: `POST /instances/{id}/fork`.
    pub async fn fork_instance(
        &self,
        id: &InstanceRef,
        request: &ForkInstance,
    ) -> Result<Instance, ControlPlaneError> {
        let path = ["instances", id.as_str(), "fork"];
        let call = self.change_call("fork", Method::POST, &path);
        self.json(Call {
            body: to_body(request),
            ..call
        })
        .await
    }

    /// Restore: `POST /instances/{id}/restore`.
    pub async fn restore_instance(&self, id: &InstanceRef) -> Result<Instance, ControlPlaneError> {
        self.observer().restore_requested();
        let path = ["instances", id.as_str(), "restore"];
        self.json(self.change_call("restore", Method::POST, &path))
            .await
    }

    /// Standby: `POST /instances/{id}/standby`.
    pub async fn standby_instance(
        &self,
        id: &InstanceRef,
        request: Option<&StandbyRequest>,
    ) -> Result<Instance, ControlPlaneError> {
        let path = ["instances", id.as_str(), "standby"];
        let call = self.change_call("standby", Method::POST, &path);
        self.json(Call {
            body: request.and_then(to_body),
            ..call
        })
        .await
    }

    /// Start: `POST /instances/{id}/start`. The body is required, if only `{}`.
    pub async fn start_instance(
        &self,
        id: &InstanceRef,
        request: &StartRequest,
    ) -> Result<Instance, ControlPlaneError> {
        let path = ["instances", id.as_str(), "start"];
        let call = self.change_call("start", Method::POST, &path);
        self.json(Call {
            body: to_body(request),
            ..call
        })
        .await
    }

    /// Stop: `POST /instances/{id}/stop`.
    pub async fn stop_instance(&self, id: &InstanceRef) -> Result<Instance, ControlPlaneError> {
        let path = ["instances", id.as_str(), "stop"];
        self.json(self.change_call("stop", Method::POST, &path))
            .await
    }

    /// Wait: `GET /instances/{id}/wait`. `timeout` is cut to what the server can do.
    pub async fn wait_instance(
        &self,
        id: &InstanceRef,
        state: &InstanceState,
        timeout: Duration,
    ) -> Result<WaitOutcome, ControlPlaneError> {
        let path = ["instances", id.as_str(), "wait"];
        self.json(self.wait_call(&path, state, timeout)).await
    }

    fn wait_call<'a>(
        &self,
        path: &'a [&'a str],
        state: &InstanceState,
        timeout: Duration,
    ) -> Call<'a> {
        let asked = timeout.clamp(Duration::from_millis(1), MAX_WAIT);
        let query = vec![
            ("state".to_owned(), state.to_string()),
            ("timeout".to_owned(), GoDuration::from(asked).to_string()),
        ];
        Call {
            query,
            timeout: asked + self.quick(),
            ..self.get_call("wait", path)
        }
    }

    /// Stat: `GET /instances/{id}/stat`.
    pub async fn stat_path(
        &self,
        id: &InstanceRef,
        path: &str,
        follow_links: bool,
    ) -> Result<PathInfo, ControlPlaneError> {
        let segments = ["instances", id.as_str(), "stat"];
        let query = vec![
            ("path".to_owned(), path.to_owned()),
            ("follow_links".to_owned(), follow_links.to_string()),
        ];
        self.json(Call {
            query,
            ..self.get_call("stat", &segments)
        })
        .await
    }

    /// Stats: `GET /instances/{id}/stats`.
    pub async fn instance_stats(
        &self,
        id: &InstanceRef,
    ) -> Result<InstanceStats, ControlPlaneError> {
        self.json(self.get_call("stats", &["instances", id.as_str(), "stats"]))
            .await
    }

    /// `AutoStandby.Status`: `GET /instances/{id}/auto-standby/status`.
    pub async fn auto_standby_status(
        &self,
        id: &InstanceRef,
    ) -> Result<AutoStandbyStatus, ControlPlaneError> {
        let path = ["instances", id.as_str(), "auto-standby", "status"];
        self.json(self.get_call("auto_standby_status", &path)).await
    }

    /// `AutoStandby.Hold`: `POST /instances/{id}/auto-standby/hold`. Repeating it is harmless: each
    /// hold replaces the last.
    pub async fn auto_standby_hold(
        &self,
        id: &InstanceRef,
    ) -> Result<AutoStandbyStatus, ControlPlaneError> {
        let path = ["instances", id.as_str(), "auto-standby", "hold"];
        let call = self.get_call("hold", &path);
        self.json(Call {
            method: Method::POST,
            ..call
        })
        .await
    }

    /// `Volumes.Attach`: `POST /instances/{id}/volumes/{volume}`.
    pub async fn attach_volume(
        &self,
        id: &InstanceRef,
        volume: &InstanceRef,
        request: &AttachVolume,
    ) -> Result<Instance, ControlPlaneError> {
        let path = ["instances", id.as_str(), "volumes", volume.as_str()];
        let call = self.change_call("volume_attach", Method::POST, &path);
        self.json(Call {
            body: to_body(request),
            ..call
        })
        .await
    }

    /// `Volumes.Detach`: `DELETE /instances/{id}/volumes/{volume}`.
    pub async fn detach_volume(
        &self,
        id: &InstanceRef,
        volume: &InstanceRef,
    ) -> Result<Instance, ControlPlaneError> {
        let path = ["instances", id.as_str(), "volumes", volume.as_str()];
        self.json(self.change_call("volume_detach", Method::DELETE, &path))
            .await
    }
}

impl ControlPlane for HypemanClient {
    async fn get(&self, instance: &InstanceRef) -> Result<Instance, ControlPlaneError> {
        let path = ["instances", instance.as_str()];
        self.json(Call {
            repeatable: false,
            ..self.get_call("get", &path)
        })
        .await
    }

    async fn restore(&self, instance: &InstanceId) -> Result<Instance, ControlPlaneError> {
        self.restore_instance(&instance.to_ref()).await
    }

    async fn start(&self, instance: &InstanceId) -> Result<Instance, ControlPlaneError> {
        self.start_instance(&instance.to_ref(), &StartRequest::default())
            .await
    }

    async fn wait(
        &self,
        instance: &InstanceId,
        state: &InstanceState,
        timeout: Duration,
    ) -> Result<WaitOutcome, ControlPlaneError> {
        let path = ["instances", instance.as_str(), "wait"];
        self.json(Call {
            repeatable: false,
            ..self.wait_call(&path, state, timeout)
        })
        .await
    }

    async fn hold(&self, instance: &InstanceId) -> Result<AutoStandbyStatus, ControlPlaneError> {
        let path = ["instances", instance.as_str(), "auto-standby", "hold"];
        let call = self.get_call("hold", &path);
        self.json(Call {
            method: Method::POST,
            repeatable: false,
            ..call
        })
        .await
    }
}
