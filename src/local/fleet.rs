//! All instances of one control plane: finding, remembering, and looking after them.
//!
//! Guarantees: `{id}` resolves as the contract says (id, then name, then unambiguous prefix) and
//! waits behind a running verb; an operation goes on when its caller leaves; auto-standby looks
//! again, under the instance's own lock, before it puts anything to sleep.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use jiff::Timestamp;
use tokio::sync::{Mutex, Semaphore, broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::{ApiError, IngressRecord};
use super::auto_standby::is_eligible;
use super::connections::ConnectionTable;
use super::driver::{Driver, Exit, ProcessDriver};
use super::faults::FaultBox;
use super::instance::{Instance, Record, State};
use super::store::{Kind, Store};
use crate::names::GoDuration;

/// At most so many standbys at once (contract B.5).
const MAX_STANDBYS: usize = 16;

/// A change of an instance's state, for whoever shows it to a person.
#[derive(Debug, Clone)]
pub struct FleetEvent {
    /// The instance's name.
    pub name: String,
    /// Its new state.
    pub state: State,
    /// Why, in a few words.
    pub reason: &'static str,
}

/// Hears every [`FleetEvent`]; a slow listener loses the oldest.
pub type FleetEvents = broadcast::Receiver<FleetEvent>;

/// All instances.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) store: Store,
    pub(super) driver: Arc<dyn Driver>,
    pub(super) hello: PathBuf,
    pub(super) faults: FaultBox,
    pub(super) instances: DashMap<String, Arc<Instance>>,
    /// Held while a name is checked and taken.
    pub(super) naming: Mutex<()>,
    pub(super) ingresses: std::sync::RwLock<BTreeMap<String, IngressRecord>>,
    pub(super) tasks: TaskTracker,
    events: broadcast::Sender<FleetEvent>,
    standbys: Arc<Semaphore>,
}

// === impl Fleet ===

impl Fleet {
    /// Loads what is on disk and takes over what still runs.
    pub(super) async fn load(
        store: Store,
        hello: PathBuf,
        faults: FaultBox,
        stop: CancellationToken,
    ) -> std::io::Result<Arc<Self>> {
        let tasks = TaskTracker::new();
        let (exits, ended) = mpsc::channel(64);
        let driver = Arc::new(ProcessDriver::new(exits, tasks.clone(), hello.clone()));
        let records: Vec<Record> = store.load(Kind::Instance)?;
        let ingresses: Vec<IngressRecord> = store.load(Kind::Ingress)?;
        let ingresses = ingresses
            .into_iter()
            .map(|ingress| (ingress.id.clone(), ingress))
            .collect();
        let fleet = Arc::new(Self {
            store,
            driver,
            hello,
            faults,
            instances: DashMap::new(),
            naming: Mutex::default(),
            ingresses: std::sync::RwLock::new(ingresses),
            tasks,
            events: broadcast::channel(256).0,
            standbys: Arc::new(Semaphore::new(MAX_STANDBYS)),
        });
        for record in records {
            fleet.take_over(record).await;
        }
        let keeper = Arc::clone(&fleet);
        fleet
            .tasks
            .spawn(async move { keeper.hear_exits(ended).await });
        let keeper = Arc::clone(&fleet);
        fleet
            .tasks
            .spawn(async move { stop.run_until_cancelled(keeper.keep_watch()).await });
        Ok(fleet)
    }

    pub(super) fn events(&self) -> FleetEvents {
        self.events.subscribe()
    }

    /// Adopts an instance's process, or says honestly that it is gone.
    async fn take_over(self: &Arc<Self>, mut record: Record) {
        let id = record.spec.id.clone();
        let found = match &record.handle {
            Some(handle) => self.driver.adopt(&id, handle).await,
            None => None,
        };
        let had_process = record.handle.is_some();
        if found.is_none() && had_process {
            record.exit_code = None;
            record.exit_message =
                Some("its process was gone when the control plane came back".to_owned());
            record.stopped_at = Some(Timestamp::now());
            record.handle = None;
        }
        let instance = Arc::new(Instance::new(record));
        let state = found.unwrap_or(State::Stopped);
        if instance.state() != state {
            instance.enter(state);
            let line = format!("found {state} after a restart of the control plane");
            self.note(&instance, &line);
        }
        {
            let mut record = instance.record();
            // Idle time goes on across the restart; connections did not survive it.
            if state == State::Running && record.countdown.idle_since.is_none() {
                record.countdown.restart(Timestamp::now());
            }
            let policy = record.spec.policy.clone().map(Arc::new);
            if let Some(traffic) = self.driver.traffic(&id) {
                traffic.policy.store(policy);
            }
        }
        self.save_or_warn(&instance);
        self.instances.insert(id, instance);
    }

    /// Resolves `{id}`, behind whatever verb is running on the instance.
    pub(super) async fn resolve(&self, text: &str) -> Result<Arc<Instance>, ApiError> {
        let instance = self.find(text)?;
        let guard = instance.lock.read().await;
        let deleted = instance.is_deleted();
        drop(guard);
        if deleted {
            Err(ApiError::not_found("resource not found"))
        } else {
            Ok(instance)
        }
    }

    fn find(&self, text: &str) -> Result<Arc<Instance>, ApiError> {
        if let Some(instance) = self.instances.get(text) {
            return Ok(Arc::clone(instance.value()));
        }
        let all = self.all();
        if let Some(instance) = all.iter().find(|instance| instance.name() == text) {
            return Ok(Arc::clone(instance));
        }
        let mut matching = all
            .into_iter()
            .filter(|instance| instance.id.starts_with(text));
        match (matching.next(), matching.next()) {
            (Some(instance), None) => Ok(instance),
            (Some(_), Some(_)) => Err(ApiError::ambiguous()),
            (None, _) => Err(ApiError::not_found("resource not found")),
        }
    }

    /// Every instance, the oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Instance>> {
        let mut all: Vec<_> = self
            .instances
            .iter()
            .map(|instance| Arc::clone(instance.value()))
            .collect();
        all.sort_by_key(|instance| (instance.record().spec.created_at, instance.id.clone()));
        all
    }

    pub(super) fn save(&self, instance: &Instance) -> Result<(), ApiError> {
        let record = instance.record().clone();
        self.store
            .save(Kind::Instance, &record.spec.id, &record)
            .map_err(|error| {
                tracing::error!(instance = %record.spec.id, %error, "cannot save the instance");
                ApiError::internal("cannot save the instance")
            })
    }

    /// Saves where no caller can be told; the record is saved again at the next change.
    pub(super) fn save_or_warn(&self, instance: &Instance) {
        if self.save(instance).is_err() {
            tracing::warn!(instance = %instance.id, "a later restart may find an old state");
        }
    }

    /// Changes the state, saves it, and tells those who watch.
    pub(super) fn enter(&self, instance: &Instance, state: State, reason: &'static str) {
        instance.enter(state);
        self.save_or_warn(instance);
        // Without a listener there is nobody to tell.
        let _unheard = self.events.send(FleetEvent {
            name: instance.name(),
            state,
            reason,
        });
    }

    /// One line in the instance's own log of operations.
    pub(super) fn note(&self, instance: &Instance, line: &str) {
        let written = self
            .store
            .folder(Kind::Instance, &instance.id)
            .and_then(|folder| {
                use std::io::Write as _;
                let mut options = std::fs::OpenOptions::new();
                let mut file = options
                    .create(true)
                    .append(true)
                    .open(folder.join("hypeman.log"))?;
                writeln!(file, "{} {line}", Timestamp::now())
            });
        if let Err(error) = written {
            tracing::warn!(instance = %instance.id, %error, "cannot write the instance's log");
        }
    }

    async fn hear_exits(self: Arc<Self>, mut exits: mpsc::Receiver<Exit>) {
        while let Some(exit) = exits.recv().await {
            let Some(instance) = self.instances.get(&exit.id).map(|i| Arc::clone(i.value())) else {
                continue;
            };
            let _guard = instance.lock.write().await;
            if instance.is_deleted() || instance.state() == State::Stopped {
                continue;
            }
            {
                let mut record = instance.record();
                record.exit_code = exit.code;
                record.exit_message = Some(exit.message.clone());
                record.stopped_at = Some(Timestamp::now());
                record.handle = None;
                record.countdown.clear();
            }
            self.driver.stop(&instance.id, Duration::ZERO).await;
            self.note(&instance, &format!("the program ended: {}", exit.message));
            self.enter(&instance, State::Stopped, "its program ended");
        }
    }

    /// Looks at every instance's connections and times, for ever.
    async fn keep_watch(self: Arc<Self>) {
        loop {
            let shortest = self.look();
            let pause = shortest.map_or(Duration::from_millis(500), |idle| idle / 20);
            tokio::time::sleep(pause.clamp(Duration::from_millis(20), Duration::from_millis(250)))
                .await;
        }
    }

    /// One look. Returns the shortest idle timeout among the instances that count down.
    fn look(self: &Arc<Self>) -> Option<Duration> {
        let now = Timestamp::now();
        let mut table = None;
        let mut shortest: Option<Duration> = None;
        for instance in self.all() {
            self.keep_times(&instance, now);
            let Some(policy) = Self::eligible_policy(&instance) else {
                continue;
            };
            if table.is_none() {
                table = ConnectionTable::read().ok();
            }
            // A table that cannot be read counts as busy.
            let Some(table) = &table else { continue };
            let due = self.observe(&instance, table, now);
            let idle = policy.idle_timeout.and_then(GoDuration::to_std);
            shortest = shortest.into_iter().chain(idle).min();
            if due {
                instance.record().countdown.requested = true;
                let (fleet, standbys) = (Arc::clone(self), Arc::clone(&self.standbys));
                self.tasks.spawn(async move {
                    let _permit = standbys.acquire_owned().await;
                    fleet.standby_if_still_idle(&instance).await;
                });
            }
        }
        shortest
    }

    fn eligible_policy(instance: &Instance) -> Option<super::policy::Policy> {
        let record = instance.record();
        let policy = record.spec.policy.as_ref();
        is_eligible(policy, record.circumstances())
            .then(|| policy.cloned())
            .flatten()
    }

    /// Counts the instance's connections; whether a standby is due and not yet requested.
    fn observe(&self, instance: &Instance, table: &ConnectionTable, now: Timestamp) -> bool {
        let last_event = self
            .driver
            .traffic(&instance.id)
            .and_then(|traffic| traffic.last_event());
        let mut record = instance.record();
        let (Some(ip), Some(policy)) = (record.ip, record.spec.policy.clone()) else {
            return false;
        };
        let counting = table
            .inbound(ip)
            .filter(|c| policy.counts(c.remote.0, c.local.1));
        let active = counting.count() as u64;
        let before = record.countdown.idle_since;
        record.countdown.observe(now, active, last_event);
        if record.countdown.idle_since.is_some() && record.countdown.idle_since != before {
            let (name, state) = (record.spec.name.clone(), record.state);
            let _unheard = self.events.send(FleetEvent {
                name,
                state,
                reason: "idle",
            });
        }
        let due = record
            .countdown
            .deadline(&policy)
            .is_some_and(|deadline| deadline <= now);
        due && !record.countdown.requested
    }

    /// Deletes what has expired, and accounts for snapshots that a schedule asks for.
    fn keep_times(self: &Arc<Self>, instance: &Arc<Instance>, now: Timestamp) {
        let mut record = instance.record();
        let expired = record.spec.expires_at.is_some_and(|at| at <= now);
        let schedule = record
            .spec
            .schedule
            .as_mut()
            .filter(|schedule| schedule.next_run_at <= now);
        if let Some(schedule) = schedule {
            schedule.last_run_at = Some(now);
            schedule.last_error = Some("the process driver cannot make snapshots".to_owned());
            let step = jiff::SignedDuration::from_nanos(schedule.interval.nanos());
            schedule.next_run_at = now.checked_add(step).unwrap_or(now);
        }
        drop(record);
        if expired {
            let (fleet, instance) = (Arc::clone(self), Arc::clone(instance));
            self.tasks
                .spawn(async move { fleet.delete_instance(&instance).await });
        }
    }
}
