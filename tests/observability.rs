//! What is left of a request: one access line, one count, no secret.

#![allow(
    clippy::float_cmp,
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::{Gateway, Plane, Wanted, eventually};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use wakegate::config::LogConfig;
use wakegate::telemetry::AccessSink;

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn lines(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_leaves_one_line_and_one_count_and_no_query() {
    let plane = Plane::start().await;
    let instance = plane
        .asleep(Wanted::hello("logged").idle(Duration::from_secs(30)))
        .await;
    plane
        .running(Wanted::hello("mute").env("HELLO_LISTEN_DELAY", "never"))
        .await;
    let paper = Paper::default();
    let access = AccessSink::to(paper.clone(), &LogConfig::default());
    let gateway = Gateway::start_with(plane.address, &plane.token, "", access).await;
    let client = gateway.client();

    let posted = client
        .request("POST", "logged", "/echo?token=hunter2")
        .header("x-request-id", "req-1")
        .header("authorization", "Bearer hunter2")
        .header("user-agent", "test/1")
        .body("12345")
        .send()
        .await
        .unwrap();
    assert_eq!(posted.text().await.unwrap(), "12345");
    assert_eq!(client.get("unknown", "/x").await.status(), 404);
    let mut leaver = TcpStream::connect(gateway.address).await.unwrap();
    leaver
        .write_all(b"GET /left HTTP/1.1\r\nhost: mute.test\r\n\r\n")
        .await
        .unwrap();
    eventually("it is held", async || {
        gateway.metric("wakegate_held_requests").await == 1.0
    })
    .await;
    drop(leaver);
    eventually("three lines", async || paper.lines().len() == 3).await;

    let lines = paper.lines();
    let line = |path: &str| lines.iter().find(|line| line["path"] == path).unwrap();
    let first = line("/echo");
    assert_eq!(
        (&first["status"], &first["wake"]),
        (&200.into(), &"cold".into())
    );
    assert_eq!(
        (&first["bytes_in"], &first["bytes_out"]),
        (&5.into(), &5.into())
    );
    assert_eq!(
        (&first["request_id"], &first["aborted"]),
        (&"req-1".into(), &false.into())
    );
    assert_eq!(
        (&first["instance"], &first["host"]),
        (&instance.id.as_str().into(), &"logged.test".into())
    );
    assert!(first["held_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(line("/x")["error"], "instance_not_found");
    assert_eq!(
        (&line("/left")["status"], &line("/left")["aborted"]),
        (&499.into(), &true.into())
    );
    assert!(!String::from_utf8_lossy(&paper.0.lock().unwrap()).contains("hunter2"));
    for (code, wake) in [("200", "cold"), ("404", "none"), ("499", "none")] {
        let name = format!("wakegate_requests_total{{code=\"{code}\",wake=\"{wake}\"}}");
        assert_eq!(gateway.metric(&name).await, 1.0, "{name}");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_metric_exists_and_every_metric_is_documented() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("counted")).await;
    let shut = "[[route]]\nhost = \"shut.test\"\ninstance = \"counted\"\n\
                admission = { deny_paths = [\"/\"] }\n";
    let raw = "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"shut.test\"\n";
    let gateway = Gateway::start(&plane, &format!("{shut}{raw}")).await;
    assert_eq!(gateway.client().get("shut", "/").await.status(), 503);
    assert_eq!(gateway.client().get("counted", "/").await.status(), 200);
    drop(TcpStream::connect(gateway.addresses[1]).await.unwrap());
    let passed = "wakegate_raw_connections_total{kind=\"tcp\",outcome=\"passed_on\"}";
    eventually("it has ended", async || gateway.metric(passed).await > 0.5).await;
    let page = reqwest::get(format!("http://{}/metrics", gateway.admin))
        .await
        .unwrap();
    let page = page.text().await.unwrap();
    let documented = include_str!("../docs/METRICS.md");
    let served = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    for name in served {
        assert!(
            documented.contains(&format!("`{name}`")),
            "{name} is not in docs/METRICS.md"
        );
    }
    let names = documented
        .split('`')
        .filter(|word| word.starts_with("wakegate_"));
    for name in names.filter(|name| *name != "wakegate_shed_total") {
        assert!(page.contains(name), "{name} is not served");
    }
    gateway.stop().await;
    plane.stop().await;
}
