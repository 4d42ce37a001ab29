//! All instances of one control plane: finding and remembering them, and hearing what happens to
//! them.
//!
//! Guarantees: `{id}` resolves as the contract says (id, then name, then unambiguous prefix) and
//! waits behind a running verb; an operation goes on when its caller leaves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use jiff::Timestamp;
use tokio::sync::{Mutex, Semaphore, broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::{ApiError, IngressRecord};
use super::driver::{Driver, Exit, Happening};
use super::faults::FaultBox;
use super::id::one_of;
use super::instance::{Instance, Record, State};
use super::snapshots::Snapshot;
use super::store::{Kind, Store};

/// At most so many standbys at once (contract B.5).
const MAX_STANDBYS: usize = 16;
/// At most so many restores at once; the others wait, under their own locks (contract B.3).
const MAX_RESTORES: usize = 16;

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
    pub(super) faults: FaultBox,
    pub(super) instances: DashMap<String, Arc<Instance>>,
    /// Held while a name is checked and taken.
    pub(super) naming: Mutex<()>,
    pub(super) ingresses: std::sync::RwLock<BTreeMap<String, IngressRecord>>,
    pub(super) snapshots: std::sync::RwLock<BTreeMap<String, Snapshot>>,
    pub(super) tasks: TaskTracker,
    pub(super) events: broadcast::Sender<FleetEvent>,
    pub(super) standbys: Arc<Semaphore>,
    pub(super) restores: Semaphore,
    /// For health checks; connections are not kept, since they would keep instances awake.
    pub(super) http: reqwest::Client,
}

// === impl Fleet ===

impl Fleet {
    /// Loads what is on disk and takes over what still runs. `happenings` come from the driver.
    pub(super) async fn load(
        store: Store,
        driver: Arc<dyn Driver>,
        happenings: mpsc::Receiver<Happening>,
        tasks: TaskTracker,
        faults: FaultBox,
        stop: CancellationToken,
    ) -> std::io::Result<Arc<Self>> {
        let records: Vec<Record> = store.load(Kind::Instance)?;
        let other = |record: &&Record| {
            record.handle.is_some() && record.spec.hypervisor.as_deref() != driver.hypervisor()
        };
        if let Some(record) = records.iter().find(other) {
            // Left alone, it would go on with nobody to stop it.
            let name = &record.spec.name;
            let why = format!("the instance `{name}` runs with another driver; use that one");
            return Err(std::io::Error::other(why));
        }
        let ingresses: Vec<IngressRecord> = store.load(Kind::Ingress)?;
        let ingresses = ingresses
            .into_iter()
            .map(|ingress| (ingress.id.clone(), ingress))
            .collect();
        let snapshots: Vec<Snapshot> = store.load(Kind::Snapshot)?;
        let snapshots = snapshots
            .into_iter()
            .map(|snapshot| (snapshot.id.clone(), snapshot))
            .collect();
        let fleet = Arc::new(Self {
            store,
            driver,
            faults,
            instances: DashMap::new(),
            naming: Mutex::default(),
            ingresses: std::sync::RwLock::new(ingresses),
            snapshots: std::sync::RwLock::new(snapshots),
            tasks,
            events: broadcast::channel(256).0,
            standbys: Arc::new(Semaphore::new(MAX_STANDBYS)),
            restores: Semaphore::new(MAX_RESTORES),
            http: super::care::health_client().map_err(std::io::Error::other)?,
        });
        for record in records {
            fleet.take_over(record).await;
        }
        let keeper = Arc::clone(&fleet);
        fleet
            .tasks
            .spawn(async move { keeper.hear(happenings).await });
        let (keeper, ending) = (Arc::clone(&fleet), stop.clone());
        let watch = async move { ending.run_until_cancelled(keeper.keep_watch()).await };
        fleet.tasks.spawn(watch);
        let keeper = Arc::clone(&fleet);
        let logs = async move { stop.run_until_cancelled(keeper.keep_logs_short()).await };
        fleet.tasks.spawn(logs);
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
            let now = Timestamp::now();
            record.ends(now);
            let policy = record.spec.restart_policy.clone();
            record.restarts.ended(policy.as_ref(), None, now);
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
            if state == State::Running {
                let now = Timestamp::now();
                record.health.restart(now);
                if record.countdown.idle_since.is_none() {
                    record.countdown.restart(now);
                }
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
        one_of(&all, text, |i| i.id.clone(), |i| Some(i.name())).cloned()
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

    async fn hear(self: Arc<Self>, mut happenings: mpsc::Receiver<Happening>) {
        while let Some(happening) = happenings.recv().await {
            let (Happening::Started(id) | Happening::Ended(Exit { id, .. })) = &happening;
            let Some(instance) = self.instances.get(id).map(|i| Arc::clone(i.value())) else {
                continue;
            };
            let _guard = instance.lock.write().await;
            if instance.is_deleted() {
                continue;
            }
            match happening {
                Happening::Started(_) => {
                    if instance.state() == State::Initializing {
                        instance.record().begins(Timestamp::now());
                        self.enter(&instance, State::Running, "its program runs");
                    }
                }
                Happening::Ended(exit) => self.bury(&instance, exit).await,
            }
        }
    }

    /// An instance's program has ended by itself. The caller holds the instance's lock.
    async fn bury(&self, instance: &Instance, exit: Exit) {
        if instance.state() == State::Stopped {
            return;
        }
        {
            let (now, mut record) = (Timestamp::now(), instance.record());
            record.exit_code = exit.code;
            record.exit_message = Some(exit.message.clone());
            record.ends(now);
            let policy = record.spec.restart_policy.clone();
            record.restarts.ended(policy.as_ref(), exit.code, now);
        }
        self.driver.stop(&instance.id, Duration::ZERO).await;
        self.note(instance, &format!("the program ended: {}", exit.message));
        self.enter(instance, State::Stopped, "its program ended");
    }
}
