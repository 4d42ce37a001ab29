//! The gateway over a long time, in a process of its own, while instances come and go: what it
//! takes in memory and processor time does not grow with what it has seen.
//!
//! `make soak` runs the ten minutes and the two counts, `make nightly` two minutes of it, and every
//! test run some seconds. By hand, with the built program or the one that `WAKEGATE_BIN` names:
//! `SOAK_SECONDS=120 cargo test --release --test it soak:: -- --ignored --nocapture --test-threads 1`.
//! `SOAK_FORGET_AFTER` is the time after which the gateway forgets; empty, it is the gateway's own.

mod life;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use self::life::Neighbourhood;
use crate::support::gateway_process::GatewayProcess;
use crate::support::scripted_app::Application;
use crate::support::scripted_plane::{Scripted, ScriptedPlane};
use crate::support::{PATIENCE, number};

const MEGABYTE: u64 = 1024 * 1024;
/// How much more memory the gateway may have in the end.
const MORE_MEMORY: u64 = 10 * MEGABYTE;

/// What a soak does.
struct Plan {
    time: Duration,
    /// New instances in a minute.
    rate: u64,
    /// Between two days of an instance's life, which has three.
    pace: Duration,
    forget_after: String,
    /// Between two lines of the table.
    line: Duration,
    /// The share of a processor that the gateway may take in the end, when nobody asks.
    idle_load: f64,
}

/// A line of the table.
struct Line {
    at: Duration,
    seen: u64,
    alive: usize,
    answers: u64,
    resident: u64,
    load: f64,
}

/// The configuration; `wake` is more of `[wake]`.
fn config(plane: &ScriptedPlane, forget_after: &str, wake: &str) -> String {
    let forget = match forget_after {
        "" => String::new(),
        time => format!("forget_after = \"{time}\"\n"),
    };
    let route = |protocol: &str| {
        format!(
            "[[route]]\nhost = \"{{instance}}.{protocol}\"\ninstance = \"{{instance}}\"\n\
             port = 8080\nprotocol = \"{protocol}\"\n"
        )
    };
    format!(
        "[log]\nlevel = \"error\"\naccess = \"off\"\n\
         [wake]\nunknown_per_client = \"100000/m\"\nledger = 100\n{forget}{wake}\
         [[hypeman]]\nurl = \"http://{}\"\n{}{}",
        plane.address,
        route("h1"),
        route("h2c"),
    )
}

fn forget_after(usual: &str) -> String {
    std::env::var_os("SOAK_FORGET_AFTER")
        .map_or_else(|| usual.to_owned(), |text| text.into_string().unwrap())
}

/// Waits until the gateway knows no instance any more and has nothing open on either side. What nobody has asked
/// for is forgotten after its time, what lists do not have any longer within half a minute.
async fn forgets_all(gateway: &GatewayProcess) {
    let end = Instant::now() + PATIENCE;
    for name in [
        "wakegate_instances",
        "wakegate_upstream_connections",
        "wakegate_downstream_connections",
        "wakegate_held_requests",
    ] {
        loop {
            let left = gateway.metric(name).await;
            if left == 0.0 {
                break;
            }
            assert!(Instant::now() < end, "{name} is still {left}");
            sleep(Duration::from_millis(250)).await;
        }
    }
    // What ends with them has ended by then.
    sleep(Duration::from_secs(2)).await;
}

async fn soak(plan: &Plan) {
    let plane = ScriptedPlane::start().await;
    let watchful = "verify_interval = \"5s\"\nstall_timeout = \"5s\"\n";
    let config = config(&plane, &plan.forget_after, watchful);
    let gateway = Arc::new(GatewayProcess::start("", &config).await);
    let town = Neighbourhood::new(plane, gateway.listen, plan.pace).await;
    let (mut lives, mut lines) = (JoinSet::new(), Vec::new());
    let began = Instant::now();
    println!("    time     seen  alive   answers     memory  processor");

    let mut births = interval(Duration::from_secs(60).div_f64(plan.rate as f64));
    let mut ticks = interval(plan.line);
    ticks.tick().await;
    let mut before = (gateway.processor_time(), began);
    while began.elapsed() < plan.time {
        tokio::select! {
            _ = births.tick() => { lives.spawn(Arc::clone(&town).life()); }
            _ = ticks.tick() => {
                let (spent, now) = (gateway.processor_time(), Instant::now());
                let load = spent.saturating_sub(before.0).as_secs_f64();
                let load = load / (now - before.1).as_secs_f64();
                before = (spent, now);
                lines.push(town.line(began, gateway.resident(), load, lives.len()));
                println!("{}", lines.last().unwrap());
            }
        }
        while let Some(ended) = lives.try_join_next() {
            ended.unwrap();
        }
    }
    while let Some(ended) = lives.join_next().await {
        ended.unwrap();
    }

    let mut town = Arc::into_inner(town).expect("all lives have ended");
    town.dismiss_clients();
    forgets_all(&gateway).await;
    // What was freed goes back to the system for some seconds, which takes its time.
    let end = Instant::now() + PATIENCE;
    let mut load = f64::MAX;
    while load > plan.idle_load && Instant::now() < end {
        load = gateway.load(plan.line.max(Duration::from_secs(2))).await;
        println!("idle: {:.3} %", load * 100.0);
    }
    let last = town.line(began, gateway.resident(), load, 0);
    println!("{last}  after all was quiet");

    // What it has after a minute, or in the middle of less.
    let minute = Duration::from_secs(60).min(plan.time / 2);
    let first = lines.iter().find(|line| line.at >= minute).unwrap();
    assert!(
        last.resident <= first.resident + MORE_MEMORY,
        "memory has grown from {} to {} bytes, with {} instances seen",
        first.resident,
        last.resident,
        last.seen
    );
    assert!(
        load <= plan.idle_load,
        "idle, it takes {load:.4} of a processor"
    );
    town.tally.check(plan.time.as_secs() * plan.rate / 60);
}

/// Some seconds of it, in every test run. The program is not optimised there.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_come_and_go_leave_nothing_behind() {
    soak(&Plan {
        time: Duration::from_secs(3),
        rate: 1000,
        pace: Duration::from_millis(50),
        forget_after: forget_after("1s"),
        line: Duration::from_millis(500),
        idle_load: 0.02,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "ten minutes"]
async fn memory_and_idle_processor_time_are_flat_after_minutes_of_churn() {
    let time = number("SOAK_SECONDS").unwrap_or(600);
    soak(&Plan {
        time: Duration::from_secs(time),
        rate: number("SOAK_RATE").unwrap_or(300),
        pace: Duration::from_secs(2),
        forget_after: forget_after("20s"),
        line: Duration::from_secs(10),
        idle_load: 0.002,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes"]
async fn memory_is_the_same_after_fifty_thousand_instances() {
    let ids = number("SOAK_IDS").unwrap_or(50_000);
    let forget_after = forget_after("5s");
    let plane = Arc::new(ScriptedPlane::start().await);
    let gateway = GatewayProcess::start("", &config(&plane, &forget_after, "")).await;
    let app = Arc::new(Application::start("app").await);
    // Each is asked for once and deleted.
    let round = async |numbers: std::ops::Range<u64>| {
        let mut clients = JoinSet::new();
        for client in 0..16 {
            let (plane, app, numbers) = (Arc::clone(&plane), Arc::clone(&app), numbers.clone());
            let listen = gateway.listen;
            clients.spawn(async move {
                let http = reqwest::Client::builder().no_proxy().build().unwrap();
                for number in numbers.filter(|number| number % 16 == client) {
                    let name = format!("id-{number}");
                    let id = plane.add(Scripted::running(&name, app.ip));
                    let request = http.get(format!("http://{listen}/"));
                    let request = request.header("host", format!("{name}.h1"));
                    let answer = request.send().await.unwrap();
                    assert_eq!(answer.status(), 200, "{name}");
                    assert_eq!(answer.text().await.unwrap(), "app");
                    plane.delete(&id);
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    };
    let warm = (ids / 10).min(1000);
    round(0..warm).await;
    forgets_all(&gateway).await;
    let before = gateway.resident();
    println!("{warm} instances seen: {before} bytes");
    let began = Instant::now();
    round(warm..ids + warm).await;
    let (took, busy) = (began.elapsed(), gateway.resident());
    println!("{ids} more in {took:.1?}: {busy} bytes");
    forgets_all(&gateway).await;
    let load = gateway.load(Duration::from_secs(10)).await * 100.0;
    // What was freed goes back to the system bit by bit.
    let end = Instant::now() + PATIENCE;
    let has_more = || gateway.resident() > before + MORE_MEMORY;
    while has_more() && Instant::now() < end {
        sleep(Duration::from_secs(1)).await;
    }
    let after = gateway.resident();
    println!("when all was quiet: {after} bytes, {load:.3} % of a processor");
    assert!(
        after <= before + MORE_MEMORY,
        "memory has grown from {before} to {after} bytes"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute"]
async fn instances_that_sleep_cost_no_processor_time() {
    let many = number("SOAK_SLEEPING").unwrap_or(10_000);
    let plane = Arc::new(ScriptedPlane::start().await);
    let app = Application::start("app").await;
    let config = config(&plane, "", "");
    // The second does not list them four times a minute, so that what it takes is the engine's.
    let gateways = [
        ("listing them", GatewayProcess::start("", &config).await),
        (
            "not listing",
            GatewayProcess::start("observe = false", &config).await,
        ),
    ];
    let names = (0..many).map(|number| {
        let name = format!("sleeper-{number}");
        let part = Scripted::asleep(&name, app.ip);
        plane.add(part.with("/auto_standby/idle_timeout", serde_json::json!("2s")));
        name
    });
    let names: Arc<Vec<String>> = Arc::new(names.collect());
    for (_, gateway) in &gateways {
        let mut clients = JoinSet::new();
        for client in 0..16 {
            let (names, listen) = (Arc::clone(&names), gateway.listen);
            clients.spawn(async move {
                let http = reqwest::Client::builder().no_proxy().build().unwrap();
                for name in names.iter().skip(client).step_by(16) {
                    let request = http.get(format!("http://{listen}/"));
                    let request = request.header("host", format!("{name}.h1"));
                    let answer = request.send().await.unwrap();
                    assert_eq!(answer.status(), 200, "{name}");
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    }
    plane.all_sleep();
    // Their connections are idle for so long at most, and the list says that they sleep.
    sleep(Duration::from_secs(20)).await;
    let time = Duration::from_secs(30);
    let mut loads = Vec::new();
    for (what, gateway) in &gateways {
        loads.push(gateway.load(time).await);
        let (load, resident) = (loads.last().unwrap() * 100.0, gateway.resident());
        println!("{many} asleep, {what}: {load:.3} % of a processor, {resident} bytes");
        assert_eq!(gateway.metric("wakegate_upstream_connections").await, 0.0);
    }
    assert!(loads.iter().all(|load| *load < 0.002), "{loads:?}");
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:>7.1}s {:>8} {:>6} {:>9} {:>7.1} MB {:>8.3} %",
            self.at.as_secs_f64(),
            self.seen,
            self.alive,
            self.answers,
            self.resident as f64 / MEGABYTE as f64,
            self.load * 100.0
        )
    }
}

// === impl Neighbourhood ===

impl Neighbourhood {
    fn line(&self, began: Instant, resident: u64, load: f64, alive: usize) -> Line {
        Line {
            at: began.elapsed(),
            seen: self.tally.born.load(Ordering::Relaxed),
            alive,
            answers: self.tally.answers(),
            resident,
            load,
        }
    }
}
