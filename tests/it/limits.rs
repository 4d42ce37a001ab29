//! Every limit says what it limits: clients that say nothing, take nothing or are slow, instances
//! that are, and how much of all that is in memory.

pub(crate) mod app;
mod crowded;
mod memory;
mod share;
mod upstream;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use app::{Greedy, LONG, Speaks, flood_websocket};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Response};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Gateway, Plane, Wanted, eventually, route, spawn};

/// A client of HTTP/2 in clear, which has windows of these sizes.
async fn h2_client(gateway: &Gateway, stream: u32, connection: u32) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(gateway.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(stream)
        .initial_connection_window_size(connection);
    let (sender, connection) = builder.handshake(socket).await.unwrap();
    spawn(async move { drop(connection.await) });
    sender
}

fn request(method: Method, instance: &str, path: &str) -> Request<()> {
    let uri = format!("http://{instance}.test{path}");
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

/// A response's head.
async fn get(
    client: &mut SendRequest<Bytes>,
    instance: &str,
    path: &str,
) -> Response<h2::RecvStream> {
    let mut client = client.clone().ready().await.unwrap();
    let (response, _) = client
        .send_request(request(Method::GET, instance, path), true)
        .unwrap();
    timeout(LONG, response).await.unwrap().unwrap()
}

/// How a body ends of which nothing is taken.
async fn end_of(body: &mut h2::RecvStream) -> Option<h2::Reason> {
    while let Some(part) = timeout(LONG, body.data()).await.expect("no end") {
        if let Err(error) = part {
            return Some(error.reason().unwrap_or(h2::Reason::NO_ERROR));
        }
    }
    None
}

fn certificate(dir: &Path, name: &str) -> rustls::pki_types::CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    std::fs::write(dir.join("a.crt"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("a.key"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_agreed_on_http_2_has_a_deadline_for_its_preface_and_for_each_head() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let root = certificate(dir.path(), "edge.test");
    let tls = format!(
        "[listener.tls]\ndir = \"{}\"\n[server]\nheader_timeout = \"1s\"\nidle_timeout = \"1h\"\n",
        dir.path().display()
    );
    let gateway = Gateway::start(&plane, &tls).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // HEADERS without END_HEADERS, of which there is one byte.
    let half_a_head = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
    let half_a_frame = [0, 0, 9, 1, 5, 0, 0, 0, 1, 0x82];
    let cases: [&[u8]; 5] = [
        b"",
        b"PRI * HTTP/2.0\r\n",
        preface,
        &[&preface[..], &settings, &half_a_head].concat(),
        &[&preface[..], &settings, &half_a_frame].concat(),
    ];
    for bytes in cases {
        let socket = TcpStream::connect(gateway.address).await.unwrap();
        let name = ServerName::try_from("edge.test").unwrap();
        let mut stream = connector.connect(name, socket).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        let began = Instant::now();
        let mut rest = Vec::new();
        let ended = timeout(LONG, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "{bytes:?} keeps its connection");
        assert!(began.elapsed() > Duration::from_millis(500), "{bytes:?}");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_2_response_of_which_its_client_takes_nothing_is_reset_and_others_go_on() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("big").await;
    let app = Greedy::serve(origin, Speaks::H1);
    let gateway = Gateway::start(&plane, "[server]\nsend_timeout = \"1s\"\n").await;
    let mib = 1 << 20;
    // What is used up: the stream's window, or the connection's by several streams.
    for (stream, connection, many) in [(1000, 8 * mib, 1), (8 * mib, 65_535, 3)] {
        let mut client = h2_client(&gateway, stream, connection).await;
        assert_eq!(get(&mut client, "big", "/empty").await.status(), 200);
        let mut bodies = Vec::new();
        for _ in 0..many {
            bodies.push(get(&mut client, "big", "/endless").await.into_body());
        }
        for body in &mut bodies {
            assert_eq!(end_of(body).await, Some(h2::Reason::CANCEL));
        }
        eventually("the instance is let go", async || app.open() == 0).await;
        assert_eq!(get(&mut client, "big", "/empty").await.status(), 200);
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_from_its_socket_is_let_go_on_every_protocol() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("big").await;
    let app = Greedy::serve(origin, Speaks::H1);
    let (_, origin) = plane.own_origin("flood").await;
    let flooding = Greedy::serve(origin, Speaks::Flood);
    let raw = "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"flood.test\"\n";
    let config = format!("{raw}[server]\nsend_timeout = \"1s\"\n");
    let gateway = Gateway::start(&plane, &config).await;
    let plain = "GET /endless HTTP/1.1\r\nHost: big.test\r\n\r\n";
    let upgrade = "GET / HTTP/1.1\r\nHost: flood.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let cases = [
        (gateway.addresses[0], plain, &app),
        (gateway.addresses[0], upgrade, &flooding),
        (gateway.addresses[1], plain, &flooding),
    ];
    for (address, bytes, app) in cases {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        eventually("it is answered", async || app.open() == 1).await;
        eventually("the instance is let go", async || app.open() == 0).await;
        // The client has been there all the time.
        drop(stream);
    }
    // The same of HTTP/2, whose windows are open.
    let socket = TcpStream::connect(gateway.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let window = (1 << 31) - 1;
    builder
        .initial_window_size(window)
        .initial_connection_window_size(window);
    let handshake = builder.handshake::<_, Bytes>(socket).await.unwrap();
    let (mut sender, mut connection) = handshake;
    let asked = sender.send_request(request(Method::GET, "big", "/endless"), true);
    let (answer, _) = asked.unwrap();
    tokio::select! {
        answer = answer => assert_eq!(answer.unwrap().status(), 200),
        ended = &mut connection => panic!("{ended:?}"),
    }
    // From here on nobody polls the connection.
    eventually("the instance is let go", async || app.open() == 0).await;
    drop(connection);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_over_http_2_that_takes_nothing_is_let_go() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("flood").await;
    let steps = Arc::<AtomicUsize>::default();
    let flooding = spawn(flood_websocket(origin, Arc::clone(&steps)));
    let gateway = Gateway::start(&plane, "[server]\nsend_timeout = \"1s\"\n").await;
    let mut client = h2_client(&gateway, 65_535, 65_535)
        .await
        .ready()
        .await
        .unwrap();
    let mut connect = request(Method::CONNECT, "flood", "/");
    let protocol = h2::ext::Protocol::from_static("websocket");
    connect.extensions_mut().insert(protocol);
    // The gateway's settings, which allow it, come first.
    eventually("CONNECT is allowed", async || {
        client.is_extended_connect_protocol_enabled()
    })
    .await;
    let (answer, _sending) = client.send_request(connect, false).unwrap();
    let answer = timeout(LONG, answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    eventually("the instance is let go", async || {
        steps.load(Ordering::SeqCst) == 2
    })
    .await;
    flooding.await.unwrap();
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_little_at_a_time_is_served_for_as_long_as_it_likes() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("big").await;
    let app = Greedy::serve(origin, Speaks::H1);
    let gateway = Gateway::start(&plane, "[server]\nsend_timeout = \"1s\"\n").await;
    let mut slow = TcpStream::connect(gateway.address).await.unwrap();
    let head = "GET /endless HTTP/1.1\r\nHost: big.test\r\n\r\n";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut client = h2_client(&gateway, 65_535, 65_535).await;
    let mut body = get(&mut client, "big", "/endless").await.into_body();
    let (began, mut part) = (Instant::now(), vec![0; 128 * 1024]);
    while began.elapsed() < Duration::from_secs(4) {
        slow.read_exact(&mut part).await.unwrap();
        let bytes = timeout(LONG, body.data()).await.unwrap().unwrap().unwrap();
        body.flow_control().release_capacity(bytes.len()).unwrap();
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(app.open(), 2);
    drop((slow, body, client));
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_2_connection_without_a_request_is_closed_after_its_idle_time_and_not_before() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("big").await;
    let _app = Greedy::serve(origin, Speaks::H1);
    let gateway = Gateway::start(&plane, "[server]\nidle_timeout = \"1s\"\n").await;
    let socket = TcpStream::connect(gateway.address).await.unwrap();
    let handshake = h2::client::handshake(socket).await.unwrap();
    let (mut client, connection) = handshake;
    let ending = spawn(connection);
    // A response that goes on is no idle time.
    let body = get(&mut client, "big", "/drip").await.into_body();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(get(&mut client, "big", "/empty").await.status(), 200);
    let began = Instant::now();
    drop(body);
    let ended = timeout(LONG, ending).await.expect("it stays open").unwrap();
    assert!(ended.is_ok(), "{ended:?}");
    assert!(began.elapsed() > Duration::from_millis(900));
    gateway.stop().await;
    plane.stop().await;
}

/// Sends a head and then these parts, half a second apart; returns the answer's first line.
async fn upload(gateway: &Gateway, head: &str, parts: &[&str]) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    for part in parts {
        sleep(Duration::from_millis(500)).await;
        stream.write_all(part.as_bytes()).await.unwrap();
    }
    let mut answer = String::new();
    let read = timeout(LONG, stream.read_to_string(&mut answer)).await;
    read.expect("no answer").unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_for_a_response_begins_when_the_request_has_ended() {
    let plane = Plane::start().await;
    for (name, keys) in [("plain", ""), ("h2c", "protocol = \"h2c\"")] {
        let (_, origin) = plane.own_origin(name).await;
        let speaks = match name {
            "plain" => Speaks::H1,
            _ => Speaks::H2 {
                streams: 100,
                window: 65_535,
            },
        };
        let _app = Greedy::serve(origin, speaks);
        let config = route(name, keys) + "[upstream]\nresponse_timeout = \"1s\"\n";
        let gateway = Gateway::start(&plane, &config).await;
        let head = |path: &str, length: usize| {
            format!(
                "POST {path} HTTP/1.1\r\nHost: {name}.test\r\nConnection: close\r\n\
                 Content-Length: {length}\r\n\r\n"
            )
        };
        // Its client is slower than the instance may be.
        let parts = ["one", "two", "six", "ten"];
        let answer = upload(&gateway, &head("/swallow", 12), &parts).await;
        assert_eq!(answer, "HTTP/1.1 200 OK", "{name}");
        // An instance that takes nothing has its time, too.
        let much = "x".repeat(8 << 20);
        let (sender, began) = (gateway.client(), Instant::now());
        let request = sender.request("POST", name, "/deaf").body(much);
        let answer = timeout(LONG, request.send()).await.unwrap().unwrap();
        assert_eq!(answer.status(), 504, "{name}");
        assert!(began.elapsed() > Duration::from_millis(900));
        gateway.stop().await;
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_interim_response_begins_the_time_for_the_response_anew() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("early").await;
    let answering = spawn(async move {
        let (mut stream, _) = origin.accept().await.unwrap();
        let mut part = [0; 4096];
        let _head = stream.read(&mut part).await.unwrap();
        for _ in 0..4 {
            sleep(Duration::from_millis(700)).await;
            let hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
            stream.write_all(hint).await.unwrap();
        }
        let last = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate";
        stream.write_all(last).await.unwrap();
        stream
    });
    let config = "[upstream]\nresponse_timeout = \"1500ms\"\n";
    let gateway = Gateway::start(&plane, config).await;
    let request = gateway.client().request("POST", "early", "/").body("body");
    let answer = timeout(LONG, request.send()).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    drop(answering.await.unwrap());
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_falls_silent_is_cut_where_there_is_a_limit_and_only_there() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("drip").await;
    let _app = Greedy::serve(origin, Speaks::H1);
    for (limit, is_cut) in [("read_timeout = \"1s\"", true), ("", false)] {
        let gateway = Gateway::start(&plane, &format!("[upstream]\n{limit}\n")).await;
        for method in ["GET", "POST"] {
            let request = gateway.client().request(method, "drip", "/drip");
            let request = match method {
                "POST" => request.body("body"),
                _ => request,
            };
            let mut answer = request.send().await.unwrap();
            assert_eq!(answer.chunk().await.unwrap().unwrap(), "first");
            let rest = match is_cut {
                true => timeout(LONG, answer.chunk()).await,
                false => timeout(Duration::from_secs(3), answer.chunk()).await,
            };
            assert_eq!(rest.is_ok(), is_cut, "{method} {rest:?}");
            assert!(rest.is_err() || rest.unwrap().is_err());
        }
        gateway.stop().await;
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_ask_less_of_its_uploads_than_the_server() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("patient")).await;
    let keys = "limits = { min_body_rate = 0 }\n[server]\nmin_body_rate = \"1MiB\"\n";
    let gateway = Gateway::start(&plane, &route("patient", keys)).await;
    let head = "POST /upload HTTP/1.1\r\nHost: patient.test\r\nConnection: close\r\n\
                Content-Length: 13\r\n\r\n";
    let parts = ["x"; 13];
    let answer = upload(&gateway, head, &parts).await;
    assert_eq!(answer, "HTTP/1.1 200 OK");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_nothing_hold_up_nobody_at_an_h2c_instance() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("shared").await;
    let app = Greedy::serve(
        origin,
        Speaks::H2 {
            streams: 1000,
            window: 1 << 20,
        },
    );
    let gateway = Gateway::start(&plane, &route("shared", "protocol = \"h2c\"")).await;
    let mut client = h2_client(&gateway, 1000, 1 << 20).await;
    assert_eq!(get(&mut client, "shared", "/empty").await.status(), 200);
    let mut untaken = Vec::new();
    for _ in 0..60 {
        untaken.push(get(&mut client, "shared", "/endless").await);
    }
    assert_eq!((app.open(), app.connections()), (60, 1));
    for _ in 0..5 {
        let asked = gateway.client();
        let asked = asked.get("shared", "/");
        let answer = timeout(LONG, asked).await.expect("it is held up");
        assert_eq!(answer.text().await.unwrap(), "short");
    }
    drop(untaken);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_nothing_left_is_not_queued_on() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("few").await;
    let speaks = Speaks::H2 {
        streams: 2,
        window: 65_535,
    };
    let app = Greedy::serve(origin, speaks);
    let gateway = Gateway::start(&plane, &route("few", "protocol = \"h2c\"")).await;
    let client = gateway.client();
    let short = async || {
        let answer = timeout(LONG, client.get("few", "/")).await;
        answer.expect("it is queued").text().await.unwrap()
    };
    assert_eq!(short().await, "short");
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let client = gateway.client();
        hanging.spawn(async move { client.get("few", "/deaf").await });
    }
    eventually("all of them have been asked", async || app.asked() == 6).await;
    assert_eq!(app.connections(), 3);
    assert_eq!(short().await, "short");
    hanging.shutdown().await;
    // A window that an upload has used up: the next upload has another.
    let mut uploads = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let client = gateway.client();
        let much = client
            .request("POST", "few", "/deaf")
            .body("x".repeat(1 << 20));
        uploads.spawn(async move { much.send().await });
    }
    eventually("they have been asked", async || app.asked() == 9).await;
    // They have been stuck for a moment.
    sleep(Duration::from_millis(500)).await;
    let small = client
        .request("POST", "few", "/swallow")
        .body("x".repeat(1000));
    let answer = timeout(LONG, small.send()).await.expect("it is held up");
    assert_eq!(answer.unwrap().text().await.unwrap(), "1000");
    uploads.shutdown().await;
    gateway.stop().await;
    plane.stop().await;
}
