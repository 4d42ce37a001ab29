//! What is sent in clear to a listener with TLS.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wakegate::config::LogConfig;
use wakegate::telemetry::AccessSink;

use crate::certificates::{client, server_certificate};
use crate::observability::MetricsFile;
use crate::support::{Gateway, Plane, Wanted, eventually};

/// What a client reads that sends this and then nothing more.
async fn told(gateway: &Gateway, bytes: &[u8]) -> Vec<u8> {
    let mut client = TcpStream::connect(gateway.addresses[1]).await.unwrap();
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    // What is no TLS at all may be reset.
    let _end = client.read_to_end(&mut answer).await;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_clear_to_a_port_with_tls_is_told_so_and_wakes_nothing() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let instance = plane.asleep(Wanted::hello("shop")).await;
    let root = server_certificate(dir.path(), &["shop.test"]);
    let paper = MetricsFile::default();
    let access = AccessSink::to(paper.clone(), &LogConfig::default());
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let listener = format!(
        "[server]\nheader_timeout = \"2s\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ cert = {cert:?}, key = {key:?} }}\n"
    );
    let gateway = Gateway::start_with(plane.address, &plane.token, &listener, access).await;
    let mut lines = 0;
    // Bytes that are neither TLS nor HTTP have no answer that a client of HTTP would read.
    for garbage in [
        &b"\x00\x01\x02"[..],
        b"\x16\x03\x01\x00\x02\x01\x02",
        b"\r\n\r\n",
        b"{}",
    ] {
        let answer = told(&gateway, garbage).await;
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    // Half a request is none: it is not known what it would have been.
    let answer = told(&gateway, b"GET / HTTP/1.1\r\nhost: shop.te").await;
    assert!(answer.is_empty(), "{answer:?}");
    for (request, path) in [
        ("GET /a HTTP/1.1\r\nhost: shop.test\r\n\r\n", "/a"),
        ("HEAD /b HTTP/1.0\r\n\r\n", "/b"),
        (
            "POST /c HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 5\r\n\r\nhello",
            "/c",
        ),
        // An unknown challenge is no exception.
        (
            "GET /.well-known/acme-challenge/x HTTP/1.1\r\nhost: shop.test\r\n\r\n",
            "/.well-known/acme-challenge/x",
        ),
    ] {
        let answer = String::from_utf8(told(&gateway, request.as_bytes()).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        let is_head = request.starts_with("HEAD");
        assert_eq!(answer.contains("wrong_scheme"), !is_head, "{answer}");
        lines += 1;
        eventually("its line", async || paper.lines().len() == lines).await;
        let line = &paper.lines()[lines - 1];
        assert_eq!(
            (&line["error"], &line["path"]),
            (&"wrong_scheme".into(), &path.into())
        );
        assert_eq!(line["status"], 400);
    }
    // A browser gets a page.
    let request = "GET / HTTP/1.1\r\nhost: shop.test\r\naccept: text/html\r\n\r\n";
    let page = String::from_utf8(told(&gateway, request.as_bytes()).await).unwrap();
    assert!(page.contains("content-type: text/html"), "{page}");
    assert!(page.contains("https://"), "{page}");
    // The same over HTTP/2 with prior knowledge.
    let h2 = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy();
    let url = format!("http://{}/d", gateway.addresses[1]);
    let answer = h2.build().unwrap().get(url).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("wrong_scheme"));
    let answer = told(&gateway, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(!answer.starts_with(b"HTTP/1"), "{answer:?}");
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    // Who speaks TLS is served.
    let url = format!("https://shop.test:{}/", gateway.addresses[1].port());
    let client = client(gateway.addresses[1], &root, "shop.test")
        .build()
        .unwrap();
    assert_eq!(client.get(url).send().await.unwrap().status(), 200);
    gateway.stop().await;
    plane.stop().await;
}
