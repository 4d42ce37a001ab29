//! The verbs: create, start, stop, standby, restore, delete.
//!
//! Guarantees: the verb x state table of the contract (B.1), its no-ops and its 409 texts; one verb
//! at a time on an instance; what a verb is about to do is on disk before it does it, so that a kill
//! leaves nothing that nobody knows; a verb that fails leaves the instance in the state that is
//! true, and one that makes an instance leaves none.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::RwLockWriteGuard;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::registry::Fleet;
use crate::driver::{Boot, DriverError, Handle, Started};
use crate::error::Error;
use crate::state::State;
use crate::store::{Instance, Kind, Record, Spec};

pub(super) const STOP_GRACE: Duration = Duration::from_secs(5);
const DELETE_GRACE: Duration = Duration::from_secs(2);
/// The longest that the end of the control plane waits for verbs, and then for an instance whose
/// verb has not ended.
const VERBS: Duration = Duration::from_secs(30);
const BUSY: Duration = Duration::from_secs(2);
/// The port of an instance whose `PORT` does not say one.
const DEFAULT_PORT: u16 = 8080;
/// The image of our own small server.
pub(crate) const HELLO_IMAGE: &str = "wakegate/hello";
/// The image that stands for any program of the host.
pub(crate) const EXEC_IMAGE: &str = "local/exec";

/// The tag of an instance whose connections are to outlive its sleep when its value is `keep`.
const FLOWS: &str = "wakegate.flows";

pub(crate) fn invalid_state(verb: &str, state: State, must_be: &str) -> Error {
    let text = format!("invalid state transition: cannot {verb} from state {state}{must_be}");
    Error::conflict("invalid_state", text)
}

impl Fleet {
    /// Runs a verb to its end, whether or not its caller stays.
    pub(crate) async fn detached<F, T>(self: &Arc<Self>, verb: F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + Send + 'static,
        T: Send + 'static,
    {
        let Some(task) = self.begin_verb(verb) else {
            return Err(Error::internal("the control plane is ending"));
        };
        task.await
            .unwrap_or_else(|_| Err(Error::internal("the operation broke off")))
    }

    /// Begins what the end of the control plane waits for; nothing begins any more when that has
    /// come.
    pub(super) fn begin_verb<F>(&self, verb: F) -> Option<JoinHandle<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // Held before the look: the end waits for this one, or is seen here.
        let _held = self.verbs.token();
        (!self.verbs.is_closed()).then(|| self.verbs.spawn(verb))
    }

    /// Makes an instance known, whose name is taken and which is in its folder.
    pub(super) fn admit(&self, instance: &Arc<Instance>) {
        self.instances
            .insert(instance.id.clone(), Arc::clone(instance));
    }

    /// Makes an instance and starts its program. One whose program does not start is there, and
    /// says why it is Stopped; where there is no room for one, nothing is left of it.
    pub(crate) async fn create(&self, spec: Spec) -> Result<Arc<Instance>, Error> {
        let (name, id) = (spec.name.clone(), spec.id.clone());
        let taken = self.names.take(&name, &id).ok_or_else(|| {
            let message = format!("instance name already in use: {name}");
            Error::invalid("name_conflict", message)
        })?;
        let record = Record::new(spec, self.clock.now());
        let created = self.store.create(Kind::Instance, &id, &record);
        created.map_err(|error| {
            tracing::error!(instance = id, %error, "cannot make the instance");
            Error::disk("failed to create instance", &error)
        })?;
        taken.keep();
        let instance = Arc::new(Instance::new(record));
        let booted = {
            // Nobody else has it yet.
            let _guard = instance.lock_living().await?;
            self.admit(&instance);
            self.note(&instance, "created");
            self.boot(&instance).await
        };
        match booted {
            Err(error)
                if matches!(error, Error::NoRoom(_)) || instance.state() != State::Stopped =>
            {
                self.delete_instance(&instance, false).await?;
                Err(error)
            }
            // The instance is there and says why it is Stopped; that is the better answer.
            Ok(()) | Err(_) => Ok(instance),
        }
    }

    /// Starts the program. The caller holds the instance's write lock.
    pub(crate) async fn boot(&self, instance: &Instance) -> Result<(), Error> {
        self.boot_with(instance, |_| {}).await
    }

    /// Changes the record and starts the program; when the record cannot be saved, neither happens.
    async fn boot_with(
        &self,
        instance: &Instance,
        change: impl Fn(&mut Record),
    ) -> Result<(), Error> {
        self.update(instance, |record| {
            change(record);
            record.enter(State::Initializing, self.clock.now());
        })?;
        self.tell(instance, "starting");
        let spec = instance.record().spec.clone();
        let commit = |handle: &Handle| {
            let now = self.clock.now();
            self.change(instance, |record| {
                record.ip = handle.address;
                record.handle = Some(handle.clone());
                record.started_at = Some(now);
                record.stopped_at = None;
                record.exit_code = None;
                record.exit_message = None;
                record.begins(now);
            })
        };
        let started = match self.plan(&spec) {
            Ok(boot) => self.driver.start(&boot, &commit).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(Started { remarks }) => {
                if let Some(traffic) = self.driver.traffic(&spec.id) {
                    traffic.policy.store(spec.policy.map(Arc::new));
                }
                self.note(instance, "started");
                for remark in remarks {
                    self.note(instance, &remark);
                }
                if !self.driver.starts_later() {
                    self.enter(instance, State::Running, "started");
                }
                Ok(())
            }
            Err(error) => {
                self.note(instance, &format!("could not start: {error}"));
                let mut record = instance.record();
                record.exit_code = error.exit_code();
                record.exit_message = Some(error.to_string());
                record.ends(self.clock.now());
                drop(record);
                self.enter(instance, State::Stopped, "could not start");
                Err(refusal("failed to start instance", &error))
            }
        }
    }

    pub(super) fn plan(&self, spec: &Spec) -> Result<Boot, DriverError> {
        let folder = self.store.folder(Kind::Instance, &spec.id);
        let work = folder.join("work");
        match std::fs::create_dir(&work) {
            Err(error) if !work.is_dir() => return Err(DriverError::Files(error)),
            _ => {}
        }
        let words = spec.entrypoint.iter().chain(&spec.cmd).flatten();
        let mut arguments: Vec<String> = words.cloned().collect();
        let is_hello = spec.image == HELLO_IMAGE;
        let program = match is_hello || arguments.is_empty() {
            true => String::new(),
            false => arguments.remove(0),
        };
        let mut environment: Vec<(String, String)> = vec![
            ("INSTANCE_NAME".to_owned(), spec.name.clone()),
            ("INSTANCE_ID".to_owned(), spec.id.clone()),
        ];
        environment.extend(
            spec.env
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        Ok(Boot {
            id: spec.id.clone(),
            program: program.into(),
            arguments,
            is_hello,
            environment,
            port: port(spec),
            network_enabled: spec.network_enabled,
            keeps_flows: spec.tags.get(FLOWS).is_some_and(|flows| flows == "keep"),
            folder: work,
            log: folder.join("app.log"),
            memory_bytes: spec.size + spec.hotplug_size.unwrap_or(0),
            vcpus: spec.vcpus,
        })
    }

    pub(crate) async fn start(
        &self,
        instance: &Instance,
        entrypoint: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
    ) -> Result<(), Error> {
        let _guard = instance.lock_living().await?;
        let overridden = entrypoint.is_some() || cmd.is_some();
        match instance.state() {
            State::Running | State::Initializing if !overridden => Ok(()),
            State::Stopped => {
                let change = |record: &mut Record| {
                    let spec = &mut record.spec;
                    spec.entrypoint = entrypoint.clone().or(spec.entrypoint.take());
                    spec.cmd = cmd.clone().or(spec.cmd.take());
                    record.restarts.forget();
                };
                self.boot_with(instance, change).await
            }
            state @ (State::Created
            | State::Initializing
            | State::Running
            | State::Paused
            | State::Shutdown
            | State::Standby
            | State::Unknown) => Err(invalid_state("start", state, ", must be Stopped")),
        }
    }

    pub(crate) async fn stop(&self, instance: &Instance) -> Result<(), Error> {
        let _guard = instance.lock_living().await?;
        match instance.state() {
            State::Stopped => {
                // It may be waiting to be started again.
                self.update(instance, |record| record.restarts.stopped_by_hand())
            }
            State::Running | State::Initializing => {
                instance.record().restarts.stopped_by_hand();
                self.end_program(instance, "stopped").await;
                Ok(())
            }
            state @ (State::Created
            | State::Paused
            | State::Shutdown
            | State::Standby
            | State::Unknown) => Err(invalid_state(
                "stop",
                state,
                ", must be Running or Initializing",
            )),
        }
    }

    /// Ends the program of an instance that runs. The caller holds its lock.
    pub(crate) async fn end_program(&self, instance: &Instance, reason: &'static str) {
        self.enter(instance, State::Shutdown, "stopping");
        self.driver.stop(&instance.id, STOP_GRACE).await;
        instance.record().ends(self.clock.now());
        self.note(instance, reason);
        self.enter(instance, State::Stopped, reason);
    }

    /// Puts an instance to sleep. With options of compression, Standby is no longer a no-op.
    pub(crate) async fn standby(
        &self,
        instance: &Instance,
        with_options: bool,
    ) -> Result<(), Error> {
        let _guard = instance.lock_living().await?;
        match instance.state() {
            State::Standby if !with_options => Ok(()),
            State::Running => self.put_to_sleep(instance, "asked to sleep").await,
            state @ (State::Created
            | State::Initializing
            | State::Paused
            | State::Shutdown
            | State::Stopped
            | State::Standby
            | State::Unknown) => Err(invalid_state("standby", state, "")),
        }
    }

    pub(crate) async fn put_to_sleep(
        &self,
        instance: &Instance,
        reason: &'static str,
    ) -> Result<(), Error> {
        self.enter(instance, State::Paused, reason);
        match self.driver.standby(&instance.id).await {
            Ok(()) => {
                instance.record().countdown.clear();
                self.note(instance, &format!("standby: {reason}"));
                self.enter(instance, State::Standby, reason);
                Ok(())
            }
            Err(error) => {
                self.note(instance, &format!("standby failed: {error}"));
                self.fails(instance, State::Running, &error, "standby failed");
                Err(refusal("failed to standby instance", &error))
            }
        }
    }

    /// Enters the state that is true after a driver has failed: the one before, unless the instance
    /// has broken.
    pub(super) fn fails(
        &self,
        instance: &Instance,
        before: State,
        error: &DriverError,
        reason: &'static str,
    ) {
        let state = if matches!(error, DriverError::FellBack) {
            instance.record().countdown.clear();
            State::Standby
        } else if matches!(error, DriverError::Broke) {
            let (now, mut record) = (self.clock.now(), instance.record());
            record.exit_message = Some(error.to_string());
            record.ends(now);
            let policy = record.spec.restart_policy.clone();
            record.restarts.ended(policy.as_ref(), None, now);
            State::Stopped
        } else {
            before
        };
        if instance.state() != state {
            self.enter(instance, state, reason);
        }
    }

    pub(crate) async fn restore(&self, instance: &Instance) -> Result<(), Error> {
        let _guard = instance.lock_living().await?;
        match instance.state() {
            State::Running | State::Initializing => {
                self.note(instance, "restore: no-op");
                Ok(())
            }
            State::Standby => self.wake_up(instance).await,
            state @ (State::Created
            | State::Paused
            | State::Shutdown
            | State::Stopped
            | State::Unknown) => Err(invalid_state("restore", state, "")),
        }
    }

    /// Brings an instance from Standby to Running. The caller holds its lock.
    pub(crate) async fn wake_up(&self, instance: &Instance) -> Result<(), Error> {
        // Never closed, so never refused.
        let _slot = self.restores.acquire().await;
        self.enter(instance, State::Paused, "restoring");
        match self.driver.restore(&instance.id).await {
            Ok(()) => {
                instance.record().begins(self.clock.now());
                self.note(instance, "restore: done");
                self.enter(instance, State::Running, "restored");
                Ok(())
            }
            Err(error) => {
                self.note(instance, &format!("restore failed: {error}"));
                self.fails(instance, State::Standby, &error, "restore failed");
                Err(refusal("failed to restore instance", &error))
            }
        }
    }

    /// Lets the faults in force disturb an instance that has just been restored.
    pub(crate) async fn disturb_restored(self: &Arc<Self>, instance: &Arc<Instance>) {
        let (fleet, instance) = (Arc::clone(self), Arc::clone(instance));
        if let Some(time) = self.faults.initializing() {
            {
                let verb = instance.lock_living().await;
                if verb.is_err() || instance.state() != State::Running {
                    return;
                }
                self.enter(&instance, State::Initializing, "a fault");
            }
            self.tasks.spawn(async move {
                sleep(time).await;
                let verb = instance.lock_living().await;
                if verb.is_ok() && instance.state() == State::Initializing {
                    fleet.enter(&instance, State::Running, "the fault is over");
                }
            });
        } else if self.faults.flaps() {
            self.tasks.spawn(async move {
                // It may have gone by itself, or be gone, by then.
                let _refused = fleet.standby(&instance, false).await;
            });
        }
    }

    /// Deletes an instance. A graceful end asks the program to end first. It is in nobody's list
    /// only when nothing of it is left to be found.
    pub(crate) async fn delete_instance(
        &self,
        instance: &Instance,
        graceful: bool,
    ) -> Result<(), Error> {
        let _guard = instance.lock_living().await?;
        let id = &instance.id;
        let failed = |error: std::io::Error| {
            tracing::error!(instance = id, %error, "cannot delete the instance");
            Error::disk("failed to delete instance", &error)
        };
        // From here on a kill does not bring it back.
        let begun = self.store.begin_removal(Kind::Instance, id);
        begun.map_err(failed)?;
        // Not saved: its record says already that it goes.
        instance.change(|record| record.enter(State::Shutdown, self.clock.now()));
        self.tell(instance, "being deleted");
        let grace = match graceful {
            true => DELETE_GRACE,
            false => Duration::ZERO,
        };
        self.driver.stop(id, grace).await;
        if let Err(error) = self.store.remove(Kind::Instance, id) {
            instance.record().ends(self.clock.now());
            if let Err(error) = self.store.cancel_removal(Kind::Instance, id) {
                tracing::error!(instance = id, %error, "a restart will delete the instance");
            }
            self.enter(instance, State::Stopped, "could not be deleted");
            return Err(failed(error));
        }
        instance.mark_deleted();
        self.instances.remove(id);
        self.names.free(&instance.name(), id);
        Ok(())
    }

    /// Waits for every verb that runs; a verb has its own bounds.
    pub(crate) async fn finish_verbs(&self) {
        self.verbs.close();
        if timeout(VERBS, self.verbs.wait()).await.is_err() {
            tracing::warn!("verbs do not end; a restart undoes or finishes them");
        }
    }

    /// Ends every instance's program; what is asleep keeps no memory.
    pub(crate) async fn stop_all(&self) {
        let all = self.all();
        let stops = all.iter().map(|instance| async move {
            let Some(_guard) = last_turn(instance).await else {
                return;
            };
            if instance.record().handle.is_none() {
                return;
            }
            self.driver.stop(&instance.id, DELETE_GRACE).await;
            instance.record().ends(self.clock.now());
            self.enter(instance, State::Stopped, "the control plane stopped it");
        });
        join_all(stops).await;
    }

    /// Saves every record at the end, for what is not worth a save by itself.
    pub(crate) async fn save_all(&self) {
        let all = self.all();
        let saves = all.iter().map(|instance| async move {
            if let Some(_guard) = last_turn(instance).await {
                self.save(instance);
            }
        });
        join_all(saves).await;
    }
}

/// The turn to change an instance at the end of the control plane, which waits for nobody for ever.
async fn last_turn(instance: &Instance) -> Option<RwLockWriteGuard<'_, ()>> {
    let Ok(turn) = timeout(BUSY, instance.lock_living()).await else {
        tracing::warn!(instance = instance.id, "it is busy, and left as it is");
        return None;
    };
    turn.ok()
}

/// What a caller hears of a driver's failure.
pub(super) fn refusal(operation: &str, error: &DriverError) -> Error {
    match error.is_no_room() {
        true => Error::NoRoom(format!("{operation}: {error}")),
        false => Error::internal(operation),
    }
}

/// The guest port that an instance's program listens at.
pub(crate) fn port(spec: &Spec) -> u16 {
    let port = spec.env.get("PORT").and_then(|port| port.parse().ok());
    port.unwrap_or(DEFAULT_PORT)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_an_instance_that_is_busy_and_not_for_ever() {
        let spec = serde_json::from_value(json!({
            "id": "one", "name": "one", "image": "i", "created_at": Timestamp::UNIX_EPOCH,
            "env": {}, "tags": {}, "size": 1, "overlay_size": 1, "vcpus": 1,
            "network_enabled": false,
        }));
        let record = Record::new(spec.unwrap(), Timestamp::UNIX_EPOCH);
        let instance = Instance::new(record);
        let verb = instance.lock_living().await.unwrap();
        assert!(last_turn(&instance).await.is_none());
        let freed = async {
            sleep(BUSY / 2).await;
            drop(verb);
        };
        let (turn, ()) = tokio::join!(last_turn(&instance), freed);
        assert!(turn.is_some());
    }
}
