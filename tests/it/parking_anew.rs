//! Parked tunnels of WebSocket that their instance does not know any more, and takes anew.

use std::time::Duration;

use futures_util::SinkExt as _;
use hypeman::wire::InstanceState;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::parking::{parks, ping, sleeps, stop, unparks};
use crate::support::{Gateway, PATIENCE, Plane, Wanted, eventually};
use crate::tunnels::{Socket, closed, echoes, head, in_state, next, open, try_open};
use crate::tunnels_h2::Browser;

const ANEW: &str =
    "[route.tunnel]\npark = { after = \"200ms\", probe = \"2s\", resume = \"reconnect\" }\n";
const PARKED: &str = "x-wakegate-parked";
const RESTARTED: (u16, &str) = (1012, "instance restarted");

/// One connection to an application that the test itself is.
struct App {
    stream: TcpStream,
    /// The head of its handshake.
    head: String,
}

impl App {
    /// Takes the next handshake; the answer to it is not sent yet.
    async fn accept(origin: &TcpListener) -> Self {
        loop {
            let accepted = timeout(PATIENCE, origin.accept()).await;
            let (mut stream, _) = accepted.unwrap().unwrap();
            // Others may be probes.
            let mut first = [0];
            let peeked = timeout(PATIENCE, stream.peek(&mut first)).await.unwrap();
            if peeked.is_ok_and(|count| count > 0) {
                let head = head(&mut stream).await;
                return Self { stream, head };
            }
        }
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value)
    }

    /// Switches, as it was asked to.
    async fn switch(&mut self) {
        let key = derive_accept_key(self.field("sec-websocket-key").unwrap().as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {key}\r\n\r\n"
        );
        self.stream.write_all(answer.as_bytes()).await.unwrap();
    }

    /// The first byte and the payload of the next frame.
    async fn frame(&mut self) -> Option<(u8, String)> {
        let reading = async {
            let mut header = [0; 6];
            self.stream.read_exact(&mut header).await.ok()?;
            let (length, mask) = (usize::from(header[1] & 0x7f), &header[2..]);
            assert!(length < 126 && header[1] & 0x80 != 0, "{header:?}");
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.ok()?;
            let bytes = payload.iter().zip(mask.iter().cycle());
            let payload: Vec<u8> = bytes.map(|(byte, mask)| byte ^ mask).collect();
            Some((header[0], String::from_utf8_lossy(&payload).into_owned()))
        };
        timeout(PATIENCE, reading).await.unwrap()
    }

    async fn text(&mut self) -> String {
        let (first, text) = self.frame().await.unwrap();
        assert_eq!(first, 0x81, "{text}");
        text
    }

    /// Waits for a ping, and leaves it without an answer.
    async fn pinged(&mut self) {
        assert_eq!(self.frame().await.unwrap().0, 0x89);
    }

    /// Answers the ping behind the last payload.
    async fn confirm(&mut self) {
        let mut first = [0; 6];
        timeout(PATIENCE, self.stream.read_exact(&mut first))
            .await
            .unwrap()
            .unwrap();
        assert_eq!((first[0], first[1]), (0x89, 0x88), "a ping of eight bytes");
        let mut payload = [0; 8];
        self.stream.read_exact(&mut payload).await.unwrap();
        let mut pong = vec![0x8a, 8];
        let bytes = payload.iter().zip(first[2..].iter().cycle());
        pong.extend(bytes.map(|(byte, mask)| byte ^ mask));
        self.stream.write_all(&pong).await.unwrap();
    }

    /// Its system has forgotten it.
    fn reset(self) {
        let socket = SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// A client, and the application that it is connected to.
struct Pair {
    plane: Plane,
    origin: TcpListener,
    gateway: Gateway,
    socket: Socket,
}

impl Pair {
    async fn connect(fields: &[(&'static str, &str)]) -> (Self, App) {
        let plane = Plane::start().await;
        let (_, origin) = plane.own_origin("own").await;
        let gateway = Gateway::start(&plane, ANEW).await;
        let accepting = async {
            let mut app = App::accept(&origin).await;
            app.switch().await;
            app
        };
        let (opened, app) = tokio::join!(try_open(&gateway, "own", fields), accepting);
        let socket = opened.unwrap().0;
        let pair = Self {
            plane,
            origin,
            gateway,
            socket,
        };
        (pair, app)
    }

    async fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Somebody puts the instance to sleep when the tunnel is parked.
    async fn sleep(&self) {
        eventually("it is parked", async || {
            in_state(&self.gateway, "parked").await == 1.0
        })
        .await;
        // By the gateway, so that it knows.
        let url = format!("http://{}/api/instances/own/standby", self.gateway.admin);
        let done = reqwest::Client::new().post(url).send().await.unwrap();
        assert!(done.status().is_success(), "{}", done.status());
    }

    async fn ends(mut self, close: (u16, &str)) {
        let (code, reason) = closed(&mut self.socket).await;
        assert_eq!((code, reason.as_str()), close);
        stop(self.plane, self.gateway).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_refused_when_it_is_made_anew_closes_with_a_code() {
    for (status, code) in [(503, 1013), (403, 1012)] {
        let (mut pair, mut app) = Pair::connect(&[]).await;
        pair.say("hello").await;
        assert_eq!(app.text().await, "hello");
        app.confirm().await;
        pair.sleep().await;
        app.reset();
        pair.say("wake up").await;
        let mut app = App::accept(&pair.origin).await;
        let answer = format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n");
        app.stream.write_all(answer.as_bytes()).await.unwrap();
        pair.ends((code, "upgrade_refused")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_lost_closes_and_no_handshake_is_made_anew() {
    // The application has not answered the ping behind the last payload.
    let (mut pair, mut app) = Pair::connect(&[]).await;
    pair.say("hello").await;
    assert_eq!(app.text().await, "hello");
    app.pinged().await;
    pair.sleep().await;
    app.reset();
    pair.ends(RESTARTED).await;

    // It has half of a message.
    let (mut pair, mut app) = Pair::connect(&[]).await;
    let half = Frame::message("half", OpCode::Data(Data::Text), false);
    pair.socket.send(Message::Frame(half)).await.unwrap();
    assert_eq!(app.frame().await.unwrap(), (0x01, "half".to_owned()));
    app.confirm().await;
    pair.sleep().await;
    app.reset();
    pair.ends(RESTARTED).await;

    // The client has half of one.
    let (pair, mut app) = Pair::connect(&[]).await;
    app.stream.write_all(b"\x01\x04half").await.unwrap();
    pair.sleep().await;
    app.reset();
    pair.ends(RESTARTED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_has_lost_a_connection_gets_its_frames_once_over_a_new_one() {
    let forged = [
        (PARKED, "forged"),
        ("x_wakegate_parked", "forged"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ];
    let (mut pair, mut app) = Pair::connect(&forged).await;
    for (name, _) in forged {
        assert_eq!(app.field(name), None);
    }
    let key = app.field("sec-websocket-key").unwrap().to_owned();
    let mut name = None;
    for (round, is_silent) in [(0, false), (1, true), (2, false)] {
        pair.say("hello").await;
        assert_eq!(app.text().await, "hello");
        app.confirm().await;
        pair.sleep().await;
        let silent = match is_silent {
            true => Some(app),
            false => {
                app.reset();
                None
            }
        };
        for text in ["one", "two"] {
            pair.say(text).await;
        }
        app = App::accept(&pair.origin).await;
        let named = app.field(PARKED).unwrap().to_owned();
        assert_eq!(named.len(), 32);
        assert_eq!(*name.get_or_insert(named.clone()), named);
        assert_ne!(app.field("sec-websocket-key").unwrap(), key);
        app.switch().await;
        assert_eq!(
            (app.text().await, app.text().await),
            ("one".into(), "two".into())
        );
        app.stream.write_all(b"\x81\x06answer").await.unwrap();
        assert_eq!(next(&mut pair.socket).await, Some(Message::text("answer")));
        if let Some(mut silent) = silent {
            // It has had the gateway's question, and nothing else.
            silent.pinged().await;
            assert_eq!(silent.frame().await, None);
        }
        let counted = unparks(&pair.gateway, "reconnected").await;
        assert_eq!(counted, f64::from(round + 1));
    }
    assert_eq!(parks(&pair.gateway, "parked").await, 3.0);
    stop(pair.plane, pair.gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_still_known_goes_on_and_its_frame_comes_once() {
    let (mut pair, mut app) = Pair::connect(&[]).await;
    for round in 1..=2 {
        pair.say("hello").await;
        assert_eq!(app.text().await, "hello");
        app.confirm().await;
        pair.sleep().await;
        pair.say("wake up").await;
        // It is asked first, and may say something of its own instead of an answer.
        app.pinged().await;
        match round {
            1 => app.stream.write_all(b"\x8a\x00").await.unwrap(),
            _ => app.stream.write_all(b"\x81\x05still").await.unwrap(),
        }
        assert_eq!(app.text().await, "wake up");
    }
    assert_eq!(next(&mut pair.socket).await, Some(Message::text("still")));
    assert_eq!(unparks(&pair.gateway, "reconnected").await, 0.0);
    stop(pair.plane, pair.gateway).await;
}

/// A real application whose connections do not outlive its sleep.
async fn lossy() -> (Plane, String, Gateway) {
    let plane = Plane::start().await;
    let wanted = Wanted::hello("lossy").idle(Duration::from_millis(1500));
    let instance = plane.listening(wanted).await;
    let gateway = Gateway::start(&plane, ANEW).await;
    (plane, instance.id, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_of_an_instance_that_loses_all_connections_goes_on_over_sleeps() {
    let (plane, id, gateway) = lossy().await;
    let mut socket = open(&gateway, "lossy").await;
    for round in 0..2 {
        echoes(&mut socket, "hello").await;
        sleeps(&plane, &id).await;
        ping(&mut socket).await;
        assert_eq!(plane.operations(&id, "restore").await, round);
        echoes(&mut socket, "wake up").await;
    }
    assert_eq!(unparks(&gateway, "reconnected").await, 2.0);
    // Somebody else's wake brings it back, too, and a close wakes nobody.
    sleeps(&plane, &id).await;
    assert_eq!(gateway.client().get("lossy", "/").await.status(), 200);
    eventually("it is connected again", async || {
        unparks(&gateway, "reconnected").await == 3.0
    })
    .await;
    sleeps(&plane, &id).await;
    socket.close(None).await.unwrap();
    assert!(matches!(next(&mut socket).await, Some(Message::Close(_))));
    assert_eq!(plane.state(&id).await, InstanceState::Standby);
    stop(plane, gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_http_2_goes_on_likewise() {
    let (plane, id, gateway) = lossy().await;
    let mut browser = Browser::at(&gateway).await;
    let mut socket = browser.open("lossy").await;
    echoes(&mut socket, "hello").await;
    sleeps(&plane, &id).await;
    echoes(&mut socket, "wake up").await;
    assert_eq!(unparks(&gateway, "reconnected").await, 1.0);
    sleeps(&plane, &id).await;
    plane.faults("{ \"error_percent\": 100 }").await;
    socket.send(Message::text("again")).await.unwrap();
    let (code, reason) = closed(&mut socket).await;
    assert!(code == 1013 && !reason.is_empty(), "{code} {reason}");
    plane.faults("{}").await;
    stop(plane, gateway).await;
}
