//! What the hop from a front to a node costs a warm request.
//!
//! `cargo bench --bench fleet`, about half a minute. Client, front and node are in this process, the
//! application is another: what counts is the difference between a request to the node's own listener
//! and one by way of the front, in the same run. `cargo test --bench fleet` only shows that it runs.

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

use rustix::time::{ClockId, clock_gettime};
use support::fleet::{Authority, Directory, Node, at};
use support::{Gateway, Plane, Wanted};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

const ROUNDS: usize = 5;
const REQUESTS: usize = 4000;
/// What a hop is to cost at most, in microseconds: of latency, and of processor time.
const GOALS: (f64, f64) = (150.0, 12.0);

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // `cargo test` does not say so.
    match std::env::args().any(|argument| argument == "--bench") {
        true => runtime.block_on(hop(ROUNDS, REQUESTS)),
        false => runtime.block_on(hop(1, 100)),
    }
}

/// Processor time of this process.
fn processor() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Requests one after the other on one connection: the median latency and the processor time of one.
async fn measure(address: SocketAddr, requests: usize) -> (Duration, Duration) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = b"GET /count HTTP/1.1\r\nhost: app.test\r\n\r\n";
    let (mut times, mut answer) = (Vec::with_capacity(requests), vec![0; 4096]);
    let before = processor();
    for _ in 0..requests {
        let began = Instant::now();
        stream.write_all(request).await.unwrap();
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
        times.push(began.elapsed());
    }
    let used = processor().saturating_sub(before) / u32::try_from(requests).unwrap();
    times.sort_unstable();
    (times[times.len() / 2], used)
}

async fn hop(rounds: usize, requests: usize) {
    let (authority, plane) = (Authority::new(), Plane::start().await);
    let instance = plane.listening(Wanted::hello("app")).await;
    let node = Node::start(&plane, authority.identity("node", "h-1"), "").await;
    let directory = Directory::new();
    directory.put("app", at(&node.member, &instance.id));
    let front = Gateway::front(authority.identity("front", "f-1"), &directory, "").await;
    println!(
        "the hop from a front to a node: {requests} warm requests on one connection, {rounds} rounds"
    );
    let (mut latencies, mut costs) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let direct = measure(node.gateway.address, requests).await;
        let by_front = measure(front.address, requests).await;
        let micro = |time: Duration| time.as_secs_f64() * 1e6;
        println!(
            "  direct {:>6.1} us, processor {:>6.1} us; by a front {:>6.1} us, processor {:>6.1} us",
            micro(direct.0),
            micro(direct.1),
            micro(by_front.0),
            micro(by_front.1)
        );
        // The first round warms up.
        if round > 0 {
            latencies.push(micro(by_front.0) - micro(direct.0));
            costs.push(micro(by_front.1) - micro(direct.1));
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
    front.stop().await;
    node.gateway.stop().await;
    plane.stop().await;
}
