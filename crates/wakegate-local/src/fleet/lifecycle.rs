//! The verbs: create, start, stop, standby, restore, delete.
//!
//! Guarantees: the verb x state table of the contract (B.1), its no-ops and its 409 texts; one verb
//! at a time on an instance; a verb that fails leaves the instance in the state that is true.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::registry::Fleet;
use crate::driver::{Boot, DriverError, Started};
use crate::error::Error;
use crate::state::State;
use crate::store::{Instance, Kind, Record, Spec};

const STOP_GRACE: Duration = Duration::from_secs(5);
const DELETE_GRACE: Duration = Duration::from_secs(2);
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
        let task = self.tasks.spawn(verb);
        task.await
            .unwrap_or_else(|_| Err(Error::internal("the operation broke off")))
    }

    /// Records a new instance; its program is started by [`Fleet::boot`].
    pub(crate) async fn create(&self, spec: Spec) -> Result<Arc<Instance>, Error> {
        let _naming = self.naming.lock().await;
        if self
            .all()
            .iter()
            .any(|instance| instance.name() == spec.name)
        {
            let message = format!("instance name already in use: {}", spec.name);
            return Err(Error::invalid("name_conflict", message));
        }
        let instance = Arc::new(Instance::new(Record::new(spec, self.clock.now())));
        self.save(&instance)?;
        self.instances
            .insert(instance.id.clone(), Arc::clone(&instance));
        self.note(&instance, "created");
        Ok(instance)
    }

    /// Starts the program. The caller holds the instance's write lock.
    pub(crate) async fn boot(&self, instance: &Instance) -> Result<(), Error> {
        self.enter(instance, State::Initializing, "starting");
        let spec = instance.record().spec.clone();
        let started = match self.plan(&spec) {
            Ok(boot) => self.driver.start(&boot).await,
            Err(error) => Err(error),
        };
        let now = self.clock.now();
        match started {
            Ok(Started { handle, remarks }) => {
                if let Some(traffic) = self.driver.traffic(&spec.id) {
                    traffic.policy.store(spec.policy.map(Arc::new));
                }
                let mut record = instance.record();
                record.ip = handle.address;
                record.handle = Some(handle);
                record.started_at = Some(now);
                record.stopped_at = None;
                record.exit_code = None;
                record.exit_message = None;
                record.begins(now);
                drop(record);
                self.note(instance, "started");
                for remark in remarks {
                    self.note(instance, &remark);
                }
                if self.driver.starts_later() {
                    self.save_or_warn(instance);
                } else {
                    self.enter(instance, State::Running, "started");
                }
                Ok(())
            }
            Err(error) => {
                self.note(instance, &format!("could not start: {error}"));
                let mut record = instance.record();
                record.exit_code = error.exit_code();
                record.exit_message = Some(error.to_string());
                record.ends(now);
                drop(record);
                self.enter(instance, State::Stopped, "could not start");
                Err(Error::internal("failed to start instance"))
            }
        }
    }

    fn plan(&self, spec: &Spec) -> Result<Boot, DriverError> {
        let folder = self
            .store
            .folder(Kind::Instance, &spec.id)
            .map_err(DriverError::Files)?;
        let work = folder.join("work");
        std::fs::create_dir_all(&work).map_err(DriverError::Files)?;
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
        let _guard = instance.lock.write().await;
        gone(instance)?;
        let overridden = entrypoint.is_some() || cmd.is_some();
        match instance.state() {
            State::Running | State::Initializing if !overridden => Ok(()),
            State::Stopped => {
                {
                    let spec = &mut instance.record().spec;
                    spec.entrypoint = entrypoint.or(spec.entrypoint.take());
                    spec.cmd = cmd.or(spec.cmd.take());
                }
                instance.record().restarts.forget();
                self.boot(instance).await
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
        let _guard = instance.lock.write().await;
        gone(instance)?;
        match instance.state() {
            State::Stopped => {
                // It may be waiting to be started again.
                instance.record().restarts.stopped_by_hand();
                self.save(instance)
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
        let _guard = instance.lock.write().await;
        gone(instance)?;
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
                let state = if matches!(error, DriverError::FellBack) {
                    State::Standby
                } else if matches!(error, DriverError::Broke) {
                    State::Stopped
                } else {
                    State::Running
                };
                if state == State::Stopped {
                    let mut record = instance.record();
                    record.exit_message = Some(error.to_string());
                    record.ends(self.clock.now());
                }
                self.enter(instance, state, "standby failed");
                Err(Error::internal("failed to standby instance"))
            }
        }
    }

    pub(crate) async fn restore(&self, instance: &Instance) -> Result<(), Error> {
        let _guard = instance.lock.write().await;
        gone(instance)?;
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
                self.enter(instance, State::Standby, "restore failed");
                Err(Error::internal("failed to restore instance"))
            }
        }
    }

    /// Lets the faults in force disturb an instance that has just been restored.
    pub(crate) fn disturb_restored(self: &Arc<Self>, instance: &Arc<Instance>) {
        let (fleet, instance) = (Arc::clone(self), Arc::clone(instance));
        if let Some(time) = self.faults.initializing() {
            self.enter(&instance, State::Initializing, "a fault");
            self.tasks.spawn(async move {
                sleep(time).await;
                let _verb = instance.lock.write().await;
                if instance.state() == State::Initializing {
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

    /// Deletes an instance. A graceful end asks the program to end first.
    pub(crate) async fn delete_instance(
        &self,
        instance: &Instance,
        graceful: bool,
    ) -> Result<(), Error> {
        let _guard = instance.lock.write().await;
        gone(instance)?;
        instance.mark_deleted();
        self.instances.remove(&instance.id);
        let grace = if graceful {
            DELETE_GRACE
        } else {
            Duration::ZERO
        };
        self.driver.stop(&instance.id, grace).await;
        self.store.remove(Kind::Instance, &instance.id).map_err(|error| {
            tracing::error!(instance = %instance.id, %error, "cannot remove the instance's files");
            Error::internal("failed to delete instance")
        })
    }

    /// Ends every instance's program; what is asleep keeps no memory.
    pub(crate) async fn stop_all(&self) {
        for instance in self.all() {
            let _guard = instance.lock.write().await;
            if instance.record().handle.is_none() {
                continue;
            }
            self.driver.stop(&instance.id, DELETE_GRACE).await;
            instance.record().ends(self.clock.now());
            self.enter(&instance, State::Stopped, "the control plane stopped it");
        }
    }
}

/// The guest port that an instance's program listens at.
pub(crate) fn port(spec: &Spec) -> u16 {
    let port = spec.env.get("PORT").and_then(|port| port.parse().ok());
    port.unwrap_or(DEFAULT_PORT)
}

pub(crate) fn gone(instance: &Instance) -> Result<(), Error> {
    if instance.is_deleted() {
        Err(Error::not_found())
    } else {
        Ok(())
    }
}
