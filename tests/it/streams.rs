//! Bodies, events and upgrades pass through as they come.

use std::time::Duration;

use crate::support::{Gateway, Plane, Wanted};
use futures_util::{SinkExt as _, StreamExt as _, stream};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

const SIZE: u64 = 100 * 1024 * 1024;

/// Resident memory of this process, which the gateway under test shares with the client.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_pass_each_way_in_flat_memory() {
    let plane = Plane::start().await;
    plane
        .asleep(Wanted::hello("bulk").idle(Duration::from_secs(30)))
        .await;
    let gateway = Gateway::start(&plane, "").await;
    let client = gateway.client();
    let before = resident_bytes();
    let mut most = before;

    let mut download = client.get("bulk", &format!("/bytes?size={SIZE}")).await;
    let mut received = 0;
    while let Some(chunk) = download.chunk().await.unwrap() {
        received += chunk.len() as u64;
        most = most.max(resident_bytes());
    }
    assert_eq!(received, SIZE);

    let chunk = bytes::Bytes::from(vec![b'x'; 64 * 1024]);
    let chunks =
        (0..SIZE / chunk.len() as u64).map(move |_| Ok::<_, std::io::Error>(chunk.clone()));
    let body = reqwest::Body::wrap_stream(stream::iter(chunks));
    let answer = client
        .request("POST", "bulk", "/upload")
        .body(body)
        .send()
        .await
        .unwrap();
    most = most.max(resident_bytes());
    assert_eq!(
        answer.text().await.unwrap(),
        format!("{{\"bytes\":{SIZE}}}")
    );

    let grown = most - before;
    assert!(grown < 48 * 1024 * 1024, "memory grew by {grown} bytes");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_upload_is_not_read_before_its_instance_is_ready() {
    let plane = Plane::start().await;
    plane
        .running(Wanted::hello("upload").env("HELLO_LISTEN_DELAY", "1500ms"))
        .await;
    let gateway = Gateway::start(&plane, "").await;
    let client = gateway.client();
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = std::sync::Arc::clone(&asked);
    let chunk = bytes::Bytes::from(vec![b'x'; 1024 * 1024]);
    let chunks = (0..64).map(move |_| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok::<_, std::io::Error>(chunk.clone())
    });
    let body = reqwest::Body::wrap_stream(stream::iter(chunks));
    let sent = crate::support::spawn(
        client
            .request("POST", "upload", "/upload")
            .body(body)
            .send(),
    );
    crate::support::eventually("it is held", async || {
        gateway.metric("wakegate_held_requests").await == 1.0
    })
    .await;
    let while_held = asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!(
        while_held < 32,
        "the client could send {while_held} MiB while held"
    );
    assert_eq!(
        sent.await.unwrap().unwrap().text().await.unwrap(),
        "{\"bytes\":67108864}"
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_server_sent_event_arrives_when_it_is_sent() {
    let plane = Plane::start().await;
    plane
        .asleep(Wanted::hello("events").idle(Duration::from_secs(30)))
        .await;
    let gateway = Gateway::start(&plane, "").await;
    let mut stream = gateway
        .client()
        .get("events", "/sse?count=4&interval=300ms")
        .await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let (mut arrivals, mut text) = (Vec::new(), String::new());
    while let Some(chunk) = stream.chunk().await.unwrap() {
        arrivals.push(Instant::now());
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert_eq!(text.matches("data: event").count(), 4);
    let gaps: Vec<Duration> = arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(
        gaps.len() == 3 && gaps.iter().all(|gap| *gap > Duration::from_millis(200)),
        "{gaps:?}"
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_wakes_a_cold_instance_and_keeps_it_awake() {
    let plane = Plane::start().await;
    let instance = plane
        .asleep(Wanted::hello("socket").idle(Duration::from_millis(500)))
        .await;
    let gateway = Gateway::start(&plane, "").await;
    let mut request = format!("ws://{}/ws", gateway.address)
        .into_client_request()
        .unwrap();
    request
        .headers_mut()
        .insert("host", "socket.test".parse().unwrap());
    let (mut socket, answer) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(answer.headers()["x-wakegate-wake"], "cold");
    // Three idle timeouts of talk: the tunnel is the lease.
    for round in 0..15 {
        let text = format!("message {round}");
        socket.send(Message::text(text.clone())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(plane.operations(&instance.id, "standby: idle").await, 0);
    socket.close(None).await.unwrap();
    drop(socket);
    crate::support::eventually("it falls asleep after the tunnel", async || {
        plane.operations(&instance.id, "standby: idle").await == 1
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_headers_reach_the_instance_and_hop_by_hop_ones_do_not() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("headers")).await;
    let gateway = Gateway::start(&plane, "").await;
    let response = gateway
        .client()
        .request("GET", "headers", "/headers?a=b")
        .header("x-forwarded-for", "6.6.6.6")
        .header("connection", "x-hop")
        .header("x-hop", "1")
        .header("x-request-id", "my-id-1")
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["x-request-id"], "my-id-1");
    assert!(
        response.headers()["server-timing"]
            .to_str()
            .unwrap()
            .starts_with("wake;dur=")
    );
    let seen: Vec<(String, String)> = response.json().await.unwrap();
    let value = |name: &str| {
        seen.iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    };
    assert_eq!(value("host"), Some("headers.test"));
    assert_eq!(value("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(value("x-forwarded-host"), Some("headers.test"));
    assert_eq!(
        value("forwarded"),
        Some("for=127.0.0.1;host=\"headers.test\";proto=http")
    );
    assert_eq!(value("x-request-id"), Some("my-id-1"));
    assert_eq!(value("x-hop"), None);
    gateway.stop().await;
    plane.stop().await;
}
