//! The script of a history: who asks for what and when, under which rules, and what others do.
//!
//! Guarantees: a script is drawn from its seed alone; each of its simpler ones lacks one thing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wakegate::config::{Config, Variables, load};

use super::world::{Act, Errand, Odd, PORT, Troubles, VERIFY};

pub const NAMES: [&str; 4] = ["one", "two", "three", "four"];
/// The hosts of the routes; the last one has a name of its own.
pub const HOSTS: [&str; 3] = ["{i}.test", "{i}.other.test", "fixed.test"];
/// The name that the last route is for.
pub const FIXED: usize = 1;
/// How long requests come in one burst, and how long afterwards something may go on.
const BURST_MS: u64 = 12_000;
const ACTIVE_MS: u64 = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub at_ms: u64,
    pub gateway: usize,
    pub host: usize,
    pub name: usize,
    /// It asks for the id that the instance of this name has then.
    pub by_id: bool,
    pub errand: Errand,
    pub forbidden: bool,
    pub patience_ms: u64,
    /// When the client leaves, if it does.
    pub leaves_ms: Option<u64>,
}

/// The rules of one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rules {
    pub timeout_ms: u64,
    pub start_stopped: bool,
    pub ready: &'static str,
    pub max_inflight: usize,
}

/// The rules of all routes, for the hosts in their order.
pub type Table = [Rules; 3];

/// One history: all that is not drawn by the world itself.
#[derive(Debug, Clone)]
pub struct Script {
    pub seed: u64,
    pub troubles: Troubles,
    /// When something begins.
    pub bursts: Vec<u64>,
    pub requests: Vec<Request>,
    pub acts: Vec<(u64, usize, Act)>,
    pub gateways: usize,
    /// Whether lists are asked for and what is not used is let go of meanwhile.
    pub upkeep: bool,
    /// Whether somebody watches, so that lists are asked for often.
    pub watched: bool,
    pub table: Table,
    /// When there are other rules, and which.
    pub reload: Option<(u64, Table)>,
}

impl Rules {
    fn draw(random: &mut fastrand::Rng) -> Self {
        Self {
            timeout_ms: [2000, 6000, 30_000, 30_000][random.usize(0..4)],
            start_stopped: random.bool(),
            ready: ["port", "port", "running", "health"][random.usize(0..4)],
            max_inflight: random.usize(1..4),
        }
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

fn draw_table(random: &mut fastrand::Rng) -> Table {
    std::array::from_fn(|_| Rules::draw(random))
}

fn draw_act(random: &mut fastrand::Rng) -> Act {
    let odd = [
        Odd::Unknown,
        Odd::NewState,
        Odd::Paused,
        Odd::NoNetwork,
        Odd::NetworkOff,
        Odd::NoAddress,
        Odd::NobodysAddress,
        Odd::MetadataAddress,
        Odd::NoHolds,
        Odd::Unhealthy,
    ];
    match random.u8(0..18) {
        0 | 1 => Act::Standby,
        2 => Act::Stop,
        3 | 4 => Act::Replace,
        5 => Act::Redeploy,
        6 => Act::Delete,
        7 | 8 => Act::ComeBack,
        9 | 10 => Act::Rename(random.usize(0..NAMES.len())),
        11 | 12 => Act::Move,
        13 => Act::Restart,
        _ => Act::While(odd[random.usize(0..odd.len())], random.u64(200..6000)),
    }
}

fn draw_errand(random: &mut fastrand::Rng) -> Errand {
    match random.u8(0..10) {
        0..3 => Errand::Get,
        3..6 => Errand::Post,
        6 => Errand::Upload(random.u64(500..15_000)),
        7 | 8 => Errand::Tunnel(random.u64(500..40_000), random.bool()),
        _ => Errand::Stream(random.u64(500..40_000)),
    }
}

impl Script {
    /// A history of some seconds.
    pub fn short(seed: u64) -> Self {
        Self::draw(seed, &|_| Vec::new())
    }

    /// A history of days or weeks: bursts with long quiet times between them.
    pub fn long(seed: u64) -> Self {
        Self::draw(seed, &|random| {
            let minute = 60_000;
            let gaps = [
                minute / 2,
                11 * minute,
                120 * minute,
                3 * 1440 * minute,
                9 * 1440 * minute,
            ];
            (0..random.usize(1..5))
                .map(|_| gaps[random.usize(0..gaps.len())] + random.u64(0..minute))
                .collect()
        })
    }

    fn draw(seed: u64, gaps: &dyn Fn(&mut fastrand::Rng) -> Vec<u64>) -> Self {
        let random = &mut fastrand::Rng::with_seed(seed);
        // One world in eight is without troubles: there, everything must succeed.
        let quiet = random.u8(0..8) == 0;
        let mut level = || match quiet || random.bool() {
            true => 0,
            false => random.u8(1..40),
        };
        let troubles = Troubles {
            slow: level(),
            fails: level(),
            hangs: level() / 8,
            unreachable: level() / 2,
            conflicts: level(),
            lingers: level(),
            breaks: level(),
            stale: level(),
            moves: level(),
            odd: level() / 2,
        };
        let gateways = 1 + usize::from(random.u8(0..4) == 0);
        let mut bursts = vec![0];
        for gap in gaps(random) {
            bursts.push(bursts[bursts.len() - 1] + gap);
        }
        // In half of the histories nobody may wake the third instance.
        let shut = random.bool();
        // The fewer names, the more happens to each; some clients have little time.
        let (names, hurried) = (random.usize(1..=NAMES.len()), random.u8(0..4) == 0);
        let longest = if hurried { 1500 } else { 20_000 };
        let (mut requests, mut acts) = (Vec::new(), Vec::new());
        for start in &bursts {
            for _ in 0..random.usize(1..10) {
                let host = random.usize(0..HOSTS.len());
                let name = match HOSTS[host].starts_with('{') {
                    true => random.usize(0..names),
                    false => FIXED,
                };
                requests.push(Request {
                    at_ms: start + random.u64(0..BURST_MS),
                    gateway: random.usize(0..gateways),
                    host,
                    name,
                    by_id: host != 2 && random.u8(0..4) == 0,
                    errand: draw_errand(random),
                    forbidden: (name == 2 && shut) || random.u8(0..10) == 0,
                    patience_ms: random.u64(50..longest),
                    leaves_ms: (random.u8(0..6) == 0).then(|| random.u64(0..3000)),
                });
            }
            let count = match quiet {
                true => 0,
                false => random.usize(0..5),
            };
            for _ in 0..count {
                // Most between requests, some long before the next.
                let within = [BURST_MS, BURST_MS, 3 * BURST_MS, 2_000_000][random.usize(0..4)];
                // Often just after a request has come.
                let at_ms = match random.bool() {
                    true => start + random.u64(0..within),
                    false => {
                        let request: &Request = &requests[random.usize(0..requests.len())];
                        request.at_ms + random.u64(0..1500)
                    }
                };
                acts.push((at_ms, random.usize(0..names), draw_act(random)));
            }
        }
        if bursts.len() == 1 {
            acts.retain(|(at_ms, ..)| *at_ms < 3 * BURST_MS);
        }
        let end = bursts[bursts.len() - 1] + BURST_MS;
        Self {
            seed,
            troubles,
            requests,
            acts,
            gateways,
            upkeep: bursts.len() > 1 || random.bool(),
            watched: random.bool(),
            table: draw_table(random),
            reload: (random.u8(0..4) == 0).then(|| (random.u64(0..end), draw_table(random))),
            bursts,
        }
    }

    pub fn is_calm(&self) -> bool {
        self.troubles == Troubles::default() && self.acts.is_empty()
    }

    /// How long nothing happens from this time on, if that is long.
    pub fn quiet_from(&self, now_ms: u64) -> Option<Duration> {
        let is_active = |start: &u64| (*start..start + ACTIVE_MS).contains(&now_ms);
        if self.bursts.iter().any(is_active) {
            return None;
        }
        let next = self.bursts.iter().find(|start| **start > now_ms);
        Some(next.map_or(Duration::MAX, |start| Duration::from_millis(start - now_ms)))
    }

    /// All rules that there are at some time.
    pub fn rules(&self) -> impl Iterator<Item = &Rules> {
        let other = self.reload.iter().flat_map(|(_, table)| table);
        self.table.iter().chain(other)
    }

    /// Everything that is one step simpler.
    pub fn simpler(&self) -> Vec<Self> {
        let mut all = Vec::new();
        let mut add = |change: &dyn Fn(&mut Self)| {
            let mut script = self.clone();
            change(&mut script);
            all.push(script);
        };
        for index in 0..self.requests.len() {
            add(&|script| {
                script.requests.remove(index);
            });
        }
        for index in 0..self.acts.len() {
            add(&|script| {
                script.acts.remove(index);
            });
        }
        if self.reload.is_some() {
            add(&|script| script.reload = None);
        }
        if self.upkeep {
            add(&|script| script.upkeep = false);
        }
        if self.gateways > 1 {
            add(&|script| {
                script.gateways = 1;
                script.requests.iter_mut().for_each(|one| one.gateway = 0);
            });
        }
        let levels: [fn(&mut Troubles) -> &mut u8; 10] = [
            |t| &mut t.slow,
            |t| &mut t.fails,
            |t| &mut t.hangs,
            |t| &mut t.unreachable,
            |t| &mut t.conflicts,
            |t| &mut t.lingers,
            |t| &mut t.breaks,
            |t| &mut t.stale,
            |t| &mut t.moves,
            |t| &mut t.odd,
        ];
        for level in levels {
            if *level(&mut self.troubles.clone()) > 0 {
                add(&|script| *level(&mut script.troubles) = 0);
            }
        }
        all
    }
}

/// The configuration of one route; many histories have the same.
pub fn config(host: usize, rules: Rules) -> Arc<Config> {
    static CONFIGS: Mutex<BTreeMap<(usize, Rules), Arc<Config>>> = Mutex::new(BTreeMap::new());
    let mut configs = CONFIGS.lock().unwrap();
    let config = configs.entry((host, rules)).or_insert_with(|| {
        let host = HOSTS[host];
        let instance = match host.starts_with('{') {
            true => "{i}",
            false => NAMES[FIXED],
        };
        let text = format!(
            "[wake]\nverify_interval = \"{}ms\"\nmax_concurrent = 2\nbreaker_failures = 3\n\
             [[route]]\nhost = \"{host}\"\ninstance = \"{instance}\"\nport = {PORT}\n\
             limits = {{ max_inflight = {} }}\nadmission = {{ deny_paths = [\"/no\"] }}\n\
             wake = {{ timeout = \"{}ms\", start_stopped = {}, ready = \"{}\" }}\n",
            VERIFY.as_millis(),
            rules.max_inflight,
            rules.timeout_ms,
            rules.start_stopped,
            rules.ready,
        );
        Arc::new(load("simulation", &text, &Variables::default()).unwrap())
    });
    Arc::clone(config)
}
