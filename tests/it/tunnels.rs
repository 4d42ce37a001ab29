//! The rules for upgraded and raw connections: how long, how many, who may wake, and how they end.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _, stream};
use hypeman::wire::InstanceState;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::Error as WebSocketError;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use wakegate::config::LogConfig;
use wakegate::telemetry::AccessSink;

use crate::observability::MetricsFile;
use crate::support::gateway_process::GatewayProcess;
use crate::support::{
    Gateway, PATIENCE, Plane, Wanted, eventually, eventually_within, number, spawn,
};

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub const UPGRADE: &str = "GET /ws HTTP/1.1\r\nhost: own.test\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
pub const SWITCHED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                          upgrade: websocket\r\n\
                          sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

pub async fn try_open(
    gateway: &Gateway,
    instance: &str,
    fields: &[(&'static str, &str)],
) -> Result<(Socket, http::HeaderMap), WebSocketError> {
    open_at(gateway.address, instance, fields).await
}

async fn open_at(
    gateway: SocketAddr,
    instance: &str,
    fields: &[(&'static str, &str)],
) -> Result<(Socket, http::HeaderMap), WebSocketError> {
    let url = format!("ws://{gateway}/ws");
    let mut request = url.into_client_request().unwrap();
    let host = format!("{instance}.test").parse().unwrap();
    request.headers_mut().insert("host", host);
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let connecting = tokio_tungstenite::connect_async(request);
    let (socket, response) = timeout(PATIENCE, connecting).await.unwrap()?;
    Ok((socket, response.headers().clone()))
}

pub async fn open(gateway: &Gateway, instance: &str) -> Socket {
    try_open(gateway, instance, &[]).await.unwrap().0
}

/// The status and the code of a handshake that is refused.
async fn refusal(gateway: &Gateway, instance: &str) -> (u16, String) {
    let refused = try_open(gateway, instance, &[]).await;
    let Err(WebSocketError::Http(response)) = refused else {
        panic!("{refused:?}");
    };
    let body: Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
    (
        response.status().as_u16(),
        body["code"].as_str().unwrap().to_owned(),
    )
}

/// The next frame that is no pong.
pub async fn next<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
) -> Option<Message> {
    let reading = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Pong(_) | Message::Ping(_))) => {}
                Some(Ok(message)) => return Some(message),
                Some(Err(_)) | None => return None,
            }
        }
    };
    timeout(PATIENCE, reading).await.unwrap()
}

/// The code and the reason of the close that comes next.
pub async fn closed<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
) -> (u16, String) {
    match next(socket).await {
        Some(Message::Close(Some(frame))) => (frame.code.into(), frame.reason.to_string()),
        other => panic!("{other:?}"),
    }
}

pub async fn echoes<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    text: &'static str,
) {
    socket.send(Message::text(text)).await.unwrap();
    assert_eq!(next(socket).await, Some(Message::text(text)));
}

/// Sends pings, and nothing else, until it is closed; the code and the reason of that.
pub async fn pings_until_closed<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: WebSocketStream<S>,
    every: Duration,
) -> (u16, String) {
    let mut pings = tokio::time::interval(every);
    loop {
        tokio::select! {
            _ = pings.tick() => {
                let _closed = socket.send(Message::Ping(Bytes::from_static(b"x"))).await;
            }
            message = socket.next() => match message {
                // The application answers a ping by another, too.
                Some(Ok(Message::Pong(_) | Message::Ping(_))) => {}
                Some(Ok(Message::Close(Some(frame)))) => {
                    return (frame.code.into(), frame.reason.to_string());
                }
                other => panic!("{other:?}"),
            },
        }
    }
}

async fn start(plane: &Plane, extra: &str) -> (Gateway, MetricsFile) {
    let paper = MetricsFile::default();
    let access = AccessSink::to(paper.clone(), &LogConfig::default());
    let gateway = Gateway::start_with(plane.address, &plane.token, extra, access).await;
    (gateway, paper)
}

/// Who ended the connections so far.
async fn ends(paper: &MetricsFile, count: usize) -> Vec<String> {
    eventually("lines", async || paper.lines().len() == count).await;
    let lines = paper.lines().into_iter();
    lines
        .map(|line| line["ended_by"].as_str().unwrap_or("-").to_owned())
        .collect()
}

pub async fn in_state(gateway: &Gateway, state: &str) -> f64 {
    let name = format!("wakegate_tunnels{{state=\"{state}\"}}");
    gateway.metric(&name).await
}

pub async fn until_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = stream.read_to_end(&mut bytes);
    let _reset = timeout(PATIENCE, reading).await.unwrap();
    bytes
}

pub async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let reading = stream.read_u8();
        bytes.push(timeout(PATIENCE, reading).await.unwrap().unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

/// A tunnel whose instance is the test's own.
async fn own_tunnel(gateway: &Gateway, origin: &tokio::net::TcpListener) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    client.write_all(UPGRADE.as_bytes()).await.unwrap();
    let mut instance = loop {
        let (mut stream, _) = origin.accept().await.unwrap();
        // Others may be probes.
        let mut first = [0];
        if stream.peek(&mut first).await.unwrap() > 0 {
            head(&mut stream).await;
            break stream;
        }
    };
    instance.write_all(SWITCHED).await.unwrap();
    assert!(head(&mut client).await.starts_with("HTTP/1.1 101 "));
    (client, instance)
}

/// By hand with as many as a process may have here: `DESCRIPTORS=13000`.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_pinging_clients_as_descriptors_allow_keep_no_instance_awake() {
    let plane = Plane::start().await;
    let wanted = Wanted::hello("tabs").idle(Duration::from_secs(1));
    let instance = plane.asleep(wanted).await;
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), &plane.token).unwrap();
    // Each takes two of the gateway, and three of this process: it is the clients and the control plane, behind whose
    // address an instance of the process driver is.
    let descriptors = number("DESCRIPTORS").unwrap_or(592);
    let count = wakegate::descriptors::for_clients(descriptors) as u64;
    // None is to be closed before the last is open.
    let idle = Duration::from_millis(6000 + 20 * count);
    // One client alone gets three quarters of an instance's places, and a tunnel takes one.
    let places = 2 * count;
    let config = format!(
        "[server]\nmax_connections_per_client = {places}\n\
         [[hypeman]]\nurl = \"http://{}\"\napi_key_file = {:?}\n\
         [[route]]\nhost = \"{{instance}}.test\"\ninstance = \"{{instance}}\"\nport = 8080\n\
         [route.limits]\nmax_inflight = {places}\nsoft_inflight = {places}\n\
         [route.tunnel]\nidle = \"{}ms\"\n",
        plane.address,
        key.path(),
        idle.as_millis()
    );
    let gateway = GatewayProcess::start_under(Some(descriptors), "", &config).await;
    let are_open = async || gateway.metric("wakegate_tunnels{state=\"open\"}").await;
    let (address, most) = (gateway.listen, f64::from(u32::try_from(count).unwrap()));
    // So often that none would be idle if pings counted, and so seldom that a busy machine keeps up.
    let every = Duration::from_millis(300.max(count));
    let began = Instant::now();
    let opening = stream::iter(0..count).map(|number| async move {
        let opened = open_at(address, "tabs", &[]).await;
        let (socket, _) = opened.unwrap_or_else(|error| panic!("number {number}: {error}"));
        socket
    });
    let opened = opening.buffer_unordered(20);
    let pinging = opened.map(|socket| spawn(pings_until_closed(socket, every)));
    let pinging: Vec<_> = pinging.collect().await;
    let took = began.elapsed();
    assert_eq!(are_open().await, most, "after {took:?}");
    for one in pinging {
        let close = timeout(PATIENCE + idle, one).await.unwrap().unwrap();
        assert_eq!(close, (1001, "idle".to_owned()));
    }
    let limit = Duration::from_secs(10);
    eventually_within(limit, "it sleeps", async || {
        plane.state(&instance.id).await == InstanceState::Standby
    })
    .await;
    let ended = "wakegate_tunnels_ended_total{by=\"idle\"}";
    assert_eq!(gateway.metric(ended).await, most);
    assert_eq!(are_open().await, 0.0);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_keeps_a_tunnel_open_and_its_longest_life_ends_it_all_the_same() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("busy")).await;
    let rules = "[route.tunnel]\nidle = \"1s\"\nmax_life = \"3s\"\n";
    let (gateway, paper) = start(&plane, rules).await;
    let (mut socket, began) = (open(&gateway, "busy").await, Instant::now());
    let close = loop {
        socket.send(Message::text("more")).await.unwrap();
        match next(&mut socket).await {
            Some(Message::Text(_)) => sleep(Duration::from_millis(400)).await,
            Some(Message::Close(Some(frame))) => {
                break (u16::from(frame.code), frame.reason.to_string());
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(close, (1001, "max_life".to_owned()));
    assert!(began.elapsed() >= Duration::from_millis(2900));
    assert_eq!(ends(&paper, 1).await, ["max_life"]);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_told_by_a_masked_close_and_no_close_is_in_the_middle_of_a_frame() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("own").await;
    let (gateway, paper) = start(&plane, "[route.tunnel]\nidle = \"700ms\"\n").await;

    // Both are between frames; a ping before does not count.
    let (mut client, mut instance) = own_tunnel(&gateway, &origin).await;
    instance.write_all(b"\x89\x00").await.unwrap();
    assert_eq!(
        until_end(&mut client).await,
        b"\x89\x00\x88\x06\x03\xe9idle"
    );
    let bytes = until_end(&mut instance).await;
    assert_eq!((bytes[0], bytes[1], bytes.len()), (0x88, 0x86, 12));
    let payload = bytes[6..].iter().zip(bytes[2..6].iter().cycle());
    let payload: Vec<u8> = payload.map(|(byte, mask)| byte ^ mask).collect();
    assert_eq!(payload, b"\x03\xe9idle");

    // The instance is in the middle of a frame, and the client is not.
    let (mut client, mut instance) = own_tunnel(&gateway, &origin).await;
    instance.write_all(b"\x82\x05abc").await.unwrap();
    assert_eq!(until_end(&mut client).await, b"\x82\x05abc");
    assert_eq!(until_end(&mut instance).await[0], 0x88);

    // The same, but the rest of the frame comes in time.
    let (mut client, mut instance) = own_tunnel(&gateway, &origin).await;
    instance.write_all(b"\x82\x05abc").await.unwrap();
    // The instance is told while its own frame is under way.
    assert_eq!(instance.read_u8().await.unwrap(), 0x88);
    instance.write_all(b"de\x82\x01f").await.unwrap();
    let bytes = until_end(&mut client).await;
    assert_eq!(bytes, b"\x82\x05abcde\x88\x06\x03\xe9idle");

    // What is no WebSocket after all just ends.
    let (mut client, mut instance) = own_tunnel(&gateway, &origin).await;
    instance.write_all(b"\x09\x7fno frames").await.unwrap();
    assert_eq!(until_end(&mut client).await, b"\x09\x7fno frames");
    drop(instance);
    assert_eq!(ends(&paper, 4).await, ["idle"; 4]);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_as_many_tunnels_as_its_route_allows_and_a_refusal_wakes_nobody() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("few")).await;
    let none = "[route.tunnel]\nmax_per_client = 0\n";
    let (gateway, _) = start(&plane, none).await;
    let limited = (429, "tunnel_limit".to_owned());
    assert_eq!(refusal(&gateway, "few").await, limited);
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    assert_eq!(gateway.client().get("few", "/").await.status(), 200);
    gateway.stop().await;

    let two = "[route.tunnel]\nmax_per_client = 2\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
               mode = \"tcp\"\nhost = \"few.test\"\n";
    let (gateway, _) = start(&plane, two).await;
    let first = open(&gateway, "few").await;
    let mut raw = TcpStream::connect(gateway.addresses[1]).await.unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut raw).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(refusal(&gateway, "few").await, limited);
    let mut other = TcpStream::connect(gateway.addresses[1]).await.unwrap();
    assert!(until_end(&mut other).await.is_empty());
    drop(first);
    eventually("its place is free", async || {
        let again = try_open(&gateway, "few", &[]).await;
        again.is_ok()
    })
    .await;
    drop(raw);
    // A request that is not switched takes none for longer than it lasts.
    for _ in 0..5 {
        let asking = gateway.client();
        let asking = asking.request("GET", "few", "/");
        let fields = asking
            .header("connection", "upgrade")
            .header("upgrade", "foo");
        eventually("it is answered", async || {
            let answer = fields.try_clone().unwrap().send().await.unwrap();
            answer.status() == 200
        })
        .await;
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_instance_and_a_restart_are_told_apart_by_their_closes() {
    let plane = Plane::start().await;
    let instance = plane.listening(Wanted::hello("told")).await;
    let (mut gateway, paper) = start(&plane, "[server]\ndrain_timeout = \"200ms\"\n").await;
    let mut socket = open(&gateway, "told").await;
    echoes(&mut socket, "hello").await;
    plane.sleep(&instance.id).await;
    assert_eq!(closed(&mut socket).await, (1012, "sleep".to_owned()));
    assert_eq!(ends(&paper, 1).await, ["sleep"]);

    let mut socket = open(&gateway, "told").await;
    echoes(&mut socket, "hello again").await;
    gateway.drain();
    assert_eq!(closed(&mut socket).await, (1001, "drain".to_owned()));
    assert_eq!(ends(&paper, 2).await[1], "gateway");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_connection_is_idle_without_bytes() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("raw")).await;
    let rules = "[route.tunnel]\nidle = \"600ms\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
                 mode = \"tcp\"\nhost = \"raw.test\"\n";
    let (gateway, paper) = start(&plane, rules).await;
    let mut stream = TcpStream::connect(gateway.addresses[1]).await.unwrap();
    for _ in 0..4 {
        stream
            .write_all(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        sleep(Duration::from_millis(300)).await;
    }
    assert!(until_end(&mut stream).await.is_empty());
    assert_eq!(ends(&paper, 1).await, ["idle"]);
    gateway.stop().await;
    plane.stop().await;
}

const FIRST_FRAME: &str = "[route.tunnel]\nwake = \"first-frame\"\nsubprotocols = [\"chat.v2\"]\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_tab_that_connects_again_wakes_nobody_before_its_first_data_frame() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("lazy")).await;
    let (gateway, paper) = start(&plane, FIRST_FRAME).await;
    let offers = [
        ("sec-websocket-protocol", "chat.v1, chat.v2"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ];
    let (mut socket, answer) = try_open(&gateway, "lazy", &offers).await.unwrap();
    assert_eq!(answer["sec-websocket-protocol"], "chat.v2");
    assert!(!answer.contains_key("sec-websocket-extensions"));
    for text in ["one", "two"] {
        socket
            .send(Message::Ping(Bytes::from_static(text.as_bytes())))
            .await
            .unwrap();
        let pong = timeout(PATIENCE, socket.next()).await.unwrap();
        let pong = pong.unwrap().unwrap();
        assert_eq!(pong.into_data(), text.as_bytes());
    }
    assert_eq!(in_state(&gateway, "waiting").await, 1.0);
    // Another one closes without having woken anybody.
    let (mut other, answer) = try_open(&gateway, "lazy", &[]).await.unwrap();
    assert!(!answer.contains_key("sec-websocket-protocol"));
    other.close(None).await.unwrap();
    while let Some(Ok(_)) = other.next().await {}
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);

    socket.feed(Message::text("wake up")).await.unwrap();
    socket.feed(Message::text("and on")).await.unwrap();
    socket.flush().await.unwrap();
    assert_eq!(next(&mut socket).await, Some(Message::text("wake up")));
    assert_eq!(next(&mut socket).await, Some(Message::text("and on")));
    assert_eq!(plane.operations(&instance.id, "restore").await, 1);
    assert_eq!(in_state(&gateway, "waiting").await, 0.0);
    assert_eq!(in_state(&gateway, "open").await, 1.0);
    echoes(&mut socket, "still there").await;
    // While it is awake, a handshake is the instance's own.
    let mut third = open(&gateway, "lazy").await;
    echoes(&mut third, "directly").await;
    drop((socket, third));
    let lines = ends(&paper, 3).await;
    assert_eq!(lines, ["client"; 3]);
    let woken = paper
        .lines()
        .into_iter()
        .find(|line| line["wake"] == "cold");
    assert!(woken.is_some_and(|line| line["status"] == 101));
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_first_frame_from_its_instance_closes_with_its_code() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("shy")).await;
    let rules = format!("{FIRST_FRAME}[route.wake]\ntimeout = \"2s\"\n");
    let (gateway, paper) = start(&plane, &rules).await;
    let mut socket = open(&gateway, "shy").await;
    plane.faults("{ \"error_percent\": 100 }").await;
    socket.send(Message::text("hello")).await.unwrap();
    let (code, reason) = closed(&mut socket).await;
    assert!(
        (1011..=1014).contains(&code) && !reason.is_empty(),
        "{code} {reason}"
    );
    let line = |paper: &MetricsFile| paper.lines().pop().unwrap();
    eventually("its line", async || !paper.lines().is_empty()).await;
    assert_eq!(line(&paper)["error"], reason);
    plane.faults("{}").await;
    let bad = UPGRADE.replace("own.test", "shy.test");
    for (wrong, instead) in [
        ("sec-websocket-version: 13", "sec-websocket-version: 12"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="),
    ] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let request = bad.replace(wrong, instead);
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(
            head(&mut stream).await.starts_with("HTTP/1.1 400 "),
            "{instead}"
        );
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_tunnel_has_the_routes_rules_and_ends_with_the_gateway() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("wait")).await;
    let rules = format!("{FIRST_FRAME}idle = \"1s\"\nmax_per_client = 1\n");
    let (mut gateway, paper) = start(
        &plane,
        &format!("{rules}[server]\ndrain_timeout = \"100ms\"\n"),
    )
    .await;
    let mut socket = open(&gateway, "wait").await;
    assert_eq!(refusal(&gateway, "wait").await.0, 429);
    socket.send(Message::Ping(Bytes::new())).await.unwrap();
    assert_eq!(closed(&mut socket).await, (1001, "idle".to_owned()));
    drop(socket);
    assert_eq!(
        ends(&paper, 2)
            .await
            .iter()
            .filter(|end| *end == "idle")
            .count(),
        1
    );
    let mut socket = open(&gateway, "wait").await;
    gateway.drain();
    assert_eq!(closed(&mut socket).await, (1001, "drain".to_owned()));
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    gateway.stop().await;
    plane.stop().await;
}
