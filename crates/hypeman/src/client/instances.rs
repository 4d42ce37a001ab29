//! Operations on instances, their auto-standby and their volumes.
//!
//! Guarantees: reads and `hold` are repeated after an error that may pass; operations that change
//! something are not, since their answer tells what the state was. The [`ControlPlane`]
//! implementation repeats nothing: its caller decides.

use std::time::Duration;

use http::Method;

use super::call::Call;
use super::error::Error;
use super::handle::Client;
use super::listed::Listed;
use super::name::{InstanceId, InstanceRef, ResourceRef};
use super::plane::ControlPlane;
use super::summary::InstanceSummary;
use super::wire::{
    AttachVolume, AutoStandbyStatus, CreateInstance, DeleteInstance, ForkInstance, Instance,
    InstanceState, InstanceStats, ListInstances, PathInfo, StandbyRequest, StartRequest,
    UpdateInstance, WaitOutcome,
};
use crate::duration::GoDuration;

/// The server's own deadline is 60 s; a longer wait comes back timed out.
const MAX_WAIT: Duration = Duration::from_secs(55);

impl Client {
    /// Creates an instance and boots it. The answer's state is normally `Initializing`.
    ///
    /// `POST /instances` (seed: `Instances.New`), operation `create`.
    ///
    /// # Errors
    /// - 400 with the code of the field that is wrong, such as `invalid_size`.
    /// - 400 or 409 `name_conflict` or `already_exists`: another instance has the name.
    /// - 400 `image_not_ready`: the image is still being pulled; try again later.
    /// - 404 `not_found`: there is no such image. 404 `platform_not_available`: it is not there for
    ///   the platform.
    /// - 409 `insufficient_resources`: the host is full. 429 `rate_limited`: the registry is busy.
    pub async fn create_instance(&self, request: &CreateInstance) -> Result<Instance, Error> {
        let call = self.change("create", Method::POST, ["instances"]);
        call.body(request).json().await
    }

    /// Lists the instances that match the filter; all of them with the default filter. The list
    /// takes no lock and may show states that last for a moment only, such as `Paused`. An element
    /// that cannot be read is among [`Listed::odd`] and fails nothing.
    ///
    /// `GET /instances` (seed: `Instances.List`), operation `list`.
    ///
    /// # Errors
    /// 400 `Bad Request`: the server does not know the filter's state.
    pub async fn list_instances(&self, filter: &ListInstances) -> Result<Listed<Instance>, Error> {
        self.listing(filter).list().await
    }

    /// The same list, of which no more is read than a summary has: several times faster, for those
    /// who look again and again at thousands of instances.
    ///
    /// `GET /instances` (seed: `Instances.List`), operation `list`.
    ///
    /// # Errors
    /// 400 `Bad Request`: the server does not know the filter's state.
    pub async fn list_instance_summaries(
        &self,
        filter: &ListInstances,
    ) -> Result<Listed<InstanceSummary>, Error> {
        self.listing(filter).list().await
    }

    /// Reads an instance by its id, its name, or a prefix of its id that no other id has. The
    /// server answers after an operation on the instance that is going on, such as a restore.
    ///
    /// `GET /instances/{id}` (seed: `Instances.Get`), operation `get`.
    ///
    /// # Errors
    /// 404 `not_found`: there is no such instance. 409 `ambiguous`: the prefix is that of several.
    /// Every operation on one instance can fail with these two.
    pub async fn get_instance(&self, id: &InstanceRef) -> Result<Instance, Error> {
        self.read("get", ["instances", id.as_str()]).json().await
    }

    /// Changes an instance, in any state. What is not set in `change` stays; what is set is
    /// replaced as a whole, so begin with what [`get_instance`](Self::get_instance) answers.
    ///
    /// `PATCH /instances/{id}` (seed: `Instances.Update`), operation `update`.
    ///
    /// # Errors
    /// - 400 `invalid_request`: nothing is set, or something is wrong. Other codes name what is,
    ///   such as `invalid_health_check` or `invalid_expires_at`.
    /// - 409 `invalid_state`: `env` can only be changed while the instance runs.
    /// - 409 `instance_expired`: the instance's time is up.
    pub async fn update_instance(
        &self,
        id: &InstanceRef,
        change: &UpdateInstance,
    ) -> Result<Instance, Error> {
        let call = self.change("update", Method::PATCH, ["instances", id.as_str()]);
        call.body(change).json().await
    }

    /// Deletes an instance in any state, in the server's default way.
    ///
    /// `DELETE /instances/{id}` (seed: `Instances.Delete`), operation `delete`.
    ///
    /// # Errors
    /// 404 `not_found`: there is no such instance.
    pub async fn delete_instance(&self, id: &InstanceRef) -> Result<(), Error> {
        self.delete_instance_with(id, &DeleteInstance::default())
            .await
    }

    /// Deletes an instance in any state, with options: whether the guest is asked to shut down.
    ///
    /// `DELETE /instances/{id}?graceful_shutdown=` (seed: `Instances.Delete`), operation `delete`.
    ///
    /// # Errors
    /// 404 `not_found`: there is no such instance.
    pub async fn delete_instance_with(
        &self,
        id: &InstanceRef,
        options: &DeleteInstance,
    ) -> Result<(), Error> {
        let call = self.change("delete", Method::DELETE, ["instances", id.as_str()]);
        let call = call.query_opt("graceful_shutdown", options.graceful_shutdown);
        call.nothing().await
    }

    /// Copies an instance that is `Stopped` or in `Standby`, or one that is `Running` if the
    /// request allows that. The copy has an id of its own, and an address of its own once it runs.
    ///
    /// `POST /instances/{id}/fork` (seed: `Instances.Fork`), operation `fork`.
    ///
    /// # Errors
    /// - 400 `invalid_request`.
    /// - 409 `invalid_state`: the source is in another state. 409 `name_conflict`: another instance
    ///   has the name. 409 `insufficient_resources`: the host is full.
    /// - 501 `not_supported`: the hypervisor cannot.
    pub async fn fork_instance(
        &self,
        id: &InstanceRef,
        request: &ForkInstance,
    ) -> Result<Instance, Error> {
        let call = self.change("fork", Method::POST, ["instances", id.as_str(), "fork"]);
        call.body(request).json().await
    }

    /// Wakes an instance that is in `Standby`. The server answers after the virtual machine has
    /// been resumed, normally with state `Running` and the address that it had before. On an
    /// instance that is `Running` or `Initializing` nothing happens and the call succeeds; many
    /// calls at once cost one restore.
    ///
    /// Dropping the future may abort a restore on the server: let a task own it.
    ///
    /// `POST /instances/{id}/restore` (seed: `Instances.Restore`), operation `restore`.
    ///
    /// # Errors
    /// - 409 `invalid_state`: the instance is in another state, such as `Stopped`; see
    ///   [`start_instance`](Self::start_instance).
    /// - 409 `insufficient_resources`: the host is full; try again later.
    /// - 500 `internal_error`: the restore has failed, and the instance is in `Standby` again where
    ///   possible.
    pub async fn restore_instance(&self, id: &InstanceRef) -> Result<Instance, Error> {
        let path = ["instances", id.as_str(), "restore"];
        self.change("restore", Method::POST, path).json().await
    }

    /// Puts a `Running` instance into `Standby`: the server saves its memory and ends its virtual
    /// machine, then answers. Connections to the instance see no end of it. Without options nothing
    /// happens to an instance that is in `Standby`, and the call succeeds.
    ///
    /// `POST /instances/{id}/standby` (seed: `Instances.Standby`), operation `standby`.
    ///
    /// # Errors
    /// - 400 `invalid_snapshot_compression`, `invalid_compression_delay`.
    /// - 409 `invalid_state`: the instance is in another state.
    /// - 500 `internal_error`: among others, the hypervisor cannot save memory.
    pub async fn standby_instance(
        &self,
        id: &InstanceRef,
        request: Option<&StandbyRequest>,
    ) -> Result<Instance, Error> {
        let path = ["instances", id.as_str(), "standby"];
        let call = self.change("standby", Method::POST, path);
        call.body_opt(request).json().await
    }

    /// Boots an instance that is `Stopped`; its address is a new one. Without options nothing
    /// happens to an instance that is `Running` or `Initializing`, and the call succeeds.
    ///
    /// `POST /instances/{id}/start` (seed: `Instances.Start`), operation `start`.
    ///
    /// # Errors
    /// - 404 `not_found`: there is no such instance, or its image is gone.
    /// - 409 `invalid_state`: the instance is in another state. 409 `insufficient_resources`: the
    ///   host is full.
    pub async fn start_instance(
        &self,
        id: &InstanceRef,
        request: &StartRequest,
    ) -> Result<Instance, Error> {
        let path = ["instances", id.as_str(), "start"];
        // The server requires a body, if only `{}`.
        let call = self.change("start", Method::POST, path).body(request);
        call.json().await
    }

    /// Stops an instance that is `Running` or `Initializing`: the server asks the guest, waits five
    /// seconds, then ends the virtual machine. On an instance that is `Stopped` nothing happens and
    /// the call succeeds.
    ///
    /// `POST /instances/{id}/stop` (seed: `Instances.Stop`), operation `stop`.
    ///
    /// # Errors
    /// 409 `invalid_state`: the instance is in another state.
    pub async fn stop_instance(&self, id: &InstanceRef) -> Result<Instance, Error> {
        let path = ["instances", id.as_str(), "stop"];
        self.change("stop", Method::POST, path).json().await
    }

    /// Waits until an instance is in a state, or until `timeout`, which is cut to 55 s: a server
    /// cannot wait for longer than 60 s. To wait for longer, wait again.
    ///
    /// The server answers at once when the instance cannot come into the state by itself; a wait
    /// for `Running` on an instance in `Standby` is over immediately. So look at the `state` of the
    /// answer, not at `timed_out` alone.
    ///
    /// `GET /instances/{id}/wait` (seed: `Instances.Wait`), operation `wait`.
    ///
    /// # Errors
    /// - 400 `invalid_state`: nothing waits for `Unknown`.
    /// - 404 `not_found`: also when the instance is deleted meanwhile.
    pub async fn wait_instance(
        &self,
        id: &InstanceRef,
        state: &InstanceState,
        timeout: Duration,
    ) -> Result<WaitOutcome, Error> {
        self.waiting(id.as_str(), state, timeout).json().await
    }

    /// Looks at a path in the guest of a `Running` instance.
    ///
    /// `GET /instances/{id}/stat` (seed: `Instances.Stat`), operation `stat`.
    ///
    /// # Errors
    /// 409 `invalid_state`: the instance does not run. That nothing is at the path is no error; see
    /// [`PathInfo::exists`].
    pub async fn stat_path(
        &self,
        id: &InstanceRef,
        path: &str,
        follow_links: bool,
    ) -> Result<PathInfo, Error> {
        let call = self.read("stat", ["instances", id.as_str(), "stat"]);
        let call = call.query("path", path).query("follow_links", follow_links);
        call.json().await
    }

    /// Reads what resources an instance uses.
    ///
    /// `GET /instances/{id}/stats` (seed: `Instances.Stats`), operation `stats`.
    ///
    /// # Errors
    /// 404 `not_found`: there is no such instance.
    pub async fn instance_stats(&self, id: &InstanceRef) -> Result<InstanceStats, Error> {
        let path = ["instances", id.as_str(), "stats"];
        self.read("stats", path).json().await
    }

    /// Reads what auto-standby is doing with an instance.
    ///
    /// `GET /instances/{id}/auto-standby/status` (seed: `Instances.AutoStandby.Status`), operation
    /// `auto_standby_status`.
    ///
    /// # Errors
    /// 404 `not_found`: there is no such instance.
    pub async fn auto_standby_status(&self, id: &InstanceRef) -> Result<AutoStandbyStatus, Error> {
        let path = ["instances", id.as_str(), "auto-standby", "status"];
        self.read("auto_standby_status", path).json().await
    }

    /// Keeps auto-standby from putting an instance to sleep before one idle time from now. A hold
    /// replaces the one before, and cannot be released. It is repeated like a read, since a second
    /// one is harmless.
    ///
    /// Success alone does not prove that the instance runs: without a policy, and for one that is
    /// stopped, the answer is the status and nothing is held. `eligible` and `hold_until` tell.
    ///
    /// `POST /instances/{id}/auto-standby/hold` (newer than the seed; the official SDKs have it
    /// since 0.28), operation `hold`.
    ///
    /// # Errors
    /// - 409 `instance_in_standby`: the instance is asleep or falling asleep; restore it first.
    /// - An older server does not have the operation: [`Error::is_missing_operation`].
    pub async fn auto_standby_hold(&self, id: &InstanceRef) -> Result<AutoStandbyStatus, Error> {
        self.holding(id.as_str()).json().await
    }

    /// Attaches a volume to an instance.
    ///
    /// `POST /instances/{id}/volumes/{volume}` (seed: `Instances.Volumes.Attach`), operation
    /// `volume_attach`.
    ///
    /// # Errors
    /// 500 `not_implemented`: what current servers answer. Mount volumes with
    /// [`CreateInstance::volumes`].
    pub async fn attach_volume(
        &self,
        id: &InstanceRef,
        volume: &ResourceRef,
        request: &AttachVolume,
    ) -> Result<Instance, Error> {
        let path = ["instances", id.as_str(), "volumes", volume.as_str()];
        let call = self.change("volume_attach", Method::POST, path);
        call.body(request).json().await
    }

    /// Detaches a volume from an instance.
    ///
    /// `DELETE /instances/{id}/volumes/{volume}` (seed: `Instances.Volumes.Detach`), operation
    /// `volume_detach`.
    ///
    /// # Errors
    /// 500 `not_implemented`: what current servers answer.
    pub async fn detach_volume(
        &self,
        id: &InstanceRef,
        volume: &ResourceRef,
    ) -> Result<Instance, Error> {
        let path = ["instances", id.as_str(), "volumes", volume.as_str()];
        let call = self.change("volume_detach", Method::DELETE, path);
        call.json().await
    }

    fn listing(&self, filter: &ListInstances) -> Call<'_> {
        let call = self.read("list", ["instances"]);
        let call = call.query_opt("state", filter.state.as_ref());
        call.tags(&filter.tags)
    }

    fn waiting(&self, id: &str, state: &InstanceState, timeout: Duration) -> Call<'_> {
        let span = timeout.clamp(Duration::from_millis(1), MAX_WAIT);
        let call = self.read("wait", ["instances", id, "wait"]);
        call.query("state", state)
            .query("timeout", GoDuration::from(span))
            .within(span.saturating_add(self.inner.timeout))
    }

    fn holding(&self, id: &str) -> Call<'_> {
        let path = ["instances", id, "auto-standby", "hold"];
        self.read("hold", path).method(Method::POST)
    }
}

impl ControlPlane for Client {
    async fn get(&self, instance: &InstanceRef) -> Result<Instance, Error> {
        let path = ["instances", instance.as_str()];
        self.read("get", path).once().json().await
    }

    async fn restore(&self, instance: &InstanceId) -> Result<Instance, Error> {
        self.restore_instance(&instance.to_ref()).await
    }

    async fn start(&self, instance: &InstanceId) -> Result<Instance, Error> {
        let request = StartRequest::default();
        self.start_instance(&instance.to_ref(), &request).await
    }

    async fn wait(
        &self,
        instance: &InstanceId,
        state: &InstanceState,
        timeout: Duration,
    ) -> Result<WaitOutcome, Error> {
        let call = self.waiting(instance.as_str(), state, timeout);
        call.once().json().await
    }

    async fn hold(&self, instance: &InstanceId) -> Result<AutoStandbyStatus, Error> {
        self.holding(instance.as_str()).once().json().await
    }
}
