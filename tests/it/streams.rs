//! Bodies, events and upgrades pass through as they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::support::{
    Client, ConfigFile, Door, Gateway, PATIENCE, Plane, Program, Wanted, eventually, route, spawn,
};
use futures_util::{SinkExt as _, StreamExt as _, stream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

const SIZE: u64 = 100 * 1024 * 1024;

/// A number of `/proc/<pid>/status` that is about memory: `VmRSS` is what a process has, `VmHWM`
/// the most that it ever had.
fn bytes_of(program: &Program, name: &str) -> u64 {
    let status = format!("/proc/{}/status", program.0.id());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.unwrap().trim_matches([':', ' ', '\t', 'k', 'B']);
    kilobytes.parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_pass_each_way_in_flat_memory() {
    let plane = Plane::start().await;
    plane
        .asleep(Wanted::hello("bulk").idle(Duration::from_secs(30)))
        .await;
    // In a process of its own, whose memory nobody shares.
    let file = ConfigFile::new(&plane, "", "");
    let gateway = Program::start(&["serve", "-c", file.path.to_str().unwrap()]);
    eventually("it serves", async || {
        reqwest::get(format!("http://{}/readyz", file.admin))
            .await
            .is_ok()
    })
    .await;
    let client = Client {
        http: reqwest::Client::builder().no_proxy().build().unwrap(),
        address: file.listen,
    };
    assert_eq!(client.get("bulk", "/").await.status(), 200);
    let before = bytes_of(&gateway, "VmRSS");

    let mut download = client.get("bulk", &format!("/bytes?size={SIZE}")).await;
    let mut received = 0;
    while let Some(chunk) = download.chunk().await.unwrap() {
        received += chunk.len() as u64;
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
    assert_eq!(
        answer.text().await.unwrap(),
        format!("{{\"bytes\":{SIZE}}}")
    );

    let grown = bytes_of(&gateway, "VmHWM") - before;
    println!("memory grew by {grown} bytes");
    assert!(grown < 16 * 1024 * 1024, "memory grew by {grown} bytes");
    drop(gateway);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_upload_is_not_read_before_its_instance_is_ready() {
    let plane = Plane::start().await;
    let (_, door) = plane.behind_a_door("upload").await;
    let gateway = Gateway::start(&plane, &route("upload", Door::ROUTE)).await;
    let client = gateway.client();
    let asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&asked);
    let chunk = bytes::Bytes::from(vec![b'x'; 1024 * 1024]);
    let chunks = (0..64).map(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok::<_, std::io::Error>(chunk.clone())
    });
    let body = reqwest::Body::wrap_stream(stream::iter(chunks));
    let sent = spawn(
        client
            .request("POST", "upload", "/upload")
            .body(body)
            .send(),
    );
    eventually("it is held", async || {
        gateway.metric("wakegate_held_requests").await == 1.0
    })
    .await;
    // Whatever the kernel takes by itself, it has taken by then.
    let mut while_held = u64::MAX;
    eventually("nothing more is sent", async || {
        let before = std::mem::replace(&mut while_held, asked.load(Ordering::Relaxed));
        tokio::time::sleep(Duration::from_millis(100)).await;
        before == while_held
    })
    .await;
    assert!(
        while_held < 32,
        "the client could send {while_held} MiB while held"
    );
    door.open().await;
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
    let (_, origin) = plane.own_origin("events").await;
    // The instance sends an event when it is told to, and its response has no end before the last.
    let (send, sending) = tokio::sync::mpsc::channel::<String>(1);
    let sending = Arc::new(tokio::sync::Mutex::new(Some(sending)));
    let answer = async move || {
        let sending = sending.lock().await.take().unwrap();
        let events = stream::unfold(sending, async |mut sending| {
            let event = sending.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(event), sending))
        });
        let kind = [("content-type", "text/event-stream")];
        (kind, axum::body::Body::from_stream(events))
    };
    let routes = axum::Router::new().fallback(answer);
    let serving = spawn(axum::serve(origin, routes).into_future());
    let gateway = Gateway::start(&plane, "").await;
    let mut stream = gateway.client().get("events", "/").await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    for number in 0..4 {
        let event = format!("data: event {number}\n\n");
        send.send(event.clone()).await.unwrap();
        let arrived = tokio::time::timeout(PATIENCE, stream.chunk()).await;
        let arrived = arrived.expect("it arrives before the next is sent");
        assert_eq!(arrived.unwrap().unwrap(), event);
    }
    drop(send);
    assert!(stream.chunk().await.unwrap().is_none(), "the end");
    serving.abort();
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
    let before = plane.operations(&instance.id, "standby: idle").await;
    // Three idle timeouts of talk: the tunnel is the lease.
    for round in 0..15 {
        let text = format!("message {round}");
        socket.send(Message::text(text.clone())).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(
        plane.operations(&instance.id, "standby: idle").await,
        before
    );
    socket.close(None).await.unwrap();
    drop(socket);
    eventually("it falls asleep after the tunnel", async || {
        plane.operations(&instance.id, "standby: idle").await == before + 1
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
