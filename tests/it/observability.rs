//! What is left of a request: one access line, one count, no secret.

use std::io::{Read as _, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::reserved::Reserved;
use crate::support::{Client, ConfigFile, Gateway, Plane, Program, Wanted, eventually, spawn};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use wakegate::config::{AccessField, AccessFormat, LogConfig};
use wakegate::telemetry::AccessSink;

#[derive(Clone, Default)]
pub(crate) struct MetricsFile(Arc<Mutex<Vec<u8>>>);

impl Write for MetricsFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MetricsFile {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
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
    let paper = MetricsFile::default();
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
    for (code, wake) in [("200", "cold"), ("404", "none"), ("499", "cold")] {
        let name = format!("wakegate_requests_total{{code=\"{code}\",wake=\"{wake}\"}}");
        assert_eq!(gateway.metric(&name).await, 1.0, "{name}");
    }
    gateway.stop().await;
    plane.stop().await;
}

/// A program of Prometheus' own, fed with text; what it says, and whether it is content.
fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("prometheus is installed (make packages)");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

async fn page(admin: SocketAddr) -> String {
    let page = reqwest::get(format!("http://{admin}/metrics"))
        .await
        .unwrap();
    page.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_metric_exists_and_every_metric_is_documented() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("counted")).await;
    let stopped = plane.listening(Wanted::hello("stopped")).await;
    let stopped = crate::support::reference(&stopped.id);
    plane.client.stop_instance(&stopped).await.unwrap();
    let shut = "[[route]]\nhost = \"shut.test\"\ninstance = \"counted\"\n\
                admission = { deny_paths = [\"/\"] }\n";
    let raw = "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"shut.test\"\n\
               [[listener]]\naddress = \"127.0.0.1:0\"\n";
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["counted.test".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("a.pem"), dir.path().join("a.key"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = format!("tls = {{ cert = {cert:?}, key = {key:?} }}\n");
    let nobody = Reserved::new();
    let collector = format!(
        "[tracing]\nendpoint = \"http://{}\"\nsample = 1.0\n",
        nobody.address
    );
    let gateway = Gateway::start(&plane, &format!("{shut}{raw}{tls}{collector}")).await;
    assert_eq!(gateway.client().get("shut", "/").await.status(), 503);
    assert_eq!(gateway.client().get("counted", "/").await.status(), 200);
    assert_eq!(gateway.client().get("stopped", "/").await.status(), 503);
    drop(TcpStream::connect(gateway.addresses[1]).await.unwrap());
    // No client of TLS begins like this.
    let mut broken = TcpStream::connect(gateway.addresses[2]).await.unwrap();
    broken.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    for name in [
        "wakegate_raw_connections_total{kind=\"tcp\",outcome=\"passed_on\"}",
        "wakegate_tls_handshakes_total{outcome=\"failed\"}",
        "wakegate_spans_exported_total{outcome=\"failed\"}",
        "wakegate_controlplane_up{hypeman=\"default\"}",
    ] {
        eventually(name, async || gateway.metric(name).await > 0.5).await;
    }
    let page = page(gateway.admin).await;
    let documented = include_str!("../../docs/reference/metrics.md");
    let names = |text: &'static str| {
        let words = text.split(['`', ' ', '"', '(', ')', '{']);
        words.filter(|word| word.starts_with("wakegate_") || word.starts_with("process_"))
    };
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for name in types.map(|line| line.split(' ').next().unwrap()) {
        let known = documented.contains(&format!("`{name}`"));
        assert!(known, "{name} is not in docs/reference/metrics.md");
        let help = page.contains(&format!("# HELP {name} "));
        assert!(help, "{name} has no help");
    }
    // These are of a gateway that has a fleet.
    let is_served_here = |name: &&str| !name.starts_with("wakegate_fleet_");
    let named = names(documented).chain(names(include_str!("../../src/cli/explain.rs")));
    for name in named.filter(is_served_here) {
        assert!(
            page.contains(name.trim_end_matches(',')),
            "{name} is not served"
        );
    }
    let (fine, said) = promtool(&["check", "metrics"], &page);
    assert!(fine && said.is_empty(), "{said}");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_scrapes_it_and_counts_what_happened() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("scraped")).await;
    let gateway = Gateway::start(&plane, "").await;
    for _ in 0..3 {
        assert_eq!(gateway.client().get("scraped", "/").await.status(), 200);
    }
    let (dir, reserved) = (tempfile::tempdir().unwrap(), Reserved::new());
    let listen = reserved.address;
    let config = dir.path().join("prometheus.yml");
    let text = format!(
        "global: {{ scrape_interval: 200ms, scrape_timeout: 200ms }}\n\
         scrape_configs: [{{ job_name: w, static_configs: [{{ targets: [\"{}\"] }}] }}]\n",
        gateway.admin
    );
    std::fs::write(&config, text).unwrap();
    let server = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            dir.path().join("data").display()
        ))
        .arg(format!("--web.listen-address={listen}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _server = Program(server.expect("prometheus is installed (make packages)"));
    let value = async |query: &str| {
        let asked = reqwest::Client::new()
            .get(format!("http://{listen}/api/v1/query"))
            .query(&[("query", query)])
            .send()
            .await
            .ok()?;
        let answer: serde_json::Value = asked.json().await.ok()?;
        let number = answer["data"]["result"][0]["value"][1].as_str()?;
        number.parse::<f64>().ok()
    };
    for (query, expected) in [
        ("up{job=\"w\"}", 1.0),
        ("sum(wakegate_requests_total)", 3.0),
        ("sum(wakegate_route_requests_total{class=\"2xx\"})", 3.0),
        ("wakegate_wakes_total{outcome=\"woken\"}", 1.0),
        (
            "count(wakegate_wake_phase_duration_seconds_bucket{phase=\"restoring\"}) > bool 0",
            1.0,
        ),
        ("process_start_time_seconds > bool 1700000000", 1.0),
    ] {
        eventually(query, async || value(query).await == Some(expected)).await;
    }
    gateway.stop().await;
    plane.stop().await;
}

/// A collector of spans, as OTLP over HTTP has it.
struct Collector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Span>>>,
    resource: Arc<Mutex<String>>,
    authorization: Arc<Mutex<Option<String>>>,
}

impl Collector {
    async fn start() -> Self {
        let (spans, resource, authorization): (Arc<Mutex<Vec<Span>>>, Arc<Mutex<String>>, _) = (
            Arc::default(),
            Arc::default(),
            Arc::<Mutex<Option<String>>>::default(),
        );
        let kept = (
            Arc::clone(&spans),
            Arc::clone(&resource),
            Arc::clone(&authorization),
        );
        let take = move |headers: http::HeaderMap, body: axum::body::Bytes| {
            assert_eq!(headers["content-type"], "application/x-protobuf");
            let request = ExportTraceServiceRequest::decode(body).unwrap();
            let shown = headers.get("x-collector-key");
            *kept.2.lock().unwrap() = shown.map(|value| value.to_str().unwrap().to_owned());
            for of_resource in request.resource_spans {
                *kept.1.lock().unwrap() = format!("{:?}", of_resource.resource);
                let spans = of_resource
                    .scope_spans
                    .into_iter()
                    .flat_map(|scope| scope.spans);
                kept.0.lock().unwrap().extend(spans);
            }
            std::future::ready(ExportTraceServiceResponse::default().encode_to_vec())
        };
        let routes = axum::Router::new().route("/v1/traces", axum::routing::post(take));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self {
            address,
            spans,
            resource,
            authorization,
        }
    }

    /// The spans of a trace, once there are so many.
    async fn trace(&self, id: &str, spans: usize) -> Vec<Span> {
        let hex = |bytes: &[u8]| {
            use std::fmt::Write as _;
            bytes.iter().fold(String::new(), |mut text, byte| {
                write!(text, "{byte:02x}").unwrap();
                text
            })
        };
        let of_trace = || {
            let all = self.spans.lock().unwrap();
            let own = all.iter().filter(|span| hex(&span.trace_id) == id);
            own.cloned().collect::<Vec<_>>()
        };
        eventually("the trace has come", async || of_trace().len() >= spans).await;
        of_trace()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_request_is_one_trace_from_its_client_to_its_instance() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("traced")).await;
    let collector = Collector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let headers = dir.path().join("headers");
    std::fs::write(&headers, "x-collector-key: hunter2\n").unwrap();
    let extra = format!(
        "[tracing]\nendpoint = \"http://{}\"\nsample = 0.0\nservice_name = \"edge\"\n\
         headers_file = {headers:?}\n[server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n",
        collector.address
    );
    let paper = MetricsFile::default();
    let access = AccessSink::to(paper.clone(), &LogConfig::default());
    let gateway = Gateway::start_with(plane.address, &plane.token, &extra, access).await;
    let client = gateway.client();

    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let answer = client
        .request("GET", "traced", "/headers?secret=hunter2")
        .header("traceparent", format!("00-{trace}-{parent}-01"))
        .header("tracestate", "vendor=1")
        .send()
        .await
        .unwrap();
    let echoed = answer.text().await.unwrap();
    // Where nobody asked for it, and none is begun here, the instance hears that nothing is
    // recorded.
    let other = client.get("traced", "/headers").await.text().await.unwrap();
    let sent = |text: &str| {
        let line = text
            .lines()
            .find(|line| line.contains("traceparent"))
            .unwrap();
        let at = line.find("00-").unwrap();
        line.get(at..at + 55).unwrap().to_owned()
    };
    assert!(sent(&other).ends_with("-00"), "{other}");
    assert!(!sent(&other).contains(trace));
    assert!(echoed.contains("vendor=1"), "{echoed}");

    gateway.stop().await;
    let spans = collector.trace(trace, 6).await;
    let named = |name: &str| {
        let found = spans.iter().find(|span| span.name == name);
        found
            .unwrap_or_else(|| panic!("no span {name} in {spans:?}"))
            .clone()
    };
    let request = named("GET {instance}.test/");
    assert_eq!(
        request.parent_span_id,
        u64::from_str_radix(parent, 16).unwrap().to_be_bytes()
    );
    let own = request
        .span_id
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    assert_eq!(sent(&echoed), format!("00-{trace}-{own}-01"));
    let (hold, wake, upstream) = (named("hold"), named("wake"), named("upstream"));
    for part in [&hold, &wake, &upstream] {
        assert_eq!(part.parent_span_id, request.span_id, "{}", part.name);
        assert!(part.start_time_unix_nano <= part.end_time_unix_nano);
    }
    assert!(request.start_time_unix_nano <= hold.start_time_unix_nano);
    assert!(upstream.end_time_unix_nano <= request.end_time_unix_nano);
    for phase in ["restoring", "not_listening"] {
        let phase = named(phase);
        assert_eq!(phase.parent_span_id, wake.span_id);
        assert!(wake.start_time_unix_nano <= phase.start_time_unix_nano);
        assert!(phase.end_time_unix_nano <= wake.end_time_unix_nano);
    }
    let text = format!("{spans:?}");
    assert!(
        text.contains("wakegate.wake")
            && text.contains("cold")
            && text.matches("wakegate.instance.name").count() == 2,
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
    assert!(collector.resource.lock().unwrap().contains("edge"));
    assert_eq!(
        collector.authorization.lock().unwrap().as_deref(),
        Some("hunter2")
    );
    // The second request was not sampled.
    assert_eq!(collector.spans.lock().unwrap().len(), spans.len());
    assert_eq!(paper.lines()[0]["trace_id"], trace);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_wish_to_be_recorded_is_not_believed() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("wished")).await;
    let collector = Collector::start().await;
    let extra = format!(
        "[tracing]\nendpoint = \"http://{}\"\nsample = 0.0\n",
        collector.address
    );
    let gateway = Gateway::start(&plane, &extra).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let client = gateway.client();
    let request = client.request("GET", "wished", "/headers");
    let request = request.header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    let echoed = request.send().await.unwrap().text().await.unwrap();
    // The trace goes on, and nobody records it.
    let at = echoed.find(&format!("00-{trace}-")).unwrap();
    assert!(
        echoed.get(at..at + 55).unwrap().ends_with("-00"),
        "{echoed}"
    );
    gateway.stop().await;
    assert!(collector.spans.lock().unwrap().is_empty());

    // Where all is recorded, so is the stranger's.
    let extra = extra.replace("0.0\n", "1.0\n");
    let gateway = Gateway::start(&plane, &extra).await;
    let request = gateway.client().request("GET", "wished", "/headers");
    let request = request.header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"));
    assert_eq!(request.send().await.unwrap().status(), 200);
    gateway.stop().await;
    assert!(!collector.trace(trace, 1).await.is_empty());
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_costs_no_request_its_time() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("patient")).await;
    // It accepts and says nothing.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let extra = format!(
        "[tracing]\nendpoint = \"http://{}\"\nsample = 1.0\ntimeout = \"1s\"\n",
        hanging.local_addr().unwrap()
    );
    let gateway = Gateway::start(&plane, &extra).await;
    let client = Client {
        http: reqwest::Client::builder().no_proxy().build().unwrap(),
        address: gateway.address,
    };
    // More than the queue has room for; if each waited for the collector, all would take minutes.
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let client = client.clone();
        crowd.spawn(async move {
            for _ in 0..100 {
                assert_eq!(client.get("patient", "/").await.status(), 200);
            }
        });
    }
    crowd.join_all().await;
    let lost = "wakegate_spans_exported_total{outcome=\"failed\"}";
    eventually("spans are lost and counted", async || {
        gateway.metric(lost).await > 0.0
    })
    .await;
    assert!(gateway.stop().await);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_a_traceparent_goes_on_as_it_came() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("plain")).await;
    let gateway = Gateway::start(&plane, "").await;
    let value = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let client = gateway.client();
    let request = client.request("GET", "plain", "/headers");
    let answer = request.header("traceparent", value).send().await.unwrap();
    assert!(answer.text().await.unwrap().contains(value));
    let without = client.get("plain", "/headers").await.text().await.unwrap();
    assert!(!without.contains("traceparent"), "{without}");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn access_lines_have_the_chosen_form_and_fields_and_leave_out_only_what_is_usual() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("sampled")).await;
    let (paper, mut log) = (MetricsFile::default(), LogConfig::default());
    (log.access_format, log.access_sample) = (AccessFormat::Logfmt, 0.0);
    log.access_fields = vec![AccessField::Status, AccessField::Wake, AccessField::Route];
    let access = AccessSink::to(paper.clone(), &log);
    let gateway = Gateway::start_with(plane.address, &plane.token, "", access).await;
    let client = gateway.client();
    for _ in 0..5 {
        assert_eq!(client.get("sampled", "/").await.status(), 200);
    }
    assert_eq!(client.get("nobody", "/").await.status(), 404);
    gateway.stop().await;
    let written = || String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
    eventually("both lines", async || written().lines().count() == 2).await;
    assert_eq!(
        written(),
        "status=200 wake=cold route={instance}.test/\nstatus=404 wake=none route={instance}.test/\n"
    );
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn diagnostics_come_as_text_json_or_logfmt() {
    let plane = Plane::start().await;
    for (format, says) in [
        ("text", "INFO"),
        ("json", "\"message\":\"serving\""),
        ("logfmt", "message=serving"),
    ] {
        let file = ConfigFile::new(&plane, "", "");
        file.add(&format!("[log]\nformat = \"{format}\"\n"));
        let mut program = Program::start(&["serve", "-c", file.path.to_str().unwrap()]);
        eventually("it serves", async || {
            reqwest::get(format!("http://{}/readyz", file.admin))
                .await
                .is_ok()
        })
        .await;
        program.signal("TERM");
        let mut said = String::new();
        let stderr = program.0.stderr.take();
        stderr.unwrap().read_to_string(&mut said).unwrap();
        assert!(program.0.wait().unwrap().success(), "{said}");
        assert!(said.contains(says), "{format}: {said}");
        // What a control plane answers may be told after it.
        let draining = said.lines().rev().take(2);
        assert!(
            draining.into_iter().any(|line| line.contains("draining")),
            "the last lines are there: {said}"
        );
        if format == "json" {
            let all = said.lines();
            all.for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).unwrap()));
        }
    }
    plane.stop().await;
}
