//! Event streams that outlive their instance's sleep.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::parking::{keeping, parks, sleeps, start, stop, unparks};
use crate::support::{Gateway, PATIENCE, Plane, Wanted, eventually, reference};
use crate::tunnels::in_state;

const PARK: &str = "[route.tunnel]\npark = { after = \"200ms\", event_streams = true }\n";
/// Longer than its instance is awake without anybody.
const EVENTS: &str = "/sse?count=1000000&interval=4s";

/// A client of an event stream, which reads it line by line; each event comes once and in order.
struct Reader {
    lines: Lines<BufReader<TcpStream>>,
    events: usize,
}

// === impl Reader ===

impl Reader {
    async fn open(gateway: &Gateway, host: &str) -> Self {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let request = format!("GET {EVENTS} HTTP/1.1\r\nhost: {host}.test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let lines = BufReader::new(stream).lines();
        Self { lines, events: 0 }
    }

    /// The next line; `None` at the connection's end.
    async fn line(&mut self) -> Option<String> {
        let line = timeout(PATIENCE, self.lines.next_line()).await.unwrap();
        let line = line.ok().flatten()?;
        if let Some(number) = line.strip_prefix("data: event ") {
            assert_eq!(number, self.events.to_string());
            self.events += 1;
        }
        Some(line)
    }

    async fn event(&mut self) {
        let before = self.events;
        while self.events == before {
            self.line().await.expect("it was cut");
        }
    }

    async fn comment(&mut self) {
        while self.line().await.expect("it was cut") != ":" {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_that_is_cut_short_is_no_whole_response() {
    let plane = Plane::start().await;
    let idle = Duration::from_millis(1500);
    let instance = plane.listening(Wanted::hello("lossy").idle(idle)).await;
    let gateway = Gateway::start(&plane, PARK).await;
    let mut reader = Reader::open(&gateway, "lossy").await;
    reader.event().await;
    // Its driver breaks it off when it falls asleep.
    let mut last = String::new();
    while let Some(line) = reader.line().await {
        last = line;
    }
    assert_ne!(last, "0", "the last chunk is missing");
    sleeps(&plane, &instance.id).await;
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    stop(plane, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_without_events_lets_its_instance_sleep_and_goes_on_after_that() {
    let (plane, instance, gateway) = start("feed", PARK).await;
    let mut reader = Reader::open(&gateway, "feed").await;
    reader.event().await;
    for round in 0..2 {
        sleeps(&plane, &instance.id).await;
        assert_eq!(in_state(&gateway, "parked").await, 1.0);
        reader.comment().await;
        let restores = plane.operations(&instance.id, "restore").await;
        assert_eq!(restores, round, "a stream wakes nobody");
        // Somebody else does.
        assert_eq!(gateway.client().get("feed", "/").await.status(), 200);
        reader.event().await;
    }
    assert_eq!(unparks(&gateway, "restarted").await, 0.0);
    assert!(parks(&gateway, "asleep").await >= 2.0);
    // Who leaves wakes nobody, and its instance hears of that at its next wake.
    sleeps(&plane, &instance.id).await;
    drop(reader);
    eventually("it is gone", async || {
        in_state(&gateway, "parked").await < 1.0
    })
    .await;
    assert_eq!(unparks(&gateway, "closed").await, 1.0);
    assert_eq!(gateway.client().get("feed", "/").await.status(), 200);
    eventually("its connections have ended", async || {
        let id = reference(&instance.id);
        let status = plane.client.auto_standby_status(&id).await.unwrap();
        status.active_inbound_connections == 0
    })
    .await;
    stop(plane, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_ends_as_it_does_and_one_that_is_not_to_be_parked_keeps_its_instance_awake()
{
    let plane = Plane::start().await;
    let instance = plane.listening(keeping("news")).await;
    let rules = format!(
        "{PARK}[[route]]\nhost = \"awake.test\"\ninstance = \"news\"\nport = 8080\n\
         tunnel = {{ park = {{ after = \"200ms\" }} }}\n"
    );
    let gateway = Gateway::start(&plane, &rules).await;
    let client = gateway.client();
    let whole = client.get("news", "/sse?count=3&interval=10ms").await;
    let text = whole.text().await.unwrap();
    assert_eq!(text.matches("data: event ").count(), 3, "{text}");
    eventually("its tunnel is over", async || {
        in_state(&gateway, "open").await < 1.0 && in_state(&gateway, "parked").await < 1.0
    })
    .await;
    let mut reader = Reader::open(&gateway, "awake").await;
    reader.event().await;
    let restores = plane.operations(&instance.id, "restore").await;
    for _ in 0..2 {
        reader.event().await;
    }
    assert_eq!(plane.operations(&instance.id, "restore").await, restores);
    assert_eq!(in_state(&gateway, "open").await, 0.0);
    drop(reader);
    stop(plane, gateway).await;
}
