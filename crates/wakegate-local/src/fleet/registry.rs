//! All instances of one control plane: finding and remembering them, and hearing what happens to
//! them.
//!
//! Guarantees: `{id}` resolves as the contract says (id, then name, then unambiguous prefix) and
//! waits behind a running verb; an operation goes on when its caller leaves.

use std::collections::BTreeMap;
use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::{Mutex, Semaphore, broadcast};
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::driver::Driver;
use crate::error::Error;
use crate::faults::FaultBox;
use crate::id::resolve;
use crate::state::State;
use crate::store::{IngressRecord, Instance, Kind, Snapshot, Store};

/// A change of an instance's state, for whoever shows it to a person.
#[derive(Debug, Clone)]
pub struct FleetEvent {
    /// The instance's name.
    pub name: String,
    /// The instance's new state.
    pub state: State,
    /// The reason, in a few words.
    pub reason: &'static str,
}

/// Hears every [`FleetEvent`]; a slow listener loses the oldest.
pub type FleetEvents = broadcast::Receiver<FleetEvent>;

/// All instances.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) driver: Driver,
    pub(crate) faults: FaultBox,
    pub(crate) instances: DashMap<String, Arc<Instance>>,
    /// A lock that is held while a name is checked and taken.
    pub(crate) naming: Mutex<()>,
    pub(crate) ingresses: std::sync::RwLock<BTreeMap<String, IngressRecord>>,
    pub(crate) snapshots: std::sync::RwLock<BTreeMap<String, Snapshot>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) events: broadcast::Sender<FleetEvent>,
    pub(crate) standbys: Arc<Semaphore>,
    pub(crate) restores: Semaphore,
    /// The client of health checks, which keeps no connections, since these would keep instances
    /// awake.
    pub(crate) http: reqwest::Client,
}

// === impl Fleet ===

impl Fleet {
    pub(crate) fn events(&self) -> FleetEvents {
        self.events.subscribe()
    }

    /// Resolves `{id}`, behind whatever verb is running on the instance.
    pub(crate) async fn resolve(&self, text: &str) -> Result<Arc<Instance>, Error> {
        let instance = self.find(text)?;
        let guard = instance.lock.read().await;
        let deleted = instance.is_deleted();
        drop(guard);
        if deleted {
            Err(Error::not_found())
        } else {
            Ok(instance)
        }
    }

    fn find(&self, text: &str) -> Result<Arc<Instance>, Error> {
        if let Some(instance) = self.instances.get(text) {
            return Ok(Arc::clone(instance.value()));
        }
        let all = self.all();
        resolve(&all, text, |i| i.id.clone(), |i| Some(i.name())).cloned()
    }

    /// Every instance, the oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Instance>> {
        let mut all: Vec<_> = self
            .instances
            .iter()
            .map(|instance| Arc::clone(instance.value()))
            .collect();
        all.sort_by_key(|instance| (instance.record().spec.created_at, instance.id.clone()));
        all
    }

    pub(crate) fn save(&self, instance: &Instance) -> Result<(), Error> {
        let record = instance.record().clone();
        self.store
            .save(Kind::Instance, &record.spec.id, &record)
            .map_err(|error| {
                tracing::error!(instance = %record.spec.id, %error, "cannot save the instance");
                Error::internal("cannot save the instance")
            })
    }

    /// Saves where no caller can be told; the record is saved again at the next change.
    pub(crate) fn save_or_warn(&self, instance: &Instance) {
        if self.save(instance).is_err() {
            tracing::warn!(instance = %instance.id, "a later restart may find an old state");
        }
    }

    /// Changes the state, saves it, and tells those who watch.
    pub(crate) fn enter(&self, instance: &Instance, state: State, reason: &'static str) {
        instance.enter(state, self.clock.now());
        self.save_or_warn(instance);
        // Without a listener there is nobody to tell.
        let _unheard = self.events.send(FleetEvent {
            name: instance.name(),
            state,
            reason,
        });
    }

    /// One line in the instance's own log of operations.
    pub(crate) fn note(&self, instance: &Instance, line: &str) {
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
                writeln!(file, "{} {line}", self.clock.now())
            });
        if let Err(error) = written {
            tracing::warn!(instance = %instance.id, %error, "cannot write the instance's log");
        }
    }
}
