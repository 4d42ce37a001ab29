//! Everything at once over real sockets: instances that fall asleep every second or two, a control
//! plane with every fault on, killed with SIGKILL half-way and started again.
//!
//! Minutes long, so it is not among the usual tests: `make chaos`, or
//! `CHAOS_SECONDS=60 cargo test --release --test it chaos:: -- --ignored --nocapture`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::support::{
    Client, Gateway, PATIENCE, Program, client_of, eventually, number, reference, spawn,
};
use hypeman::GoDuration;
use hypeman::wire::{AutoStandbyPolicy, CreateInstance, InstanceState, RedactedMap};
use tokio::time::{Instant, sleep};
use wakegate::telemetry::AccessSink;

const INSTANCES: u64 = 20;
const CLIENTS: u64 = 24;
/// How long a request may be held.
const TIMEOUT: Duration = Duration::from_secs(20);

const FAULTS: &str = r#"{ "slow_percent": 20, "slow_ms": 300, "error_percent": 8,
    "conflict_percent": 8, "hang_percent": 1, "drop_percent": 5, "initializing_percent": 15,
    "initializing_ms": 600, "flap_percent": 5 }"#;

#[derive(Default)]
struct Tally {
    gets: AtomicU64,
    posts: AtomicU64,
    lost: AtomicU64,
    late: AtomicU64,
    refused_posts: AtomicU64,
    next: AtomicU64,
}

fn control_plane(dir: &str, address: &str) -> (Program, SocketAddr, String) {
    let mut program = Program::start(&[
        "local",
        "--allow-faults",
        "--state-dir",
        dir,
        "--api-listen",
        address,
    ]);
    let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address = first.rsplit("http://").next().unwrap().parse().unwrap();
    let second = lines.next().unwrap().unwrap();
    let token = second.strip_prefix("HYPEMAN_API_KEY=").unwrap().to_owned();
    (program, address, token)
}

async fn set_faults(address: SocketAddr, token: &str, faults: &'static str) {
    let set = reqwest::Client::new()
        .put(format!("http://{address}/_test/faults"))
        .bearer_auth(token)
        .header("content-type", "application/json")
        .body(faults);
    eventually("the faults are set", async || {
        let again = set.try_clone().unwrap().timeout(Duration::from_secs(1));
        again
            .send()
            .await
            .is_ok_and(|answer| answer.status() == 200)
    })
    .await;
}

/// One client: a request, its answer, a pause, again.
async fn visit(client: Client, tally: Arc<Tally>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let id = tally.next.fetch_add(1, Ordering::Relaxed);
        let instance = format!("chaos-{}", fastrand::u64(0..INSTANCES));
        let post = fastrand::u8(0..3) == 0;
        let (method, count) = match post {
            true => ("POST", &tally.posts),
            false => ("GET", &tally.gets),
        };
        count.fetch_add(1, Ordering::Relaxed);
        let delay = fastrand::u64(0..40);
        let kind = if post { "post" } else { "get" };
        let path = format!("/deliver?id={kind}-{id}&delay={delay}ms");
        let mut request = client.request(method, &instance, &path);
        if post {
            request = request.body("once");
        }
        let began = Instant::now();
        let status = request
            .send()
            .await
            .map(|response| response.status().as_u16());
        match (status, post) {
            (Ok(200), _) => {}
            (_, true) => {
                tally.refused_posts.fetch_add(1, Ordering::Relaxed);
            }
            // Its time was over.
            (_, false) if began.elapsed() + Duration::from_millis(100) >= TIMEOUT => {
                tally.late.fetch_add(1, Ordering::Relaxed);
            }
            (status, false) => {
                tally.lost.fetch_add(1, Ordering::Relaxed);
                println!(
                    "lost: GET {instance} after {:?}: {status:?}",
                    began.elapsed()
                );
            }
        }
        // Half of the time so late that instances fall asleep.
        let pause = match fastrand::u8(0..10) {
            0..5 => fastrand::u64(500..8000),
            _ => fastrand::u64(0..200),
        };
        sleep(Duration::from_millis(pause)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes long: make chaos"]
async fn nothing_is_lost_and_nothing_is_done_twice() {
    let seconds = number("CHAOS_SECONDS").unwrap_or(300);
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_str().unwrap().to_owned();
    let (program, address, token) = control_plane(&state, "127.0.0.1:0");
    let plane = client_of(address, &token);
    let mut ids = Vec::new();
    for number in 0..INSTANCES {
        let instance = plane
            .create_instance(&CreateInstance {
                name: format!("chaos-{number}"),
                image: "wakegate/hello".to_owned(),
                env: RedactedMap(BTreeMap::new()),
                auto_standby: Some(AutoStandbyPolicy {
                    enabled: true,
                    idle_timeout: Some(GoDuration::from(Duration::from_millis(
                        1000 + number * 100,
                    ))),
                    ..AutoStandbyPolicy::default()
                }),
                ..CreateInstance::default()
            })
            .await
            .unwrap();
        ids.push(reference(&instance.id));
    }
    for id in &ids {
        let running = InstanceState::Running;
        plane.wait_instance(id, &running, PATIENCE).await.unwrap();
    }
    let extra = format!(
        "[wake]\ntimeout = \"{}s\"\nstall_timeout = \"2s\"\nbreaker_failures = 1000\n",
        TIMEOUT.as_secs()
    );
    let access = AccessSink::off();
    let gateway = Gateway::start_with(address, &token, &extra, access).await;

    set_faults(address, &token, FAULTS).await;
    let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            spawn(visit(
                gateway.client(),
                Arc::clone(&tally),
                Arc::clone(&stop),
            ))
        })
        .collect();
    sleep(Duration::from_secs(seconds) / 2).await;
    println!("killing the control plane");
    drop(program);
    let (program, ..) = control_plane(&state, &address.to_string());
    set_faults(address, &token, FAULTS).await;
    sleep(Duration::from_secs(seconds) / 2).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }

    set_faults(address, &token, "{}").await;
    let (mut twice, mut delivered) = (Vec::new(), 0);
    for number in 0..INSTANCES {
        let name = format!("chaos-{number}");
        // No wake is stuck: each instance still answers.
        let counts = gateway.client().get(&name, "/deliveries").await;
        let counts: BTreeMap<String, u64> = counts.json().await.unwrap();
        delivered += counts.len();
        // A GET may arrive again; a POST must not.
        let again = |(id, count): &(String, u64)| id.starts_with("post") && *count > 1;
        twice.extend(counts.into_iter().filter(again));
    }
    let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let restores = gateway.metric("wakegate_restore_calls_total").await;
    let retries = gateway.metric("wakegate_upstream_retries_total").await;
    println!(
        "{seconds} s: {} GETs, {} POSTs, {delivered} delivered; {} GETs lost, {} GETs out of time, \
         {} POSTs refused, {} POSTs delivered twice; {restores} restores, {retries} sent again",
        number(&tally.gets),
        number(&tally.posts),
        number(&tally.lost),
        number(&tally.late),
        number(&tally.refused_posts),
        twice.len(),
    );
    let held = gateway.metric("wakegate_held_requests").await;
    assert!(held == 0.0, "{held} requests are still held");
    assert_eq!(number(&tally.lost), 0);
    assert!(twice.is_empty(), "{twice:?}");
    gateway.stop().await;
    for id in &ids {
        plane.delete_instance(id).await.unwrap();
    }
    drop(program);
}
