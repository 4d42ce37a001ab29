//! All instances of one control plane: finding and remembering them, and hearing what happens to
//! them.
//!
//! Guarantees: `{id}` resolves as the contract says (id, then name, then unambiguous prefix) and
//! waits behind a running verb; an operation goes on when its caller leaves, and the end of the
//! control plane waits for it; a change that somebody asked for is on disk before it is in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::task::TaskTracker;

use super::names::Names;
use crate::clock::Clock;
use crate::driver::Driver;
use crate::error::Error;
use crate::faults::FaultBox;
use crate::id::resolve;
use crate::state::State;
use crate::store::{IngressRecord, Instance, Kind, Record, Snapshot, Store};

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
    /// The ids of instances by their names, also of those that are being made or deleted.
    pub(crate) names: Names,
    pub(crate) ingresses: std::sync::RwLock<BTreeMap<String, IngressRecord>>,
    pub(crate) snapshots: std::sync::RwLock<BTreeMap<String, Snapshot>>,
    pub(crate) tasks: TaskTracker,
    /// The verbs that run, which the end waits for.
    pub(crate) verbs: TaskTracker,
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
        let _no_verb = instance.read_living().await?;
        Ok(Arc::clone(&instance))
    }

    fn find(&self, text: &str) -> Result<Arc<Instance>, Error> {
        if let Some(instance) = self.get(text) {
            return Ok(instance);
        }
        let named = self.names.id(text);
        if let Some(instance) = named.and_then(|id| self.get(&id)) {
            return Ok(instance);
        }
        let all = self.all();
        resolve(&all, text, |i| i.id.clone(), |_| None).cloned()
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Instance>> {
        self.instances.get(id).map(|i| Arc::clone(i.value()))
    }

    /// Every instance, the oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Instance>> {
        let mut all: Vec<_> = self
            .instances
            .iter()
            .map(|instance| Arc::clone(instance.value()))
            .collect();
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        all
    }

    /// Changes what is in the record, on disk first: when that fails, nothing has changed. The
    /// caller holds the instance's lock.
    pub(crate) fn change(
        &self,
        instance: &Instance,
        change: impl Fn(&mut Record),
    ) -> std::io::Result<()> {
        let mut record = instance.record().clone();
        change(&mut record);
        self.store.save(Kind::Instance, &instance.id, &record)?;
        instance.set_unsaved(false);
        // Not replaced by what is on disk: its connections were counted meanwhile.
        instance.change(change);
        Ok(())
    }

    /// Does what [`Self::change`] does, for a caller of the API.
    pub(crate) fn update(
        &self,
        instance: &Instance,
        change: impl Fn(&mut Record),
    ) -> Result<(), Error> {
        self.change(instance, change).map_err(|error| {
            tracing::error!(instance = %instance.id, %error, "cannot save the instance");
            Error::disk("cannot save the instance", &error)
        })
    }

    /// Saves what has happened; when that cannot be saved, it is tried again. The caller holds the
    /// instance's lock.
    pub(crate) fn save(&self, instance: &Instance) {
        let record = instance.record().clone();
        let saved = self.store.save(Kind::Instance, &instance.id, &record);
        if let Err(error) = &saved {
            let id = &instance.id;
            tracing::warn!(instance = %id, %error, "cannot save the instance; trying again");
        }
        instance.set_unsaved(saved.is_err());
    }

    /// Changes the state to what is true by now, saves it, and tells those who watch.
    pub(crate) fn enter(&self, instance: &Instance, state: State, reason: &'static str) {
        instance.change(|record| record.enter(state, self.clock.now()));
        self.save(instance);
        self.tell(instance, reason);
    }

    /// Tells those who watch what state it is in.
    pub(super) fn tell(&self, instance: &Instance, reason: &'static str) {
        // Without a listener there is nobody to tell.
        let _unheard = self.events.send(FleetEvent {
            name: instance.name(),
            state: instance.state(),
            reason,
        });
    }

    /// One line in the instance's own log of operations.
    pub(crate) fn note(&self, instance: &Instance, line: &str) {
        let folder = self.store.folder(Kind::Instance, &instance.id);
        let mut options = std::fs::OpenOptions::new();
        let log = options
            .create(true)
            .append(true)
            .open(folder.join("hypeman.log"));
        let written = log.and_then(|mut file| {
            use std::io::Write as _;
            writeln!(file, "{} {line}", self.clock.now())
        });
        if let Err(error) = written {
            tracing::warn!(instance = %instance.id, %error, "cannot write the instance's log");
        }
    }
}
