//! What cannot be served is refused with the right answer.

use std::time::Duration;

use crate::support::reserved::Reserved;
use crate::support::{Gateway, Plane, Wanted, eventually, reference};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use wakegate::telemetry::AccessSink;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_is_a_502_that_says_nothing_of_it() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("locked")).await;
    let access = AccessSink::off();
    let gateway = Gateway::start_with(plane.address, "wrong-token-here", "", access).await;
    let response = gateway.client().get("locked", "/").await;
    assert_eq!(response.status(), 502);
    let body = response.text().await.unwrap();
    assert!(
        body.contains("\"control_plane_refused\"") && !body.contains("wrong-token-here"),
        "{body}"
    );
    assert!(
        gateway
            .metric("wakegate_controlplane_requests_total{op=\"get\",code=\"401\"}")
            .await
            >= 1.0
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_down_is_a_503_with_retry_after() {
    let nobody = Reserved::new();
    let access = AccessSink::off();
    let extra = "[route.wake]\ntimeout = \"1s\"\n";
    let gateway = Gateway::start_with(nobody.address, "t", extra, access).await;
    let (status, code, after) = gateway.client().problem("any").await;
    assert_eq!(
        (status, code.as_str(), after.as_deref()),
        (503, "control_plane_unavailable", Some("2"))
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inside_the_lease_a_control_plane_that_goes_away_is_not_missed() {
    let plane = Plane::start().await;
    let origin = plane
        .asleep(Wanted::hello("warm").idle(Duration::from_secs(3600)))
        .await;
    let gateway = Gateway::start(&plane, "[wake]\nverify_interval = \"1h\"\n").await;
    let client = gateway.client();
    assert_eq!(client.get("warm", "/").await.status(), 200);
    let before = gateway
        .metric("wakegate_controlplane_requests_total{op=\"get\",code=\"200\"}")
        .await;
    // From here on every call to the control plane ends without an answer.
    plane.faults(r#"{ "drop_percent": 100 }"#).await;
    let asked = plane.client.get_instance(&reference(&origin.id)).await;
    assert!(asked.is_err(), "it has gone away");
    for _ in 0..50 {
        let response = client.get("warm", "/").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-wakegate-wake"], "warm");
    }
    let after = gateway
        .metric("wakegate_controlplane_requests_total{op=\"get\",code=\"200\"}")
        .await;
    assert_eq!(after, before, "the warm path asks nobody");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_instances_and_hosts_are_404_and_a_scan_costs_one_call_a_name() {
    let plane = Plane::start().await;
    let gateway = Gateway::start(&plane, "[wake]\nunknown_ttl = \"1m\"\n").await;
    let client = gateway.client();
    for _ in 0..5 {
        let (status, code, _) = client.problem("nobody").await;
        assert_eq!((status, code.as_str()), (404, "instance_not_found"));
    }
    let calls = gateway
        .metric("wakegate_controlplane_requests_total{op=\"get\",code=\"404\"}")
        .await;
    assert_eq!(calls, 1.0);
    let elsewhere = client
        .http
        .get(format!("http://{}/", gateway.address))
        .send()
        .await
        .unwrap();
    assert_eq!(elsewhere.status(), 404);
    assert!(elsewhere.text().await.unwrap().contains("no_route"));
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_instance_is_refused_unless_its_route_may_start_it() {
    let plane = Plane::start().await;
    let instance = plane.listening(Wanted::hello("halted")).await;
    plane
        .client
        .stop_instance(&reference(&instance.id))
        .await
        .unwrap();
    let strict = Gateway::start(&plane, "").await;
    let (status, code, after) = strict.client().problem("halted").await;
    assert_eq!(
        (status, code.as_str(), after.as_deref()),
        (503, "instance_stopped", Some("30"))
    );
    let kind = Gateway::start(&plane, "[route.wake]\nstart_stopped = true\n").await;
    assert_eq!(kind.client().get("halted", "/").await.status(), 200);
    // The strict one follows to the new address.
    assert_eq!(strict.client().get("halted", "/").await.status(), 200);
    strict.stop().await;
    kind.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_hold_bound_requests_are_shed_with_retry_after() {
    let plane = Plane::start().await;
    plane
        .running(Wanted::hello("crowded").env("HELLO_LISTEN_DELAY", "never"))
        .await;
    let gateway = Gateway::start(
        &plane,
        "[wake]\nmax_held_per_instance = 2\ntimeout = \"20s\"\n",
    )
    .await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = TcpStream::connect(gateway.address).await.unwrap();
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: crowded.test\r\n\r\n")
            .await
            .unwrap();
        held.push(client);
    }
    eventually("two are held", async || {
        gateway.metric("wakegate_held_requests").await == 2.0
    })
    .await;
    let (status, code, after) = gateway.client().problem("crowded").await;
    assert_eq!(
        (status, code.as_str(), after.as_deref()),
        (503, "hold_queue_full", Some("1"))
    );
    assert_eq!(
        gateway
            .metric("wakegate_shed_total{reason=\"instance_queue\"}")
            .await,
        1.0
    );
    drop(held);
    eventually("their places are free", async || {
        gateway.metric("wakegate_held_requests").await == 0.0
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_one_clear_request_is_refused() {
    let plane = Plane::start().await;
    let gateway = Gateway::start(&plane, "").await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        (
            "GET / HTTP/1.1\r\nhost: a.test\r\nhost: b.test\r\n\r\n",
            "400",
        ),
        ("GET / HTTP/1.1\r\nhost: u@a.test\r\n\r\n", "400"),
        (
            "GET / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "400",
        ),
        ("CONNECT a.test:80 HTTP/1.1\r\nhost: a.test\r\n\r\n", "405"),
        (
            "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "501",
        ),
    ] {
        let mut client = TcpStream::connect(gateway.address).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 1024];
        let length = client.read(&mut answer).await.unwrap();
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(
            text.starts_with(&format!("HTTP/1.1 {status}")),
            "{request:?}: {text}"
        );
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_hangs_is_a_504_at_the_routes_deadline() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let hanging = crate::support::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            kept.push(stream);
        }
    });
    let access = AccessSink::off();
    let extra = "[route.wake]\ntimeout = \"300ms\"\n";
    let gateway = Gateway::start_with(address, "t", extra, access).await;
    let (status, code, after) = gateway.client().problem("any").await;
    assert_eq!(
        (status, code.as_str(), after.as_deref()),
        (504, "wake_timeout", Some("1"))
    );
    gateway.stop().await;
    hanging.abort();
}
