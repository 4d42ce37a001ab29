//! The verbs: start, stop, standby, restore, delete, fork.
//!
//! Guarantees: the verb x state table of the contract (B.1), its no-ops and its 409 texts; one verb
//! at a time on an instance; a verb that fails leaves the instance in the state that is true.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::api::ApiError;
use super::connections::ConnectionTable;
use super::driver::{Boot, DriverError};
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
            Ok(handle) => {
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
                record.countdown.restart(now);
                drop(record);
                self.note(instance, "started");
                self.enter(instance, State::Running, "started");
                Ok(())
            }
            Err(error) => {
                self.note(instance, &format!("could not start: {error}"));
                let mut record = instance.record();
                record.exit_message = Some(error.to_string());
                record.stopped_at = Some(now);
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
        let mut words: Vec<String> = spec
            .entrypoint
            .iter()
            .chain(&spec.cmd)
            .flatten()
            .cloned()
            .collect();
        let (program, arguments) = if spec.image == HELLO_IMAGE {
            (
                self.hello.clone(),
                [vec!["hello".to_owned()], words].concat(),
            )
        } else {
            let arguments = words.split_off(words.len().min(1));
            (words.pop().unwrap_or_default().into(), arguments)
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
            program,
            arguments,
            environment,
            port: spec
                .env
                .get("PORT")
                .and_then(|port| port.parse().ok())
                .unwrap_or(DEFAULT_PORT),
            network_enabled: spec.network_enabled,
            folder: work,
            log: folder.join("app.log"),
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
            State::Stopped => Ok(()),
            State::Running | State::Initializing => {
                self.enter(instance, State::Shutdown, "stopping");
                self.driver.stop(&instance.id, STOP_GRACE).await;
                {
                    let mut record = instance.record();
                    record.handle = None;
                    record.stopped_at = Some(Timestamp::now());
                    record.countdown.clear();
                }
                self.note(instance, "stopped");
                self.enter(instance, State::Stopped, "stopped");
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
            let quiet = match (ConnectionTable::read(), record.ip, &policy) {
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
                self.enter(instance, State::Running, "standby failed");
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
            State::Standby => {
                self.enter(instance, State::Paused, "restoring");
                match self.driver.restore(&instance.id).await {
                    Ok(()) => {
                        instance.record().countdown.restart(Timestamp::now());
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
            state @ (State::Created
            | State::Paused
            | State::Shutdown
            | State::Stopped
            | State::Unknown) => Err(invalid_state("restore", state, "")),
        }
    }

    pub(super) async fn delete_instance(&self, instance: &Instance) -> Result<(), ApiError> {
        let _guard = instance.lock.write().await;
        gone(instance)?;
        instance.mark_deleted();
        self.instances.remove(&instance.id);
        self.driver.stop(&instance.id, DELETE_GRACE).await;
        self.store.remove(Kind::Instance, &instance.id).map_err(|error| {
            tracing::error!(instance = %instance.id, %error, "cannot remove the instance's files");
            ApiError::internal("failed to delete instance")
        })
    }

    /// A copy with its own id, name and address. Memory cannot be copied by this driver, so a copy
    /// begins Stopped or from a fresh start.
    pub(super) async fn fork(
        self: &Arc<Self>,
        source: &Instance,
        name: String,
        from_running: bool,
        target: Option<State>,
    ) -> Result<Arc<Instance>, ApiError> {
        let _guard = source.lock.write().await;
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
        let fresh_start = state == State::Stopped && target == State::Running;
        if target != State::Stopped && !fresh_start {
            let text = "the process driver cannot copy memory: fork a Stopped instance, or set target_state to Stopped";
            return Err(ApiError::not_supported(text));
        }
        let taken = |instance: &Arc<Instance>| instance.name() == name;
        if self.all().iter().any(taken) {
            return Err(ApiError::conflict(
                "name_conflict",
                "instance name already in use",
            ));
        }
        let id = super::id::new_id().map_err(|e| ApiError::internal(&e.to_string()))?;
        let spec = source.record().spec.clone();
        let now = Timestamp::now();
        let copy = self
            .create(Spec {
                id,
                name,
                created_at: now,
                expires_at: None,
                schedule: None,
                ..spec
            })
            .await?;
        self.enter(&copy, State::Stopped, "forked");
        if fresh_start {
            let _guard = copy.lock.write().await;
            self.boot(&copy).await?;
        }
        Ok(copy)
    }

    /// Ends every instance's program; what is asleep keeps no memory.
    pub(super) async fn stop_all(&self) {
        for instance in self.all() {
            let _guard = instance.lock.write().await;
            if instance.record().handle.is_none() {
                continue;
            }
            self.driver.stop(&instance.id, DELETE_GRACE).await;
            instance.record().handle = None;
            self.enter(&instance, State::Stopped, "the control plane stopped it");
        }
    }
}

fn gone(instance: &Instance) -> Result<(), ApiError> {
    if instance.is_deleted() {
        Err(ApiError::not_found("resource not found"))
    } else {
        Ok(())
    }
}
