//! HTTP as it is written: what a gateway must keep, change and refuse on a message's way.

use std::convert::Infallible;
use std::time::Duration;

use crate::support::{Door, Gateway, Plane, Wanted, eventually, route};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Body;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Everything that comes back for these bytes, until the gateway closes.
async fn raw(gateway: &Gateway, bytes: &str) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(crate::support::PATIENCE, read)
        .await
        .unwrap_or_else(|_| panic!("the gateway does not close"))
        .unwrap();
    answer
}

/// A client of HTTP/2 in clear, and its connection.
async fn http_2<B>(gateway: &Gateway) -> (SendRequest<B>, JoinHandle<hyper::Result<()>>)
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    (sender, crate::support::spawn(connection))
}

/// The instance's view of a request's fields.
async fn heard(
    client: &crate::support::Client,
    instance: &str,
    path: &str,
) -> Vec<(String, String)> {
    client.get(instance, path).await.json().await.unwrap()
}

fn value<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let field = fields.iter().find(|(known, _)| known == name);
    field.map(|(_, value)| value.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_over_http_2_wakes_its_instance() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("socket")).await;
    let gateway = Gateway::start(&plane, "").await;
    let (mut sender, connection) = http_2::<Empty<Bytes>>(&gateway).await;
    sender.ready().await.unwrap();
    // The first answer comes after the gateway's word that it can.
    let first = http::Request::get("http://elsewhere.example/")
        .version(http::Version::HTTP_2)
        .body(Empty::new())
        .unwrap();
    assert_eq!(sender.send_request(first).await.unwrap().status(), 404);
    let connect = |protocol: &'static str, path: &str| {
        http::Request::connect(format!("http://socket.test{path}"))
            .version(http::Version::HTTP_2)
            .extension(Protocol::from_static(protocol))
            .header("sec-websocket-version", "13")
            .body(Empty::new())
            .unwrap()
    };
    let answer = sender
        .send_request(connect("websocket", "/ws"))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-wakegate-wake"], "cold");
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    let upgraded = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    socket.send("over two".into()).await.unwrap();
    let echo = socket.next().await.unwrap().unwrap();
    assert_eq!(echo.into_text().unwrap(), "over two");
    assert_eq!(plane.operations(&instance.id, "restore").await, 1);

    // An instance that answers 200 to a handshake has not switched, and must not seem to have.
    let answer = sender
        .send_request(connect("websocket", "/"))
        .await
        .unwrap();
    assert_eq!(answer.status(), 502);
    let answer = sender
        .send_request(connect("connect-udp", "/"))
        .await
        .unwrap();
    assert_eq!(answer.status(), 501);
    drop((socket, sender));
    connection.await.unwrap().unwrap();
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_over_http_2_may_be_silent_for_longer_than_its_connection_may_be_idle() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("silent")).await;
    let limits = "[server]\nidle_timeout = \"1s\"\nheader_timeout = \"1s\"\n";
    let gateway = Gateway::start(&plane, limits).await;
    let (mut sender, _connection) = http_2::<Empty<Bytes>>(&gateway).await;
    let first = http::Request::get("http://silent.test/")
        .version(http::Version::HTTP_2)
        .body(Empty::new())
        .unwrap();
    assert_eq!(sender.send_request(first).await.unwrap().status(), 200);
    let connect = http::Request::connect("http://silent.test/ws")
        .version(http::Version::HTTP_2)
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13")
        .body(Empty::new())
        .unwrap();
    let answer = sender.send_request(connect).await.unwrap();
    assert_eq!(answer.status(), 200);
    let upgraded = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    socket.send("still here".into()).await.unwrap();
    let echo = socket.next().await.unwrap().unwrap();
    assert_eq!(echo.into_text().unwrap(), "still here");
    assert!(!sender.is_closed(), "it takes requests, too");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn header_rules_and_a_stripped_prefix_reach_the_instance_and_the_client() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("rules")).await;
    let keys = "path = \"/app\"\nstrip_path = true\n\
                [route.request_headers]\nrename = [\"x-old: x-new\"]\nremove = [\"x-secret\"]\n\
                set = [\"x-tenant: blue\"]\nadd = [\"x-tag: two\"]\n\
                [route.response_headers]\nremove = [\"content-type\"]\n\
                set = [\"x-frame-options: DENY\"]\n";
    let gateway = Gateway::start(&plane, &route("rules", keys)).await;
    let client = gateway.client();
    let answer = client
        .request("GET", "rules", "/app/headers?x=1")
        .header("x-old", "kept")
        .header("x-secret", "gone")
        .header("x-tenant", "red")
        .header("x-tag", "one")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["x-frame-options"], "DENY");
    assert!(!answer.headers().contains_key("content-type"));
    let fields: Vec<(String, String)> = answer.json().await.unwrap();
    assert_eq!(value(&fields, "x-new"), Some("kept"));
    assert_eq!(value(&fields, "x-old"), None);
    assert_eq!(value(&fields, "x-secret"), None);
    assert_eq!(value(&fields, "x-tenant"), Some("blue"));
    let tags = fields.iter().filter(|(name, _)| name == "x-tag");
    assert_eq!(tags.count(), 2);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_tls_is_redirected_and_wakes_nobody() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("moved")).await;
    let extra = format!(
        "[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n{}",
        route("moved", "redirect_http = true\nhsts = \"8760h\"")
    );
    let gateway = Gateway::start(&plane, &extra).await;
    let answer = raw(
        &gateway,
        "GET /a?b=c HTTP/1.1\r\nHost: moved.test:8080\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 301"), "{answer}");
    assert!(
        answer.contains("location: https://moved.test/a?b=c\r\n"),
        "{answer}"
    );
    assert!(!answer.contains("strict-transport-security"), "{answer}");
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    // A trusted proxy has had the client's TLS.
    let client = gateway.client();
    let asked = client.request("GET", "moved", "/");
    let answer = asked
        .header("x-forwarded-proto", "https")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.headers()["strict-transport-security"],
        "max-age=31536000"
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_its_routes_field_wakes_nobody_and_with_it_the_field_stays_here() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("private")).await;
    let secret = "0123456789abcdef0123456789abcdef";
    let keys = format!("[route.auth]\nheader = \"x-key\"\nvalue = \"{secret}\"\n");
    let gateway = Gateway::start(&plane, &route("private", &keys)).await;
    let client = gateway.client();
    let (status, code, _) = client.problem("private").await;
    assert_eq!((status, code.as_str()), (403, "forbidden"));
    let with = |value: &'static str| {
        let asked = client.request("GET", "private", "/headers");
        asked.header("x-key", value).send()
    };
    assert_eq!(
        with("0123456789abcdef0123456789abcdeX")
            .await
            .unwrap()
            .status(),
        403
    );
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    let answer = with(secret).await.unwrap();
    assert_eq!(answer.status(), 200);
    let fields: Vec<(String, String)> = answer.json().await.unwrap();
    assert_eq!(value(&fields, "x-key"), None);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_expects_100_continue_hears_it_when_the_instance_is_ready() {
    let plane = Plane::start().await;
    let eager = format!("{}\nearly_continue = true", Door::ROUTE);
    let routes = [route("patient", Door::ROUTE), route("eager", &eager)].concat();
    let gateway = Gateway::start(&plane, &routes).await;
    for name in ["patient", "eager"] {
        let (_, door) = plane.behind_a_door(name).await;
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let head = format!(
            "POST /upload HTTP/1.1\r\nHost: {name}.test\r\nContent-Length: 5\r\n\
             Expect: 100-continue\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut part = [0; 25];
        let patience = match name {
            "eager" => crate::support::PATIENCE,
            _ => Duration::from_millis(300),
        };
        let heard = tokio::time::timeout(patience, stream.read_exact(&mut part)).await;
        assert_eq!(heard.is_ok(), name == "eager", "{name}");
        door.open().await;
        if heard.is_err() {
            stream.read_exact(&mut part).await.unwrap();
        }
        assert_eq!(&part, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"hello").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("{\"bytes\":5}"), "{answer}");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_body_has_come_reaches_the_client() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("hasty")).await;
    let gateway = Gateway::start(&plane, "").await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = "POST /early HTTP/1.1\r\nHost: hasty.test\r\nContent-Length: 1000000\r\n\r\nsome";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut part = vec![0; 4096];
    let read = tokio::time::timeout(crate::support::PATIENCE, stream.read(&mut part));
    let count = read.await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&part[..count]).into_owned();
    assert!(text.starts_with("HTTP/1.1 403"), "{text}");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("trail")).await;
    let gateway = Gateway::start(&plane, "").await;
    let request = "POST /trailers HTTP/1.1\r\nHost: trail.test\r\nTE: trailers\r\n\
                   Connection: close, TE\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                   3\r\nabc\r\n0\r\nx-sum: 42\r\ncontent-length: 7\r\n\r\n";
    let answer = raw(&gateway, request).await;
    assert!(answer.contains("\r\nx-heard: 42\r\n"), "{answer}");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_and_unusual_requests_are_served() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("old")).await;
    let gateway = Gateway::start(&plane, "").await;
    // HTTP/1.0 has no chunks and closes.
    let answer = raw(
        &gateway,
        "GET /bytes?size=10 HTTP/1.0\r\nHost: old.test\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(answer.ends_with("xxxxxxxxxx"), "{answer}");
    let answer = raw(
        &gateway,
        "GET /sse?count=2&interval=1ms HTTP/1.0\r\nHost: old.test\r\n\r\n",
    );
    let answer = answer.await;
    assert!(
        !answer.contains("chunked") && answer.ends_with("data: event 1\n\n"),
        "{answer}"
    );
    // The target's host wins over the field (RFC 9112 §3.2.2), also at the instance.
    let answer = raw(
        &gateway,
        "GET http://old.test/headers HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.contains("[\"host\",\"old.test\"]"), "{answer}");
    for (target, status) in [("OPTIONS *", 200), ("GET *", 400)] {
        let request = format!("{target} HTTP/1.1\r\nHost: old.test\r\nConnection: close\r\n\r\n");
        let answer = raw(&gateway, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{target}: {answer}"
        );
    }
    let answer = raw(
        &gateway,
        "HEAD /bytes?size=70000 HTTP/1.1\r\nHost: old.test\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(
        answer.contains("content-length: 70000\r\n") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_its_body_too_slowly_is_refused_and_its_instance_not_suspected() {
    let plane = Plane::start().await;
    let instance = plane.listening(Wanted::hello("drip")).await;
    let gateway = Gateway::start(&plane, "[server]\nmin_body_rate = \"1MiB\"\n").await;
    let started = tokio::time::Instant::now();
    let answer = raw(
        &gateway,
        "POST /upload HTTP/1.1\r\nHost: drip.test\r\nContent-Length: 1000\r\n\r\nx",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("body_timeout"),
        "{answer}"
    );
    assert!(started.elapsed() >= Duration::from_secs(5));
    let before = gateway
        .metric("wakegate_controlplane_requests_total{op=\"get\",code=\"200\"}")
        .await;
    // One that goes away in the middle is no sign of a broken instance either.
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = "POST /upload HTTP/1.1\r\nHost: drip.test\r\nContent-Length: 1000\r\n\r\nx";
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    assert_eq!(gateway.client().get("drip", "/").await.status(), 200);
    let after = gateway
        .metric("wakegate_controlplane_requests_total{op=\"get\",code=\"200\"}")
        .await;
    assert!(
        (after - before).abs() < 0.5,
        "{before} and {after} questions"
    );
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_over_http_2_wakes_its_instance_and_does_not_hold_up_its_neighbours() {
    let plane = Plane::start().await;
    let (_, door) = plane.behind_a_door("slow").await;
    plane.listening(Wanted::hello("quick")).await;
    let gateway = Gateway::start(&plane, &route("slow", Door::ROUTE)).await;
    let (mut sender, connection) = http_2::<Full<Bytes>>(&gateway).await;
    let upload = |host: &str, size: usize| {
        http::Request::post(format!("http://{host}.test/upload"))
            .version(http::Version::HTTP_2)
            .body(Full::new(Bytes::from(vec![b'x'; size])))
            .unwrap()
    };
    let held = crate::support::spawn(sender.send_request(upload("slow", 8 << 20)));
    eventually("it is held", async || {
        (gateway.metric("wakegate_held_requests").await - 1.0).abs() < 0.5
    })
    .await;
    // While that waits, another upload on the same connection is done.
    let answer = sender.send_request(upload("quick", 100_000)).await.unwrap();
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "{\"bytes\":100000}"
    );
    assert!(!held.is_finished(), "it is still held");
    door.open().await;
    let answer = held.await.unwrap().unwrap();
    assert_eq!(
        answer.into_body().collect().await.unwrap().to_bytes(),
        "{\"bytes\":8388608}"
    );
    drop(sender);
    connection.await.unwrap().unwrap();
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_cannot_take_every_connection() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("shared")).await;
    let gateway = Gateway::start(&plane, "[server]\nmax_connections_per_client = 3\n").await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        kept.push(stream);
    }
    eventually("they are counted", async || {
        gateway.metric("wakegate_downstream_connections").await > 2.5
    })
    .await;
    let mut fourth = TcpStream::connect(gateway.address).await.unwrap();
    let mut nothing = Vec::new();
    // Closed or reset, without a word.
    let _ended = fourth.read_to_end(&mut nothing).await;
    assert!(nothing.is_empty());
    assert!(gateway.metric("wakegate_refused_connections_total").await > 0.5);
    kept.clear();
    eventually("there is room again", async || {
        let asked = gateway.client().request("GET", "shared", "/").send().await;
        asked.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let fields = heard(&gateway.client(), "shared", "/headers").await;
    assert_eq!(value(&fields, "x-forwarded-for"), Some("127.0.0.1"));
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_reach_the_client_before_the_answer_and_old_clients_get_none() {
    let plane = Plane::start().await;
    let (instance, origin) = plane.own_origin("hints").await;
    let gateway = Gateway::start(&plane, "").await;
    let (go, mut gone) = tokio::sync::mpsc::channel::<()>(1);
    let served = crate::support::spawn(async move {
        for _ in 0..2 {
            // The gateway may look whether the port is open, and send nothing.
            let mut stream = loop {
                let (mut stream, _) = origin.accept().await.unwrap();
                let mut part = [0; 4096];
                if stream.read(&mut part).await.unwrap() > 0 {
                    break stream;
                }
            };
            let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\
                         Connection: x\r\nx: 1\r\n\r\n";
            stream.write_all(hints.as_bytes()).await.unwrap();
            gone.recv().await.unwrap();
            let answer = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n\
                          Content-Length: 2\r\nConnection: close\r\n\r\nok";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: hints.test\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
    let mut first = vec![0; hints.len()];
    let read = tokio::time::timeout(crate::support::PATIENCE, stream.read_exact(&mut first));
    read.await.unwrap().unwrap();
    assert_eq!(
        String::from_utf8(first).unwrap(),
        hints,
        "while the answer is not there yet"
    );
    go.send(()).await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(
        rest.starts_with("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\n"),
        "{rest}"
    );
    assert!(rest.ends_with("\r\n\r\nok"), "{rest}");

    go.send(()).await.unwrap();
    let answer = raw(&gateway, "GET / HTTP/1.0\r\nHost: hints.test\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    served.await.unwrap();
    gateway.stop().await;
    plane.client.delete_instance(&instance).await.unwrap();
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_tells_http_2_to_go_and_finishes_what_it_has() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("leaving")).await;
    let mut gateway = Gateway::start(&plane, "").await;
    let (mut sender, connection) = http_2::<Empty<Bytes>>(&gateway).await;
    let slow = http::Request::get("http://leaving.test/slow?delay=1s")
        .version(http::Version::HTTP_2)
        .body(Empty::new())
        .unwrap();
    let sent = crate::support::spawn(sender.send_request(slow));
    eventually("it is at the instance", async || {
        gateway.metric("wakegate_upstream_connections").await > 0.5
    })
    .await;
    gateway.drain();
    let answer = sent.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "slept for 1s\n");
    connection.await.unwrap().unwrap();
    assert!(sender.is_closed(), "no more requests here");
    assert!(gateway.stop().await, "nothing had to be cut");
    plane.stop().await;
}
