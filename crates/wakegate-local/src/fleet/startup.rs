//! The beginning of a fleet: what is on disk is loaded, what still runs is taken over, and the
//! tasks that nobody calls are started.
//!
//! Guarantees: an instance whose process is gone is said to be; an event of the driver's is handled
//! behind the verb that runs on its instance.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Mutex, Semaphore, broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::health_client;
use super::registry::Fleet;
use super::{logs, reconciler};
use crate::clock::Clock;
use crate::driver::{Driver, DriverEvent, Exit};
use crate::faults::FaultBox;
use crate::state::State;
use crate::store::{IngressRecord, Instance, Kind, Record, Snapshot, Store};

/// The most standbys at once (contract B.5).
const MAX_STANDBYS: usize = 16;
/// The most restores at once; the others wait, under their own locks (contract B.3).
const MAX_RESTORES: usize = 16;

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
            naming: Mutex::default(),
            ingresses: std::sync::RwLock::new(ingresses),
            snapshots: std::sync::RwLock::new(snapshots),
            tasks,
            events: broadcast::channel(256).0,
            standbys: Arc::new(Semaphore::new(MAX_STANDBYS)),
            restores: Semaphore::new(MAX_RESTORES),
            http: health_client().map_err(std::io::Error::other)?,
        });
        for record in records {
            fleet.take_over(record).await;
        }
        let keeper = Arc::clone(&fleet);
        fleet
            .tasks
            .spawn(async move { keeper.handle_events(events).await });
        let (keeper, ending) = (Arc::clone(&fleet), stop.clone());
        let reconcile = async move { ending.run_until_cancelled(reconciler::run(&keeper)).await };
        fleet.tasks.spawn(reconcile);
        let keeper = Arc::clone(&fleet);
        let rotate = async move { stop.run_until_cancelled(logs::run(&keeper)).await };
        fleet.tasks.spawn(rotate);
        Ok(fleet)
    }

    /// Adopts an instance's process, or says honestly that it is gone.
    async fn take_over(self: &Arc<Self>, mut record: Record) {
        let id = record.spec.id.clone();
        let adopted = match &record.handle {
            Some(handle) => self.driver.adopt(&id, handle).await,
            None => None,
        };
        let had_process = record.handle.is_some();
        if adopted.is_none() && had_process {
            record.exit_code = None;
            record.exit_message =
                Some("its process was gone when the control plane came back".to_owned());
            let now = self.clock.now();
            record.ends(now);
            let policy = record.spec.restart_policy.clone();
            record.restarts.ended(policy.as_ref(), None, now);
        }
        let instance = Arc::new(Instance::new(record));
        let state = adopted.unwrap_or(State::Stopped);
        if instance.state() != state {
            instance.enter(state, self.clock.now());
            let line = format!("found {state} after a restart of the control plane");
            self.note(&instance, &line);
        }
        {
            let mut record = instance.record();
            // Idle time goes on across the restart; connections did not survive it.
            if state == State::Running {
                let now = self.clock.now();
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

    /// Handles the driver's events, one after the other.
    async fn handle_events(self: Arc<Self>, mut events: mpsc::Receiver<DriverEvent>) {
        while let Some(event) = events.recv().await {
            let (DriverEvent::Started(id)
            | DriverEvent::Ended(Exit { id, .. })
            | DriverEvent::Remark(id, _)) = &event;
            let Some(instance) = self.instances.get(id).map(|i| Arc::clone(i.value())) else {
                continue;
            };
            if let DriverEvent::Remark(_, text) = &event {
                self.note(&instance, &format!("note: {text}"));
                continue;
            }
            let _guard = instance.lock.write().await;
            if instance.is_deleted() {
                continue;
            }
            match event {
                DriverEvent::Remark(..) => {}
                DriverEvent::Started(_) => {
                    if instance.state() == State::Initializing {
                        instance.record().begins(self.clock.now());
                        self.enter(&instance, State::Running, "its program runs");
                    }
                }
                DriverEvent::Ended(exit) => self.on_exit(&instance, exit).await,
            }
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
