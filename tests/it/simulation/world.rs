//! The world of a history: a control plane that delays, fails, hangs and flaps, and instances that
//! sleep, vanish and come back as others. Everything that happens is drawn from one seed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hypeman::wire::{AutoStandbyStatus, Instance as Answer, InstanceState, WaitOutcome};
use hypeman::{ControlPlane, Error as ControlPlaneError};
use hypeman::{InstanceId, InstanceRef};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use wakegate::proxy::dispatch::Transport;
use wakegate::upstream::{ForwardError, Hop};
use wakegate::wake::{Dialer, Endpoint, OpenConnection};

pub const IDLE: Duration = Duration::from_secs(2);
pub const PORT: u16 = 80;
/// How long an address may be another's before nobody is sent there any more.
pub const VERIFY: Duration = Duration::from_millis(500);

/// How bad the world is, each from 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Troubles {
    /// A control-plane call takes long.
    pub slow: u8,
    /// It fails with a 5xx, before or after it had its effect.
    pub fails: u8,
    /// It hangs until its caller gives up.
    pub hangs: u8,
    /// It cannot be reached, or breaks off.
    pub unreachable: u8,
    /// The state is not what is expected: 409.
    pub conflicts: u8,
    /// A restored instance stays Initializing, or its port stays closed, for a while.
    pub lingers: u8,
    /// A connection to an instance breaks, before or after it took the request.
    pub breaks: u8,
    /// An idle connection was closed meanwhile.
    pub stale: u8,
    /// A restore changes the address.
    pub moves: u8,
}

/// Something that somebody else does to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// An operator puts it in standby: no FIN, no RST.
    Standby,
    /// An operator stops it.
    Stop,
    /// It is deleted, and another takes its name and its address.
    Replace,
    /// It is deleted, and nothing takes its name.
    Delete,
    /// The control plane is away for a second, and has forgotten its holds.
    Restart,
}

#[derive(Debug)]
struct Vm {
    id: String,
    name: String,
    state: &'static str,
    ip: IpAddr,
    /// Since when its program listens, and since when it is no longer Initializing.
    listens_at: Instant,
    runs_at: Instant,
    open: usize,
    idle_since: Instant,
    held_until: Instant,
    /// Which stretch of running this is: a connection does not outlive it.
    stretch: u64,
    restoring: usize,
    /// When it took another's name and address over, if it did.
    replaced_at: Option<Instant>,
}

#[derive(Debug)]
struct Inner {
    random: fastrand::Rng,
    troubles: Troubles,
    vms: Vec<Vm>,
    born: Instant,
    away_until: Instant,
    next: u32,
    restores: BTreeMap<String, usize>,
    delivered: BTreeMap<u32, usize>,
    story: String,
    wrongs: Vec<String>,
}

/// The world, as the control plane, the network and the instances see it.
#[derive(Debug, Clone)]
pub struct World(Arc<Mutex<Inner>>);

/// A connection.
#[derive(Debug)]
pub struct Stream {
    world: World,
    id: String,
    stretch: u64,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Parcel {
    pub number: u32,
    pub idempotent: bool,
}

enum Fate {
    Well,
    FailBefore,
    FailAfter,
    Hang,
    Unreachable,
    Conflict,
}

impl Inner {
    fn chance(&mut self, percent: u8) -> bool {
        self.random.u8(0..100) < percent
    }

    fn tell(&mut self, line: &str) {
        let at = self.born.elapsed().as_secs_f64() * 1e3;
        let _infallible = writeln!(self.story, "{at:9.1} ms  {line}");
    }

    /// What time alone has done: auto-standby, programs that came up.
    fn settle(&mut self) {
        let now = Instant::now();
        let mut asleep = Vec::new();
        for vm in &mut self.vms {
            if vm.state == "Initializing" && now >= vm.runs_at {
                vm.state = "Running";
                vm.idle_since = now;
            }
            let idle = vm.open == 0 && now >= (vm.idle_since + IDLE).max(vm.held_until);
            if vm.state == "Running" && idle && vm.restoring == 0 {
                vm.state = "Standby";
                vm.stretch += 1;
                asleep.push(vm.name.clone());
            }
        }
        for name in asleep {
            self.tell(&format!("{name} falls asleep by itself"));
        }
    }

    fn vm(&mut self, name: &str) -> Option<&mut Vm> {
        self.vms
            .iter_mut()
            .find(|vm| vm.id == name || vm.name == name)
    }

    fn fresh(&mut self, name: &str, ip: IpAddr) -> Vm {
        self.next += 1;
        let now = Instant::now();
        Vm {
            id: format!("id-{}", self.next),
            name: name.to_owned(),
            state: "Standby",
            ip,
            listens_at: now,
            runs_at: now,
            open: 0,
            idle_since: now,
            held_until: now,
            stretch: 0,
            restoring: 0,
            replaced_at: None,
        }
    }

    fn new_ip(&mut self) -> IpAddr {
        self.next += 1;
        IpAddr::from(0x0a00_0000_u32.wrapping_add(self.next).to_be_bytes())
    }

    fn answer(&mut self, name: &str) -> Result<Answer, ControlPlaneError> {
        let vm = self.vm(name).ok_or_else(|| api(404, "not_found"))?;
        let idle = format!("{}s", IDLE.as_secs());
        let answer = json!({
            "id": vm.id, "name": vm.name, "image": "i", "state": vm.state,
            "created_at": "2026-01-01T00:00:00Z",
            "auto_standby": { "enabled": true, "idle_timeout": idle },
            "network": { "enabled": true, "ip": vm.ip.to_string() },
        });
        Ok(serde_json::from_value(answer).unwrap())
    }
}

fn api(status: u16, code: &str) -> ControlPlaneError {
    ControlPlaneError::api("sim", status, code, "")
}

impl World {
    pub fn new(seed: u64, troubles: Troubles, names: &[&str]) -> Self {
        let now = Instant::now();
        let mut inner = Inner {
            random: fastrand::Rng::with_seed(seed),
            troubles,
            vms: Vec::new(),
            born: now,
            away_until: now,
            next: 0,
            restores: BTreeMap::new(),
            delivered: BTreeMap::new(),
            story: String::new(),
            wrongs: Vec::new(),
        };
        for name in names {
            let ip = inner.new_ip();
            let vm = inner.fresh(name, ip);
            inner.vms.push(vm);
        }
        Self(Arc::new(Mutex::new(inner)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.0.lock().unwrap();
        inner.settle();
        inner
    }

    pub fn tell(&self, line: &str) {
        self.lock().tell(line);
    }

    pub fn wrong(&self, what: String) {
        let mut inner = self.lock();
        inner.tell(&format!("WRONG: {what}"));
        inner.wrongs.push(what);
    }

    pub fn wrongs(&self) -> Vec<String> {
        self.lock().wrongs.clone()
    }

    pub fn story(&self) -> String {
        self.lock().story.clone()
    }

    /// Restores of whatever had this name.
    pub fn restores(&self, name: &str) -> usize {
        self.lock().restores.get(name).copied().unwrap_or(0)
    }

    pub fn deliveries(&self, number: u32) -> usize {
        self.lock().delivered.get(&number).copied().unwrap_or(0)
    }

    pub fn act(&self, name: &str, act: Act) {
        let mut inner = self.lock();
        inner.tell(&format!("somebody: {act:?} {name}"));
        if act == Act::Restart {
            inner.away_until = Instant::now() + Duration::from_secs(1);
            let now = Instant::now();
            inner.vms.iter_mut().for_each(|vm| vm.held_until = now);
            return;
        }
        let Some(index) = inner.vms.iter().position(|vm| vm.name == name) else {
            return;
        };
        match act {
            Act::Standby | Act::Stop => {
                let vm = &mut inner.vms[index];
                if matches!(vm.state, "Running" | "Initializing") && vm.restoring == 0 {
                    vm.state = if act == Act::Stop {
                        "Stopped"
                    } else {
                        "Standby"
                    };
                    vm.stretch += 1;
                }
            }
            Act::Delete | Act::Replace => {
                let old = inner.vms.remove(index);
                if act == Act::Replace {
                    // The worst case: another tenant, awake, under the same name and address.
                    let mut other = inner.fresh(name, old.ip);
                    other.state = "Running";
                    other.replaced_at = Some(Instant::now());
                    other.held_until = Instant::now() + IDLE;
                    inner.vms.push(other);
                }
            }
            Act::Restart => {}
        }
    }

    /// The trouble of one call: its delay first.
    async fn fate(&self, op: &str, name: &str) -> Fate {
        let (delay, fate) = {
            let mut inner = self.lock();
            let Troubles {
                slow,
                fails,
                hangs,
                unreachable,
                conflicts,
                ..
            } = inner.troubles;
            let delay = match inner.chance(slow) {
                true => inner.random.u64(100..3000),
                false => inner.random.u64(0..5),
            };
            let fate = if inner.chance(hangs) {
                Fate::Hang
            } else if inner.chance(unreachable) {
                Fate::Unreachable
            } else if inner.chance(fails) {
                match inner.random.bool() {
                    true => Fate::FailBefore,
                    false => Fate::FailAfter,
                }
            } else if inner.chance(conflicts) {
                Fate::Conflict
            } else {
                Fate::Well
            };
            (Duration::from_millis(delay), fate)
        };
        sleep(delay).await;
        if Instant::now() < self.lock().away_until {
            self.tell(&format!("{op} {name}: the control plane is away"));
            return Fate::Unreachable;
        }
        if !matches!(fate, Fate::Well) {
            let word = match fate {
                Fate::FailBefore => "fails",
                Fate::FailAfter => "fails after its effect",
                Fate::Hang => "hangs",
                Fate::Unreachable => "breaks off",
                Fate::Conflict => "is a conflict",
                Fate::Well => "",
            };
            self.tell(&format!("{op} {name} {word}"));
        }
        fate
    }

    /// Runs a call's effect as its fate wants it.
    async fn call<T>(
        &self,
        op: &'static str,
        name: &str,
        effect: impl FnOnce(&mut Inner) -> Result<T, ControlPlaneError>,
    ) -> Result<T, ControlPlaneError> {
        match self.fate(op, name).await {
            Fate::Well => effect(&mut self.lock()),
            Fate::FailBefore => Err(api(500, "internal_error")),
            Fate::FailAfter => {
                let _lost = effect(&mut self.lock());
                Err(api(502, "internal_error"))
            }
            Fate::Conflict => Err(api(409, "invalid_state")),
            Fate::Hang => {
                sleep(Duration::from_secs(10)).await;
                Err(ControlPlaneError::Timeout {
                    op,
                    after: Duration::from_secs(10),
                })
            }
            Fate::Unreachable => Err(ControlPlaneError::Transport {
                op,
                source: "broke off".into(),
            }),
        }
    }
}

/// A restore under way, until its call is over or dropped.
struct Flight {
    world: World,
    id: String,
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(vm) = self.world.0.lock().unwrap().vm(&self.id) {
            vm.restoring -= 1;
        }
    }
}

impl ControlPlane for World {
    async fn get(&self, name: &InstanceRef) -> Result<Answer, ControlPlaneError> {
        let name = name.as_str();
        self.call("get", name, |inner| inner.answer(name)).await
    }

    async fn restore(&self, id: &InstanceId) -> Result<Answer, ControlPlaneError> {
        let id = id.as_str();
        {
            let mut inner = self.lock();
            let known = inner.vm(id).map(|vm| {
                vm.restoring += 1;
                (vm.name.clone(), vm.restoring)
            });
            if let Some((name, flights)) = known {
                *inner.restores.entry(name.clone()).or_default() += 1;
                inner.tell(&format!("restore {name} ({id})"));
                if flights > 1 {
                    inner
                        .wrongs
                        .push(format!("{flights} restores of {id} at once"));
                }
            }
        }
        let _flight = Flight {
            world: self.clone(),
            id: id.to_owned(),
        };
        self.call("restore", id, |inner| {
            let (lingers, moves) = (inner.troubles.lingers, inner.troubles.moves);
            let (lingers, moves) = (inner.chance(lingers), inner.chance(moves));
            let (boot, listen) = (inner.random.u64(0..800), inner.random.u64(0..800));
            let ip = inner.new_ip();
            let vm = inner.vm(id).ok_or_else(|| api(404, "not_found"))?;
            let now = Instant::now();
            match vm.state {
                "Standby" => {
                    vm.stretch += 1;
                    vm.state = if lingers { "Initializing" } else { "Running" };
                    let late = |ms: u64| match lingers {
                        true => now + Duration::from_millis(ms),
                        false => now,
                    };
                    (vm.runs_at, vm.listens_at) = (late(boot), late(listen));
                    (vm.idle_since, vm.held_until) = (now, now + IDLE);
                    if moves {
                        vm.ip = ip;
                    }
                }
                "Running" | "Initializing" => {}
                _ => return Err(api(409, "invalid_state")),
            }
            inner.answer(id)
        })
        .await
    }

    async fn start(&self, id: &InstanceId) -> Result<Answer, ControlPlaneError> {
        let id = id.as_str();
        self.call("start", id, |inner| {
            let ip = inner.new_ip();
            let vm = inner.vm(id).ok_or_else(|| api(404, "not_found"))?;
            if vm.state == "Stopped" {
                let now = Instant::now();
                (vm.state, vm.ip) = ("Initializing", ip);
                vm.runs_at = now + Duration::from_millis(300);
                vm.listens_at = vm.runs_at;
                (vm.idle_since, vm.stretch) = (now, vm.stretch + 1);
            }
            inner.answer(id)
        })
        .await
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
            let vm = inner.vm(id).ok_or_else(|| api(404, "not_found"))?;
            if vm.state == "Standby" {
                return Err(api(409, "instance_in_standby"));
            }
            let running = vm.state == "Running";
            if running {
                vm.held_until = Instant::now() + IDLE;
            }
            let until = running.then_some("2026-01-01T00:00:10Z");
            Ok(serde_json::from_value(json!({
                "supported": true, "configured": true, "enabled": true, "eligible": running,
                "status": "idle_countdown", "reason": "idle_timeout_not_elapsed",
                "active_inbound_connections": 0, "tracking_mode": "x", "hold_until": until,
            }))
            .unwrap())
        })
        .await
    }
}

impl Dialer for World {
    type Stream = Stream;

    async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        sleep(Duration::from_micros(100)).await;
        let outcome = {
            let mut inner = self.lock();
            let found = inner.vms.iter_mut().find(|vm| vm.ip == address.ip());
            match found {
                // A vanished TAP swallows the handshake.
                None => None,
                Some(vm) if !matches!(vm.state, "Running" | "Initializing") => None,
                Some(vm) if Instant::now() < vm.listens_at => {
                    Some(Err(io::ErrorKind::ConnectionRefused.into()))
                }
                Some(vm) => {
                    vm.open += 1;
                    let (id, stretch, world) = (vm.id.clone(), vm.stretch, self.clone());
                    Some(Ok(Stream { world, id, stretch }))
                }
            }
        };
        match outcome {
            Some(outcome) => outcome,
            None => std::future::pending().await,
        }
    }

    async fn get(&self, address: SocketAddr, _: &str) -> io::Result<u16> {
        let _stream = self.connect(address).await?;
        Ok(200)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.world.0.lock().unwrap();
        let (id, stretch) = (self.id.clone(), self.stretch);
        if let Some(vm) = inner
            .vm(&id)
            .filter(|vm| vm.stretch == stretch || vm.open > 0)
        {
            vm.open = vm.open.saturating_sub(1);
            vm.idle_since = Instant::now();
        }
    }
}

impl Transport for World {
    type Stream = Stream;
    type Request = Parcel;
    type Response = u16;

    async fn send(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(Stream, OpenConnection)>,
        parcel: &mut Parcel,
        _now: Instant,
    ) -> Result<u16, ForwardError> {
        let stale = {
            let mut inner = self.lock();
            let stale = inner.troubles.stale;
            inner.chance(stale)
        };
        if stale && given.is_none() {
            self.tell(&format!(
                "request {} meets a stale connection",
                parcel.number
            ));
            return Err(ForwardError::Unsent);
        }
        let (stream, mut open) = match given {
            Some(given) => given,
            None => {
                let open = endpoint.open_connection();
                let connect = Dialer::connect(self, endpoint.address(hop.port));
                match timeout(Duration::from_millis(250), connect).await {
                    Ok(Ok(stream)) => (stream, open),
                    Ok(Err(source)) => return Err(ForwardError::Connect(source)),
                    Err(_) => {
                        let source = io::ErrorKind::TimedOut.into();
                        return Err(ForwardError::Connect(source));
                    }
                }
            }
        };
        open.established();
        let (breaks, takes) = {
            let mut inner = self.lock();
            let breaks = inner.troubles.breaks;
            (inner.chance(breaks), inner.random.u64(0..400))
        };
        if breaks && self.lock().random.bool() {
            self.tell(&format!(
                "request {} breaks before it arrives",
                parcel.number
            ));
            return Err(ForwardError::Broken("broke".into()));
        }
        // It arrives, if the instance is still what the connection was made to.
        let arrived = {
            let mut inner = self.lock();
            let arrived = inner
                .vm(&stream.id)
                .is_some_and(|vm| vm.stretch == stream.stretch && vm.state != "Standby");
            if arrived {
                *inner.delivered.entry(parcel.number).or_default() += 1;
                let line = format!("request {} arrives at {}", parcel.number, stream.id);
                inner.tell(&line);
                let replaced = inner.vm(&stream.id).and_then(|vm| vm.replaced_at);
                let long_since = replaced.is_none_or(|at| at.elapsed() > VERIFY);
                if stream.id != endpoint.instance().as_str() && long_since {
                    let line = format!(
                        "request {} for {} arrived at {}",
                        parcel.number,
                        endpoint.instance(),
                        stream.id
                    );
                    inner.tell(&line);
                    inner.wrongs.push(line);
                }
            }
            arrived
        };
        let answered = async {
            sleep(Duration::from_millis(takes)).await;
            let alive = self
                .lock()
                .vm(&stream.id)
                .is_some_and(|vm| vm.stretch == stream.stretch);
            if !arrived || !alive {
                // Asleep: nothing comes any more, not even a reset.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = endpoint.cut().cancelled() => Err(ForwardError::Severed),
            answered = timeout(Duration::from_secs(20), answered) => match answered {
                Ok(()) => {
                    open.heard(Instant::now());
                    match breaks {
                        true => Err(ForwardError::Broken("broke".into())),
                        false => Ok(200),
                    }
                }
                Err(_) => Err(ForwardError::TimedOut),
            },
        }
    }

    fn may_repeat(&self, parcel: &Parcel) -> bool {
        parcel.idempotent
    }

    fn status(&self, response: &u16) -> u16 {
        *response
    }
}
