//! The workers that serve clients: connections are spread over them, each has its own connections
//! to instances, and nothing but themselves has to run for a request to an instance that is awake.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use wakegate::telemetry::AccessSink;

use crate::support::scripted_app::Application;
use crate::support::scripted_plane::{Scripted, ScriptedPlane};
use crate::support::{Gateway, config, eventually, spawn};

const FOUR: &str = "[server]\nworkers = 4\n";
/// No connection to an instance is idle for so long, and no lease ends, on a busy machine either.
const PATIENT: &str = "[upstream]\nidle_timeout = \"10m\"\n[wake]\nverify_interval = \"10m\"\n";
/// Where an instance has its idle timeout.
const IDLE: &str = "/auto_standby/idle_timeout";

/// A client's connection that blocks its thread, so that it needs no runtime.
struct Blocking(TcpStream);

impl Blocking {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(crate::support::PATIENCE))
            .unwrap();
        Self(stream)
    }

    /// Sends a request; the response's head and the `length` bytes of its body.
    fn ask(&mut self, method: &str, path: &str, body: &str) -> String {
        self.send(method, path, body);
        self.response()
    }

    fn send(&mut self, method: &str, path: &str, body: &str) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: warm.test\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.write_all(request.as_bytes()).unwrap();
    }

    fn response(&mut self) -> String {
        let (mut text, mut byte) = (String::new(), [0]);
        let length = |text: &str| {
            let (head, body) = text.split_once("\r\n\r\n")?;
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            let (_, length) =
                lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
            Some(length.trim().parse::<usize>().unwrap() - body.len())
        };
        while length(&text) != Some(0) {
            assert_eq!(self.0.read(&mut byte).unwrap(), 1, "it ends: {text}");
            text.push(char::from(byte[0]));
        }
        text
    }
}

/// A runtime with a thread of its own, for what is not the gateway's.
fn others() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

async fn gateway(plane: &ScriptedPlane, extra: &str) -> Gateway {
    let access = AccessSink::off();
    Gateway::start_with(plane.address, ScriptedPlane::TOKEN, extra, access).await
}

async fn idle(gateway: &Gateway) -> f64 {
    gateway.metric("wakegate_upstream_idle_connections").await
}

#[test]
fn a_warm_request_needs_its_worker_alone() {
    let others = others();
    let (app, plane) = others.block_on(async {
        let app = Application::start("warm").await;
        let plane = ScriptedPlane::start().await;
        plane.add(Scripted::asleep("warm", app.ip).with(IDLE, json!("1h")));
        (app, plane)
    });
    let main = Builder::new_current_thread().enable_all().build().unwrap();
    let gateway = main.block_on(async {
        let gateway = gateway(&plane, &format!("{PATIENT}[server]\nworkers = 2\n")).await;
        assert_eq!(gateway.client().get("warm", "/").await.status(), 200);
        gateway
    });
    // From here on the engine's runtime stands still: nobody polls it.
    for _ in 0..4 {
        let mut client = Blocking::connect(gateway.address);
        for _ in 0..10 {
            assert!(client.ask("GET", "/", "").starts_with("HTTP/1.1 200"));
        }
    }
    assert_eq!(app.requests("/"), 41);
    // One a worker at most, the probe's included.
    assert!(app.connections() <= 2, "{}", app.connections());
    let mut client = Blocking::connect(gateway.address);
    for _ in 0..10 {
        // The application does not read it, and so may end a connection: another one is dialled.
        assert!(client.ask("POST", "/", "body").starts_with("HTTP/1.1 200"));
    }
    main.block_on(async { assert!(gateway.stop().await) });
    others.block_on(app.end());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_spread_over_the_workers_and_each_has_its_own_to_the_instance() {
    let (app, plane) = (
        Application::start("warm").await,
        ScriptedPlane::start().await,
    );
    plane.add(Scripted::running("warm", app.ip).with(IDLE, json!("1h")));
    // Each worker may keep one of the three: its part is rounded up.
    let extra = format!(
        "{FOUR}[wake]\nverify_interval = \"10m\"\n[upstream]\nmax_idle = 3\nidle_timeout = \"10m\"\n"
    );
    let gateway = gateway(&plane, &extra).await;
    let address = gateway.address;
    let clients = tokio::task::spawn_blocking(move || {
        let mut clients: Vec<_> = (0..16).map(|_| Blocking::connect(address)).collect();
        // One after the other, so that each finds its worker's connection idle.
        for _ in 0..2 {
            for client in &mut clients {
                assert!(client.ask("GET", "/", "").starts_with("HTTP/1.1 200"));
            }
        }
        clients
    });
    let mut clients = clients.await.unwrap();
    assert_eq!(app.connections(), 4, "each worker made one");
    assert_eq!(idle(&gateway).await, 4.0);
    let clients = tokio::task::spawn_blocking(move || {
        for client in &mut clients {
            client.send("GET", "/slow", "");
        }
        for client in &mut clients {
            assert!(client.response().starts_with("HTTP/1.1 200"));
        }
        clients
    });
    let clients = clients.await.unwrap();
    eventually("no worker keeps more than its part", async || {
        idle(&gateway).await == 4.0
    })
    .await;
    drop(clients);
    assert!(gateway.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_wakes_is_answered_beside_warm_requests() {
    let (app, plane) = (
        Application::start("warm").await,
        ScriptedPlane::start().await,
    );
    plane.add(Scripted::running("warm", app.ip).with(IDLE, json!("1h")));
    let mut sleepers = Vec::new();
    for number in 0..40 {
        let name = format!("asleep{number}");
        let app = Application::start(&name).await;
        plane.add(Scripted::asleep(&name, app.ip).restore_takes(Duration::from_millis(50)));
        sleepers.push((name, app));
    }
    let gateway = gateway(&plane, FOUR).await;
    let mut storm = JoinSet::new();
    for (name, _) in &sleepers {
        for path in ["/", "/slow"] {
            let (client, name) = (gateway.client(), name.clone());
            storm.spawn(async move {
                let response = client.get(&name, path).await;
                (response.status().as_u16(), response.text().await.unwrap())
            });
        }
    }
    let address = gateway.address;
    let warm = tokio::task::spawn_blocking(move || {
        let mut client = Blocking::connect(address);
        for _ in 0..200 {
            assert!(client.ask("GET", "/", "").starts_with("HTTP/1.1 200"));
        }
    });
    warm.await.unwrap();
    for (status, body) in storm.join_all().await {
        assert_eq!(status, 200, "{body}");
    }
    assert!(gateway.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_every_workers_requests_finish() {
    let (app, plane) = (
        Application::start("warm").await,
        ScriptedPlane::start().await,
    );
    plane.add(Scripted::running("warm", app.ip).with(IDLE, json!("1h")));
    let mut gateway = gateway(&plane, FOUR).await;
    let address = gateway.address;
    let clients = tokio::task::spawn_blocking(move || {
        let mut clients: Vec<_> = (0..8).map(|_| Blocking::connect(address)).collect();
        for client in &mut clients {
            client.send("GET", "/slow", "");
        }
        clients
    });
    let mut clients = clients.await.unwrap();
    eventually("all of them are at the instance", async || {
        app.requests("/slow") == 8
    })
    .await;
    gateway.drain();
    let answers = tokio::task::spawn_blocking(move || {
        for client in &mut clients {
            assert!(client.response().starts_with("HTTP/1.1 200"));
            assert_eq!(client.0.read(&mut [0]).unwrap(), 0, "it is closed");
        }
    });
    answers.await.unwrap();
    assert!(gateway.stop().await, "nothing had to be cut");
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_cuts_what_every_worker_has_left() {
    let (app, plane) = (
        Application::start("warm").await,
        ScriptedPlane::start().await,
    );
    plane.add(Scripted::running("warm", app.ip).with(IDLE, json!("1h")));
    let extra = format!("{FOUR}drain_timeout = \"200ms\"\n");
    let gateway = gateway(&plane, &extra).await;
    let address = gateway.address;
    let clients = tokio::task::spawn_blocking(move || {
        let mut clients: Vec<_> = (0..8).map(|_| Blocking::connect(address)).collect();
        for client in &mut clients {
            client.send("GET", "/stream", "");
            // The stream has begun.
            assert_eq!(client.0.read(&mut [0]).unwrap(), 1);
        }
        clients
    });
    let mut clients = clients.await.unwrap();
    assert_eq!(app.open(), 8);
    assert!(!gateway.stop().await, "all of them were cut");
    let ends = tokio::task::spawn_blocking(move || {
        for client in &mut clients {
            // Whether by an end or by a reset.
            let _end = client.0.read_to_end(&mut Vec::new());
        }
    });
    ends.await.unwrap();
    eventually("nothing is open to the instance", async || app.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_only_wait_take_no_part_of_the_connections_that_may_be() {
    let (app, plane) = (
        Application::start("warm").await,
        ScriptedPlane::start().await,
    );
    plane.add(Scripted::running("warm", app.ip).with(IDLE, json!("1h")));
    let extra = format!("{FOUR}max_connections = 2\n");
    let gateway = gateway(&plane, &extra).await;
    let address = gateway.address;
    let served = spawn(async move {
        let blocking = tokio::task::spawn_blocking(move || {
            let mut both = [0; 2].map(|_| Blocking::connect(address));
            for client in &mut both {
                assert!(client.ask("GET", "/", "").starts_with("HTTP/1.1 200"));
            }
            let mut third = Blocking::connect(address);
            third.send("GET", "/late", "");
            (both, third)
        });
        blocking.await.unwrap()
    });
    let (both, mut third) = served.await.unwrap();
    let open = "wakegate_downstream_connections";
    assert_eq!(gateway.metric(open).await, 2.0);
    assert_eq!(app.requests("/late"), 0, "it waits in the kernel's queue");
    drop(both);
    let late = tokio::task::spawn_blocking(move || third.response());
    assert!(late.await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(gateway.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_number_of_workers_needs_a_restart() {
    let plane = ScriptedPlane::start().await;
    let gateway = gateway(&plane, FOUR).await;
    let mut fresh = config(plane.address, ScriptedPlane::TOKEN, FOUR);
    gateway.handle.reload(&fresh).unwrap();
    fresh.server.workers = None;
    let refused = gateway.handle.reload(&fresh).unwrap_err().to_string();
    assert!(
        refused.contains("`server.workers` can only change with a restart"),
        "{refused}"
    );
    gateway.stop().await;
}
