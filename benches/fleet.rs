//! What the hop from a front to a node costs: a warm request's time, and a held request's memory.
//!
//! `cargo bench --bench fleet`, about a minute. For time, client, front and node are in this process, the
//! application is another: what counts is the difference between a request to the node's own listener
//! and one by way of the front, in the same run. For memory, front and node are processes of their own, beside a real etcd.
//! `cargo test --bench fleet` only shows that the first part runs.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark"
)]

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::time::{ClockId, clock_gettime};
use support::etcd::{Etcd, has_etcd};
use support::fleet::{Authority, Directory, Node, at};
use support::member_process::MemberProcess;
use support::{Gateway, Plane, Wanted, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

const ROUNDS: usize = 5;
const REQUESTS: usize = 4000;
/// What a hop is to cost at most, in microseconds: of latency, and of processor time.
const GOALS: (f64, f64) = (150.0, 12.0);
/// Connections of the part that has several at once.
const SEVERAL: usize = 16;
/// Requests that are held at once, and what each is to take at most at front and node together, in KiB.
const HELD: usize = 2000;
const HELD_GOAL: f64 = 24.0;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // `cargo test` does not say so.
    match std::env::args().any(|argument| argument == "--bench") {
        true => runtime.block_on(async {
            hop(ROUNDS, REQUESTS).await;
            Box::pin(held(HELD)).await;
        }),
        false => runtime.block_on(hop(1, 100)),
    }
}

/// Processor time of this process.
fn processor() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Requests one after the other on a connection; the times that they took.
async fn ask(address: SocketAddr, requests: usize) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = b"GET /count HTTP/1.1\r\nhost: app.test\r\n\r\n";
    let (mut times, mut answer) = (Vec::with_capacity(requests), vec![0; 4096]);
    for _ in 0..requests {
        let began = Instant::now();
        stream.write_all(request).await.unwrap();
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
        times.push(began.elapsed());
    }
    times
}

/// On so many connections at once: the median latency and the processor time of a request, in microseconds.
async fn measure(address: SocketAddr, requests: usize, connections: usize) -> (f64, f64) {
    let before = processor();
    let asking = (0..connections).map(|_| ask(address, requests / connections));
    let mut times: Vec<Duration> = join_all(asking).await.concat();
    let used = processor().saturating_sub(before) / u32::try_from(times.len()).unwrap();
    times.sort_unstable();
    let micro = |time: Duration| time.as_secs_f64() * 1e6;
    (micro(times[times.len() / 2]), micro(used))
}

async fn hop(rounds: usize, requests: usize) {
    let (authority, plane) = (Authority::new(), Plane::start().await);
    let instance = plane.listening(Wanted::hello("app")).await;
    let node = Node::start(&plane, authority.identity("node", "h-1"), "").await;
    let directory = Directory::new();
    directory.put("app", at(&node.member, &instance.id));
    let front = Gateway::front(authority.identity("front", "f-1"), &directory, "").await;
    for connections in [1, SEVERAL] {
        println!(
            "the hop from a front to a node: {requests} warm requests on {connections} connections, \
             {rounds} rounds"
        );
        compare(
            node.gateway.address,
            front.address,
            rounds,
            requests,
            connections,
        )
        .await;
    }
    front.stop().await;
    node.gateway.stop().await;
    plane.stop().await;
}

async fn compare(
    direct: SocketAddr,
    front: SocketAddr,
    rounds: usize,
    requests: usize,
    connections: usize,
) {
    let (mut latencies, mut costs) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let direct = measure(direct, requests, connections).await;
        let by_front = measure(front, requests, connections).await;
        println!(
            "  direct {:>6.1} us, processor {:>6.1} us; by a front {:>6.1} us, processor {:>6.1} us",
            direct.0, direct.1, by_front.0, by_front.1
        );
        // The first round warms up.
        if round > 0 {
            latencies.push(by_front.0 - direct.0);
            costs.push(by_front.1 - direct.1);
        }
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (latency, cost) = (median(&mut latencies), median(&mut costs));
    let (latency_goal, cost_goal) = GOALS;
    println!(
        "  the hop: {latency:.1} us of latency (goal {latency_goal}), {cost:.1} us of processor time \
         at both together (goal {cost_goal})"
    );
}

fn resident(members: [&MemberProcess; 2]) -> f64 {
    let bytes = members.map(|member| {
        let path = format!("/proc/{}/statm", member.pid().unwrap());
        let text = std::fs::read_to_string(path).unwrap();
        let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
        pages * rustix::param::page_size()
    });
    bytes.iter().sum::<usize>() as f64 / 1024.0
}

/// Requests that are held at once, at the node, for one instance.
async fn held(count: usize) {
    if !has_etcd() {
        return;
    }
    let (etcd, authority, plane) = (Etcd::start(1).await, Authority::new(), Plane::start().await);
    let (endpoints, beside) = (etcd.endpoints(), (plane.address, &*plane.token));
    let quiet = "[server]\nmax_connections = 20000\n[log]\naccess = \"off\"\n";
    let mut node = MemberProcess::node(&authority, &endpoints, "h-1", beside, "", quiet);
    let mut front = MemberProcess::front(&authority, &endpoints, "f-1", "", quiet);
    node.serve().await;
    front.serve().await;
    // One by which the connections between the two are there, and one that is drowsy.
    let awake = plane.listening(Wanted::hello("awake")).await;
    let drowsy = plane.asleep(Wanted::hello("drowsy")).await;
    let routes = front.file("routes.toml");
    let text = "[[route]]\nhost = \"awake.test\"\ninstance = \"awake\"\n\
        [[route]]\nhost = \"drowsy.test\"\ninstance = \"drowsy\"\n\
        wake = { ready = \"health\", health_path = \"/drowsy?for=10s\" }\n";
    std::fs::write(&routes, text).unwrap();
    front
        .fleet(&format!("import {}", routes.display()))
        .await
        .fine();
    eventually("the front knows the route", async || {
        front.code("awake.test").await.0 == 200
    })
    .await;
    eventually("it knows both claims", async || {
        front.api().await["claims"] == 2
    })
    .await;

    let none = resident([&front, &node]);
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(TcpStream::connect(front.listen).await.unwrap());
    }
    eventually("all are connected", async || {
        front.metric("wakegate_downstream_connections ").await as usize >= count
    })
    .await;
    let connected = resident([&front, &node]);
    let request = b"GET / HTTP/1.1\r\nhost: drowsy.test\r\nuser-agent: bench\r\n\
        accept: */*\r\nconnection: close\r\n\r\n";
    for stream in &mut streams {
        stream.write_all(request).await.unwrap();
    }
    eventually("all are held", async || {
        node.metric("wakegate_held_requests ").await as usize == count
    })
    .await;
    let during = resident([&front, &node]);
    let mut answered = 0;
    for stream in &mut streams {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answered += usize::from(answer.starts_with(b"HTTP/1.1 200"));
    }
    let each = |more: f64| more / count as f64;
    println!(
        "{count} requests held at once by way of a front: {:.1} KiB each at both together (goal {HELD_GOAL}), \
         {:.1} KiB with its client's connection; {answered} answered, {} restore",
        each(during - connected),
        each(during - none),
        plane.operations(&drowsy.id, "restore").await
    );
    drop(awake);
    assert_eq!(answered, count);
    front.kill();
    node.kill();
    plane.stop().await;
}
