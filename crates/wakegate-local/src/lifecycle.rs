//! The verbs: start, stop, standby, restore, delete, fork.
//!
//! Guarantees: the verb x state table of the contract (B.1), its no-ops and its 409 texts; one verb
//! at a time on an instance; a verb that fails leaves the instance in the state that is true.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::api::ApiError;
use super::driver::{Boot, DriverError, Started};
use super::fleet::Fleet;
use super::instance::{Instance, Record, Spec, State};
use super::store::Kind;

const STOP_GRACE: Duration = Duration::from_secs(5);
const DELETE_GRACE: Duration = Duration::from_secs(2);
/// What an instance listens at when its `PORT` does not say.
const DEFAULT_PORT: u16 = 8080;
/// Our own small server.
pub(super) const HELLO_IMAGE: &str = "wakegate/hello";
/// Any program of the host.
pub(super) const EXEC_IMAGE: &str = "local/exec";

fn invalid_state(verb: &str, state: State, must_be: &str) -> ApiError {
    let text = format!("invalid state transition: cannot {verb} from state {state}{must_be}");
    ApiError::conflict("invalid_state", text)
}

impl Fleet {
    /// Runs a verb to its end, whether or not its caller stays.
    pub(super) async fn detached<F, T>(self: &Arc<Self>, verb: F) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
        T: Send + 'static,
    {
        let task = self.tasks.spawn(verb);
        task.await
            .unwrap_or_else(|_| Err(ApiError::internal("the operation broke off")))
    }

    /// Records a new instance; its program is started by [`Fleet::boot`].
    pub(super) async fn create(&self, spec: Spec) -> Result<Arc<Instance>, ApiError> {
        let _naming = self.naming.lock().await;
        if self
            .all()
            .iter()
            .any(|instance| instance.name() == spec.name)
        {
            let message = format!("instance name already in use: {}", spec.name);
            return Err(ApiError::bad_request("name_conflict", message));
        }
        let instance = Arc::new(Instance::new(Record::new(spec, Timestamp::now())));
        self.save(&instance)?;
        self.instances
            .insert(instance.id.clone(), Arc::clone(&instance));
        self.note(&instance, "created");
        Ok(instance)
    }

    /// Starts the program. The caller holds the instance's write lock.
    pub(super) async fn boot(&self, instance: &Instance) -> Result<(), ApiError> {
        self.enter(instance, State::Initializing, "starting");
        let spec = instance.record().spec.clone();
        let started = match self.plan(&spec) {
            Ok(boot) => self.driver.start(&boot).await,
            Err(error) => Err(error),
        };
        let now = Timestamp::now();
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
                record.exit_message = Some(error.to_string());
                record.ends(now);
                drop(record);
                self.enter(instance, State::Stopped, "could not start");
                Err(ApiError::internal("failed to start instance"))
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
            folder: work,
            log: folder.join("app.log"),
            memory_bytes: spec.size + spec.hotplug_size.unwrap_or(0),
            vcpus: spec.vcpus,
        })
    }

    pub(super) async fn start(
        &self,
        instance: &Instance,
        entrypoint: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
    ) -> Result<(), ApiError> {
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

    pub(super) async fn stop(&self, instance: &Instance) -> Result<(), ApiError> {
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
    pub(super) async fn end_program(&self, instance: &Instance, reason: &'static str) {
        self.enter(instance, State::Shutdown, "stopping");
        self.driver.stop(&instance.id, STOP_GRACE).await;
        instance.record().ends(Timestamp::now());
        self.note(instance, reason);
        self.enter(instance, State::Stopped, reason);
    }

    /// `with_options`: compression was asked for, which makes Standby no longer a no-op.
    pub(super) async fn standby(
        &self,
        instance: &Instance,
        with_options: bool,
    ) -> Result<(), ApiError> {
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

    /// What auto-standby does when a countdown has ended: looks again, and cannot be called back
    /// once it has the instance's lock.
    pub(super) async fn standby_if_still_idle(&self, instance: &Instance) {
        let _guard = instance.lock.write().await;
        let idle = {
            let mut record = instance.record();
            let now = Timestamp::now();
            let policy = record.spec.policy.clone().filter(|policy| policy.enabled);
            let due = record.state == State::Running
                && policy.as_ref().is_some_and(|policy| {
                    record.countdown.requested
                        && record
                            .countdown
                            .deadline(policy)
                            .is_some_and(|at| at <= now)
                });
            let quiet = match (self.driver.connections(), record.ip, &policy) {
                (Ok(table), Some(ip), Some(policy)) => !table
                    .inbound(ip)
                    .any(|c| policy.counts(c.remote.0, c.local.1)),
                _ => false,
            };
            if !(due && quiet) {
                record.countdown.requested = false;
            }
            due && quiet
        };
        if idle && !instance.is_deleted() && self.put_to_sleep(instance, "idle").await.is_err() {
            instance.record().countdown.restart(Timestamp::now());
        }
    }

    async fn put_to_sleep(
        &self,
        instance: &Instance,
        reason: &'static str,
    ) -> Result<(), ApiError> {
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
                    record.ends(Timestamp::now());
                }
                self.enter(instance, state, "standby failed");
                Err(ApiError::internal("failed to standby instance"))
            }
        }
    }

    pub(super) async fn restore(&self, instance: &Instance) -> Result<(), ApiError> {
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

    /// From Standby to Running. The caller holds the instance's lock.
    pub(super) async fn wake_up(&self, instance: &Instance) -> Result<(), ApiError> {
        // Never closed, so never refused.
        let _slot = self.restores.acquire().await;
        self.enter(instance, State::Paused, "restoring");
        match self.driver.restore(&instance.id).await {
            Ok(()) => {
                instance.record().begins(Timestamp::now());
                self.note(instance, "restore: done");
                self.enter(instance, State::Running, "restored");
                Ok(())
            }
            Err(error) => {
                self.note(instance, &format!("restore failed: {error}"));
                self.enter(instance, State::Standby, "restore failed");
                Err(ApiError::internal("failed to restore instance"))
            }
        }
    }

    /// `graceful`: the program is asked to end before it is ended.
    pub(super) async fn delete_instance(
        &self,
        instance: &Instance,
        graceful: bool,
    ) -> Result<(), ApiError> {
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
            ApiError::internal("failed to delete instance")
        })
    }

    /// A copy with its own id, name and address; with the source's memory, where the driver can.
    pub(super) async fn fork(
        self: &Arc<Self>,
        source: &Instance,
        name: String,
        from_running: bool,
        target: Option<State>,
    ) -> Result<Arc<Instance>, ApiError> {
        let guard = source.lock.write().await;
        gone(source)?;
        let state = source.state();
        match state {
            State::Running if from_running => {}
            State::Stopped | State::Standby => {}
            State::Running => {
                let text = "source is running, set from_running";
                return Err(ApiError::conflict("invalid_state", text));
            }
            State::Created
            | State::Initializing
            | State::Paused
            | State::Shutdown
            | State::Unknown => return Err(invalid_state("fork", state, "")),
        }
        let target = target.unwrap_or(state);
        let with_memory = state != State::Stopped && target != State::Stopped;
        if with_memory && !self.driver.keeps_memory() {
            let text = "the process driver cannot copy memory: fork a Stopped instance, or set target_state to Stopped";
            return Err(ApiError::not_supported(text));
        }
        if state == State::Stopped && target == State::Standby {
            let text = "a Stopped instance has no memory to be in Standby with";
            return Err(ApiError::bad_request("invalid_request", text));
        }
        let spec = source.record().spec.clone();
        let copy = self.create_copy(&spec, name).await?;
        let copys = copy.lock.write().await;
        self.enter(&copy, State::Stopped, "forked");
        if with_memory {
            let kept = self.keep_aside(source, &copy).await;
            drop(guard);
            let memory = kept?;
            let taken = self.take_memory(&copy, &memory, None).await;
            // The copy has its own now.
            let _left_behind = std::fs::remove_dir_all(&memory);
            taken?;
        }
        self.reach(&copy, target).await?;
        drop(copys);
        Ok(copy)
    }

    /// The source's memory, in the copy's folder.
    async fn keep_aside(&self, source: &Instance, copy: &Instance) -> Result<PathBuf, ApiError> {
        let failed = |error: DriverError| {
            self.note(source, &format!("fork failed: {error}"));
            ApiError::internal("failed to fork instance")
        };
        let folder = self.store.folder(Kind::Instance, &copy.id);
        let memory = folder
            .map_err(DriverError::Files)
            .map_err(failed)?
            .join("fork");
        self.driver
            .keep(&source.id, &memory)
            .await
            .map_err(failed)?;
        Ok(memory)
    }

    /// A new instance that was asked for as another was; a copy does not expire (contract B.1).
    pub(super) async fn create_copy(
        &self,
        spec: &Spec,
        name: String,
    ) -> Result<Arc<Instance>, ApiError> {
        let id = super::id::new_id().map_err(|e| ApiError::internal(&e.to_string()))?;
        let spec = Spec {
            id,
            name,
            created_at: Timestamp::now(),
            expires_at: None,
            schedule: None,
            ..spec.clone()
        };
        let created = self.create(spec).await;
        created.map_err(|error| match error.code() {
            // A fork's conflict is a 409, a creation's a 400 (contract A.11).
            "name_conflict" => ApiError::conflict("name_conflict", "instance name already in use"),
            _ => error,
        })
    }

    /// Ends every instance's program; what is asleep keeps no memory.
    pub(super) async fn stop_all(&self) {
        for instance in self.all() {
            let _guard = instance.lock.write().await;
            if instance.record().handle.is_none() {
                continue;
            }
            self.driver.stop(&instance.id, DELETE_GRACE).await;
            instance.record().ends(Timestamp::now());
            self.enter(&instance, State::Stopped, "the control plane stopped it");
        }
    }
}

/// The guest port that an instance's program listens at.
pub(super) fn port(spec: &Spec) -> u16 {
    let given = spec.env.get("PORT").and_then(|port| port.parse().ok());
    given.unwrap_or(DEFAULT_PORT)
}

pub(super) fn gone(instance: &Instance) -> Result<(), ApiError> {
    if instance.is_deleted() {
        Err(ApiError::not_found("resource not found"))
    } else {
        Ok(())
    }
}
