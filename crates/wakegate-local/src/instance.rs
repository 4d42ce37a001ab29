//! One instance: what was asked for, what became of it, and how the API shows it.
//!
//! Guarantees: the record is what is on disk; a change of state goes through [`Instance::enter`],
//! which keeps the phase clock and tells those who wait. Environment values do not show in `Debug`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{RwLock, watch};

use super::auto_standby::{Circumstances, Countdown};
use super::driver::Handle;
use super::health::{Health, HealthCheck};
use super::policy::Policy;
use super::restart::{RestartPolicy, Restarts};
use super::scalars::print_size;

/// The states of an instance (seed: `InstanceState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Recorded, not begun.
    Created,
    /// Coming up.
    Initializing,
    /// The program runs.
    Running,
    /// Between Running and Standby.
    Paused,
    /// Going down.
    Shutdown,
    /// No process.
    Stopped,
    /// A frozen process without an address.
    Standby,
    /// Not determinable.
    Unknown,
}

/// What was asked for.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) image: String,
    pub(super) created_at: Timestamp,
    pub(super) env: BTreeMap<String, String>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) cmd: Option<Vec<String>>,
    pub(super) size: u64,
    pub(super) hotplug_size: Option<u64>,
    pub(super) overlay_size: u64,
    pub(super) disk_io_bps: Option<u64>,
    pub(super) vcpus: u32,
    pub(super) network_enabled: bool,
    pub(super) policy: Option<Policy>,
    pub(super) snapshot_policy: Option<Value>,
    #[serde(default)]
    pub(super) health_check: Option<HealthCheck>,
    #[serde(default)]
    pub(super) restart_policy: Option<RestartPolicy>,
    /// What runs it, as the API names it; nothing where that is no hypervisor.
    #[serde(default)]
    pub(super) hypervisor: Option<String>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) schedule: Option<Schedule>,
}

/// A snapshot schedule (contract A.8).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Schedule {
    pub(super) interval: hypeman::GoDuration,
    pub(super) retention: Value,
    pub(super) name_prefix: Option<String>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) next_run_at: Timestamp,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
    pub(super) last_run_at: Option<Timestamp>,
    #[serde(default)]
    pub(super) last_snapshot_id: Option<String>,
    pub(super) last_error: Option<String>,
}

/// What was asked for and what became of it; the form on disk.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) spec: Spec,
    pub(super) state: State,
    pub(super) handle: Option<Handle>,
    /// Kept while Stopped, where it is stale, as the contract has it.
    pub(super) ip: Option<Ipv4Addr>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) stopped_at: Option<Timestamp>,
    pub(super) exit_code: Option<i32>,
    pub(super) exit_message: Option<String>,
    pub(super) phase_since: Timestamp,
    pub(super) phases_ms: BTreeMap<String, i64>,
    pub(super) countdown: Countdown,
    #[serde(default)]
    pub(super) restarts: Restarts,
    /// In memory only: a new control plane looks anew.
    #[serde(skip)]
    pub(super) health: Health,
}

/// One instance in memory.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: String,
    /// Verbs write, everything that names the instance in its path reads (contract B.2).
    pub(super) lock: RwLock<()>,
    record: Mutex<Record>,
    state: watch::Sender<State>,
    deleted: AtomicBool,
}

// === impl State ===

impl State {
    const NAMES: [(&'static str, Self); 8] = [
        ("Created", Self::Created),
        ("Initializing", Self::Initializing),
        ("Running", Self::Running),
        ("Paused", Self::Paused),
        ("Shutdown", Self::Shutdown),
        ("Stopped", Self::Stopped),
        ("Standby", Self::Standby),
        ("Unknown", Self::Unknown),
    ];

    /// Reads the wire text; case matters.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, state)| *state)
    }

    /// The wire text.
    pub fn as_str(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(_, state)| *state == self)
            .map_or("Unknown", |(name, _)| name)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
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
    pub(super) fn new(spec: Spec, now: Timestamp) -> Self {
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

    fn enter(&mut self, state: State, now: Timestamp) {
        let elapsed = self.phase_elapsed_ms(now);
        *self
            .phases_ms
            .entry(self.state.as_str().to_lowercase())
            .or_default() += elapsed;
        (self.state, self.phase_since) = (state, now);
    }

    pub(super) fn circumstances(&self) -> Circumstances {
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

    /// It has been started or restored.
    pub(super) fn begins(&mut self, now: Timestamp) {
        self.countdown.restart(now);
        self.health.restart(now);
    }

    /// Its program has ended, or was ended.
    pub(super) fn ends(&mut self, now: Timestamp) {
        self.handle = None;
        self.stopped_at = Some(now);
        self.countdown.clear();
    }

    /// The instance as the API shows it (contract A.8): unset fields are left out, `expires_at`
    /// never is.
    pub(super) fn view(&self, now: Timestamp) -> Value {
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
            "created_at": spec.created_at,
            "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
            "size": print_size(spec.size),
            "hotplug_size": spec.hotplug_size.map(print_size),
            "overlay_size": print_size(spec.overlay_size),
            "disk_io_bps": spec.disk_io_bps.map(|rate| format!("{}/s", print_size(rate))),
            "vcpus": spec.vcpus,
            "env": (!spec.env.is_empty()).then_some(&spec.env),
            "tags": (!spec.tags.is_empty()).then_some(&spec.tags),
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
pub(super) fn without_nulls(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, field| !field.is_null());
    }
    value
}

// === impl Instance ===

impl Instance {
    pub(super) fn new(record: Record) -> Self {
        Self {
            id: record.spec.id.clone(),
            lock: RwLock::new(()),
            state: watch::Sender::new(record.state),
            record: Mutex::new(record),
            deleted: AtomicBool::new(false),
        }
    }

    /// The record, for a moment: never across an await.
    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        // A panic while it was held leaves a record that is still whole: every change is one field.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn name(&self) -> String {
        self.record().spec.name.clone()
    }

    pub(super) fn state(&self) -> State {
        self.record().state
    }

    /// Changes the state and tells those who wait for it.
    pub(super) fn enter(&self, state: State) {
        let mut record = self.record();
        record.enter(state, Timestamp::now());
        self.state.send_replace(state);
    }

    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(super) fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::Release);
        self.state.send_modify(|_| {});
    }
}
