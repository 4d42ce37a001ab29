//! What WebSocket clients may send, and what they may not, through a tunnel that is parked before each case: its
//! instance sleeps, and the case's first frame is what wakes it.
//!
//! Guarantees: every byte arrives as it was sent, once and in order, both ways; what the standard refuses, the
//! instance refuses, and a client sees the same of that as without a gateway; only pings and pongs that come
//! before any payload, and closes, are the gateway's to answer.

mod table;

use std::net::SocketAddr;
use std::time::Duration;

use hypeman::wire::InstanceState;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use wakegate::upstream::{FrameHeader, Opcode};

use self::table::{CLOSE, Case, Frame, PING};
use crate::parking::stop;
use crate::support::{Gateway, PATIENCE, Plane, Wanted, eventually};
use crate::tunnels::{SWITCHED, UPGRADE, head, in_state};

const PARK: &str = "[route.tunnel]\npark = { after = \"50ms\", probe = \"2s\" }\n";
const NAME: &str = "own";

/// A gateway and an instance, whose application is the test's own where there is a listener.
struct Site {
    plane: Plane,
    gateway: Gateway,
    id: String,
    origin: Option<TcpListener>,
}

async fn switch(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(UPGRADE.as_bytes()).await.unwrap();
    stream
}

async fn switched(mut stream: TcpStream) -> TcpStream {
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream
}

async fn exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let reading = stream.read_exact(&mut bytes);
    timeout(PATIENCE, reading).await.unwrap().unwrap();
    bytes
}

fn bytes_of(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(Frame::masked).collect()
}

/// What follows the header of each plain frame, with its opcode's byte.
fn frames_of(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let (mut rest, mut frames) = (bytes, Vec::new());
    while let Ok(Some(header)) = FrameHeader::parse(rest) {
        let end = header.header_length + header.payload_length as usize;
        let Some(frame) = rest.get(..end) else {
            break;
        };
        if !matches!(header.opcode, Opcode::Ping | Opcode::Pong) {
            frames.push((frame[0], frame[header.header_length..].to_vec()));
        }
        rest = &rest[end..];
    }
    frames
}

impl Case {
    /// Sends it; a reader at the other end that does not want it may have ended.
    async fn send(&self, stream: &mut TcpStream, frames: &[Frame]) {
        for piece in bytes_of(frames).chunks(self.piece) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            if self.piece < 100 {
                // So that they do not come together.
                tokio::task::yield_now().await;
            }
        }
    }
}

impl Site {
    async fn start(own: bool) -> Self {
        let plane = Plane::start().await;
        let (id, origin) = match own {
            true => {
                let (id, origin) = plane.own_origin(NAME).await;
                (id.as_str().to_owned(), Some(origin))
            }
            false => {
                let mut wanted = Wanted::hello(NAME).idle(Duration::from_secs(3600));
                let tag = ("wakegate.flows".to_owned(), "keep".to_owned());
                wanted.request.tags.extend([tag]);
                (plane.listening(wanted).await.id, None)
            }
        };
        let gateway = Gateway::start(&plane, PARK).await;
        Self {
            plane,
            gateway,
            id,
            origin,
        }
    }

    /// A client's connection, and the application's side of it.
    async fn pair(&self) -> (TcpStream, TcpStream) {
        let client = switch(self.gateway.address).await;
        let mut app = loop {
            let accepting = self.origin.as_ref().unwrap().accept();
            let (stream, _) = timeout(PATIENCE, accepting).await.unwrap().unwrap();
            // Others may be probes.
            let mut first = [0];
            let peeked = timeout(PATIENCE, stream.peek(&mut first)).await.unwrap();
            if peeked.is_ok_and(|count| count > 0) {
                break stream;
            }
        };
        head(&mut app).await;
        app.write_all(SWITCHED).await.unwrap();
        (switched(client).await, app)
    }

    async fn is_asleep(&self) -> bool {
        self.plane.state(&self.id).await == InstanceState::Standby
    }

    /// The one tunnel is parked, and its instance sleeps.
    async fn rest(&self, case: &str) {
        eventually(case, async || {
            in_state(&self.gateway, "parked").await == 1.0
        })
        .await;
        if self.is_asleep().await {
            return;
        }
        let url = format!("http://{}/api/instances/{NAME}", self.gateway.admin);
        let http = reqwest::Client::new();
        eventually(case, async || {
            // Where the gateway has just asked about it, it learns of its sleep with the next question.
            let _conflict = http.post(format!("{url}/standby")).send().await.unwrap();
            let detail = http.get(&url).send().await.unwrap();
            let detail: serde_json::Value = detail.json().await.unwrap();
            detail["lease"]["in_force"] != true && self.is_asleep().await
        })
        .await;
    }

    async fn no_tunnel(&self) {
        eventually("the last one is gone", async || {
            in_state(&self.gateway, "open").await + in_state(&self.gateway, "parked").await == 0.0
        })
        .await;
    }

    /// The pings and pongs that come before any payload, which wake nobody.
    async fn controls(&self, case: &Case, client: &mut TcpStream) {
        case.send(client, &case.controls).await;
        for control in case.controls.iter().filter(|frame| frame.first == PING) {
            let pong = Frame::new(0x8a, &control.payload).plain();
            let heard = exactly(client, pong.len()).await;
            assert_eq!(heard, pong, "{}", case.name);
        }
        assert!(self.is_asleep().await, "{}", case.name);
    }
}

/// Every case with an application that looks at bytes.
async fn bytes_arrive(cases: Vec<Case>) {
    let site = Site::start(true).await;
    let (mut client, mut app) = site.pair().await;
    for case in &cases {
        let name = &case.name;
        site.rest(name).await;
        site.controls(case, &mut client).await;
        let sent = bytes_of(&case.frames);
        let mut answers: Vec<u8> = case.frames.iter().flat_map(Frame::plain).collect();
        if case.is_refused {
            answers = Frame::new(CLOSE, &1002_u16.to_be_bytes()).plain();
        }
        let sending = case.send(&mut client, &case.frames);
        let (heard, ()) = tokio::join!(exactly(&mut app, sent.len()), sending);
        assert!(heard == sent, "{name}: {} bytes differ", sent.len());
        let answering = app.write_all(&answers);
        let (heard, answered) = tokio::join!(exactly(&mut client, answers.len()), answering);
        answered.unwrap();
        assert!(heard == answers, "{name}: the answer differs");
        if case.is_refused {
            drop(app);
            let mut rest = Vec::new();
            let _reset = timeout(PATIENCE, client.read_to_end(&mut rest))
                .await
                .unwrap();
            assert!(rest.is_empty(), "{name}: {rest:?}");
            drop(client);
            site.no_tunnel().await;
            (client, app) = site.pair().await;
        }
    }
    drop((client, app));
    stop(site.plane, site.gateway).await;
}

/// What a client hears of a case: until the echo of what comes behind it, or the end.
async fn hears(stream: &mut TcpStream, case: &Case) -> Vec<(u8, Vec<u8>)> {
    let last = Frame::new(0x81, case.name.as_bytes());
    let (mut reader, mut writer) = stream.split();
    let sending = async {
        for piece in bytes_of(&case.frames).chunks(case.piece) {
            if writer.write_all(piece).await.is_err() {
                return;
            }
        }
        if !case.is_refused {
            writer.write_all(&last.masked()).await.unwrap();
        }
    };
    let reading = async {
        let (mut heard, echo) = (Vec::new(), last.plain());
        while !heard.ends_with(&echo) {
            match timeout(PATIENCE, reader.read_buf(&mut heard))
                .await
                .unwrap()
            {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        heard
    };
    let ((), heard) = tokio::join!(sending, reading);
    frames_of(&heard)
}

/// Every case with a real echoing server: what its client hears is what it hears without a gateway.
async fn a_server_answers_as_ever(cases: Vec<Case>) {
    let site = Site::start(false).await;
    let reference = crate::support::reference(&site.id);
    let instance = site.plane.client.get_instance(&reference).await.unwrap();
    let ip = instance.network.unwrap().ip.unwrap();
    let direct: SocketAddr = format!("{ip}:8080").parse().unwrap();
    let mut expected = Vec::new();
    for case in &cases {
        let mut stream = switched(switch(direct).await).await;
        let heard = hears(&mut stream, case).await;
        let is_whole = heard
            .last()
            .is_some_and(|(_, text)| *text == case.name.as_bytes());
        assert_eq!(is_whole, !case.is_refused, "{}", case.name);
        expected.push(heard);
    }
    let mut client = switched(switch(site.gateway.address).await).await;
    for (case, expected) in cases.iter().zip(expected) {
        let name = &case.name;
        site.rest(name).await;
        site.controls(case, &mut client).await;
        let heard = hears(&mut client, case).await;
        assert!(heard == expected, "{name}: {heard:?}, and not {expected:?}");
        if case.is_refused {
            drop(client);
            site.no_tunnel().await;
            client = switched(switch(site.gateway.address).await).await;
        }
    }
    drop(client);
    stop(site.plane, site.gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_all_lengths_wake_and_arrive_byte_by_byte() {
    bytes_arrive([table::framing(), table::large()].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_messages_text_and_pings_between_them_arrive_byte_by_byte() {
    bytes_arrive([table::fragmentation(), table::utf8(), table::pings()].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reserved_is_the_instances_to_refuse() {
    bytes_arrive(table::reserved()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_says_of_messages_what_it_says_without_a_gateway() {
    a_server_answers_as_ever([table::framing(), table::large(), table::pings()].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_refuses_what_it_refuses_without_a_gateway() {
    let cases = [table::reserved(), table::fragmentation(), table::utf8()];
    a_server_answers_as_ever(cases.concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_is_answered_with_its_code_and_the_instance_hears_it_byte_by_byte_when_it_wakes() {
    let site = Site::start(true).await;
    for closing in table::closes() {
        let name = &closing.name;
        let (mut client, mut app) = site.pair().await;
        site.rest(name).await;
        let frame = closing.frame.masked();
        client.write_all(&frame).await.unwrap();
        let answer = Frame::new(CLOSE, &closing.code.to_be_bytes()).plain();
        let mut heard = Vec::new();
        let _reset = timeout(PATIENCE, client.read_to_end(&mut heard))
            .await
            .unwrap();
        assert_eq!(heard, answer, "{name}");
        assert!(site.is_asleep().await, "{name}");
        // At its next wake, for whatever reason.
        let url = format!("http://{}/api/instances/{NAME}/wake", site.gateway.admin);
        let woken = reqwest::Client::new().post(url).send().await.unwrap();
        assert!(woken.status().is_success(), "{name}: {}", woken.status());
        assert_eq!(exactly(&mut app, frame.len()).await, frame, "{name}");
        drop((client, app));
        site.no_tunnel().await;
    }
    stop(site.plane, site.gateway).await;
}
