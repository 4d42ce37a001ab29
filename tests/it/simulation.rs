//! Random histories on paused time: every request is answered, nothing arrives twice that must not,
//! no instance is restored twice at once or by a request that may not, nothing reaches another
//! tenant, and nothing is left behind.
//!
//! `SIMULATION_HISTORIES` says how many (`make test`: 20,000, at night 100,000); `SIMULATION_SEED`
//! plays one and prints its story. A failing history is cut down to the least that still fails.

mod world;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::support::number;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method};
use hypeman::InstanceRef;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wakegate::config::{Config, Protocol, Variables, load};
use wakegate::hold::Hold;
use wakegate::names::{Hostname, PlaneIndex};
use wakegate::proxy::dispatch::Dispatch;
use wakegate::proxy::{
    Admission, LookUp, PendingRequest, ProxyError, RequestHead, Resolved, WakeInfo, error_response,
    queues_of,
};
use wakegate::router::RouteTable;
use wakegate::telemetry::Metrics;
use wakegate::upstream::Hop;
use wakegate::wake::{WakeError, Wakes};

use world::{Act, PORT, Parcel, Stream, Troubles, VERIFY, World};

const NAMES: [&str; 3] = ["one", "two", "three"];
/// Longer than any request's patience and any call.
const FOREVER: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    at_ms: u64,
    name: usize,
    post: bool,
    forbidden: bool,
    patience_ms: u64,
    /// When the client leaves, if it does.
    leaves_ms: Option<u64>,
}

/// One history: all that is not drawn by the world itself.
#[derive(Debug, Clone)]
struct Script {
    seed: u64,
    troubles: Troubles,
    requests: Vec<Request>,
    acts: Vec<(u64, usize, Act)>,
    max_inflight: usize,
    start_stopped: bool,
}

impl Script {
    fn draw(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
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
        };
        // In half of the histories nobody may wake the third instance.
        let shut = random.bool();
        let requests = (0..random.usize(1..10))
            .map(|_| {
                let name = random.usize(0..3);
                Request {
                    at_ms: random.u64(0..12_000),
                    name,
                    post: random.bool(),
                    forbidden: (name == 2 && shut) || random.u8(0..10) == 0,
                    patience_ms: random.u64(100..20_000),
                    leaves_ms: (random.u8(0..6) == 0).then(|| random.u64(0..3000)),
                }
            })
            .collect();
        let acts = match quiet {
            true => 0,
            false => random.usize(0..4),
        };
        let acts = (0..acts)
            .map(|_| {
                let act = [
                    Act::Standby,
                    Act::Stop,
                    Act::Replace,
                    Act::Delete,
                    Act::Restart,
                ];
                (
                    random.u64(0..12_000),
                    random.usize(0..3),
                    act[random.usize(0..5)],
                )
            })
            .collect();
        Self {
            seed,
            troubles,
            requests,
            acts,
            max_inflight: random.usize(1..4),
            start_stopped: random.bool(),
        }
    }

    fn is_calm(&self) -> bool {
        self.troubles == Troubles::default() && self.acts.is_empty()
    }

    /// Everything that is one step simpler.
    fn simpler(&self) -> Vec<Self> {
        let mut all = Vec::new();
        for index in 0..self.requests.len() {
            let mut script = self.clone();
            script.requests.remove(index);
            all.push(script);
        }
        for index in 0..self.acts.len() {
            let mut script = self.clone();
            script.acts.remove(index);
            all.push(script);
        }
        let t = self.troubles;
        let fewer = [
            Troubles { slow: 0, ..t },
            Troubles { fails: 0, ..t },
            Troubles { hangs: 0, ..t },
            Troubles {
                unreachable: 0,
                ..t
            },
            Troubles { conflicts: 0, ..t },
            Troubles { lingers: 0, ..t },
            Troubles { breaks: 0, ..t },
            Troubles { stale: 0, ..t },
            Troubles { moves: 0, ..t },
        ];
        for troubles in fewer.into_iter().filter(|fewer| *fewer != t) {
            all.push(Self {
                troubles,
                ..self.clone()
            });
        }
        all
    }

    fn config(&self) -> Config {
        let text = format!(
            "[wake]\nverify_interval = \"{}ms\"\nmax_concurrent = 2\nbreaker_failures = 3\nstart_stopped = {}\n\
             [[route]]\nhost = \"{{i}}.test\"\ninstance = \"{{i}}\"\nport = {PORT}\n\
             limits = {{ max_inflight = {} }}\nadmission = {{ deny_paths = [\"/no\"] }}\n",
            VERIFY.as_millis(),
            self.start_stopped,
            self.max_inflight
        );
        load("simulation", &text, &Variables::default()).unwrap()
    }
}

/// Everything that the requests of a history share.
struct Gateway {
    world: World,
    wakes: Arc<Wakes<World, World>>,
    hold: Arc<Hold>,
    table: RouteTable,
    admission: Admission,
    metrics: Arc<Metrics>,
}

impl Gateway {
    async fn serve(&self, number: u32, request: Request) -> Result<u16, ProxyError> {
        let host = Hostname::parse(&format!("{}.test", NAMES[request.name])).unwrap();
        let path = if request.forbidden { "/no" } else { "/" };
        let found = self.table.find(&host, path, 80)?;
        let patience = Duration::from_millis(request.patience_ms);
        let deadline = Instant::now() + patience;
        let plane = found.route.config().plane;
        let client = [10, 0, 0, u8::try_from(number % 200).unwrap()].into();
        let look_up = NameLookUp {
            gateway: self,
            plane,
            name: &found.instance,
            client,
            deadline,
        };
        let resolved = look_up.look_up().await?;
        let method = if request.post {
            Method::POST
        } else {
            Method::GET
        };
        let may_wake = self.admission.check(&RequestHead {
            method: &method,
            path,
            headers: &HeaderMap::new(),
            client,
        });
        let mut pending = PendingRequest {
            trace: None,
            resolved,
            look_up: &look_up,
            renewals: 0,
            route: &found.route,
            admission: &self.admission,
            may_wake,
            hold: &self.hold,
            metrics: &self.metrics,
            client,
            user_agent: None,
            head_bytes: 100,
            deadline,
        };
        let mut wake = WakeInfo::default();
        let admitted = pending.admit(&mut wake).await?;
        let parcel = Parcel {
            number,
            idempotent: !request.post,
        };
        let mut dispatch = Dispatch {
            pending: &mut pending,
            hop: Hop {
                port: PORT,
                protocol: Protocol::H1,
                proxy_header: None,
            },
        };
        let sent = dispatch.send(&self.world, admitted, parcel, &mut wake);
        Ok(sent.await?.response)
    }
}

/// What a request's name means now.
struct NameLookUp<'a> {
    gateway: &'a Gateway,
    plane: PlaneIndex,
    name: &'a InstanceRef,
    client: IpAddr,
    deadline: Instant,
}

impl LookUp<Stream> for NameLookUp<'_> {
    fn look_up(&self) -> BoxFuture<'_, Result<Resolved<Stream>, ProxyError>> {
        Box::pin(async {
            let left = self.deadline - Instant::now();
            let wakes = &self.gateway.wakes;
            let finding = wakes.find(self.plane, self.name, left, self.client);
            let instance = finding.await?;
            let gate = queues_of(&self.gateway.hold, &instance).gate(PORT);
            Ok(Resolved { instance, gate })
        })
    }
}

impl fmt::Debug for NameLookUp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NameLookUp({})", self.name)
    }
}

/// Plays a history; what went wrong, and the story.
fn play(script: &Script, metrics: &Arc<Metrics>) -> (Vec<String>, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    fastrand::seed(script.seed);
    runtime.block_on(async {
        let world = World::new(script.seed, script.troubles, &NAMES);
        let config = script.config();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let gateway = Arc::new(Gateway {
            wakes: Wakes::new(
                vec![world.clone()],
                world.clone(),
                config.wake.clone(),
                metrics,
                tasks.clone(),
                &stop,
            ),
            hold: Hold::new(&config.wake, Arc::clone(metrics)),
            table: RouteTable::new(&config.route),
            admission: Admission::new(&config.route[0]),
            metrics: Arc::clone(metrics),
            world: world.clone(),
        });
        let began = Instant::now();
        let mut running = JoinSet::new();
        for (number, request) in (1..).zip(script.requests.iter().copied()) {
            let gateway = Arc::clone(&gateway);
            running.spawn(async move {
                sleep_until(began + Duration::from_millis(request.at_ms)).await;
                let world = &gateway.world;
                world.tell(&format!("request {number}: {request:?}"));
                let leaves = request.leaves_ms.map_or(FOREVER, Duration::from_millis);
                let served = gateway.serve(number, request);
                let patience = FOREVER.min(leaves);
                let outcome = timeout(patience, served).await;
                if request.leaves_ms.is_some() && outcome.is_err() {
                    world.tell(&format!("request {number}: its client leaves"));
                }
                (number, request, outcome.ok())
            });
        }
        for (at_ms, name, act) in script.acts.clone() {
            let world = world.clone();
            running.spawn(async move {
                sleep_until(began + Duration::from_millis(at_ms)).await;
                world.act(NAMES[name], act);
                let nobody = Request {
                    at_ms: 0,
                    name,
                    post: false,
                    forbidden: false,
                    patience_ms: 0,
                    leaves_ms: Some(0),
                };
                (0, nobody, None)
            });
        }
        while let Some(done) = running.join_next().await {
            let (number, request, outcome) = done.unwrap();
            check(script, &world, number, request, outcome);
        }
        for (name, text) in NAMES.iter().enumerate() {
            let wanted = script
                .requests
                .iter()
                .any(|r| r.name == name && !r.forbidden);
            if !wanted && world.restores(text) > 0 {
                world.wrong(format!("{text} was restored, and nobody was allowed to"));
            }
        }
        if gateway.hold.held() != 0 {
            world.wrong(format!("{} places are still taken", gateway.hold.held()));
        }
        if gateway.hold.inside() != 0 {
            world.wrong(format!("{} slots are still out", gateway.hold.inside()));
        }
        stop.cancel();
        tasks.close();
        if timeout(FOREVER, tasks.wait()).await.is_err() {
            world.wrong("a task did not end".to_owned());
        }
        sleep(Duration::ZERO).await;
        (world.wrongs(), world.story())
    })
}

/// What must be so for every request.
fn check(
    script: &Script,
    world: &World,
    number: u32,
    request: Request,
    outcome: Option<Result<u16, ProxyError>>,
) {
    let arrived = world.deliveries(number);
    if request.post && arrived > 1 {
        world.wrong(format!(
            "request {number} is a POST and arrived {arrived} times"
        ));
    }
    let Some(outcome) = outcome else {
        if request.leaves_ms.is_none() {
            world.wrong(format!("request {number} had no answer"));
        }
        return;
    };
    match outcome {
        Ok(_) if arrived == 0 => world.wrong(format!("request {number} was answered by nobody")),
        Ok(_) => world.tell(&format!("request {number} is answered")),
        Err(error) => {
            let code = error_response::describe(&error).code;
            world.tell(&format!("request {number} is refused: {code}"));
            if let Some(why) = uncalled_for(script, request, &error) {
                world.wrong(format!("request {number} was refused ({code}): {why}"));
            }
        }
    }
}

/// Why this refusal has no cause in this world, if it has none.
fn uncalled_for(script: &Script, request: Request, error: &ProxyError) -> Option<&'static str> {
    let did = |wanted: &[Act]| {
        let of = |(_, name, act): &(u64, usize, Act)| *name == request.name && wanted.contains(act);
        script.acts.iter().any(of)
    };
    if matches!(error, ProxyError::Asleep(_)) {
        return (!request.forbidden).then_some("it was allowed to wake");
    }
    if script.is_calm() && request.patience_ms > 5000 {
        return Some("nothing was in its way");
    }
    match error {
        ProxyError::Wake(WakeError::NotFound | WakeError::Gone)
            if !did(&[Act::Delete, Act::Replace]) =>
        {
            Some("the instance was there all the time")
        }
        ProxyError::Wake(WakeError::Stopped) if !did(&[Act::Stop]) || script.start_stopped => {
            Some("it was never stopped, or may be started")
        }
        ProxyError::Wake(WakeError::Unauthorized | WakeError::Draining) => {
            Some("nothing of the kind happens in this world")
        }
        _ => None,
    }
}

/// Cuts a failing script down as long as it still fails.
fn shrink(mut script: Script, metrics: &Arc<Metrics>) -> Script {
    loop {
        let fails = |script: &Script| !play(script, metrics).0.is_empty();
        match script.simpler().into_iter().find(fails) {
            Some(simpler) => script = simpler,
            None => return script,
        }
    }
}

fn fail(script: Script, metrics: &Arc<Metrics>) -> ! {
    let seed = script.seed;
    let script = shrink(script, metrics);
    let (wrongs, story) = play(&script, metrics);
    panic!("SIMULATION_SEED={seed}: {wrongs:#?}\n{story}\nfrom {script:#?}");
}

#[test]
fn every_history_ends_well() {
    if let Some(seed) = number("SIMULATION_SEED") {
        let (script, metrics) = (Script::draw(seed), Arc::default());
        let (wrongs, story) = play(&script, &metrics);
        eprintln!("{story}\n{script:#?}");
        assert!(wrongs.is_empty(), "{wrongs:#?}");
        return;
    }
    let histories = number("SIMULATION_HISTORIES").unwrap_or(2000);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let metrics = Arc::default();
                for seed in (thread..histories).step_by(usize::try_from(threads).unwrap()) {
                    let script = Script::draw(seed);
                    if !play(&script, &metrics).0.is_empty() {
                        fail(script, &metrics);
                    }
                }
            });
        }
    });
}

#[test]
fn a_history_is_the_same_each_time_it_is_played() {
    let metrics = Arc::default();
    for seed in [3, 17, 4711] {
        let script = Script::draw(seed);
        assert_eq!(
            play(&script, &metrics),
            play(&script, &metrics),
            "seed {seed}"
        );
    }
}
