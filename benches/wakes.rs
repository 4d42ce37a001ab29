//! What a wake costs beyond the control plane's and the guest's own work, and what a crowd costs.
//!
//! `cargo bench --bench wakes`, about two minutes. Absolute times are this machine's; what counts
//! is the difference to a bare client that makes the same calls by hand, in the same run.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark"
)]

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use hypeman::wire::InstanceState;
use support::{Plane, Program, Wanted, eventually, reference, spawn};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const SLEEPERS: usize = 8;
const ROUNDS: usize = 20;
const CROWD: usize = 5000;
const FLEET: usize = 500;

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        // `cargo bench --bench wakes -- fleet` measures only that.
        let chosen = |name: &str| {
            let named: Vec<String> = std::env::args()
                .skip(1)
                .filter(|a| a != "--bench")
                .collect();
            named.is_empty() || named.iter().any(|wanted| wanted == name)
        };
        if chosen("overhead") {
            overhead().await;
        }
        if chosen("hello") {
            hello().await;
        }
        if chosen("crowd") {
            crowd().await;
        }
        if chosen("fleet") {
            fleet().await;
        }
    });
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let index = (times.len() * percent / 100).min(times.len() - 1);
    times[index].as_secs_f64() * 1e3
}

fn line(what: &str, times: &mut [Duration]) {
    println!(
        "  {what:<34} p50 {:>7.2} ms   p99 {:>7.2} ms",
        percentile(times, 50),
        percentile(times, 99)
    );
}

/// One request on its own connection, on a thread of its own: the time to the response's end.
async fn get(address: SocketAddr, host: String) -> Duration {
    let visit = move || {
        let began = Instant::now();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        began.elapsed()
    };
    tokio::task::spawn_blocking(visit).await.unwrap()
}

/// The same calls by a bare client: restore on a connection that is there, then the request on a
/// new one.
async fn by_hand(
    plane: &Plane,
    id: &str,
    direct: SocketAddr,
    host: String,
) -> (Duration, Duration) {
    let (address, token, id) = (plane.address, plane.token.clone(), id.to_owned());
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    sleep(Duration::from_millis(5)).await;
    let restore = move || {
        let began = Instant::now();
        let request = format!(
            "POST /instances/{id}/restore HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
             content-length: 0\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        began.elapsed()
    };
    let restored = tokio::task::spawn_blocking(restore).await.unwrap();
    (restored, get(direct, host).await)
}

async fn asleep(plane: &Plane, ids: &[String]) {
    for id in ids {
        eventually("it has fallen asleep by itself", async || {
            plane.state(id).await == InstanceState::Standby
        })
        .await;
    }
}

/// Wakes by the gateway and by hand, in turn, on the same instances.
async fn overhead() {
    let plane = Plane::start().await;
    let (mut ids, mut ips) = (Vec::new(), Vec::new());
    for number in 0..SLEEPERS {
        let wanted = Wanted::hello(&format!("s{number}")).idle(Duration::from_secs(1));
        let instance = plane.listening(wanted).await;
        ips.push(instance.network.unwrap().ip.unwrap());
        ids.push(instance.id);
    }
    let (program, data, admin, _dir) = gateway(&plane, "");
    let (mut by_gateway, mut hand, mut restores) = (Vec::new(), Vec::new(), Vec::new());
    let mut requests = Vec::new();
    let (mut warm, mut theirs) = (Vec::new(), Vec::new());
    let mut phases: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for round in 0..ROUNDS * 2 {
        // Nothing else is going on while a wake is measured.
        sleep(Duration::from_millis(1500)).await;
        asleep(&plane, &ids).await;
        for number in 0..SLEEPERS {
            let host = format!("s{number}.test");
            if round % 2 == 1 {
                let direct: SocketAddr = format!("{}:8080", ips[number]).parse().unwrap();
                let (restore, request) = by_hand(&plane, &ids[number], direct, host).await;
                restores.push(restore);
                requests.push(request);
                hand.push(restore + request);
                continue;
            }
            let took = get(data, host.clone()).await;
            let again = get(data, host).await;
            let ledger = reqwest::get(format!("http://{admin}/api/wakes"))
                .await
                .unwrap();
            let ledger: serde_json::Value = ledger.json().await.unwrap();
            let wake = ledger[0]["phases_ms"].as_object().unwrap().clone();
            // The first round looks the names up, too.
            if round == 0 {
                continue;
            }
            let ms =
                |value: &serde_json::Value| Duration::from_secs_f64(value.as_f64().unwrap() / 1e3);
            let work: Duration = wake.values().map(ms).sum();
            for (stage, time) in &wake {
                phases.entry(stage.clone()).or_default().push(ms(time));
            }
            by_gateway.push(took);
            warm.push(again);
            theirs.push(work);
        }
    }
    println!(
        "A wake, {} times each way, of the process driver:",
        by_gateway.len()
    );
    line("by hand: restore, connect, request", &mut hand);
    line("  of it the restore call", &mut restores);
    line("  of it the request", &mut requests);
    line("by the gateway", &mut by_gateway);
    for (stage, times) in &mut phases {
        line(&format!("  of it {stage}"), times);
    }
    line("  of it all phases together", &mut theirs);
    line("a warm request by the gateway", &mut warm);
    println!(
        "  added by the gateway: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms",
        percentile(&mut by_gateway, 50) - percentile(&mut hand, 50),
        percentile(&mut by_gateway, 90) - percentile(&mut hand, 90),
        percentile(&mut by_gateway, 99) - percentile(&mut hand, 99),
    );
    drop(program);
    plane.stop().await;
}

/// A gateway in a process of its own, so that its memory can be told from its clients'.
fn gateway(plane: &Plane, keys: &str) -> (Program, SocketAddr, SocketAddr, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, &plane.token).unwrap();
    let config = format!(
        "[server]\nmax_connections = 20000\n[log]\naccess = \"off\"\nlevel = \"warn,wakegate::cli=info\"\nformat = \"json\"\n\
         [admin]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[hypeman]]\nurl = \"http://{}\"\napi_key_file = \"{}\"\n\
         [[route]]\nhost = \"{{i}}.test\"\ninstance = \"{{i}}\"\n{keys}\n",
        plane.address,
        key.display()
    );
    let file = dir.path().join("wakegate.toml");
    std::fs::write(&file, config).unwrap();
    let mut program = Program::start(&["serve", "-c", file.to_str().unwrap()]);
    let lines = BufReader::new(program.0.stderr.take().unwrap()).lines();
    let mut addresses = lines.map_while(Result::ok).filter_map(|line| {
        let event: serde_json::Value = serde_json::from_str(&line).ok()?;
        event["address"].as_str()?.parse().ok()
    });
    let (data, admin) = (addresses.next().unwrap(), addresses.next().unwrap());
    // What it says later must not fill the pipe.
    std::thread::spawn(move || addresses.for_each(drop));
    (program, data, admin, dir)
}

fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse::<usize>()
        .unwrap()
        * 1024
}

async fn metric(admin: SocketAddr, name: &str) -> f64 {
    let page = reqwest::get(format!("http://{admin}/metrics"))
        .await
        .unwrap();
    let page = page.text().await.unwrap();
    let line = page
        .lines()
        .find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0.0)
}

/// Cold requests over TLS, woken by the request and by the `ClientHello`, in turn.
async fn hello() {
    let plane = Plane::start().await;
    let mut ids = Vec::new();
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..SLEEPERS).map(|n| format!("h{n}.test")).collect();
    let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
    let (cert, key) = (dir.path().join("a.crt"), dir.path().join("a.key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    for number in 0..SLEEPERS {
        let wanted = Wanted::hello(&format!("h{number}")).idle(Duration::from_secs(1));
        ids.push(plane.listening(wanted).await.id);
    }
    let tls = |early: bool| {
        format!(
            "wake = {{ on_tls_hello = {early} }}\n[listener.tls]\ndir = \"{}\"\n",
            dir.path().display()
        )
    };
    let (by_request, by_hello) = (gateway(&plane, &tls(false)), gateway(&plane, &tls(true)));
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let (mut late, mut early) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS * 2 {
        sleep(Duration::from_millis(1500)).await;
        asleep(&plane, &ids).await;
        for name in &names {
            let (data, times) = match round % 2 {
                0 => (by_request.1, &mut late),
                _ => (by_hello.1, &mut early),
            };
            let client = reqwest::Client::builder()
                .no_proxy()
                .tls_certs_only([root.clone()])
                .resolve(name, data);
            let client = client.build().unwrap();
            let request = client.get(format!("https://{name}:{}/", data.port()));
            let began = Instant::now();
            assert_eq!(request.send().await.unwrap().status(), 200);
            // The first rounds look the names up, too.
            if round > 1 {
                times.push(began.elapsed());
            }
        }
    }
    println!("A cold request over TLS, {} times each way:", late.len());
    line("woken by the request", &mut late);
    line("woken by the ClientHello", &mut early);
    drop((by_request, by_hello));
    plane.stop().await;
}

/// Many requests held at once for one instance.
async fn crowd() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("crowd")).await;
    sleep(Duration::from_millis(300)).await;
    let keys = "wake = { ready = \"health\", health_path = \"/drowsy?for=6s\" }";
    let (program, data, admin, _dir) = gateway(&plane, keys);
    let mut streams = Vec::new();
    for _ in 0..CROWD {
        streams.push(TcpStream::connect(data).await.unwrap());
    }
    let open = "wakegate_downstream_connections";
    eventually("all are connected", async || {
        metric(admin, open).await as usize >= CROWD
    })
    .await;
    let before = resident(program.0.id());
    let mut clients = JoinSet::new();
    for mut stream in streams {
        clients.spawn(async move {
            let request = b"GET / HTTP/1.1\r\nhost: crowd.test\r\nuser-agent: bench\r\n\
                            accept: */*\r\nconnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            answer.starts_with(b"HTTP/1.1 200")
        });
    }
    let held = "wakegate_held_requests";
    eventually("all are held", async || {
        metric(admin, held).await as usize == CROWD
    })
    .await;
    let during = resident(program.0.id());
    let answered = clients
        .join_all()
        .await
        .into_iter()
        .filter(|fine| *fine)
        .count();
    let restores = metric(admin, "wakegate_restore_calls_total").await;
    println!(
        "{CROWD} requests held at once for one instance: {:.1} KiB each beyond its connection; \
         {answered} answered, {restores} restore",
        (during.saturating_sub(before)) as f64 / CROWD as f64 / 1024.0,
    );
    assert_eq!((answered, restores as usize), (CROWD, 1));
    drop(program);
    plane.stop().await;
}

/// Many instances woken at once.
async fn fleet() {
    let plane = Plane::start().await;
    let mut made = JoinSet::new();
    let plane = std::sync::Arc::new(plane);
    let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(16));
    for number in 0..FLEET {
        let (plane, permits) = (plane.clone(), permits.clone());
        made.spawn(async move {
            let _permit = permits.acquire().await.unwrap();
            let instance = plane.running(Wanted::hello(&format!("f{number}"))).await;
            let id = reference(&instance.id);
            plane.client.standby_instance(&id, None).await.unwrap();
        });
    }
    made.join_all().await;
    let (program, data, admin, _dir) = gateway(&plane, "wake = { timeout = \"2m\" }");
    let began = Instant::now();
    let visits: Vec<_> = (0..FLEET)
        .map(|number| spawn(async move { get(data, format!("f{number}.test")).await }))
        .collect();
    let mut times = Vec::new();
    for visit in visits {
        times.push(visit.await.unwrap());
    }
    let restores = metric(admin, "wakegate_restore_calls_total").await;
    println!(
        "{FLEET} instances woken at once, 16 at a time: {} answered within {:.2} s, {restores} restores",
        times.len(),
        began.elapsed().as_secs_f64()
    );
    assert_eq!(restores as usize, FLEET);
    drop(program);
    std::sync::Arc::into_inner(plane).unwrap().stop().await;
}
