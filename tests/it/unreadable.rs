//! What is sent instead of a request of HTTP/1.

use crate::observability::MetricsFile;
use crate::support::{Gateway, Plane, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wakegate::config::LogConfig;
use wakegate::telemetry::AccessSink;

/// A listener behind a balancer that names its clients, and room for long targets.
const BALANCED: &str = "[server]\ntrusted_proxies = [\"127.0.0.1\"]\nmax_header_bytes = 200000\n\
                        [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n";
const CLIENT: &str = "192.0.2.7";

struct Case {
    bytes: String,
    status: u16,
    code: &'static str,
    method: &'static str,
    path: &'static str,
}

fn cases() -> [Case; 6] {
    let case = |bytes: &str, status, code, method, path| Case {
        bytes: bytes.to_owned(),
        status,
        code,
        method,
        path,
    };
    let large = format!(
        "GET /large HTTP/1.1\r\nx-a: {}\r\n\r\n",
        "a".repeat(210_000)
    );
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(66_000));
    [
        case(
            "GET /wrong?token=hunter2 HTTP/1.1\r\nhost: a.test\r\na b: c\r\n\r\n",
            400,
            "bad_request",
            "GET",
            "/wrong",
        ),
        case(
            "POST /twice HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1\r\n\
             transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n",
            400,
            "bad_request",
            "POST",
            "/twice",
        ),
        case("\u{16}\u{3}\u{1}\r\n\r\n", 400, "bad_request", "-", "-"),
        case(&long, 414, "target_too_long", "GET", "-"),
        case(&large, 431, "head_too_large", "GET", "/large"),
        case(
            "PUT /coded HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            501,
            "transfer_coding",
            "PUT",
            "/coded",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_has_its_answer_its_access_line_and_its_counts() {
    let plane = Plane::start().await;
    let paper = MetricsFile::default();
    let access = AccessSink::to(paper.clone(), &LogConfig::default());
    let gateway = Gateway::start_with(plane.address, &plane.token, BALANCED, access).await;
    for (index, case) in cases().iter().enumerate() {
        let mut client = TcpStream::connect(gateway.addresses[1]).await.unwrap();
        let proxied = format!("PROXY TCP4 {CLIENT} 127.0.0.1 1 80\r\n{}", case.bytes);
        client.write_all(proxied.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        let begin = format!("HTTP/1.1 {} ", case.status);
        assert!(answer.starts_with(&begin), "{answer}");
        assert_eq!(
            answer.matches("HTTP/1.1").count(),
            1 + answer.matches("of HTTP/1.0").count()
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["code"], case.code);
        let id = format!("x-request-id: {}\r\n", body["request_id"].as_str().unwrap());
        let head = format!("{head}\r\n");
        for field in [
            "content-type: application/problem+json\r\n",
            "connection: close\r\n",
            &id,
        ] {
            assert!(head.contains(field), "{field}: {head}");
        }
        eventually("its line", async || paper.lines().len() == index + 1).await;
        let line = &paper.lines()[index];
        assert_eq!(line["client"], CLIENT);
        assert_eq!(line["status"], case.status);
        assert_eq!(
            (&line["method"], &line["path"]),
            (&case.method.into(), &case.path.into())
        );
        assert_eq!(
            (&line["error"], &line["aborted"]),
            (&case.code.into(), &false.into())
        );
    }
    assert!(!String::from_utf8_lossy(&paper.bytes()).contains("hunter2"));
    for (name, count) in [
        ("wakegate_requests_total{code=\"400\",wake=\"none\"}", 3.0),
        ("wakegate_requests_total{code=\"431\",wake=\"none\"}", 1.0),
        ("wakegate_errors_total{code=\"bad_request\"}", 3.0),
        ("wakegate_errors_total{code=\"transfer_coding\"}", 1.0),
    ] {
        assert_eq!(gateway.metric(name).await, count, "{name}");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_what_is_no_head_request_has_no_body() {
    let plane = Plane::start().await;
    let gateway = Gateway::start(&plane, "").await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    let wrong = b"HEAD / HTTP/1.1\r\nhost: a.test\r\na b: c\r\n\r\n";
    client.write_all(wrong).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_the_middle_of_a_long_body_reads_why_it_is_refused() {
    let plane = Plane::start().await;
    let gateway = Gateway::start(&plane, "").await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    let wrong = b"POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 500000x\r\n\r\n";
    client.write_all(wrong).await.unwrap();
    for _ in 0..50 {
        client.write_all(&[b'x'; 10_000]).await.unwrap();
    }
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    gateway.stop().await;
    plane.stop().await;
}
