//! What the hop from a front to a node costs a warm request.
//!
//! `cargo bench --bench fleet`, about half a minute. Client, front and node are in this process, the
//! application is another: what counts is the difference between a request to the node's own listener
//! and one by way of the front, in the same run.

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
    runtime.block_on(hop());
}

/// Processor time of this process.
fn processor() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Requests one after the other on one connection: the median latency and the processor time of one.
async fn measure(address: SocketAddr) -> (Duration, Duration) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let request = b"GET /count HTTP/1.1\r\nhost: app.test\r\n\r\n";
    let (mut times, mut answer) = (Vec::with_capacity(REQUESTS), vec![0; 4096]);
    let before = processor();
    for _ in 0..REQUESTS {
        let began = Instant::now();
        stream.write_all(request).await.unwrap();
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
        times.push(began.elapsed());
    }
    let used = (processor() - before) / u32::try_from(REQUESTS).unwrap();
    times.sort_unstable();
    (times[times.len() / 2], used)
}

async fn hop() {
    let (authority, plane) = (Authority::new(), Plane::start().await);
    let instance = plane.listening(Wanted::hello("app")).await;
    let node = Node::start(&plane, authority.identity("node", "h-1"), "").await;
    let directory = Directory::new();
    directory.put("app", at(&node.member, &instance.id));
    let front = Gateway::front(authority.identity("front", "f-1"), &directory, "").await;
    println!(
        "the hop from a front to a node: {REQUESTS} warm requests on one connection, {ROUNDS} rounds"
    );
    let (mut latencies, mut costs) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let direct = measure(node.gateway.address).await;
        let by_front = measure(front.address).await;
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
