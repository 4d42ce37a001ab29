//! The beginning of a fleet: what is on disk is loaded, what still runs is taken over, and the
//! tasks that nobody calls are started.
//!
//! Guarantees: afterwards every process, VM, folder and record is an instance's or has gone; an
//! instance whose process is gone is said to be, and one that does not answer is not; an event of
//! the driver's is handled behind the verb that runs on its instance, and behind no other's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use dashmap::DashMap;
use futures_util::future::join_all;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::health_client;
use super::lifecycle::STOP_GRACE;
use super::names::Names;
use super::registry::Fleet;
use super::{logs, reconciler};
use crate::clock::Clock;
use crate::driver::{Adoption, Driver, DriverEvent, Exit};
use crate::faults::FaultBox;
use crate::state::State;
use crate::store::{IngressRecord, Instance, Kind, Record, Snapshot, Store};

/// The most standbys at once (contract B.5).
const MAX_STANDBYS: usize = 16;
/// The most restores at once; the others wait, under their own locks (contract B.3).
const MAX_RESTORES: usize = 16;
/// The pause before an instance that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Fleet {
    /// Loads what is on disk and takes over what still runs. `events` come from the driver.
    pub(crate) async fn load(
        clock: Clock,
        store: Store,
        driver: Driver,
        events: mpsc::Receiver<DriverEvent>,
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
            clock,
            store,
            driver,
            faults,
            instances: DashMap::new(),
            names: Names::default(),
            ingresses: std::sync::RwLock::new(ingresses),
            snapshots: std::sync::RwLock::new(snapshots),
            tasks,
            verbs: TaskTracker::new(),
            events: broadcast::channel(256).0,
            standbys: Arc::new(Semaphore::new(MAX_STANDBYS)),
            restores: Semaphore::new(MAX_RESTORES),
            http: health_client().map_err(std::io::Error::other)?,
        });
        let taken = records.into_iter().map(|record| fleet.take_over(record));
        join_all(taken).await;
        // Now that it is known what is somebody's, the rest goes.
        fleet.driver.end_remnants(fleet.store.root()).await;
        for kind in [Kind::Instance, Kind::Ingress, Kind::Snapshot] {
            fleet.store.remove_discarded(kind)?;
        }
        for instance in fleet.all() {
            if instance.state() == State::Unknown {
                let keeper = Arc::clone(&fleet);
                let ending = stop.clone();
                fleet.tasks.spawn(async move {
                    let asking = keeper.ask_again(&instance);
                    ending.run_until_cancelled(asking).await
                });
            }
        }
        // It does not keep what has ended.
        let keeper = Arc::downgrade(&fleet);
        fleet.tasks.spawn(Self::handle_events(keeper, events));
        let (keeper, ending) = (Arc::clone(&fleet), stop.clone());
        let reconcile = async move { ending.run_until_cancelled(reconciler::run(&keeper)).await };
        fleet.tasks.spawn(reconcile);
        let keeper = Arc::clone(&fleet);
        let rotate = async move { stop.run_until_cancelled(logs::run(&keeper)).await };
        fleet.tasks.spawn(rotate);
        Ok(fleet)
    }

    /// Adopts an instance's process, or says honestly what became of it.
    async fn take_over(&self, mut record: Record) {
        let id = record.spec.id.clone();
        let state = self.settle(&mut record).await;
        let instance = Arc::new(Instance::new(record));
        match self.names.take(&instance.name(), &id) {
            Some(name) => name.keep(),
            None => tracing::warn!(instance = id, "another instance has the same name"),
        }
        self.found(&instance, state);
        self.instances.insert(id, instance);
    }

    /// Finds out what became of an instance: what its record says of its process is true
    /// afterwards. Returns its state.
    async fn settle(&self, record: &mut Record) -> State {
        let id = record.spec.id.clone();
        let adoption = match &record.handle {
            Some(handle) => self.driver.adopt(&id, handle).await,
            None => Adoption::Gone("its control plane ended while it was started".to_owned()),
        };
        let why = match adoption {
            Adoption::Found(_) if record.state == State::Shutdown => {
                // Somebody has asked for that.
                self.driver.stop(&id, STOP_GRACE).await;
                record.ends(self.clock.now());
                return State::Stopped;
            }
            Adoption::Found(state) => {
                if let (State::Initializing, Ok(boot)) = (state, self.plan(&record.spec)) {
                    self.driver.order(&boot);
                }
                return state;
            }
            Adoption::Unsure(why) => {
                tracing::warn!(instance = id, why, "it is there and does not answer");
                return State::Unknown;
            }
            Adoption::Gone(why) => why,
        };
        // Its files, and what there may be of it.
        self.driver.stop(&id, Duration::ZERO).await;
        if record.handle.is_some() || record.state != State::Stopped {
            record.exit_code = None;
            record.exit_message = Some(why);
            let now = self.clock.now();
            record.ends(now);
            if record.state == State::Shutdown {
                return State::Stopped;
            }
            let policy = record.spec.restart_policy.clone();
            record.restarts.ended(policy.as_ref(), None, now);
        }
        State::Stopped
    }

    /// Notes the state in which an instance was found.
    fn found(&self, instance: &Instance, state: State) {
        let now = self.clock.now();
        if instance.state() != state {
            instance.change(|record| record.enter(state, now));
            let line = format!("found {state} after a restart of the control plane");
            self.note(instance, &line);
        }
        {
            let mut record = instance.record();
            // Idle time goes on across the restart; connections did not survive it.
            if state == State::Running {
                record.health.restart(now);
                if record.countdown.idle_since.is_none() {
                    record.countdown.restart(now);
                }
            }
            let policy = record.spec.policy.clone().map(Arc::new);
            if let Some(traffic) = self.driver.traffic(&instance.id) {
                traffic.policy.store(policy);
            }
        }
        self.save(instance);
    }

    /// Asks an instance that did not answer until it is known what became of it.
    async fn ask_again(&self, instance: &Instance) {
        loop {
            tokio::time::sleep(ASK_AGAIN).await;
            let Ok(_guard) = instance.lock_living().await else {
                return;
            };
            if instance.state() != State::Unknown {
                return;
            }
            let mut record = instance.record().clone();
            let state = self.settle(&mut record).await;
            if state != State::Unknown {
                instance.change(|current| *current = record);
                self.found(instance, state);
                self.tell(instance, "it answers again, or has gone");
                return;
            }
        }
    }

    /// Handles the driver's events: those of one instance one after the other, behind the verb that
    /// runs on it, and nobody else's behind them.
    async fn handle_events(keeper: Weak<Self>, mut events: mpsc::Receiver<DriverEvent>) {
        let waiting = WaitingEvents::default();
        while let Some(event) = events.recv().await {
            let Some(fleet) = keeper.upgrade() else {
                return;
            };
            let (DriverEvent::Started(id)
            | DriverEvent::Ended(Exit { id, .. })
            | DriverEvent::Remark(id, _)) = &event;
            let Some(instance) = fleet.get(id) else {
                continue;
            };
            if let DriverEvent::Remark(_, text) = &event {
                fleet.note(&instance, &format!("note: {text}"));
                continue;
            }
            if !waiting.add(&instance.id, event) {
                continue;
            }
            let (tasks, waiting) = (fleet.tasks.clone(), waiting.clone());
            tasks.spawn(async move {
                while let Some(event) = waiting.next(&instance.id) {
                    // Of what is gone, nobody wants to hear.
                    if let Ok(_guard) = instance.lock_living().await {
                        fleet.handle(&instance, event).await;
                    }
                }
            });
        }
    }

    /// Handles an event. The caller holds the instance's lock.
    async fn handle(&self, instance: &Instance, event: DriverEvent) {
        match event {
            // It is noted as it comes.
            DriverEvent::Remark(..) => {}
            DriverEvent::Started(_) => {
                if instance.state() == State::Initializing {
                    instance.record().begins(self.clock.now());
                    self.enter(instance, State::Running, "its program runs");
                }
            }
            // The end of an earlier process, when there is one that lives.
            DriverEvent::Ended(_) if self.driver.is_alive(&instance.id) => {}
            DriverEvent::Ended(exit) => self.on_exit(instance, exit).await,
        }
    }

    /// Records that an instance's program has ended by itself. The caller holds its lock.
    async fn on_exit(&self, instance: &Instance, exit: Exit) {
        if instance.state() == State::Stopped {
            return;
        }
        {
            let (now, mut record) = (self.clock.now(), instance.record());
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

/// Events that wait for the verb that runs on their instance.
#[derive(Debug, Clone, Default)]
struct WaitingEvents(Arc<std::sync::Mutex<BTreeMap<String, VecDeque<DriverEvent>>>>);

// === impl WaitingEvents ===

impl WaitingEvents {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, VecDeque<DriverEvent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event of an instance; whether nobody handles those of that instance yet.
    fn add(&self, id: &str, event: DriverEvent) -> bool {
        let mut all = self.all();
        let is_first = !all.contains_key(id);
        all.entry(id.to_owned()).or_default().push_back(event);
        is_first
    }

    /// The next event of an instance; whoever handles them ends when there is none.
    fn next(&self, id: &str) -> Option<DriverEvent> {
        let mut all = self.all();
        let next = all.get_mut(id).and_then(VecDeque::pop_front);
        if next.is_none() {
            all.remove(id);
        }
        next
    }
}
