//! The world as a control plane: calls that are slow, fail, hang, or have odd answers.
//!
//! Guarantees: it finds ids first, then names, then the beginnings of ids, as Hypeman does; it
//! counts what is asked at once, and objects to more than is right.

use std::sync::LazyLock;
use std::time::Duration;

use hypeman::wire::{AutoStandbyStatus, Instance as Answer, InstanceState, WaitOutcome};
use hypeman::{ControlPlane, Error as ControlPlaneError, InstanceId, InstanceRef};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::words::Word;
use super::{IDLE, Inner, Odd, Troubles, View, Vm};

/// A description, without what an instance has of its own.
static DESCRIPTION: LazyLock<Answer> = LazyLock::new(|| {
    let idle = format!("{}s", IDLE.as_secs());
    let description = json!({
        "id": "", "name": "", "image": "i", "state": "Running",
        "created_at": "2026-01-01T00:00:00Z",
        "auto_standby": { "enabled": true, "idle_timeout": idle },
        "network": { "enabled": true, "ip": "10.0.0.1" },
    });
    serde_json::from_value(description).unwrap()
});

/// The answer to a hold on an instance that runs.
pub(super) static HELD: LazyLock<AutoStandbyStatus> = LazyLock::new(|| {
    let status = json!({
        "supported": true, "configured": true, "enabled": true, "eligible": true,
        "status": "idle_countdown", "reason": "idle_timeout_not_elapsed",
        "active_inbound_connections": 0, "tracking_mode": "x",
        "hold_until": "2026-01-01T00:00:10Z",
    });
    serde_json::from_value(status).unwrap()
});

enum Fate {
    Well,
    FailBefore,
    FailAfter,
    Hang,
    Unreachable,
    Conflict,
    Odd(u8),
}

/// The control plane's own answer.
pub(super) fn api(status: u16, code: &str) -> ControlPlaneError {
    ControlPlaneError::api("sim", status, code, "")
}

/// An answer with this status that somebody before the control plane gave.
fn foreign(status: u16) -> ControlPlaneError {
    ControlPlaneError::Api {
        op: "sim",
        status,
        code: "Not Found".to_owned(),
        message: String::new(),
        from_api: false,
        retry_after: None,
    }
}

fn unreadable() -> ControlPlaneError {
    ControlPlaneError::Decode {
        op: "sim",
        reason: "odd".to_owned(),
    }
}

/// A call under way, until it is over or dropped.
struct Flight {
    view: View,
    op: &'static str,
    about: String,
    since: Instant,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut inner = self.view.world.0.lock().unwrap();
        let key = (self.view.gateway, self.op, self.about.clone());
        if let Some(flights) = inner.asking.get_mut(&key) {
            let index = flights.iter().position(|since| *since == self.since);
            index.map(|index| flights.swap_remove(index));
            if flights.is_empty() {
                inner.asking.remove(&key);
            }
        }
        if self.op == "restore" {
            let key = (self.view.gateway, self.about.clone());
            if let Some(count) = inner.restoring.get_mut(&key) {
                *count -= 1;
            }
            inner.restoring.retain(|_, count| *count > 0);
        }
    }
}

impl Inner {
    /// An instance as it is described.
    fn describe(vm: &Vm) -> Answer {
        let mut answer = DESCRIPTION.clone();
        (answer.id, answer.name) = (vm.id.clone(), vm.name.clone());
        let odd = |state| serde_json::from_value(json!(state)).unwrap();
        answer.state = match vm.state {
            "Running" if vm.is(Odd::Unknown) => InstanceState::Unknown,
            "Running" if vm.is(Odd::NewState) => odd("Dreaming"),
            "Running" if vm.is(Odd::Paused) => InstanceState::Paused,
            "Running" => InstanceState::Running,
            "Standby" => InstanceState::Standby,
            "Initializing" => InstanceState::Initializing,
            state => odd(state),
        };
        if let Some(network) = &mut answer.network {
            let ip = match () {
                () if vm.is(Odd::NobodysAddress) => Some("0.0.0.0".to_owned()),
                () if vm.is(Odd::MetadataAddress) => Some("169.254.169.254".to_owned()),
                () if vm.is(Odd::NoAddress) || vm.is(Odd::NetworkOff) => None,
                () => Some(vm.ip.to_string()),
            };
            (network.enabled, network.ip) = (Some(!vm.is(Odd::NetworkOff)), ip);
        }
        if vm.is(Odd::NoNetwork) {
            answer.network = None;
        }
        answer
    }

    fn answer(&self, text: &str) -> Result<Answer, ControlPlaneError> {
        let by_id = self.vms.iter().find(|vm| vm.id == text);
        let exact = by_id.or_else(|| self.vms.iter().find(|vm| vm.name == text));
        if let Some(vm) = exact {
            return Ok(Self::describe(vm));
        }
        let mut beginning = self.vms.iter().filter(|vm| vm.id.starts_with(text));
        match (beginning.next(), beginning.next()) {
            (Some(vm), None) => Ok(Self::describe(vm)),
            (Some(_), Some(_)) => Err(api(404, "ambiguous")),
            (None, _) => Err(api(404, "not_found")),
        }
    }

    fn restore(&mut self, id: &str) -> Result<Answer, ControlPlaneError> {
        let Troubles { lingers, moves, .. } = self.troubles;
        let mut random = self.random("restored", id);
        let mut chance = |percent: u8| random.u8(0..100) < percent;
        let (lingers, moves) = (chance(lingers), chance(moves));
        let (boot, listen) = (random.u64(0..800), random.u64(0..800));
        let ip = moves.then(|| self.new_ip(&mut random));
        let vm = self.by_id(id).ok_or_else(|| api(404, "not_found"))?;
        let now = Instant::now();
        match vm.state {
            "Standby" => {
                let state = if lingers { "Initializing" } else { "Running" };
                vm.begin_stretch(state);
                let late = |ms: u64| match lingers {
                    true => now + Duration::from_millis(ms),
                    false => now,
                };
                (vm.runs_at, vm.listens_at) = (late(boot), late(listen));
                (vm.idle_since, vm.held_until) = (now, now + IDLE);
                if let Some(ip) = ip {
                    let old = std::mem::replace(&mut vm.ip, ip);
                    vm.ip_since = now;
                    self.free.push(old);
                }
                self.woke(id, moves);
            }
            "Running" | "Initializing" => {}
            _ => return Err(api(409, "invalid_state")),
        }
        self.answer(id)
    }

    fn start(&mut self, id: &str) -> Result<Answer, ControlPlaneError> {
        let mut random = self.random("started", id);
        let ip = self.new_ip(&mut random);
        let vm = self.by_id(id).ok_or_else(|| api(404, "not_found"))?;
        if vm.state == "Stopped" {
            let now = Instant::now();
            vm.begin_stretch("Initializing");
            let old = std::mem::replace(&mut vm.ip, ip);
            vm.ip_since = now;
            vm.runs_at = now + Duration::from_millis(300);
            vm.listens_at = vm.runs_at;
            vm.idle_since = now;
            self.free.push(old);
            self.woke(id, true);
        }
        self.answer(id)
    }
}

impl View {
    /// Counts a call until it is over.
    fn fly(&self, op: &'static str, about: &str) -> Flight {
        let since = Instant::now();
        let mut inner = self.world.lock();
        inner.calls += 1;
        let key = (self.gateway, op, about.to_owned());
        let flights = inner.asking.entry(key).or_default();
        flights.push(since);
        let (count, oldest) = (flights.len(), *flights.iter().min().unwrap());
        // A Get is made once more when it takes a second. A name and an id are asked for apart, and
        // one text may be both.
        let is_id = inner.called.contains_key(about);
        let doubled = oldest.elapsed() >= Duration::from_secs(1);
        let limit = match op {
            "get" => (1 + usize::from(doubled)) * (1 + usize::from(is_id)),
            "hold" => 2,
            "restore" | "start" => 1,
            _ => usize::MAX,
        };
        if count > limit {
            inner.wrong(format!("{count} calls of {op} for {about} at once"));
        }
        if op == "restore" || op == "start" {
            inner.say(self.gateway, about, Word::Begun);
        }
        Flight {
            view: self.clone(),
            op,
            about: about.to_owned(),
            since,
        }
    }

    /// The trouble of one call: its delay first.
    async fn fate(&self, op: &'static str, name: &str) -> Fate {
        let (delay, fate) = {
            let mut inner = self.world.lock();
            let t = inner.troubles;
            let mut random = inner.random(op, name);
            let mut chance = |percent: u8| random.u8(0..100) < percent;
            let fates = [
                (chance(t.hangs), Fate::Hang),
                (chance(t.unreachable), Fate::Unreachable),
                (chance(t.fails), Fate::FailBefore),
                (chance(t.fails), Fate::FailAfter),
                (chance(t.conflicts), Fate::Conflict),
                (chance(t.odd), Fate::Odd(0)),
            ];
            let slow = chance(t.slow);
            let delay = match slow {
                true => random.u64(100..3000),
                false => random.u64(0..5),
            };
            let fate = fates.into_iter().find_map(|(is, fate)| is.then_some(fate));
            let fate = match fate {
                Some(Fate::Odd(_)) => Fate::Odd(random.u8(0..6)),
                fate => fate.unwrap_or(Fate::Well),
            };
            (Duration::from_millis(delay), fate)
        };
        sleep(delay).await;
        if Instant::now() < self.world.lock().away_until {
            self.tell(&format!("{op} {name}: the control plane is away"));
            return Fate::Unreachable;
        }
        let word = match fate {
            Fate::Well => return fate,
            Fate::FailBefore => "fails",
            Fate::FailAfter => "fails after its effect",
            Fate::Hang => "hangs",
            Fate::Unreachable => "breaks off",
            Fate::Conflict => "is a conflict",
            Fate::Odd(_) => "is odd",
        };
        self.tell(&format!("{op} {name} {word}"));
        if matches!(fate, Fate::Hang) && matches!(op, "restore" | "start") {
            self.world.lock().say(self.gateway, name, Word::Hung);
        }
        fate
    }

    /// How it stands with an instance's connections and holds.
    pub async fn status(&self, id: &str) -> Result<AutoStandbyStatus, ControlPlaneError> {
        self.call("status", id, |inner| inner.status(id)).await
    }

    /// Puts an instance to sleep.
    pub async fn standby(&self, id: &str) -> Result<(), ControlPlaneError> {
        self.call("standby", id, |inner| inner.standby(id)).await
    }

    fn tell(&self, line: &str) {
        self.world
            .tell(&format!("gateway {}: {line}", self.gateway));
    }

    /// Runs a call's effect as its fate wants it.
    async fn call<T>(
        &self,
        op: &'static str,
        name: &str,
        effect: impl FnOnce(&mut Inner) -> Result<T, ControlPlaneError>,
    ) -> Result<T, ControlPlaneError> {
        let _flight = self.fly(op, name);
        let result = match self.fate(op, name).await {
            Fate::Well => effect(&mut self.world.lock()),
            Fate::FailBefore => Err(api(500, "internal_error")),
            Fate::FailAfter => {
                let _lost = effect(&mut self.world.lock());
                Err(api(502, "internal_error"))
            }
            Fate::Conflict => Err(api(409, "invalid_state")),
            Fate::Hang => {
                let after = Duration::from_secs(10);
                sleep(after).await;
                Err(ControlPlaneError::Timeout { op, after })
            }
            Fate::Unreachable => Err(ControlPlaneError::Transport {
                op,
                source: "broke off".into(),
            }),
            Fate::Odd(0) => Err(unreadable()),
            Fate::Odd(1) => Err(foreign(404)),
            Fate::Odd(2) => Err(api(429, "too_many_requests")),
            Fate::Odd(3) => Err(api(503, "unavailable")),
            Fate::Odd(4) if op == "restore" => Err(api(409, "insufficient_resources")),
            Fate::Odd(4) => Err(foreign(403)),
            Fate::Odd(_) => Err(api(401, "unauthorized")),
        };
        if let Err(error) = &result {
            let mut inner = self.world.lock();
            inner.say(self.gateway, name, error.into());
        }
        result
    }

    /// The same for a call that is answered with a description.
    async fn describing(
        &self,
        op: &'static str,
        name: &str,
        effect: impl FnOnce(&mut Inner) -> Result<Answer, ControlPlaneError>,
    ) -> Result<Answer, ControlPlaneError> {
        let asked_at = Instant::now();
        let result = self.call(op, name, effect).await;
        let mut inner = self.world.lock();
        if op != "get" && result.is_ok() {
            inner.say(self.gateway, name, Word::Fresh);
        }
        inner.say_answer(self.gateway, name, &result, asked_at);
        result
    }

    /// All instances, whether the list is whole, and when it was asked for; `None` when there is no
    /// answer.
    pub async fn list(&self) -> Option<(Vec<Answer>, bool, Instant)> {
        let asked_at = Instant::now();
        let mut list: Vec<Answer> = {
            let mut inner = self.world.lock();
            inner.calls += 1;
            inner.vms.iter().map(Inner::describe).collect()
        };
        let (is_whole, delay) = {
            let mut inner = self.world.lock();
            let Troubles { slow, odd, .. } = inner.troubles;
            let mut random = inner.random("list", "");
            let is_whole = list.is_empty() || random.u8(0..100) >= odd;
            if !is_whole {
                list.swap_remove(random.usize(0..list.len()));
            }
            // It waits behind nothing, but may come very late.
            let delay = match random.u8(0..100) < slow {
                true => random.u64(100..8000),
                false => random.u64(0..5),
            };
            (is_whole, Duration::from_millis(delay))
        };
        sleep(delay).await;
        let mut inner = self.world.lock();
        let Troubles {
            fails, unreachable, ..
        } = inner.troubles;
        if inner.random("list fails", "").u8(0..100) < fails.max(unreachable)
            || Instant::now() < inner.away_until
        {
            return None;
        }
        for one in &list {
            inner.note_name(self.gateway, &one.id, &one.name, asked_at);
        }
        let all: Vec<String> = inner.called.keys().cloned().collect();
        for id in all.into_iter().filter(|_| is_whole) {
            if list.iter().all(|one| one.id != id) {
                inner.say(self.gateway, &id, Word::Unlisted);
            }
        }
        Some((list, is_whole, asked_at))
    }
}

impl ControlPlane for View {
    async fn get(&self, name: &InstanceRef) -> Result<Answer, ControlPlaneError> {
        let name = name.as_str();
        self.describing("get", name, |inner| inner.answer(name))
            .await
    }

    async fn restore(&self, id: &InstanceId) -> Result<Answer, ControlPlaneError> {
        let id = id.as_str();
        {
            let mut inner = self.world.lock();
            let key = (self.gateway, id.to_owned());
            *inner.restoring.entry(key).or_default() += 1;
            if let Some(name) = inner.by_id(id).map(|vm| vm.name.clone()) {
                *inner.restores.entry(name.clone()).or_default() += 1;
                inner.tell(&format!("gateway {}: restore {name} ({id})", self.gateway));
            }
        }
        self.describing("restore", id, |inner| inner.restore(id))
            .await
    }

    async fn start(&self, id: &InstanceId) -> Result<Answer, ControlPlaneError> {
        let id = id.as_str();
        self.describing("start", id, |inner| inner.start(id)).await
    }

    async fn wait(
        &self,
        id: &InstanceId,
        _: &InstanceState,
        _: Duration,
    ) -> Result<WaitOutcome, ControlPlaneError> {
        sleep(Duration::from_secs(5)).await;
        let id = id.as_str();
        self.call("wait", id, |inner| {
            let answer = inner.answer(id)?;
            let outcome = json!({ "state": answer.state });
            Ok(serde_json::from_value(outcome).unwrap())
        })
        .await
    }

    async fn hold(&self, id: &InstanceId) -> Result<AutoStandbyStatus, ControlPlaneError> {
        let id = id.as_str();
        self.call("hold", id, |inner| {
            let vm = inner.by_id(id).ok_or_else(|| api(404, "not_found"))?;
            if vm.state == "Standby" {
                return Err(api(409, "instance_in_standby"));
            }
            if vm.is(Odd::NoHolds) {
                return Err(api(500, "internal_error"));
            }
            let running = vm.state == "Running";
            if running {
                vm.held_until = Instant::now() + IDLE;
            }
            let mut status = HELD.clone();
            status.eligible = running;
            if !running {
                status.hold_until = None;
            }
            Ok(status)
        })
        .await
    }
}
