//! Tunnels over HTTP/2 (RFC 8441) have the rules of all tunnels.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::ext::Protocol;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::{Gateway, PATIENCE, Plane, Wanted, eventually, spawn};
use crate::tunnels::{closed, echoes, next, pings_until_closed};

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A browser's one connection.
pub struct Browser(SendRequest<Empty<Bytes>>);

impl Browser {
    pub async fn at(gateway: &Gateway) -> Self {
        let stream = TcpStream::connect(gateway.address).await.unwrap();
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.unwrap();
        spawn(connection);
        let mut browser = Self(sender);
        // The first answer comes after the gateway's word that it takes extended CONNECT.
        assert_eq!(browser.get("elsewhere").await, 404);
        browser
    }

    async fn get(&mut self, instance: &str) -> u16 {
        let request = http::Request::get(format!("http://{instance}.test/"));
        let request = request.body(Empty::new()).unwrap();
        let answer = timeout(PATIENCE, self.0.send_request(request)).await;
        answer.unwrap().unwrap().status().as_u16()
    }

    /// The socket and the fields of the answer; or its status and its code.
    async fn try_open(
        &mut self,
        instance: &str,
        fields: &[(&'static str, &str)],
    ) -> Result<(Socket, http::HeaderMap), (u16, String)> {
        let mut request = http::Request::connect(format!("http://{instance}.test/ws"))
            .version(http::Version::HTTP_2)
            .extension(Protocol::from_static("websocket"))
            .header("sec-websocket-version", "13");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let asking = self.0.send_request(request.body(Empty::new()).unwrap());
        let answer = timeout(PATIENCE, asking).await.unwrap().unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        if status != 200 {
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap();
            return Err((status, body["code"].as_str().unwrap().to_owned()));
        }
        let upgraded = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        let socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None);
        Ok((socket.await, headers))
    }

    pub async fn open(&mut self, instance: &str) -> Socket {
        self.try_open(instance, &[]).await.unwrap().0
    }
}

async fn restores(plane: &Plane, id: &str) -> usize {
    plane.operations(id, "restore").await
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_keep_no_stream_open_and_its_end_is_no_other_ones() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("tabs")).await;
    let gateway = Gateway::start(&plane, "[route.tunnel]\nidle = \"1500ms\"\n").await;
    let mut browser = Browser::at(&gateway).await;
    let mut busy = browser.open("tabs").await;
    let mut pinging = Vec::new();
    for _ in 0..10 {
        let socket = browser.open("tabs").await;
        pinging.push(spawn(pings_until_closed(
            socket,
            Duration::from_millis(200),
        )));
    }
    let all = futures_util::future::join_all(pinging);
    tokio::pin!(all);
    let closes = loop {
        tokio::select! {
            closes = &mut all => break closes,
            () = sleep(Duration::from_millis(300)) => echoes(&mut busy, "data").await,
        }
    };
    for close in closes {
        assert_eq!(close.unwrap(), (1001, "idle".to_owned()));
    }
    echoes(&mut busy, "still there").await;
    assert_eq!(browser.get("tabs").await, 200, "the connection goes on");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_its_longest_life_however_much_goes_over_it() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("busy")).await;
    let gateway = Gateway::start(&plane, "[route.tunnel]\nmax_life = \"2s\"\n").await;
    let mut browser = Browser::at(&gateway).await;
    let (mut socket, began) = (browser.open("busy").await, Instant::now());
    let close = loop {
        socket.send(Message::text("more")).await.unwrap();
        match next(&mut socket).await {
            Some(Message::Text(_)) => sleep(Duration::from_millis(200)).await,
            Some(Message::Close(Some(frame))) => {
                break (u16::from(frame.code), frame.reason.to_string());
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(close, (1001, "max_life".to_owned()));
    assert!(began.elapsed() >= Duration::from_millis(1900));
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_connection_count_as_tunnels_of_their_client() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("few")).await;
    let limited = Err((429, "tunnel_limit".to_owned()));
    let gateway = Gateway::start(&plane, "[route.tunnel]\nmax_per_client = 0\n").await;
    let mut browser = Browser::at(&gateway).await;
    assert_eq!(browser.try_open("few", &[]).await.map(drop), limited);
    assert_eq!(restores(&plane, &instance.id).await, 0);
    gateway.stop().await;

    let gateway = Gateway::start(&plane, "[route.tunnel]\nmax_per_client = 2\n").await;
    let (mut browser, mut other) = (Browser::at(&gateway).await, Browser::at(&gateway).await);
    let first = browser.open("few").await;
    let _second = other.open("few").await;
    for tab in [&mut browser, &mut other] {
        assert_eq!(tab.try_open("few", &[]).await.map(drop), limited);
        assert_eq!(tab.get("few").await, 200, "a request is no tunnel");
    }
    drop(first);
    eventually("its place is free", async || {
        browser.try_open("few", &[]).await.is_ok()
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleep_and_a_restart_close_streams_with_their_codes() {
    let plane = Plane::start().await;
    let instance = plane.listening(Wanted::hello("told")).await;
    let keys = "[server]\ndrain_timeout = \"500ms\"\n";
    let mut gateway = Gateway::start(&plane, keys).await;
    let mut browser = Browser::at(&gateway).await;
    let mut socket = browser.open("told").await;
    echoes(&mut socket, "hello").await;
    plane.sleep(&instance.id).await;
    assert_eq!(closed(&mut socket).await, (1012, "sleep".to_owned()));
    let mut socket = browser.open("told").await;
    echoes(&mut socket, "hello again").await;
    gateway.drain();
    assert_eq!(closed(&mut socket).await, (1001, "drain".to_owned()));
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_wakes_nobody_before_its_first_data_frame() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("lazy")).await;
    let rules = "[route.tunnel]\nwake = \"first-frame\"\nsubprotocols = [\"chat.v2\"]\n\
                 [route.wake]\ntimeout = \"3s\"\n";
    let gateway = Gateway::start(&plane, rules).await;
    let mut browser = Browser::at(&gateway).await;
    let offers = [
        ("sec-websocket-protocol", "chat.v1, chat.v2"),
        ("sec-websocket-extensions", "permessage-deflate"),
    ];
    let (mut socket, answer) = browser.try_open("lazy", &offers).await.unwrap();
    assert_eq!(answer["sec-websocket-protocol"], "chat.v2");
    assert!(!answer.contains_key("sec-websocket-extensions"));
    assert!(!answer.contains_key("sec-websocket-accept"));
    socket.send(Message::Ping("x".into())).await.unwrap();
    let pong = timeout(PATIENCE, socket.next()).await.unwrap();
    assert_eq!(pong.unwrap().unwrap(), Message::Pong("x".into()));
    let mut other = browser.open("lazy").await;
    other.close(None).await.unwrap();
    while let Some(Ok(_)) = other.next().await {}
    assert_eq!(restores(&plane, &instance.id).await, 0);

    socket.feed(Message::text("wake up")).await.unwrap();
    socket.feed(Message::text("and on")).await.unwrap();
    socket.flush().await.unwrap();
    assert_eq!(next(&mut socket).await, Some(Message::text("wake up")));
    assert_eq!(next(&mut socket).await, Some(Message::text("and on")));
    echoes(&mut socket, "still there").await;
    assert_eq!(restores(&plane, &instance.id).await, 1);

    // What keeps a first frame from its instance closes its stream with a code.
    plane.sleep(&instance.id).await;
    assert_eq!(closed(&mut socket).await.0, 1012);
    let mut socket = browser.open("lazy").await;
    plane.faults("{ \"error_percent\": 100 }").await;
    socket.send(Message::text("hello")).await.unwrap();
    let (code, reason) = closed(&mut socket).await;
    assert!(
        (1011..=1014).contains(&code) && !reason.is_empty(),
        "{code} {reason}"
    );
    plane.faults("{}").await;
    gateway.stop().await;
    plane.stop().await;
}
