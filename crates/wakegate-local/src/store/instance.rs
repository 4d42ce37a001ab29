//! One instance: what was asked for, what became of it, and how the API shows it.
//!
//! Guarantees: the record is what is on disk; a change of state keeps the phase clock and tells
//! those who wait; who has an instance's lock has an instance that is still there. Environment
//! values do not show in `Debug`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch};

use crate::driver::Handle;
use crate::error::Error;
use crate::policy::auto_standby::Policy;
use crate::policy::countdown::{Circumstances, Countdown};
use crate::policy::health_check::{Health, HealthCheck};
use crate::policy::restart::{RestartPolicy, Restarts};
pub(crate) use crate::policy::schedule::Schedule;
use crate::scalars::print_size;
use crate::state::State;

/// The specification of an instance: what was asked for.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) created_at: Timestamp,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) cmd: Option<Vec<String>>,
    pub(crate) size: u64,
    pub(crate) hotplug_size: Option<u64>,
    pub(crate) overlay_size: u64,
    pub(crate) disk_io_bps: Option<u64>,
    pub(crate) vcpus: u32,
    pub(crate) network_enabled: bool,
    pub(crate) policy: Option<Policy>,
    pub(crate) snapshot_policy: Option<Value>,
    #[serde(default)]
    pub(crate) health_check: Option<HealthCheck>,
    #[serde(default)]
    pub(crate) restart_policy: Option<RestartPolicy>,
    /// Whether nobody is to look into it: no `stat`, no health check by a command.
    #[serde(default)]
    pub(crate) skip_guest_agent: bool,
    /// The hypervisor that runs it, as the API names it.
    #[serde(default)]
    pub(crate) hypervisor: Option<String>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) schedule: Option<Schedule>,
}

/// An instance's specification and what became of it, in the form on disk.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) spec: Spec,
    pub(crate) state: State,
    pub(crate) handle: Option<Handle>,
    /// The address, which stays while Stopped, where it is stale, as the contract has it.
    pub(crate) ip: Option<Ipv4Addr>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) stopped_at: Option<Timestamp>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) exit_message: Option<String>,
    pub(crate) phase_since: Timestamp,
    pub(crate) phases_ms: BTreeMap<String, i64>,
    pub(crate) countdown: Countdown,
    #[serde(default)]
    pub(crate) restarts: Restarts,
    /// The results of health checks, in memory only: a new control plane looks anew.
    #[serde(skip)]
    pub(crate) health: Health,
}

/// An instance in memory.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) created_at: Timestamp,
    /// A lock that verbs write, and that calls with the instance in their path read (contract B.2).
    lock: RwLock<()>,
    record: Mutex<Record>,
    state: watch::Sender<State>,
    deleted: AtomicBool,
    /// Whether the record on disk is older than this one, since it could not be saved.
    unsaved: AtomicBool,
    /// Whether something that is due is being done.
    attended: AtomicBool,
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id, name, image, ..
        } = self;
        write!(f, "Spec({name} {id} {image})")
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({:?} {})", self.spec, self.state)
    }
}

// === impl Record ===

impl Record {
    pub(crate) fn new(spec: Spec, now: Timestamp) -> Self {
        Self {
            spec,
            state: State::Created,
            handle: None,
            ip: None,
            started_at: None,
            stopped_at: None,
            exit_code: None,
            exit_message: None,
            phase_since: now,
            phases_ms: BTreeMap::new(),
            countdown: Countdown::default(),
            restarts: Restarts::default(),
            health: Health::default(),
        }
    }

    fn phase_elapsed_ms(&self, now: Timestamp) -> i64 {
        i64::try_from(now.duration_since(self.phase_since).as_millis())
            .unwrap_or(i64::MAX)
            .max(0)
    }

    pub(crate) fn enter(&mut self, state: State, now: Timestamp) {
        let elapsed = self.phase_elapsed_ms(now);
        *self
            .phases_ms
            .entry(self.state.as_str().to_lowercase())
            .or_default() += elapsed;
        (self.state, self.phase_since) = (state, now);
    }

    pub(crate) fn circumstances(&self) -> Circumstances {
        Circumstances {
            state: self.state,
            network_enabled: self.spec.network_enabled,
            has_ip: self.ip.is_some(),
        }
    }

    fn health_status(&self) -> Value {
        let mut view = json!(self.health);
        if let Value::Object(fields) = &mut view {
            let status = self
                .health
                .status(self.spec.health_check.as_ref(), self.state);
            fields.insert("status".to_owned(), json!(status));
        }
        view
    }

    /// Notes that it has been started or restored.
    pub(crate) fn begins(&mut self, now: Timestamp) {
        self.countdown.restart(now);
        self.health.restart(now);
    }

    /// Notes that its program has ended, or was ended.
    pub(crate) fn ends(&mut self, now: Timestamp) {
        self.handle = None;
        self.stopped_at = Some(now);
        self.countdown.clear();
    }

    /// The instance as the API shows it (contract A.8): unset fields are left out, `expires_at`
    /// never is.
    pub(crate) fn view(&self, now: Timestamp) -> Value {
        let Self { spec, state, .. } = self;
        let mut phases = self.phases_ms.clone();
        let phase = state.as_str().to_lowercase();
        *phases.entry(phase.clone()).or_default() += self.phase_elapsed_ms(now);
        let network = if spec.network_enabled {
            let mac = self.ip.map(|ip| {
                let [_, b, c, d] = ip.octets();
                format!("02:00:00:{b:02x}:{c:02x}:{d:02x}")
            });
            json!({ "enabled": true, "name": "default", "ip": self.ip, "mac": mac })
        } else {
            json!({ "enabled": false })
        };
        let mut view = json!({
            "id": spec.id,
            "name": spec.name,
            "image": spec.image,
            "state": state,
            "state_error": state.error(),
            "created_at": spec.created_at,
            "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
            "size": print_size(spec.size),
            "hotplug_size": print_size(spec.hotplug_size.unwrap_or(0)),
            "overlay_size": print_size(spec.overlay_size),
            "disk_io_bps": spec.disk_io_bps.map(|rate| format!("{}/s", print_size(rate))),
            "vcpus": spec.vcpus,
            "env": (!spec.env.is_empty()).then_some(&spec.env),
            "tags": (!spec.tags.is_empty()).then_some(&spec.tags),
            // Not in the contract's answers, under the names of its requests.
            "entrypoint": spec.entrypoint,
            "cmd": spec.cmd,
            "network": without_nulls(network),
            "started_at": self.started_at,
            "stopped_at": self.stopped_at,
            "exit_code": self.exit_code,
            "exit_message": self.exit_message,
            "has_snapshot": *state == State::Standby,
            "snapshot_policy": spec.snapshot_policy,
            "auto_standby": spec.policy,
            "hypervisor": spec.hypervisor,
            "health_check": spec.health_check,
            "health_status": self.health_status(),
            "restart_policy": spec.restart_policy,
            "restart_status": (self.restarts != Restarts::default()).then_some(&self.restarts),
            "phase_durations_ms": phases,
            "current_phase": phase,
            "current_phase_since": self.phase_since,
        });
        view = without_nulls(view);
        if let Value::Object(fields) = &mut view {
            fields.insert("expires_at".to_owned(), json!(spec.expires_at));
        }
        view
    }
}

/// The object without its fields that are `null`.
pub(crate) fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, field| !field.is_null());
    }
    value
}

// === impl Instance ===

impl Instance {
    pub(crate) fn new(record: Record) -> Self {
        Self {
            id: record.spec.id.clone(),
            created_at: record.spec.created_at,
            lock: RwLock::new(()),
            state: watch::Sender::new(record.state),
            record: Mutex::new(record),
            deleted: AtomicBool::new(false),
            unsaved: AtomicBool::new(false),
            attended: AtomicBool::new(false),
        }
    }

    /// Waits for its turn to change the instance; a 404 when that has gone meanwhile.
    pub(crate) async fn lock_living(&self) -> Result<RwLockWriteGuard<'_, ()>, Error> {
        let guard = self.lock.write().await;
        match self.is_deleted() {
            true => Err(Error::not_found()),
            false => Ok(guard),
        }
    }

    /// Its turn to change the instance, if nobody else has that and it is there.
    pub(crate) fn try_lock(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        let guard = self.lock.try_write().ok();
        guard.filter(|_| !self.is_deleted())
    }

    /// Waits until nobody changes the instance; a 404 when that has gone meanwhile.
    pub(crate) async fn read_living(&self) -> Result<RwLockReadGuard<'_, ()>, Error> {
        let guard = self.lock.read().await;
        match self.is_deleted() {
            true => Err(Error::not_found()),
            false => Ok(guard),
        }
    }

    /// The record, for a moment: never across an await.
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        // A panic while it was held leaves a record that is still whole: every change is one field.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn name(&self) -> String {
        self.record().spec.name.clone()
    }

    pub(crate) fn state(&self) -> State {
        self.record().state
    }

    /// Changes the record, and tells those who wait for its state.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        let mut record = self.record();
        let before = record.state;
        let result = change(&mut record);
        if record.state != before {
            self.state.send_replace(record.state);
        }
        result
    }

    /// Whether nobody does what is due yet; whoever hears so does it, and calls [`Self::attended`].
    pub(crate) fn attend(&self) -> bool {
        !self.attended.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn attended(&self) {
        self.attended.store(false, Ordering::Release);
    }

    pub(crate) fn is_unsaved(&self) -> bool {
        self.unsaved.load(Ordering::Acquire)
    }

    pub(crate) fn set_unsaved(&self, unsaved: bool) {
        self.unsaved.store(unsaved, Ordering::Release);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
        self.state.send_modify(|_| {});
    }
}
