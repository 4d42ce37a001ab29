//! What is said of a request when it is over: whose it was, how long it was held and for which
//! wake, what a tunnel carried and who ended it.

use std::time::Duration;

use crate::observability::MetricsFile;
use crate::support::{Gateway, Plane, Wanted, eventually, route, spawn};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use wakegate::config::LogConfig;
use wakegate::telemetry::AccessSink;

const RECEIVED: &str = "wakegate_request_body_bytes_total";
const SENT: &str = "wakegate_response_body_bytes_total";

async fn start(plane: &Plane, extra: &str) -> (Gateway, MetricsFile) {
    let paper = MetricsFile::default();
    let access = AccessSink::to(paper.clone(), &LogConfig::default());
    let gateway = Gateway::start_with(plane.address, &plane.token, extra, access).await;
    (gateway, paper)
}

/// The only line about a path, once it is there.
async fn line(paper: &MetricsFile, path: &str) -> Value {
    let of_path = || {
        let lines = paper.lines();
        lines
            .into_iter()
            .filter(|line| line["path"] == path)
            .collect::<Vec<_>>()
    };
    eventually(path, async || !of_path().is_empty()).await;
    let mut lines = of_path();
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_names_the_client_behind_a_trusted_proxy_and_the_proxy_beside_it() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("named")).await;
    for (trusted, client) in [
        ("127.0.0.0/8", "203.0.113.9"),
        ("192.0.2.0/24", "127.0.0.1"),
    ] {
        let trusted = format!("[server]\ntrusted_proxies = [\"{trusted}\"]\n");
        let (gateway, paper) = start(&plane, &trusted).await;
        for (host, path, status) in [
            ("named", "/answered", 200),
            ("nobody", "/refused", 404),
            ("a b", "/bad", 400),
        ] {
            let request = gateway.client().request("GET", host, path);
            let request = request.header("x-forwarded-for", "198.51.100.1, 203.0.113.9");
            assert_eq!(request.send().await.unwrap().status(), status, "{path}");
            let line = line(&paper, path).await;
            assert_eq!(
                (&line["client"], &line["peer"]),
                (&client.into(), &"127.0.0.1".into())
            );
        }
        gateway.stop().await;
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_has_the_instances_name_beside_its_id() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("called")).await;
    let (gateway, paper) = start(&plane, "").await;
    assert_eq!(gateway.client().get("called", "/one").await.status(), 200);
    let line = line(&paper, "/one").await;
    assert_eq!(line["instance"], instance.id.as_str());
    assert_eq!(line["instance_name"], "called");
    gateway.stop().await;
    plane.stop().await;
}

/// A request's head, on a connection of its own.
async fn ask(gateway: &Gateway, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: mute.test\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn however_a_wait_ends_its_line_says_how_long_it_was_and_for_which_wake() {
    let plane = Plane::start().await;
    plane
        .running(Wanted::hello("mute").env("HELLO_LISTEN_DELAY", "never"))
        .await;
    let (gateway, paper) = start(&plane, &route("mute", "wake = { timeout = \"2s\" }")).await;
    let held = async |count: f64| {
        eventually("they are held", async || {
            gateway.metric("wakegate_held_requests").await == count
        })
        .await;
    };
    let first = ask(&gateway, "/first").await;
    held(1.0).await;
    let second = ask(&gateway, "/second").await;
    held(2.0).await;
    // The same over HTTP/2, as gRPC does it.
    let h2 = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge()
        .resolve("mute.test", gateway.address)
        .build()
        .unwrap();
    let url = format!("http://mute.test:{}/grpc", gateway.address.port());
    let call = h2.post(url).header("content-type", "application/grpc");
    let call = spawn(call.send());
    held(3.0).await;
    let began = tokio::time::Instant::now();
    tokio::time::sleep(Duration::from_millis(300)).await;
    call.abort();
    drop((first, second));
    let refused = gateway.client().get("mute", "/refused").await;
    assert_eq!(refused.status(), 504);
    let waited = began.elapsed().as_secs_f64() * 1e3;
    for (path, wake, status) in [
        ("/first", "cold", 499),
        ("/second", "joined", 499),
        ("/grpc", "joined", 499),
    ] {
        let line = line(&paper, path).await;
        assert_eq!(
            (&line["status"], &line["wake"]),
            (&status.into(), &wake.into()),
            "{path}"
        );
        let held_ms = line["held_ms"].as_f64().unwrap();
        assert!((290.0..waited).contains(&held_ms), "{line}");
        assert!(held_ms <= line["duration_ms"].as_f64().unwrap(), "{line}");
    }
    let line = line(&paper, "/refused").await;
    assert_eq!(
        (&line["error"], &line["wake"]),
        (&"app_not_listening".into(), &"joined".into())
    );
    assert!(line["held_ms"].as_f64().unwrap() > 0.0, "{line}");
    for (wake, count) in [("cold", 1.0), ("joined", 2.0)] {
        let name = format!("wakegate_requests_total{{code=\"499\",wake=\"{wake}\"}}");
        assert_eq!(gateway.metric(&name).await, count, "{name}");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_shown_the_waiting_page_has_been_held_until_then() {
    let plane = Plane::start().await;
    plane
        .running(Wanted::hello("mute").env("HELLO_LISTEN_DELAY", "never"))
        .await;
    let page = route(
        "mute",
        "waiting_page = { enabled = true, after = \"200ms\" }",
    );
    let (gateway, paper) = start(&plane, &page).await;
    let request = gateway.client().request("GET", "mute", "/page");
    let request = request
        .header("accept", "text/html")
        .header("sec-fetch-mode", "navigate");
    let answer = request.send().await.unwrap();
    assert!(answer.headers().contains_key("x-wakegate-state") || answer.status() != 200);
    drop(answer);
    let line = line(&paper, "/page").await;
    assert_eq!(
        (&line["error"], &line["wake"]),
        (&"waiting_page".into(), &"cold".into())
    );
    assert!(line["held_ms"].as_f64().unwrap() >= 200.0, "{line}");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_has_one_line_at_its_end_with_what_it_carried_and_who_ended_it() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("socket")).await;
    let (gateway, paper) = start(&plane, "").await;
    let mut request = format!("ws://{}/ws", gateway.address)
        .into_client_request()
        .unwrap();
    let host = "socket.test".parse().unwrap();
    request.headers_mut().insert("host", host);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let text = "x".repeat(1000);
    for _ in 0..10 {
        socket.send(Message::text(text.clone())).await.unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap(),
            Message::text(text.clone())
        );
    }
    // It is counted as answered, and its bytes as they come; its line waits for its end.
    let answered = "wakegate_requests_total{code=\"101\",wake=\"cold\"}";
    assert_eq!(gateway.metric(answered).await, 1.0);
    assert!(gateway.metric(RECEIVED).await >= 10_000.0);
    assert!(gateway.metric(SENT).await >= 10_000.0);
    assert_eq!(paper.lines().len(), 0);
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(socket);
    let line = line(&paper, "/ws").await;
    assert_eq!(
        (&line["status"], &line["wake"]),
        (&101.into(), &"cold".into())
    );
    let bytes = |field: &str| line[field].as_u64().unwrap();
    // Ten frames with their heads, and masks from the client.
    assert_eq!((bytes("bytes_in"), bytes("bytes_out")), (10_080, 10_040));
    assert_eq!(
        (&line["ended_by"], &line["aborted"]),
        (&"client".into(), &false.into())
    );
    assert!(line["duration_ms"].as_f64().unwrap() > 200.0, "{line}");
    assert_eq!(gateway.metric(answered).await, 1.0);
    assert_eq!(gateway.metric(RECEIVED).await, 10_080.0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_connections_line_has_its_bytes_also_when_it_is_cut() {
    let plane = Plane::start().await;
    let (instance, origin) = plane.own_origin("line").await;
    let served = spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = origin.accept().await.unwrap();
            let mut bytes = vec![0; 1000];
            // The gateway may look whether the port is open, and send nothing.
            if stream.read_exact(&mut bytes).await.is_ok() {
                stream.write_all(&[b'y'; 500]).await.unwrap();
                if bytes[0] != b'z' {
                    kept.push(stream);
                }
            }
        }
    });
    let extra = "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"line.test\"\n\
                 [server]\ndrain_timeout = \"100ms\"\n";
    let (gateway, paper) = start(&plane, extra).await;
    let exchange = async |byte: u8| {
        let mut stream = TcpStream::connect(gateway.addresses[1]).await.unwrap();
        stream.write_all(&[byte; 1000]).await.unwrap();
        stream.read_exact(&mut [0; 500]).await.unwrap();
        stream
    };
    let lines = async |count: usize| {
        eventually("the line is there", async || paper.lines().len() == count).await;
        paper.lines().pop().unwrap()
    };
    let said = |line: &Value| {
        let bytes = |field: &str| line[field].as_u64().unwrap();
        let ended_by = line["ended_by"].as_str().unwrap().to_owned();
        (
            bytes("bytes_in"),
            bytes("bytes_out"),
            ended_by,
            line["aborted"].as_bool().unwrap(),
        )
    };
    let whole = |by: &str, aborted| (1000, 500, by.to_owned(), aborted);

    let mut stream = exchange(b'z').await;
    assert_eq!(
        stream.read(&mut [0; 8]).await.unwrap(),
        0,
        "it closes its side"
    );
    drop(stream);
    assert_eq!(said(&lines(1).await), whole("instance", false));

    let stream = exchange(b'x').await;
    let passed = "wakegate_raw_connections_total{kind=\"tcp\",outcome=\"passed_on\"}";
    assert_eq!(
        gateway.metric(passed).await,
        2.0,
        "it is counted when it begins"
    );
    // A reset, as of a client that crashes.
    stream.set_zero_linger().unwrap();
    drop(stream);
    assert_eq!(said(&lines(2).await), whole("client", true));

    let stream = exchange(b'x').await;
    assert_eq!(gateway.metric(RECEIVED).await, 3000.0);
    assert_eq!(gateway.metric(SENT).await, 1500.0);
    assert!(!gateway.stop().await, "it is cut");
    assert_eq!(said(&lines(3).await), whole("gateway", true));
    drop(stream);
    served.abort();
    plane.client.delete_instance(&instance).await.unwrap();
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_writes_cannot_move_the_cursor_of_who_reads_the_line() {
    let plane = Plane::start().await;
    let (gateway, paper) = start(&plane, "").await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let agent = "a\u{9b}2J\u{85}b\u{202e}c\u{2028}d";
    let head = format!(
        "GET /esc HTTP/1.1\r\nhost: nobody.test\r\nuser-agent: {agent}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    let line = line(&paper, "/esc").await;
    assert_eq!(line["user_agent"], agent);
    let raw = String::from_utf8(paper.bytes()).unwrap();
    assert!(raw.contains("a\\u009b2J\\u0085b\\u202ec\\u2028d"), "{raw}");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn series_of_fixed_words_are_there_before_anything_has_happened() {
    let plane = Plane::start().await;
    let gateway = Gateway::start(&plane, "").await;
    let url = format!("http://{}/metrics", gateway.admin);
    let page = reqwest::get(url).await.unwrap().text().await.unwrap();
    for series in [
        "wakegate_errors_total{code=\"no_route\"} 0",
        "wakegate_errors_total{code=\"wake_timeout\"} 0",
        "wakegate_wake_failures_total{code=\"no_capacity\"} 0",
        "wakegate_wake_refusals_total{rule=\"bot\"} 0",
        "wakegate_raw_connections_total{kind=\"tls\",outcome=\"passed_on\"} 0",
        "wakegate_raw_connections_total{kind=\"tcp\",outcome=\"no_route\"} 0",
        "wakegate_spans_exported_total{outcome=\"failed\"} 0",
    ] {
        assert!(page.lines().any(|line| line == series), "{series}");
    }
    gateway.stop().await;
    plane.stop().await;
}
