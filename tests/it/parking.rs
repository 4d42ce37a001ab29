//! Tunnels that outlive their instance's sleep.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hypeman::wire::{Instance, InstanceState};
use serde_json::Value;
use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::support::{Gateway, PATIENCE, Plane, Wanted, eventually, eventually_within, reference};
use crate::tunnels::{Socket, closed, echoes, head, in_state, next, open, until_end};

const PARK: &str = "[route.tunnel]\npark = { after = \"200ms\", probe = \"2s\" }\n";
const IDLE: Duration = Duration::from_millis(1500);
/// Long enough that what would happen has happened.
const LONG: Duration = Duration::from_secs(30);

/// An instance whose connections outlive its sleep.
pub fn keeping(name: &str) -> Wanted {
    let mut wanted = Wanted::hello(name).idle(IDLE);
    let tag = ("wakegate.flows".to_owned(), "keep".to_owned());
    wanted.request.tags.extend([tag]);
    wanted
}

pub async fn start(name: &str, rules: &str) -> (Plane, Instance, Gateway) {
    let plane = Plane::start().await;
    let instance = plane.listening(keeping(name)).await;
    let gateway = Gateway::start(&plane, rules).await;
    (plane, instance, gateway)
}

pub async fn sleeps(plane: &Plane, id: &str) {
    eventually_within(LONG, "it sleeps", async || {
        plane.state(id).await == InstanceState::Standby
    })
    .await;
}

pub async fn parks(gateway: &Gateway, outcome: &str) -> f64 {
    let name = format!("wakegate_tunnel_parks_total{{outcome=\"{outcome}\"}}");
    gateway.metric(&name).await
}

pub async fn unparks(gateway: &Gateway, cause: &str) -> f64 {
    let name = format!("wakegate_tunnel_unparks_total{{cause=\"{cause}\"}}");
    gateway.metric(&name).await
}

pub async fn ping(socket: &mut Socket) {
    let payload = Bytes::from_static(b"there?");
    socket.send(Message::Ping(payload.clone())).await.unwrap();
    let answered = async {
        // The instance may have answered the gateway before.
        while socket.next().await.unwrap().unwrap() != Message::Pong(payload.clone()) {}
    };
    timeout(PATIENCE, answered).await.unwrap();
}

pub async fn stop(plane: Plane, gateway: Gateway) {
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_has_lost_its_connections_has_their_clients_told() {
    let plane = Plane::start().await;
    let instance = plane.listening(Wanted::hello("lossy").idle(IDLE)).await;
    let gateway = Gateway::start(&plane, PARK).await;
    let mut socket = open(&gateway, "lossy").await;
    echoes(&mut socket, "hello").await;
    // Its driver breaks them off when it falls asleep.
    let (code, reason) = closed(&mut socket).await;
    assert_eq!((code, reason.as_str()), (1012, "instance restarted"));
    sleeps(&plane, &instance.id).await;
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    assert_eq!(in_state(&gateway, "parked").await, 0.0);
    stop(plane, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_cannot_be_woken_closes_its_parked_tunnels_with_the_code() {
    let rules = format!("{PARK}[route.wake]\ntimeout = \"2s\"\n");
    let (plane, instance, gateway) = start("stuck", &rules).await;
    let mut socket = open(&gateway, "stuck").await;
    echoes(&mut socket, "hello").await;
    sleeps(&plane, &instance.id).await;
    plane.faults("{ \"error_percent\": 100 }").await;
    socket.send(Message::text("wake up")).await.unwrap();
    let (code, reason) = closed(&mut socket).await;
    assert!(code == 1013 && !reason.is_empty(), "{code} {reason}");
    assert_eq!(unparks(&gateway, "failed").await, 1.0);
    plane.faults("{}").await;
    stop(plane, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_tunnel_of_an_instance_that_is_gone_ends() {
    let (plane, instance, gateway) = start("gone", PARK).await;
    let mut socket = open(&gateway, "gone").await;
    echoes(&mut socket, "hello").await;
    sleeps(&plane, &instance.id).await;
    let id = reference(&instance.id);
    let deleted = plane.client.delete_instance(&id);
    deleted.await.unwrap();
    // The connection breaks, or the list says so, or the frame finds out.
    let _ended = socket.send(Message::text("still there?")).await;
    assert_eq!(closed(&mut socket).await.0, 1012);
    stop(plane, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_wakes_nobody_and_nor_does_the_end_of_a_tunnels_time() {
    let rules = "[route.tunnel]\npark = { after = \"200ms\", max_time = \"6s\" }\n";
    let (plane, instance, gateway) = start("done", rules).await;
    let (mut closes, mut drops) = (open(&gateway, "done").await, open(&gateway, "done").await);
    let mut stays = open(&gateway, "done").await;
    for socket in [&mut closes, &mut drops, &mut stays] {
        echoes(socket, "hello").await;
    }
    sleeps(&plane, &instance.id).await;
    closes.close(None).await.unwrap();
    assert!(matches!(next(&mut closes).await, Some(Message::Close(_))));
    drop(drops);
    eventually("both are gone", async || {
        unparks(&gateway, "closed").await == 2.0 && in_state(&gateway, "parked").await <= 1.0
    })
    .await;
    assert_eq!(closed(&mut stays).await, (1001, "park_time".to_owned()));
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    assert_eq!(plane.state(&instance.id).await, InstanceState::Standby);
    // What was left behind is told at the next wake, and keeps nobody awake.
    assert_eq!(gateway.client().get("done", "/").await.status(), 200);
    eventually("its connections have ended", async || {
        let id = reference(&instance.id);
        let status = plane.client.auto_standby_status(&id).await.unwrap();
        status.active_inbound_connections == 0
    })
    .await;
    stop(plane, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_connection_or_one_tunnel_too_many_keeps_the_instance_awake() {
    let rules = "[route.tunnel]\npark = { after = \"200ms\", max = 1 }\n";
    let (plane, instance, gateway) = start("shared", rules).await;
    let ip = instance.network.clone().unwrap().ip.unwrap();
    let other = TcpStream::connect((ip.as_str(), 8080)).await.unwrap();
    let mut socket = open(&gateway, "shared").await;
    echoes(&mut socket, "hello").await;
    eventually("it is refused", async || {
        parks(&gateway, "refused").await >= 2.0
    })
    .await;
    assert_eq!(plane.state(&instance.id).await, InstanceState::Running);
    let mut second = open(&gateway, "shared").await;
    echoes(&mut second, "one more").await;
    drop(other);
    eventually("there is no place", async || {
        parks(&gateway, "full").await >= 1.0
    })
    .await;
    sleep(IDLE * 2).await;
    assert_eq!(plane.state(&instance.id).await, InstanceState::Running);
    drop(second);
    sleeps(&plane, &instance.id).await;
    echoes(&mut socket, "and on").await;
    stop(plane, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_goes_on_over_sleeps_and_its_frame_is_what_woke() {
    let (plane, instance, gateway) = start("chat", PARK).await;
    let mut socket = open(&gateway, "chat").await;
    for round in 0..3_u32 {
        echoes(&mut socket, "hello").await;
        sleeps(&plane, &instance.id).await;
        assert_eq!(in_state(&gateway, "parked").await, 1.0);
        ping(&mut socket).await;
        ping(&mut socket).await;
        let restores = plane.operations(&instance.id, "restore").await;
        assert_eq!(restores, round as usize, "a ping wakes nobody");
        // Many at once, more than is kept beforehand; each comes once and in order.
        let texts: Vec<String> = (0..60).map(|n| format!("{n:0>3000}")).collect();
        let (mut sending, mut receiving) = socket.split();
        let sender = async {
            for text in &texts {
                sending.send(Message::text(text.clone())).await.unwrap();
            }
        };
        let receiver = async {
            for text in &texts {
                let echo = timeout(PATIENCE, receiving.next()).await.unwrap();
                assert_eq!(echo.unwrap().unwrap(), Message::text(text.clone()));
            }
        };
        tokio::join!(sender, receiver);
        socket = sending.reunite(receiving).unwrap();
        let restores = plane.operations(&instance.id, "restore").await;
        assert_eq!(restores, round as usize + 1);
        assert_eq!(in_state(&gateway, "open").await, 1.0);
    }
    assert_eq!(unparks(&gateway, "client").await, 3.0);
    let wakes = reqwest::get(format!("http://{}/api/wakes", gateway.admin)).await;
    let wakes: Value = wakes.unwrap().json().await.unwrap();
    let wakes = wakes.as_array().unwrap();
    let count = |key: &str, value: &str| wakes.iter().filter(|wake| wake[key] == value).count();
    assert_eq!(count("outcome", "parked"), 3);
    assert_eq!(count("unparked_by", "a text frame"), 3);
    stop(plane, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleep_by_hand_parks_and_another_requests_wake_brings_back() {
    let (plane, instance, gateway) = start("hand", PARK).await;
    let mut socket = open(&gateway, "hand").await;
    echoes(&mut socket, "hello").await;
    let url = format!("http://{}/api/instances/hand/standby", gateway.admin);
    let done = reqwest::Client::new().post(url).send().await.unwrap();
    assert!(done.status().is_success(), "{}", done.status());
    eventually("it is parked", async || {
        in_state(&gateway, "parked").await == 1.0
    })
    .await;
    assert_eq!(gateway.client().get("hand", "/").await.status(), 200);
    // Without payload it lets the instance sleep again.
    let began = Instant::now();
    sleeps(&plane, &instance.id).await;
    assert!(began.elapsed() < LONG);
    echoes(&mut socket, "still there").await;
    stop(plane, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_connection_whose_instance_cannot_be_woken_is_reset() {
    let rules = format!(
        "{PARK}[route.wake]\ntimeout = \"2s\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         mode = \"tcp\"\nhost = \"raw.test\"\n"
    );
    let (plane, instance, gateway) = start("raw", &rules).await;
    let mut stream = TcpStream::connect(gateway.addresses[1]).await.unwrap();
    let request = b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    sleeps(&plane, &instance.id).await;
    plane.faults("{ \"error_percent\": 100 }").await;
    stream.write_all(request).await.unwrap();
    let reading = stream.read_u8();
    let error = timeout(PATIENCE, reading).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(unparks(&gateway, "failed").await, 1.0);
    plane.faults("{}").await;
    stop(plane, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_connection_whose_instance_is_gone_is_reset() {
    let rules = format!(
        "{PARK}[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"raw.test\"\n"
    );
    let (plane, instance, gateway) = start("raw", &rules).await;
    let mut stream = TcpStream::connect(gateway.addresses[1]).await.unwrap();
    let request = b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    sleeps(&plane, &instance.id).await;
    let id = reference(&instance.id);
    plane.client.delete_instance(&id).await.unwrap();
    // Whichever comes first hears of it, and what comes after that sees an end.
    let error = match stream.write_all(request).await {
        Ok(()) => timeout(PATIENCE, stream.read_u8())
            .await
            .unwrap()
            .unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    stop(plane, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_connection_is_woken_by_its_next_byte_and_takes_no_place_while_it_rests() {
    let rules = format!(
        "{PARK}[route.limits]\nmax_inflight = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         mode = \"tcp\"\nhost = \"raw.test\"\n"
    );
    let (plane, instance, gateway) = start("raw", &rules).await;
    let mut stream = TcpStream::connect(gateway.addresses[1]).await.unwrap();
    let request = b"GET /count HTTP/1.1\r\nhost: x\r\n\r\n";
    for _ in 0..2 {
        stream.write_all(request).await.unwrap();
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        stream.read_u8().await.unwrap();
        sleeps(&plane, &instance.id).await;
    }
    // The only place is free.
    assert_eq!(gateway.client().get("raw", "/").await.status(), 200);
    gateway.stop().await;
    // A restart ends it.
    until_end(&mut stream).await;
    plane.stop().await;
}

/// Its system does not hear what comes over it any more, as if a wall stood between.
fn deafen(stream: &TcpStream) {
    // BPF_RET: nothing of a packet is kept.
    let drop_all = SockFilter::new(6, 0, 0, 0);
    SockRef::from(stream).attach_filter(&[drop_all]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_connection_that_its_instance_does_not_acknowledge_after_a_wake_is_reset() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("own").await;
    let rules = format!(
        "{PARK}[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"own.test\"\n"
    );
    let gateway = Gateway::start(&plane, &rules).await;
    let mut stream = TcpStream::connect(gateway.addresses[1]).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let taking = async {
        let mut coming = JoinSet::new();
        loop {
            tokio::select! {
                accepted = origin.accept() => {
                    let (mut app, _) = accepted.unwrap();
                    coming.spawn(async move { app.read_exact(&mut [0; 5]).await.map(|_| app) });
                }
                // Others may be probes.
                Some(taken) = coming.join_next() => if let Ok(app) = taken.unwrap() {
                    break app;
                },
            }
        }
    };
    let mut app = timeout(PATIENCE, taking).await.unwrap();
    app.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    eventually("it is parked", async || {
        in_state(&gateway, "parked").await == 1.0
    })
    .await;
    let url = format!("http://{}/api/instances/own/standby", gateway.admin);
    let done = reqwest::Client::new().post(url).send().await.unwrap();
    assert!(done.status().is_success(), "{}", done.status());
    deafen(&app);
    stream.write_all(b"are you there?").await.unwrap();
    // Long before the kernel gives it up by itself.
    let reading = timeout(Duration::from_secs(20), stream.read_u8()).await;
    let error = reading.expect("in time").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    stop(plane, gateway).await;
}
