//! What a front says to a node about a request, and what the node does by it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{World, answering};
use crate::support::fleet::at;
use crate::support::{PATIENCE, Wanted, eventually, spawn};

/// Reads until this has come; everything that has.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let mut part = [0; 4096];
        let read = timeout(PATIENCE, stream.read(&mut part)).await.unwrap();
        let count = read.unwrap();
        assert!(count > 0, "it ended: {text}");
        text.push_str(&String::from_utf8_lossy(&part[..count]));
    }
    text
}

/// The connection of a client that waits to be asked for the five bytes that it sends.
async fn waits_for_100(world: &World) -> TcpStream {
    let mut stream = TcpStream::connect(world.front.address).await.unwrap();
    let head = "POST /upload HTTP/1.1\r\nhost: app.test\r\nexpect: 100-continue\r\n\
                content-length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// A request for a host of which only the front has a route.
fn of_front_alone(world: &World) -> reqwest::RequestBuilder {
    let http = &world.front.client().http;
    let request = http.get(format!("http://{}/", world.front.address));
    request.header("host", "only.example")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_front_alone_has_a_route_for_is_spoken_to_as_that_route_says() {
    let front = "[[route]]\nhost = \"only.example\"\ninstance = \"app\"\nprotocol = \"h2c\"\n";
    let world = World::with(front, "").await;
    let (reference, origin) = world.plane.own_origin("app").await;
    world
        .directory
        .put("app", at(&world.node.member, reference.as_str()));
    let asking = of_front_alone(&world);
    let asking = spawn(async move { asking.send().await });
    let heard = async {
        loop {
            let (mut stream, _) = origin.accept().await.unwrap();
            let mut first = [0; 14];
            if stream.read_exact(&mut first).await.is_ok() {
                return String::from_utf8_lossy(&first).into_owned();
            }
        }
    };
    let heard = timeout(PATIENCE, heard).await.unwrap();
    assert_eq!(heard, "PRI * HTTP/2.0");
    asking.abort();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_front_alone_has_a_route_for_is_held_as_long_as_that_route_says() {
    let front = "[[route]]\nhost = \"only.example\"\ninstance = \"app\"\nport = 9000\n\
                 [route.wake]\ntimeout = \"1s\"\n";
    let node = "[wake]\ntimeout = \"5m\"\n";
    let world = World::with(front, node).await;
    let (instance, _door) = world.plane.behind_a_door("app").await;
    world.claim(&instance);
    let began = Instant::now();
    let answer = timeout(PATIENCE, of_front_alone(&world).send()).await;
    let answer = answer.unwrap().unwrap();
    assert_eq!(answer.status(), 504);
    assert!(began.elapsed() >= Duration::from_millis(900));
    let body: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(body["code"], "app_not_listening");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_front_cannot_pass_on_of_its_route_is_refused_unless_the_node_has_one() {
    let front = "[[route]]\nhost = \"only.example\"\ninstance = \"app\"\nproxy_protocol = \"v1\"\n\
                 [[route]]\nhost = \"app.test\"\ninstance = \"app\"\nproxy_protocol = \"v1\"\n";
    let world = World::with(front, "").await;
    let (reference, origin) = world.plane.own_origin("app").await;
    let count = answering(origin, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    world
        .directory
        .put("app", at(&world.node.member, reference.as_str()));
    let answer = of_front_alone(&world).send().await.unwrap();
    assert_eq!(answer.status(), 502);
    let body: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(body["code"], "policy_not_known");
    assert_eq!(count.load(Ordering::SeqCst), 0);
    // Here the node's own route says how.
    let answer = world.front.client().get("app", "/").await;
    assert_eq!(answer.status(), 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_node_could_follow_of_a_fronts_route_is_refused_and_never_left_out_in_silence()
{
    let kinds = [
        ("[route.admission]\nmethods = [\"GET\"]\n", 502),
        ("[route.asleep]\nhealth_paths = [\"/up\"]\n", 502),
        ("[route.limits]\nmax_inflight = 1\n", 502),
        ("[route.retry]\non_wake = [502]\n", 502),
        ("[route.wake]\nrequire_memory = true\n", 502),
        ("[route.wake]\nready = \"health\"\n", 502),
        ("[route.wake.hooks]\nresumed = \"/up\"\n", 502),
        ("[route.tunnel]\nwake = \"first-frame\"\n", 502),
        ("tunnel = { park = { after = \"2m\" } }\n", 502),
        ("[route.tunnel]\nidle = \"5m\"\n", 200),
        ("waiting_page = true\n", 200),
        ("[route.wake]\nwarmup = \"/up\"\n", 200),
    ];
    let front = kinds
        .iter()
        .enumerate()
        .fold(String::new(), |mut text, (number, (keys, _))| {
            let route =
                format!("[[route]]\nhost = \"k{number}.example\"\ninstance = \"app\"\n{keys}");
            text.push_str(&route);
            text
        });
    let world = World::with(&front, "").await;
    let (reference, origin) = world.plane.own_origin("app").await;
    let count = answering(origin, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let place = at(&world.node.member, reference.as_str());
    world.directory.put("app", place);
    for (number, (keys, status)) in kinds.iter().enumerate() {
        let client = &world.front.client().http;
        let request = client.get(format!("http://{}/", world.front.address));
        let request = request.header("host", format!("k{number}.example"));
        let answer = timeout(PATIENCE, request.send()).await.unwrap().unwrap();
        assert_eq!(answer.status(), *status, "{keys}");
        if *status == 502 {
            let body: serde_json::Value = answer.json().await.unwrap();
            assert_eq!(body["code"], "policy_not_known", "{keys}");
        }
    }
    let served = kinds.iter().filter(|(_, status)| *status == 200).count();
    assert_eq!(count.load(Ordering::SeqCst), served);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_is_asked_for_its_body_when_the_instance_is_ready() {
    let front = "[[route]]\nhost = \"app.test\"\ninstance = \"app\"\nport = 9000\n";
    let world = World::with(front, "").await;
    let (instance, door) = world.plane.behind_a_door("app").await;
    world.claim(&instance);
    let mut stream = waits_for_100(&world).await;
    let held = "wakegate_held_requests";
    eventually("the node holds it", async || {
        world.node.gateway.metric(held).await >= 1.0
    })
    .await;
    let asked = stream.try_read(&mut [0; 100]);
    let asked = asked.expect_err("it was asked for before the instance was ready");
    assert_eq!(asked.kind(), std::io::ErrorKind::WouldBlock);
    door.open().await;
    let asked = read_until(&mut stream, "\r\n\r\n").await;
    assert!(asked.starts_with("HTTP/1.1 100"), "{asked}");
    stream.write_all(b"hello").await.unwrap();
    let answer = read_until(&mut stream, "}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("{\"bytes\":5}"), "{answer}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_is_refused_without_it() {
    let node = "[[route]]\nhost = \"shut.test\"\ninstance = \"shut\"\n\
                [route.admission]\nmethods = [\"GET\"]\n\
                [route.asleep]\nstatus = 418\n";
    let world = World::with("", node).await;
    let instance = world.plane.asleep(Wanted::hello("shut")).await;
    world.claim(&instance);
    let mut stream = TcpStream::connect(world.front.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: shut.test\r\nexpect: 100-continue\r\n\
                connection: close\r\ncontent-length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "}").await;
    assert!(answer.starts_with("HTTP/1.1 418"), "{answer}");
    assert_eq!(world.plane.operations(&instance.id, "restore").await, 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_asks_for_bodies_early_does_so_at_the_front() {
    let front = "[[route]]\nhost = \"app.test\"\ninstance = \"app\"\nport = 9000\n\
                 early_continue = true\n";
    let world = World::with(front, "").await;
    let (instance, door) = world.plane.behind_a_door("app").await;
    world.claim(&instance);
    let mut stream = waits_for_100(&world).await;
    let asked = read_until(&mut stream, "\r\n\r\n").await;
    assert!(asked.starts_with("HTTP/1.1 100"), "{asked}");
    door.open().await;
    stream.write_all(b"hello").await.unwrap();
    let answer = read_until(&mut stream, "}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    world.stop().await;
}

/// An application that says which of its connections a request has come on, from 0.
async fn counting(origin: tokio::net::TcpListener) {
    let connections = Arc::new(AtomicUsize::new(0));
    while let Ok((mut stream, _)) = origin.accept().await {
        let connections = Arc::clone(&connections);
        spawn(async move {
            let (mut head, mut part, mut number) = (Vec::new(), [0; 4096], None);
            while let Ok(some @ 1..) = stream.read(&mut part).await {
                head.extend_from_slice(&part[..some]);
                if !head.windows(4).any(|four| four == b"\r\n\r\n") {
                    continue;
                }
                head.clear();
                // Who only looks whether the port is open counts for nothing.
                let one = || connections.fetch_add(1, Ordering::SeqCst);
                let number = *number.get_or_insert_with(one);
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n[{number:02}]");
                let _sent = stream.write_all(answer.as_bytes()).await;
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_for_a_connection_stay_with_their_client() {
    let world = World::new().await;
    let (reference, origin) = world.plane.own_origin("app").await;
    spawn(counting(origin));
    world
        .directory
        .put("app", at(&world.node.member, reference.as_str()));
    let mut clients = [
        TcpStream::connect(world.front.address).await.unwrap(),
        TcpStream::connect(world.front.address).await.unwrap(),
    ];
    let bound = "GET / HTTP/1.1\r\nhost: app.test\r\nauthorization: NTLM abc\r\n\r\n";
    let plain = "GET / HTTP/1.1\r\nhost: app.test\r\n\r\n";
    let mut heard = Vec::new();
    for (client, request) in [(0, bound), (1, plain), (0, plain), (1, plain), (0, bound)] {
        let stream = &mut clients[client];
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(stream, "]").await;
        let number = answer.split('[').nth(1).unwrap().to_owned();
        heard.push(number);
    }
    assert_eq!(heard, ["00]", "01]", "00]", "01]", "00]"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_the_front_lets_in_the_node_lets_in_too() {
    let rules = "[[route]]\nhost = \"app.test\"\ninstance = \"app\"\n\
                 request_headers = { set = [\"x-added: 1\", \"x-more: 2\"] }\n";
    let server = "[server]\nmax_headers = 300\n";
    let world = World::with(&format!("{rules}{server}"), server).await;
    let (reference, origin) = world.plane.own_origin("app").await;
    let count = answering(origin, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    world
        .directory
        .put("app", at(&world.node.member, reference.as_str()));
    let mut head = "GET / HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\n".to_owned();
    for number in 0..290 {
        // Each of them counts for 28 bytes more over HTTP/2.
        write!(head, "x-{number:03}: {}\r\n", "v".repeat(215)).unwrap();
    }
    head.push_str("\r\n");
    assert!((64_000..65_536).contains(&head.len()), "{}", head.len());
    let mut stream = TcpStream::connect(world.front.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(count.load(Ordering::SeqCst), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_alone_that_would_switch_is_answered_as_usual() {
    let world = World::new().await;
    let instance = world.plane.listening(Wanted::hello("app")).await;
    world.claim(&instance);
    let mut stream = TcpStream::connect(world.front.address).await.unwrap();
    let head = "HEAD / HTTP/1.1\r\nhost: app.test\r\nconnection: upgrade, close\r\n\
                upgrade: foo\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    world.stop().await;
}
