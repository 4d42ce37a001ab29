//! The world of a history: control plane, network and instances, and what others do to them.
//!
//! Guarantees: everything that happens is drawn from one seed, each draw from its own occasion, so
//! that what happens in one place changes nothing elsewhere; what the world has said, and to which
//! gateway, is kept (`words`), so that whatever a gateway does can be held against it.

mod flows;
mod network;
mod plane;
mod words;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use self::flows::Flows;
pub use self::flows::{Lossy, Side};
pub use self::network::{Errand, Parcel, Stream};
pub use self::words::Word;
use self::words::{Said, Told};

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
    /// An answer is odd: not readable, a proxy's 404, too many requests, no room, no access.
    pub odd: u8,
}

/// Something that somebody else does to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// An operator puts it in standby: no FIN, no RST.
    Standby,
    /// An operator stops it.
    Stop,
    /// It is deleted, and another takes its name and its address, awake.
    Replace,
    /// It is deleted, and another has its name, asleep and elsewhere.
    Redeploy,
    /// It is deleted, and nothing takes its name.
    Delete,
    /// What was deleted under this name last is there again, with its id.
    ComeBack,
    /// It is called otherwise from now on; what has that name gets its own.
    Rename(usize),
    /// Its address is another from now on, maybe one that another instance had.
    Move,
    /// For a while, this is so of it.
    While(Odd, u64),
    /// The control plane is away for a second, and has forgotten its holds.
    Restart,
    /// Somebody has a connection to it for so many milliseconds, past the gateways.
    Visit(u64),
    /// Somebody holds it for so many milliseconds.
    Hold(u64),
    /// It loses its connections.
    Lose,
}

/// How an instance may be for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Odd {
    /// The control plane cannot tell its state.
    Unknown,
    /// Its state is one that nobody knows.
    NewState,
    /// It is paused.
    Paused,
    /// It has no network at all.
    NoNetwork,
    /// Its networking is off.
    NetworkOff,
    /// It has no address.
    NoAddress,
    /// Its address is that of nobody.
    NobodysAddress,
    /// Its address is that of a cloud's metadata.
    MetadataAddress,
    /// Holds on it fail.
    NoHolds,
    /// Its health check fails.
    Unhealthy,
}

#[derive(Debug, Clone)]
struct Vm {
    id: String,
    name: String,
    state: &'static str,
    ip: IpAddr,
    /// Since when the address is its own.
    ip_since: Instant,
    /// Since when its program listens, and since when it is no longer Initializing.
    listens_at: Instant,
    runs_at: Instant,
    open: usize,
    idle_since: Instant,
    held_until: Instant,
    /// Which stretch of running this is: a connection does not outlive it.
    stretch: u64,
    odd: Vec<(Odd, Instant)>,
}

#[derive(Debug)]
struct Inner {
    seed: u64,
    draws: BTreeMap<(&'static str, String), u64>,
    troubles: Troubles,
    names: Vec<String>,
    vms: Vec<Vm>,
    graves: Vec<Vm>,
    free: Vec<IpAddr>,
    born: Instant,
    away_until: Instant,
    next: u32,
    calls: u64,
    /// Names that instances had, and since when: by id.
    called: BTreeMap<String, Vec<(String, Instant)>>,
    restores: BTreeMap<String, usize>,
    restoring: BTreeMap<(usize, String), usize>,
    asking: BTreeMap<(usize, &'static str, String), Vec<Instant>>,
    /// The instances that each request was for when it arrived.
    delivered: BTreeMap<u32, Vec<String>>,
    said: Vec<Said>,
    told: BTreeMap<(usize, String), Told>,
    epochs: BTreeMap<(usize, u64), Instant>,
    flows: Flows,
    story: String,
    wrongs: Vec<String>,
}

/// The world.
#[derive(Debug, Clone)]
pub struct World(Arc<Mutex<Inner>>);

/// The world as one gateway sees it.
#[derive(Debug, Clone)]
pub struct View {
    pub world: World,
    pub gateway: usize,
}

impl Vm {
    fn is(&self, odd: Odd) -> bool {
        let now = Instant::now();
        let mut all = self.odd.iter();
        all.any(|(kind, until)| *kind == odd && *until > now)
    }

    fn begin_stretch(&mut self, state: &'static str) {
        self.state = state;
        self.stretch += 1;
        self.open = 0;
    }
}

impl Inner {
    /// The randomness of one occasion.
    fn random(&mut self, what: &'static str, about: &str) -> fastrand::Rng {
        let nth = self.draws.entry((what, about.to_owned())).or_default();
        *nth += 1;
        let mut hasher = DefaultHasher::new();
        (self.seed, what, about, *nth).hash(&mut hasher);
        fastrand::Rng::with_seed(hasher.finish())
    }

    fn tell(&mut self, line: &str) {
        let at = self.born.elapsed().as_secs_f64() * 1e3;
        let _infallible = writeln!(self.story, "{at:9.1} ms  {line}");
    }

    fn wrong(&mut self, what: String) {
        self.tell(&format!("WRONG: {what}"));
        self.wrongs.push(what);
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
            let is_used = vm.open > 0 || self.flows.count(&vm.id, now) > 0;
            let idle = !is_used && now >= (vm.idle_since + IDLE).max(vm.held_until);
            let restoring = self.restoring.iter();
            let mut restoring = restoring.filter(|((_, id), count)| *id == vm.id && **count > 0);
            if vm.state == "Running" && idle && restoring.next().is_none() {
                vm.begin_stretch("Standby");
                asleep.push(format!("{} ({})", vm.name, vm.id));
            }
        }
        if !asleep.is_empty() {
            self.flows.change();
        }
        for name in asleep {
            self.tell(&format!("{name} falls asleep by itself"));
        }
    }

    /// The instance of this id.
    fn by_id(&mut self, id: &str) -> Option<&mut Vm> {
        self.vms.iter_mut().find(|vm| vm.id == id)
    }

    /// A new one. Its id begins with a name: nobody may take it for that.
    fn fresh(&mut self, name: &str, ip: IpAddr) -> Vm {
        self.next += 1;
        let now = Instant::now();
        let number = usize::try_from(self.next).unwrap();
        let begins = self.names[number % self.names.len()].clone();
        let id = format!("{begins}{number}");
        let called = self.called.entry(id.clone()).or_default();
        called.push((name.to_owned(), now));
        Vm {
            id,
            name: name.to_owned(),
            state: "Standby",
            ip,
            ip_since: now,
            listens_at: now,
            runs_at: now,
            open: 0,
            idle_since: now,
            held_until: now,
            stretch: 0,
            odd: Vec::new(),
        }
    }

    /// An address that is nobody's now: a new one, or one that somebody had.
    fn new_ip(&mut self, random: &mut fastrand::Rng) -> IpAddr {
        let vms = &self.vms;
        self.free.retain(|ip| vms.iter().all(|vm| vm.ip != *ip));
        if !self.free.is_empty() && random.bool() {
            let index = random.usize(0..self.free.len());
            return self.free.swap_remove(index);
        }
        self.next += 1;
        IpAddr::from(0x0a00_0000_u32.wrapping_add(self.next).to_be_bytes())
    }

    fn name_it(&mut self, index: usize, name: &str) {
        let vm = &mut self.vms[index];
        name.clone_into(&mut vm.name);
        let called = self.called.entry(vm.id.clone()).or_default();
        called.push((name.to_owned(), Instant::now()));
    }

    fn bury(&mut self, index: usize) -> Vm {
        let vm = self.vms.remove(index);
        self.lose_flows(&vm.id);
        self.free.push(vm.ip);
        self.graves.push(vm.clone());
        vm
    }

    fn act(&mut self, name: &str, act: Act) {
        let now = Instant::now();
        let mut random = self.random("act", name);
        if act == Act::Restart {
            self.away_until = now + Duration::from_secs(1);
            self.vms.iter_mut().for_each(|vm| vm.held_until = now);
            return;
        }
        let found = self.vms.iter().position(|vm| vm.name == name);
        if act == Act::ComeBack {
            let grave = self.graves.iter().rposition(|vm| vm.name == name);
            if let (None, Some(grave)) = (found, grave) {
                let mut vm = self.graves.remove(grave);
                let is_taken = self.vms.iter().any(|other| other.ip == vm.ip);
                if is_taken || random.bool() {
                    vm.ip = self.new_ip(&mut random);
                }
                vm.ip_since = now;
                vm.begin_stretch("Standby");
                self.vms.push(vm);
            } else if found.is_none() {
                let ip = self.new_ip(&mut random);
                let vm = self.fresh(name, ip);
                self.vms.push(vm);
            }
            return;
        }
        let Some(index) = found else {
            return;
        };
        let restoring = self.restoring.iter();
        let id = self.vms[index].id.clone();
        let is_restoring = restoring
            .into_iter()
            .any(|((_, of), n)| *of == id && *n > 0);
        match act {
            Act::Standby | Act::Stop => {
                let vm = &mut self.vms[index];
                if matches!(vm.state, "Running" | "Initializing") && !is_restoring {
                    vm.begin_stretch(match act {
                        Act::Stop => "Stopped",
                        _ => "Standby",
                    });
                    self.fell_asleep(&id, act == Act::Stop);
                }
            }
            Act::Delete => {
                self.bury(index);
            }
            Act::Replace => {
                let old = self.bury(index);
                // The worst case: another tenant, awake, under the same name and address.
                let mut other = self.fresh(name, old.ip);
                other.state = "Running";
                other.held_until = now + IDLE;
                self.vms.push(other);
            }
            Act::Redeploy => {
                self.bury(index);
                let ip = self.new_ip(&mut random);
                let other = self.fresh(name, ip);
                self.vms.push(other);
            }
            Act::Rename(to) => {
                let to = self.names[to % self.names.len()].clone();
                let other = self.vms.iter().position(|vm| vm.name == to);
                if let Some(other) = other.filter(|other| *other != index) {
                    self.name_it(other, name);
                }
                self.name_it(index, &to);
            }
            Act::Move => {
                let ip = self.new_ip(&mut random);
                let vm = &mut self.vms[index];
                if !is_restoring {
                    let old = std::mem::replace(&mut vm.ip, ip);
                    (vm.ip_since, vm.stretch, vm.open) = (now, vm.stretch + 1, 0);
                    self.free.push(old);
                    self.lose_flows(&id);
                }
            }
            Act::Visit(ms) => self.flows.visit(&id, now + Duration::from_millis(ms)),
            Act::Hold(ms) => {
                let vm = &mut self.vms[index];
                vm.held_until = vm.held_until.max(now + Duration::from_millis(ms));
            }
            Act::Lose => self.lose_flows(&id),
            Act::While(odd, ms) => {
                let vm = &mut self.vms[index];
                vm.odd.retain(|(_, until)| *until > now);
                vm.odd.push((odd, now + Duration::from_millis(ms)));
            }
            Act::ComeBack | Act::Restart => {}
        }
    }
}

impl World {
    pub fn new(seed: u64, troubles: Troubles, names: &[&str]) -> Self {
        Self::beside_others(seed, troubles, names, 0)
    }

    /// One of several, whose ids and addresses are numbered from `first` on.
    pub fn beside_others(seed: u64, troubles: Troubles, names: &[&str], first: u32) -> Self {
        let now = Instant::now();
        let mut inner = Inner {
            seed,
            draws: BTreeMap::new(),
            troubles,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            vms: Vec::new(),
            graves: Vec::new(),
            free: Vec::new(),
            born: now,
            away_until: now,
            next: first,
            calls: 0,
            called: BTreeMap::new(),
            restores: BTreeMap::new(),
            restoring: BTreeMap::new(),
            asking: BTreeMap::new(),
            delivered: BTreeMap::new(),
            said: Vec::new(),
            told: BTreeMap::new(),
            epochs: BTreeMap::new(),
            flows: Flows::default(),
            story: String::new(),
            wrongs: Vec::new(),
        };
        for name in names {
            let ip = inner.new_ip(&mut fastrand::Rng::with_seed(seed));
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

    pub fn view(&self, gateway: usize) -> View {
        let world = self.clone();
        View { world, gateway }
    }

    pub fn tell(&self, line: &str) {
        self.lock().tell(line);
    }

    /// From now on nothing fails.
    pub fn calm_down(&self) {
        let mut inner = self.lock();
        inner.tell("calm");
        inner.troubles = Troubles::default();
        inner.flows.lossy = Lossy::default();
    }

    pub fn wrong(&self, what: String) {
        self.lock().wrong(what);
    }

    pub fn wrongs(&self) -> Vec<String> {
        self.lock().wrongs.clone()
    }

    pub fn story(&self) -> String {
        self.lock().story.clone()
    }

    /// All calls of the control plane so far.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Restores of whatever had this name.
    pub fn restores(&self, name: &str) -> usize {
        self.lock().restores.get(name).copied().unwrap_or(0)
    }

    pub fn deliveries(&self, number: u32) -> usize {
        self.lock().delivered.get(&number).map_or(0, Vec::len)
    }

    /// The ids of the instances that a request was for when it arrived.
    pub fn arrivals(&self, number: u32) -> Vec<String> {
        let inner = self.lock();
        inner.delivered.get(&number).cloned().unwrap_or_default()
    }

    /// Ids by the names of all that there are.
    pub fn instances(&self) -> BTreeMap<String, String> {
        let inner = self.lock();
        let pairs = inner.vms.iter();
        pairs.map(|vm| (vm.name.clone(), vm.id.clone())).collect()
    }

    /// Whether there is such an instance, and nothing keeps it from being woken.
    pub fn is_fit(&self, id: &str) -> bool {
        let now = Instant::now();
        let mut inner = self.lock();
        let vm = inner.by_id(id);
        vm.is_some_and(|vm| {
            let is_odd = vm.odd.iter().any(|(_, until)| *until > now);
            matches!(vm.state, "Running" | "Standby") && !is_odd
        })
    }

    /// Restores so far.
    pub fn all_restores(&self) -> usize {
        self.lock().restores.values().sum()
    }

    /// The id of the instance that has this name, if there is one.
    pub fn id_of(&self, name: &str) -> Option<String> {
        let inner = self.lock();
        let found = inner.vms.iter().find(|vm| vm.name == name);
        found.map(|vm| vm.id.clone())
    }

    /// Whether the connection leads to an instance that runs.
    fn is_alive(&self, stream: &Stream) -> bool {
        let mut inner = self.lock();
        let vm = inner.by_id(&stream.id);
        vm.is_some_and(|vm| {
            vm.stretch == stream.stretch && matches!(vm.state, "Running" | "Initializing")
        })
    }

    pub fn act(&self, name: &str, act: Act) {
        let mut inner = self.lock();
        inner.tell(&format!("somebody: {act:?} {name}"));
        inner.act(name, act);
    }
}
