//! Random histories of days with parked tunnels, on paused time: clients that send numbered messages in bursts with
//! hours and days between them, through instances that sleep, move, are deleted and lose their connections, and a
//! control plane that is slow, fails and hangs.
//!
//! Guarantees: no message is lost in silence, comes twice or out of order; a close has the code and the reason of
//! what has happened; no gateway puts an instance to sleep that somebody else needs; after quiet there is no place,
//! byte, task or call left.
//!
//! As many histories as `SIMULATION_HISTORIES` says, divided by eight: 250 by default, which are more than a thousand days.
//! `SIMULATION_SEED` plays one and prints its story.

mod frames;
mod host;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wakegate::flow::BufferBudget;
use wakegate::names::PlaneIndex;
use wakegate::proxy::{Sleeper, keep};
use wakegate::telemetry::Metrics;
use wakegate::upstream::{Carried, Opcode, ParkRules, TunnelRules, carry_parkable, control};

pub use self::frames::Frames;
use self::host::{Host, Places, Sleeping};
use super::gateway::Gateway;
use super::judge::check_quiet;
use super::script::{NAMES, Request, Rules, Script};
use super::world::{Act, Errand, Lossy, Stream, Troubles, World};
use crate::support::number;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// What is over in so long.
const LONG: Duration = Duration::from_secs(1000);
const PROBE: Duration = Duration::from_secs(5);
/// For how long messages come in one burst.
const BURST_MS: u64 = 90_000;
const PIPE: usize = 64 * 1024;
const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);
/// Of a masked frame with a short payload (RFC 6455 §5.2).
const HEADER: usize = 6;
/// For messages of the end, when nothing fails any more.
const LAST: usize = 2;

/// One history, besides what the world draws.
#[derive(Debug, Clone)]
struct Play {
    script: Script,
    lossy: Lossy,
    /// When each client sends: by client.
    messages: Vec<Vec<u64>>,
    /// Which instance each client's are for.
    names: Vec<usize>,
    reconnects: bool,
    most: usize,
    max_time: Duration,
}

/// What is known at the end of one tunnel's client.
#[derive(Debug, Default)]
struct Session {
    sent: u32,
    /// The close that it was told.
    told: Option<(u16, String)>,
    /// The connection ended.
    has_ended: bool,
    /// It has gone of its own accord.
    has_left: bool,
    /// When it sent payload last: what its instance says when it is taken for asleep does not unpark it.
    last: Option<Instant>,
    /// What it got last: of which connection, and which message of that.
    got: Option<(usize, u32)>,
}

/// What all clients of a history share.
struct Site {
    gateway: Arc<Gateway>,
    play: Play,
    places: Arc<Places>,
    budget: BufferBudget,
    tasks: TaskTracker,
    applications: TaskTracker,
    metrics: Arc<Metrics>,
    sleeper: Arc<dyn Sleeper<Stream>>,
    sessions: AtomicUsize,
    end: CancellationToken,
    stop: CancellationToken,
}

// === impl Play ===

impl Play {
    fn draw(seed: u64) -> Self {
        let random = &mut fastrand::Rng::with_seed(seed ^ 0x7061_726b);
        let is_calm = random.u8(0..4) == 0;
        let mut level = |most: u8| match is_calm || random.bool() {
            true => 0,
            false => random.u8(1..most),
        };
        let troubles = Troubles {
            slow: level(30),
            fails: level(15),
            hangs: level(5),
            unreachable: level(10),
            conflicts: level(10),
            lingers: level(40),
            moves: level(10),
            odd: level(8),
            ..Troubles::default()
        };
        let lossy = Lossy {
            asleep: level(40),
            awake: level(40),
        };
        let (minute, hour, mut bursts) = (60_000, 3_600_000, vec![0]);
        for _ in 0..random.usize(2..6) {
            let gaps = [4 * minute, 12 * hour, 30 * hour, 100 * hour];
            let last = bursts[bursts.len() - 1];
            bursts.push(last + gaps[random.usize(0..gaps.len())] + random.u64(0..minute));
        }
        let is_short = bursts[bursts.len() - 1] < hour;
        let clients = random.usize(1..4);
        let names: Vec<usize> = (0..clients).map(|_| random.usize(0..2)).collect();
        let messages = names.iter().map(|_| {
            let mut all = Vec::new();
            for start in &bursts {
                for _ in 0..random.usize(0..4) {
                    all.push(start + random.u64(0..BURST_MS));
                }
            }
            all.sort_unstable();
            all
        });
        let messages = messages.collect();
        let (mut requests, mut acts) = (Vec::new(), Vec::new());
        for start in &bursts {
            for _ in 0..random.usize(0..3) {
                requests.push(Request {
                    at_ms: start + random.u64(0..2 * BURST_MS),
                    gateway: 0,
                    host: 0,
                    name: random.usize(0..2),
                    by_id: false,
                    errand: [Errand::Get, Errand::Post, Errand::Stream(5000)][random.usize(0..3)],
                    forbidden: false,
                    patience_ms: 20_000,
                    leaves_ms: None,
                });
            }
            for _ in 0..(if is_calm { 0 } else { random.usize(0..4) }) {
                let act = match random.u8(0..16) {
                    0..5 => Act::Standby,
                    5 => Act::Stop,
                    6 => [Act::Replace, Act::Redeploy, Act::Delete][random.usize(0..3)],
                    7 => Act::ComeBack,
                    8 => Act::Move,
                    9 => Act::Restart,
                    10..13 => Act::Visit(random.u64(1000..300_000)),
                    13 => Act::Hold(random.u64(1000..300_000)),
                    _ => Act::Lose,
                };
                // Some while nothing else happens for long.
                let within = [BURST_MS, BURST_MS, 20 * BURST_MS][random.usize(0..3)];
                acts.push((start + random.u64(0..within), random.usize(0..2), act));
            }
        }
        let table = std::array::from_fn(|_| Rules {
            timeout_ms: [6000, 30_000][random.usize(0..2)],
            start_stopped: true,
            ready: "port",
            max_inflight: 8,
        });
        Self {
            script: Script {
                seed,
                troubles,
                bursts,
                requests,
                acts,
                gateways: 1,
                upkeep: true,
                watched: random.u8(0..4) == 0,
                table,
                reload: None,
            },
            lossy,
            messages,
            names,
            reconnects: random.bool(),
            // Whoever finds no place keeps its instance awake, which takes a while to play.
            most: if is_short { random.usize(1..3) } else { 20 },
            max_time: [30 * 3600, 400 * 3600][random.usize(0..2)] * Duration::from_secs(1),
        }
    }

    fn is_calm(&self) -> bool {
        self.script.is_calm() && self.lossy == Lossy::default()
    }

    /// When all bursts are over.
    fn end(&self) -> Duration {
        Duration::from_millis(self.script.bursts.last().unwrap() + 4 * BURST_MS)
    }

    /// Everything that is one step simpler.
    fn simpler(&self) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for script in self.script.simpler() {
            all.push(Self {
                script,
                ..self.clone()
            });
        }
        for client in 0..self.messages.len() {
            for message in 0..self.messages[client].len() {
                let mut play = self.clone();
                play.messages[client].remove(message);
                all.push(play);
            }
        }
        for lossy in [
            Lossy {
                asleep: 0,
                ..self.lossy
            },
            Lossy {
                awake: 0,
                ..self.lossy
            },
        ] {
            if lossy != self.lossy {
                all.push(Self {
                    lossy,
                    ..self.clone()
                });
            }
        }
        all
    }
}

// === impl Site ===

impl Site {
    fn world(&self) -> &World {
        &self.gateway.view.world
    }

    /// Opens a tunnel; the client's side of it.
    async fn open(
        self: &Arc<Self>,
        session: usize,
        name: &str,
        client: IpAddr,
    ) -> Option<DuplexStream> {
        let admitted = self.gateway.admit(name, (None, None), client).await;
        let Ok((instance, ready, mut slot)) = admitted else {
            return None;
        };
        slot.answered();
        drop(ready.connection);
        let endpoint = ready.endpoint;
        let opening = self
            .gateway
            .view
            .open_flow(&endpoint, session, &self.applications);
        let side = endpoint.cut().run_until_cancelled(opening).await?.ok()?;
        let (tunnel, needs_keeper) = instance.parking().register();
        if needs_keeper {
            let (instance, sleeper) = (Arc::clone(&instance), Arc::clone(&self.sleeper));
            let others = (Arc::clone(&self.metrics), self.stop.clone());
            self.tasks
                .spawn(keep((PlaneIndex(0), instance), sleeper, others));
        }
        let mut host = Host {
            gateway: Arc::clone(&self.gateway),
            name: name.to_owned(),
            session,
            client,
            instance,
            slot: Some(slot),
            places: Arc::clone(&self.places),
            has_place: false,
            buffers: self.budget.of(client),
            reconnects: self.play.reconnects,
            tasks: self.applications.clone(),
            _tunnel: tunnel,
        };
        let (near, far) = duplex(PIPE);
        let site = Arc::clone(self);
        self.tasks.spawn(async move {
            let carried = Carried::new(Arc::clone(&site.metrics));
            let rules = TunnelRules {
                is_websocket: true,
                ..TunnelRules::default()
            };
            let park = ParkRules {
                after: Duration::from_secs(1),
                buffer: 1024,
                max_time: site.play.max_time,
                probe: PROBE,
                reconnects: site.play.reconnects,
                is_one_way: false,
            };
            let place = (&mut host, &endpoint);
            let stop = &site.stop;
            let parted = carry_parkable(far, side, (rules, park), &carried, place, stop).await;
            site.world().tell(&format!("session {session} is over"));
            host.slot = None;
            let left = parted.say().await;
            if let Some(left) = left {
                left.end(&host, stop).await;
            }
        });
        Some(near)
    }

    /// A client with its messages, over as many tunnels as it takes.
    async fn client(self: Arc<Self>, number: usize) -> Vec<(usize, Session)> {
        let (began, mut done) = (Instant::now(), Vec::new());
        let mut messages = self.play.messages[number].iter().copied();
        let mut messages = messages
            .by_ref()
            .map(|ms| began + Duration::from_millis(ms));
        let name = NAMES[self.play.names[number]];
        let client = IpAddr::from([10, 0, 1, u8::try_from(number).unwrap()]);
        let mut last = LAST;
        loop {
            let next = match messages.next() {
                Some(at) => at,
                // The last ones come when nothing fails any more.
                None if last > 0 => {
                    self.end.cancelled().await;
                    last -= 1;
                    Instant::now() + Duration::from_secs(60)
                }
                None => return done,
            };
            sleep_until(next).await;
            let session = self.sessions.fetch_add(1, Ordering::SeqCst);
            let Some(io) = self.open(session, name, client).await else {
                continue;
            };
            let mut talk = Talk::new(&self, session, io);
            let mut is_there = talk.send().await;
            while is_there {
                let next = match messages.next() {
                    Some(at) => at,
                    None if last > 0 => {
                        if !talk.hears_until(&self.end).await {
                            break;
                        }
                        last -= 1;
                        Instant::now() + Duration::from_secs(60)
                    }
                    None => break,
                };
                is_there = talk.waits(next).await && talk.send().await;
            }
            done.push((session, talk.leaves(last == 0).await));
        }
    }
}

/// A client on one tunnel.
struct Talk<'a> {
    site: &'a Site,
    session: usize,
    io: DuplexStream,
    frames: Frames,
    known: Session,
    random: fastrand::Rng,
}

// === impl Talk ===

impl<'a> Talk<'a> {
    fn new(site: &'a Site, session: usize, io: DuplexStream) -> Self {
        let seed = site.play.script.seed.wrapping_mul(31) + session as u64;
        Self {
            site,
            session,
            io,
            frames: Frames::default(),
            known: Session::default(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    fn note(&mut self) {
        self.known.last = Some(Instant::now());
    }

    /// Sends the next message, in pieces; whether the tunnel is still there.
    async fn send(&mut self) -> bool {
        self.known.sent += 1;
        let text = format!("{}.{}", self.session, self.known.sent);
        self.site.world().tell(&format!("a client sends {text}"));
        let mut bytes = Vec::new();
        if self.random.u8(0..5) == 0 {
            bytes.extend(control(9, b"there?", MASK));
        }
        let message = bytes.len();
        bytes.extend(control(1, text.as_bytes(), MASK));
        if self.random.u8(0..5) == 0 {
            // In two frames.
            bytes[message] &= 0x7f;
            bytes.extend(control(0, b"", MASK));
        }
        // A frame is known for payload by its header; what is less, and pings, end no rest.
        let (cut, known) = (self.random.usize(0..=bytes.len()), message + HEADER);
        for (piece, sent, pause) in [(&bytes[..cut], cut, 3000), (&bytes[cut..], bytes.len(), 1)] {
            if self.io.write_all(piece).await.is_err() {
                break;
            }
            if !piece.is_empty() && sent >= known {
                self.note();
            }
            let pause = Duration::from_millis(self.random.u64(0..pause));
            if !self.waits(Instant::now() + pause).await {
                return false;
            }
        }
        !self.known.has_ended
    }

    /// Hears what comes until then; whether the tunnel is still there.
    async fn waits(&mut self, until: Instant) -> bool {
        let mut room = [0; 512];
        loop {
            let read = tokio::select! {
                biased;
                read = self.io.read(&mut room) => read,
                () = sleep_until(until) => return true,
            };
            let count = read.unwrap_or(0);
            if count == 0 {
                self.known.has_ended = true;
                self.judge_end();
                return false;
            }
            for (opcode, payload) in self.frames.take(&room[..count]) {
                match opcode {
                    Opcode::Data => self.hears(&payload),
                    Opcode::Close => {
                        let code = u16::from_be_bytes([payload[0], payload[1]]);
                        let reason = String::from_utf8_lossy(&payload[2..]).into_owned();
                        let world = self.site.world();
                        world.tell(&format!("session {} is told {code} {reason}", self.session));
                        self.known.told = Some((code, reason));
                        self.judge_close();
                        return false;
                    }
                    Opcode::Ping | Opcode::Pong | Opcode::Continuation | Opcode::Reserved => {}
                }
            }
        }
    }

    /// The same until an event.
    async fn hears_until(&mut self, end: &CancellationToken) -> bool {
        loop {
            if end.is_cancelled() {
                return true;
            }
            let soon = Instant::now() + DAY;
            let is_there = tokio::select! {
                biased;
                () = end.cancelled() => return true,
                is_there = self.waits(soon) => is_there,
            };
            if !is_there {
                return false;
            }
        }
    }

    fn hears(&mut self, payload: &[u8]) {
        let text = std::str::from_utf8(payload).unwrap();
        let (of, number) = text.split_once('.').unwrap();
        let got = (of.parse().unwrap(), number.parse().unwrap());
        let is_right = match self.known.got {
            None => got.1 == 1,
            Some((of, last)) if of == got.0 => got.1 == last + 1,
            Some((of, _)) => got.0 > of && got.1 == 1,
        };
        if !is_right {
            let (session, last) = (self.session, self.known.got);
            self.wrong(&format!("session {session} has got {got:?} after {last:?}"));
        }
        self.known.got = Some(got);
    }

    fn wrong(&self, what: &str) {
        self.site.world().wrong(what.to_owned());
    }

    /// Whether the code is that of what has happened.
    fn judge_close(&self) {
        let Some((code, reason)) = &self.known.told else {
            return;
        };
        let (world, play) = (self.site.world(), &self.site.play);
        let may_be_lost = world.may_be_lost(self.session, 2 * PROBE);
        let parked = self.known.last.map(|last| last.elapsed());
        let is_right = match (*code, reason.as_str()) {
            (1012, "instance restarted") => may_be_lost,
            (1012, "instance gone") => world.may_be_gone(self.session),
            (1012, "sleep") => play.most < 20 || may_be_lost,
            (1013, reason) => !reason.is_empty() && !play.is_calm(),
            // What was under way when it fell asleep came a moment after that.
            (1001, "park_time") => parked.map(|so_long| so_long + 2 * PROBE) >= Some(play.max_time),
            _ => false,
        };
        if !is_right {
            let session = self.session;
            self.wrong(&format!("session {session} was told {code} {reason}"));
        }
    }

    /// Without a word it ends only by the loss of a connection that was in use.
    fn judge_end(&self) {
        if !self.site.world().may_be_lost(self.session, 2 * PROBE) {
            let session = self.session;
            self.wrong(&format!("session {session} has ended without a word"));
        }
    }

    /// The end of it, by the client's own close if there was none yet.
    async fn leaves(mut self, is_last: bool) -> Session {
        let is_over = self.known.told.is_some() || self.known.has_ended;
        if is_over {
            return self.known;
        }
        if is_last {
            // What is under way arrives.
            if !self.waits(Instant::now() + Duration::from_secs(120)).await {
                return self.known;
            }
            let got = self.site.world().received(self.session);
            if got.len() != self.known.sent as usize {
                let (session, sent) = (self.session, self.known.sent);
                self.wrong(&format!(
                    "of session {session} {got:?} have arrived of {sent}"
                ));
            }
        }
        self.known.has_left = true;
        if self
            .io
            .write_all(&control(8, &[3, 232], MASK))
            .await
            .is_ok()
        {
            // The answer, or that of what happens in the same moment.
            let answer = timeout(LONG, self.io.read_to_end(&mut Vec::new())).await;
            if answer.is_err() {
                let session = self.session;
                self.wrong(&format!("the close of session {session} has no answer"));
            }
        }
        self.known
    }
}

/// Plays a history: what went wrong, its story, how long it took there, and how often an instance was put to sleep.
fn play(play: &Play, metrics: &Arc<Metrics>) -> (Vec<String>, String, Duration, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let script = &play.script;
    fastrand::seed(script.seed);
    runtime.block_on(async {
        let world = World::new(script.seed, script.troubles, &NAMES);
        world.set_lossy(play.lossy);
        let stop = CancellationToken::new();
        let gateway = Gateway::new(script, world.view(0), metrics, &stop);
        let began = Instant::now();
        let site = Arc::new(Site {
            play: play.clone(),
            places: Arc::new(Places {
                taken: AtomicUsize::new(0),
                most: play.most,
            }),
            budget: BufferBudget::new(1 << 20),
            tasks: TaskTracker::new(),
            applications: TaskTracker::new(),
            metrics: Arc::clone(metrics),
            sleeper: Arc::new(Sleeping(Arc::clone(&gateway))),
            sessions: AtomicUsize::new(0),
            end: CancellationToken::new(),
            stop: stop.clone(),
            gateway: Arc::clone(&gateway),
        });
        let sessions = Mutex::new(Vec::new());
        let living = async {
            let mut clients = JoinSet::new();
            for number in 0..play.messages.len() {
                clients.spawn(Arc::clone(&site).client(number));
            }
            let others = others(&site, began);
            others.await;
            while let Some(done) = clients.join_next().await {
                sessions.lock().unwrap().extend(done.unwrap());
            }
        };
        let lived = timeout(play.end() + 10 * LONG, async {
            tokio::select! {
                biased;
                () = living => {}
                () = gateway.go_on(script, began) => {}
            }
        });
        if lived.await.is_err() {
            world.wrong("the clients do not come to an end".to_owned());
        }
        for (session, known) in sessions.lock().unwrap().iter() {
            let got = world.received(*session);
            if !got.iter().copied().eq((1..).take(got.len())) || got.len() > known.sent as usize {
                world.wrong(format!("session {session}: {got:?} of {known:?}"));
            }
        }
        // What was left behind is told at the next wake.
        for (name, number) in NAMES.iter().zip(900..).take(2) {
            let request = Request {
                at_ms: 0,
                gateway: 0,
                host: 0,
                name: 0,
                by_id: false,
                errand: Errand::Get,
                forbidden: false,
                patience_ms: 30_000,
                leaves_ms: None,
            };
            let _unknown = gateway.serve(number, request, name).await;
        }
        sleep(Duration::from_secs(60)).await;
        let (taken, bytes) = (site.places.taken.load(Ordering::SeqCst), site.budget.used());
        let (held, inside) = (gateway.hold.held(), gateway.hold.inside());
        let tasks = site.tasks.len();
        if taken + bytes + held + inside + tasks > 0 {
            world.wrong(format!(
                "{taken} places, {bytes} bytes, {held} tickets, {inside} slots and {tasks} tasks are left"
            ));
        }
        let took = began.elapsed();
        check_quiet(&gateway).await;
        let flows = world.flows_left();
        if flows > 0 {
            world.wrong(format!("{flows} connections are left"));
        }
        stop.cancel();
        gateway.tasks.close();
        if timeout(LONG, gateway.tasks.wait()).await.is_err() {
            world.wrong("a task did not end".to_owned());
        }
        sleep(Duration::ZERO).await;
        (world.wrongs(), world.story(), took, world.standbys())
    })
}

/// What others do meanwhile, and the calm afterwards.
async fn others(site: &Arc<Site>, began: Instant) {
    let script = &site.play.script;
    let at = |ms: u64| sleep_until(began + Duration::from_millis(ms));
    let mut running = JoinSet::new();
    for (number, request) in (1..).zip(script.requests.iter().copied()) {
        let (gateway, coming) = (Arc::clone(&site.gateway), at(request.at_ms));
        running.spawn(async move {
            coming.await;
            let _any = gateway.serve(number, request, NAMES[request.name]).await;
        });
    }
    for (at_ms, name, act) in script.acts.clone() {
        let (world, coming) = (site.world().clone(), at(at_ms));
        running.spawn(async move {
            coming.await;
            world.act(NAMES[name], act);
        });
    }
    while running.join_next().await.is_some() {}
    sleep_until(began + site.play.end()).await;
    site.world().calm_down();
    for name in NAMES {
        // What is deleted is there again.
        site.world().act(name, Act::ComeBack);
    }
    sleep(LONG).await;
    site.end.cancel();
}

fn fail(mut failing: Play, metrics: &Arc<Metrics>) -> ! {
    let seed = failing.script.seed;
    let fails = |one: &Play| !play(one, metrics).0.is_empty();
    while let Some(simpler) = failing.simpler().into_iter().find(fails) {
        failing = simpler;
    }
    let (wrongs, story, ..) = play(&failing, metrics);
    panic!("SIMULATION_SEED={seed}: {wrongs:#?}\n{story}\nfrom {failing:#?}");
}

#[test]
fn no_message_is_lost_doubled_or_reordered_in_silence_in_a_thousand_days_of_parked_tunnels() {
    let metrics = Arc::default();
    if let Some(seed) = number("SIMULATION_SEED") {
        let drawn = Play::draw(seed);
        let (wrongs, story, ..) = play(&drawn, &metrics);
        eprintln!("{story}\n{drawn:#?}");
        assert!(wrongs.is_empty(), "{wrongs:#?}");
        return;
    }
    let first = number("SIMULATION_FIRST").unwrap_or(0);
    let count = number("SIMULATION_HISTORIES").unwrap_or(2000) / 8;
    let (seconds, standbys) = (AtomicU64::new(0), AtomicUsize::new(0));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (seconds, standbys) = (&seconds, &standbys);
            scope.spawn(move || {
                let metrics = Arc::default();
                for seed in (first + thread..first + count).step_by(threads as usize) {
                    let drawn = Play::draw(seed);
                    let (wrongs, _, took, asleep) = play(&drawn, &metrics);
                    if !wrongs.is_empty() {
                        fail(drawn, &metrics);
                    }
                    seconds.fetch_add(took.as_secs(), Ordering::Relaxed);
                    standbys.fetch_add(asleep, Ordering::Relaxed);
                }
            });
        }
    });
    let (days, standbys) = (seconds.into_inner() / DAY.as_secs(), standbys.into_inner());
    println!("{count} histories: {days} days, put to sleep {standbys} times");
    if count >= 250 {
        assert!(days >= 1000, "{days} days");
        assert!(standbys as u64 > count, "hardly any sleeps: {standbys}");
    }
}

#[test]
fn a_history_of_parked_tunnels_is_the_same_each_time_it_is_played() {
    let metrics = Arc::default();
    for seed in [3, 17] {
        let drawn = Play::draw(seed);
        assert_eq!(
            play(&drawn, &metrics),
            play(&drawn, &metrics),
            "seed {seed}"
        );
    }
}
