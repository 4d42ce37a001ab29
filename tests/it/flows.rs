//! TCP connections that outlive the sleep of the instance at their end: the other end hears nothing
//! meanwhile, and afterwards everything, in order.

use std::time::Duration;

use hypeman::InstanceRef;
use hypeman::wire::InstanceState;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{PATIENCE, Plane, Wanted, reference};
use crate::vm::{bridged, listens, wanted};

const SLEEPS: usize = 3;
/// What is heard of an instance that has been silent for so long was on its way before it slept.
const SILENCE: Duration = Duration::from_millis(500);
const PIECE: usize = 20_000;

/// A connection, and all that was heard from it.
struct Flow {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Flow {
    async fn open(address: &str, request: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let heard = Vec::new();
        let mut flow = Self { stream, heard };
        flow.say(request.as_bytes()).await;
        flow
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads until what was heard is enough.
    async fn hears(&mut self, what: &str, enough: impl Fn(&[u8]) -> bool) {
        while !enough(&self.heard) {
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.heard)).await;
            let read = read.unwrap_or_else(|_| panic!("not heard: {what}"));
            assert!(read.unwrap() > 0, "it ended before it was heard: {what}");
        }
    }

    /// Reads what is there, and nothing more comes; nor is it cut.
    async fn is_silent(&mut self) {
        while let Ok(read) = timeout(SILENCE, self.stream.read_buf(&mut self.heard)).await {
            assert!(read.unwrap() > 0, "it was cut");
        }
    }
}

/// The numbers of the events of a stream.
fn events(heard: &[u8]) -> Vec<usize> {
    let text = String::from_utf8_lossy(heard);
    let (text, _half_a_line) = text.rsplit_once('\n').unwrap_or_default();
    let numbers = text.lines().filter_map(|line| {
        let number = line.strip_prefix("data: event ")?;
        number.parse().ok()
    });
    numbers.collect()
}

/// The number of whole answers to `/count`.
fn answers(heard: &[u8]) -> usize {
    let text = String::from_utf8_lossy(heard);
    let answers = text.matches("HTTP/1.1 200 OK\r\n").count();
    match text.ends_with("\r\n\r\n0") {
        true => answers,
        false => answers.saturating_sub(1),
    }
}

/// Connections of three kinds through several sleeps: the instance speaks of its own accord, it is
/// asked, and it is told something long.
async fn outlive_sleeps(plane: &Plane, id: &InstanceRef, address: &str) {
    let stream = "GET /sse?count=1000000&interval=20ms HTTP/1.1\r\nhost: flow\r\n\r\n";
    let question = "GET /count HTTP/1.1\r\nhost: flow\r\n\r\n";
    let piece = |number: usize| format!("{number:0>PIECE$}").into_bytes();
    let length = (SLEEPS + 1) * PIECE;
    let echo = format!("POST /echo HTTP/1.1\r\nhost: flow\r\ncontent-length: {length}\r\n\r\n");
    let mut speaks = Flow::open(address, stream).await;
    let mut asked = Flow::open(address, question).await;
    let mut told = Flow::open(address, &echo).await;
    for sleep in 1..=SLEEPS {
        told.say(&piece(sleep)).await;
        asked
            .hears("an answer", |heard| answers(heard) == sleep)
            .await;
        let before = events(&speaks.heard).len();
        speaks
            .hears("events", |heard| events(heard).len() > before + 5)
            .await;
        plane.client.standby_instance(id, None).await.unwrap();
        for flow in [&mut speaks, &mut asked, &mut told] {
            flow.is_silent().await;
        }
        assert_eq!(plane.state(id.as_str()).await, InstanceState::Standby);
        plane.client.restore_instance(id).await.unwrap();
        // Before anybody has asked it for anything.
        let before = events(&speaks.heard).len();
        speaks
            .hears("an event", |heard| events(heard).len() > before)
            .await;
        asked.say(question.as_bytes()).await;
    }
    asked
        .hears("the last answer", |heard| answers(heard) > SLEEPS)
        .await;
    told.say(&piece(SLEEPS + 1)).await;
    let all: Vec<u8> = (1..=SLEEPS + 1).flat_map(piece).collect();
    told.hears("the echo", |heard| heard.ends_with(&all)).await;
    let events = events(&speaks.heard);
    assert!(events.iter().copied().eq(0..events.len()), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_over_a_bridge_outlive_their_vms_sleep() {
    let name = "flows::connections_over_a_bridge_outlive_their_vms_sleep";
    let Some(plane) = bridged(name).await else {
        return;
    };
    let request = wanted("flow").request;
    let created = plane.client.create_instance(&request).await.unwrap();
    let url = listens(&plane.client, &created.id).await;
    let host = || std::fs::read_to_string("/sys/class/net/wakegate0/address").unwrap();
    let before = host();
    let address = url.trim_start_matches("http://");
    outlive_sleeps(&plane, &reference(&created.id), address).await;
    plane.sleep(&created.id).await;
    assert_eq!(host(), before, "the host is where its guests know it");
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_outlive_the_sleep_of_a_process_that_is_to_keep_its_flows() {
    let plane = Plane::start().await;
    let mut wanted = Wanted::hello("flow");
    let tag = ("wakegate.flows".to_owned(), "keep".to_owned());
    wanted.request.tags.extend([tag]);
    let instance = plane.listening(wanted).await;
    let address = format!("{}:8080", instance.network.unwrap().ip.unwrap());
    outlive_sleeps(&plane, &reference(&instance.id), &address).await;
    plane.stop().await;
}
