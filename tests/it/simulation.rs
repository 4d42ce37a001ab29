//! Random histories on paused time: every request is answered, nothing arrives twice that must not,
//! no instance is restored twice at once or by a request that may not, each request reaches the
//! instance of exactly its name or none, nothing is cut without a definite word, every refusal
//! names its cause, and after quiet nothing is left behind.
//!
//! `SIMULATION_HISTORIES` says how many (`make test`: 20,000, at night 100,000); `SIMULATION_SEED`
//! plays one and prints its story. `SIMULATION_FIRST` is the first seed. One history in 21 lasts for days or
//! weeks; with `SIMULATION_LONG=1` only those are played. A failing history is cut down to the least that still fails.

mod fleet;
mod gateway;
mod judge;
pub mod parked;
mod script;
mod world;

use std::sync::Arc;
use std::time::Duration;

use crate::support::number;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use wakegate::telemetry::Metrics;

use gateway::{Gateway, Outcome};
use judge::{Case, check_end, check_quiet, check_rest};
use script::{NAMES, Request, Script};
use world::World;

/// Longer than any request's patience and any call.
const FOREVER: Duration = Duration::from_secs(700);
/// One history in so many is a long one; an odd number, so that each thread has its share of them.
const LONG_SHARE: u64 = 21;

/// What an event of a history was, when it is over.
enum Event {
    Request {
        number: u32,
        request: Request,
        name: String,
        began: Instant,
        outcome: Option<Outcome>,
    },
    Other,
}

fn draw(seed: u64) -> Script {
    match seed % LONG_SHARE {
        0 => Script::long(seed),
        _ => Script::short(seed),
    }
}

/// A request from its coming to its end; its client may leave before.
async fn play_request(gateway: Arc<Gateway>, number: u32, request: Request) -> Event {
    let (name, began) = (gateway.name_of(request), Instant::now());
    let world = gateway.view.world.clone();
    world.tell(&format!("request {number} for {name}: {request:?}"));
    let patience = request.leaves_ms.map_or(FOREVER, Duration::from_millis);
    let outcome = timeout(patience, gateway.serve(number, request, &name)).await;
    if request.leaves_ms.is_some() && outcome.is_err() {
        world.tell(&format!("request {number}: its client leaves"));
    }
    Event::Request {
        number,
        request,
        name,
        began,
        outcome: outcome.ok(),
    }
}

/// Everything that happens in a history, until all requests are over.
async fn play_events(script: &Script, world: &World, gateways: &[Arc<Gateway>]) {
    let began = Instant::now();
    let at = |ms: u64| sleep_until(began + Duration::from_millis(ms));
    let mut running = JoinSet::new();
    for (number, request) in (1..).zip(script.requests.iter().copied()) {
        let (gateway, coming) = (Arc::clone(&gateways[request.gateway]), at(request.at_ms));
        running.spawn(async move {
            coming.await;
            play_request(gateway, number, request).await
        });
    }
    for (at_ms, name, act) in script.acts.clone() {
        let (world, coming) = (world.clone(), at(at_ms));
        running.spawn(async move {
            coming.await;
            world.act(NAMES[name], act);
            Event::Other
        });
    }
    if let Some((at_ms, table)) = &script.reload {
        let (gateways, table, coming) = (gateways.to_vec(), *table, at(*at_ms));
        running.spawn(async move {
            coming.await;
            for gateway in gateways {
                gateway.view.world.tell("other rules");
                gateway.reload(&table);
            }
            Event::Other
        });
    }
    let going_on = async {
        match (script.upkeep, gateways) {
            (false, _) | (_, []) => std::future::pending().await,
            (_, [one]) => one.go_on(script, began).await,
            (_, [one, two, ..]) => {
                tokio::join!(one.go_on(script, began), two.go_on(script, began));
            }
        }
    };
    let ending = async {
        while let Some(done) = running.join_next().await {
            let Event::Request {
                number,
                request,
                name,
                began,
                outcome,
            } = done.unwrap()
            else {
                continue;
            };
            let case = Case {
                script,
                gateway: &gateways[request.gateway],
                number,
                request,
                name: &name,
                began,
            };
            case.check(outcome);
        }
    };
    tokio::select! {
        biased;
        () = ending => {}
        () = going_on => {}
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
        let stop = CancellationToken::new();
        let gateways: Vec<_> = (0..script.gateways)
            .map(|index| Gateway::new(script, world.view(index), metrics, &stop))
            .collect();
        play_events(script, &world, &gateways).await;
        for gateway in &gateways {
            check_end(script, gateway).await;
        }
        check_rest(&world).await;
        for gateway in &gateways {
            check_quiet(gateway).await;
        }
        let alive = Handle::current().metrics().num_alive_tasks();
        if alive > 0 && world.wrongs().is_empty() {
            world.wrong(format!("{alive} tasks outlive their instances"));
        }
        stop.cancel();
        for gateway in &gateways {
            gateway.tasks.close();
            if timeout(FOREVER, gateway.tasks.wait()).await.is_err() {
                world.wrong("a task did not end".to_owned());
            }
        }
        sleep(Duration::ZERO).await;
        (world.wrongs(), world.story())
    })
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
        let (script, metrics) = (draw(seed), Arc::default());
        let (wrongs, story) = play(&script, &metrics);
        eprintln!("{story}\n{script:#?}");
        assert!(wrongs.is_empty(), "{wrongs:#?}");
        return;
    }
    each_history(|script, metrics| {
        if !play(&script, metrics).0.is_empty() {
            fail(script, metrics);
        }
    });
}

/// Draws all histories and gives them to the threads.
fn each_history(check: impl Fn(Script, &Arc<Metrics>) + Sync) {
    let first = number("SIMULATION_FIRST").unwrap_or(0);
    let histories = number("SIMULATION_HISTORIES").unwrap_or(2000);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let only_long = number("SIMULATION_LONG").is_some();
    let check = &check;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let metrics = Arc::default();
                let all = first + thread..first + histories;
                let all = all.step_by(usize::try_from(threads).unwrap());
                for seed in all.filter(|seed| !only_long || seed % LONG_SHARE == 0) {
                    check(draw(seed), &metrics);
                }
            });
        }
    });
}

#[test]
#[ignore = "lists what all failing histories fail with, for somebody who looks for their kinds"]
fn a_survey_of_histories() {
    each_history(|script, metrics| {
        for wrong in play(&script, metrics).0 {
            println!("SIMULATION_SEED={}: {wrong}", script.seed);
        }
    });
}

#[test]
fn a_history_is_the_same_each_time_it_is_played() {
    let metrics = Arc::default();
    for seed in [3, 17, 4711] {
        let script = draw(seed);
        assert_eq!(
            play(&script, &metrics),
            play(&script, &metrics),
            "seed {seed}"
        );
    }
}
