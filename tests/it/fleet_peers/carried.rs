//! What goes through the hop: bodies both ways, switches of protocol, connections.

use futures_util::{SinkExt as _, StreamExt as _, stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use super::{World, answering};
use crate::support::fleet::at;
use crate::support::{PATIENCE, Wanted, eventually, spawn};

/// A request of HTTP/1.1 by hand; all that comes back.
async fn by_hand(world: &World, request: &str) -> String {
    let mut stream = TcpStream::connect(world.front.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instance_sees_the_client_and_the_fronts_rules() {
    let rules = "[[route]]\nhost = \"app.test\"\npath = \"/v1\"\ninstance = \"app\"\nstrip_path = true\n\
                 request_headers = { set = [\"x-front: 1\", \"host: inside\"] }\n\
                 response_headers = { set = [\"x-said: 1\"] }\n";
    let world = World::with(rules, "").await;
    let instance = world.plane.listening(Wanted::hello("app")).await;
    world.claim(&instance);
    let request = world
        .front
        .client()
        .request("GET", "app", "/v1/headers?x=1");
    let request = request
        .header("x-request-id", "mine")
        .header("x-forwarded-for", "6.6.6.6");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["x-said"], "1");
    assert_eq!(response.headers()["x-request-id"], "mine");
    let seen: Vec<(String, String)> = response.json().await.unwrap();
    let one = |name: &str| {
        let all: Vec<&str> = seen
            .iter()
            .filter(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
            .collect();
        all.join("|")
    };
    assert_eq!(one("host"), "inside");
    assert_eq!(one("x-front"), "1");
    assert_eq!(one("x-request-id"), "mine");
    assert_eq!(one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(one("x-forwarded-host"), "app.test");
    assert_eq!(one("x-forwarded-proto"), "http");
    assert!(one("forwarded").contains("for=127.0.0.1"), "{seen:?}");
    assert_eq!(one("via").split(',').count(), 1, "{seen:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_any_size_comes_through_and_a_held_one_waits_with_its_client() {
    let rules = "[[route]]\nhost = \"app.test\"\ninstance = \"app\"\nport = 9000\n";
    let world = World::with(rules, "").await;
    let (instance, door) = world.plane.behind_a_door("app").await;
    let other = world.plane.listening(Wanted::hello("other")).await;
    world.claim(&instance);
    world.claim(&other);
    let size = 8 << 20;
    let body = vec![b'y'; size];
    let client = world.front.client();
    let uploads: Vec<_> = (0..8)
        .map(|_| {
            let request = client.request("POST", "app", "/echo").body(body.clone());
            spawn(async move { request.send().await.unwrap().bytes().await.unwrap().len() })
        })
        .collect();
    let held = "wakegate_held_requests";
    eventually("they are held", async || {
        world.node.gateway.metric(held).await >= 8.0
    })
    .await;
    // They hold up nobody else on the connection between the two.
    let echoed = client
        .request("POST", "other", "/echo")
        .body(vec![b'z'; 200_000]);
    let echoed = tokio::time::timeout(PATIENCE, echoed.send()).await;
    let echoed = echoed.unwrap().unwrap().bytes().await.unwrap();
    assert_eq!(echoed.len(), 200_000);
    // A stream's window at the node, and as much again at the front.
    for gateway in [&world.front, &world.node.gateway] {
        let bytes = gateway.metric("wakegate_buffered_bytes").await;
        assert!(bytes < 8.0 * 300_000.0, "{bytes}");
    }
    door.open().await;
    for upload in uploads {
        assert_eq!(upload.await.unwrap(), size);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_is_gone_at_the_node_at_once() {
    let world = World::new().await;
    let (reference, origin) = world.plane.own_origin("app").await;
    world
        .directory
        .put("app", at(&world.node.member, reference.as_str()));
    let mut stream = TcpStream::connect(world.front.address).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: app.test\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut asked = loop {
        let (mut asked, _) = origin.accept().await.unwrap();
        let mut part = [0; 4096];
        if asked.read(&mut part).await.unwrap() > 0 {
            break asked;
        }
    };
    drop(stream);
    let mut rest = [0; 1];
    let end = tokio::time::timeout(PATIENCE, asked.read(&mut rest)).await;
    assert!(
        matches!(end.unwrap(), Ok(0) | Err(_)),
        "the instance is told"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_come_through_in_both_directions() {
    let world = World::new().await;
    let instance = world.plane.listening(Wanted::hello("app")).await;
    world.claim(&instance);
    let answer = by_hand(
        &world,
        "POST /trailers HTTP/1.1\r\nhost: app.test\r\nte: trailers\r\ntrailer: x-sum\r\n\
         transfer-encoding: chunked\r\nconnection: close, te\r\n\r\n\
         3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_lowercase().contains("x-heard: 42"), "{answer}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_stream_goes_both_ways_and_its_status_is_in_the_trailers() {
    type Echo = ProstCodec<String, String>;
    let node = "[[route]]\nhost = \"chat.test\"\ninstance = \"chat\"\nprotocol = \"h2c\"\n";
    let world = World::with("", node).await;
    let instance = world.plane.asleep(Wanted::hello("chat")).await;
    world.claim(&instance);
    let endpoint = Endpoint::try_from(format!("http://{}", world.front.address)).unwrap();
    let origin = "http://chat.test".parse().unwrap();
    let channel = endpoint.origin(origin).connect().await.unwrap();
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/wakegate.Hello/Say");
    let request = tonic::Request::new("are you there?".to_owned());
    let answer = client.unary(request, path, Echo::default()).await.unwrap();
    assert_eq!(answer.into_inner(), "are you there?");
    client.ready().await.unwrap();
    let (said, saying) = tokio::sync::mpsc::channel::<String>(4);
    let saying = stream::unfold(saying, async |mut saying| {
        saying.recv().await.map(|text| (text, saying))
    });
    let path = http::uri::PathAndQuery::from_static("/wakegate.Hello/Chat");
    let call = client.streaming(tonic::Request::new(saying), path, Echo::default());
    said.send("one".to_owned()).await.unwrap();
    let mut heard = call.await.unwrap().into_inner();
    assert_eq!(heard.next().await.unwrap().unwrap(), "one");
    said.send("two".to_owned()).await.unwrap();
    assert_eq!(heard.next().await.unwrap().unwrap(), "two");
    drop(said);
    assert!(heard.next().await.is_none(), "the end is a clean one");
    drop((client, heard));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_come_before_the_answer() {
    let world = World::new().await;
    let (reference, origin) = world.plane.own_origin("app").await;
    let _count = answering(
        origin,
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
    );
    world
        .directory
        .put("app", at(&world.node.member, reference.as_str()));
    let request = "GET / HTTP/1.1\r\nhost: app.test\r\nconnection: close\r\n\r\n";
    let answer = by_hand(&world, request).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 103"), "{answer}");
    assert!(
        answer.contains("link: </a.css>") && answer.contains("http/1.1 200"),
        "{answer}"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_wakes_its_instance_and_lives_as_long_as_it_wants() {
    let world = World::new().await;
    let instance = world.plane.asleep(Wanted::hello("app")).await;
    world.claim(&instance);
    let socket = TcpStream::connect(world.front.address).await.unwrap();
    let mut request = "ws://app.test/ws".into_client_request().unwrap();
    let offered = http::HeaderValue::from_static("permessage-unknown");
    request
        .headers_mut()
        .insert("sec-websocket-extensions", offered);
    let (mut socket, response) = tokio_tungstenite::client_async(request, socket)
        .await
        .unwrap();
    assert_eq!(response.status(), 101);
    let names: Vec<_> = response.headers().keys().map(ToString::to_string).collect();
    assert!(!names.iter().any(|name| name.contains("peer")), "{names:?}");
    for size in [5, 200_000] {
        let text = "x".repeat(size);
        socket.send(Message::text(text.clone())).await.unwrap();
        let echoed = socket.next().await.unwrap().unwrap();
        assert_eq!(echoed.into_text().unwrap().as_str(), text);
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    drop(socket);
    assert_eq!(world.plane.operations(&instance.id, "restore").await, 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tab_behind_a_front_wakes_nobody_before_its_first_data_frame() {
    let rules = "[[route]]\nhost = \"lazy.test\"\ninstance = \"lazy\"\n[route.tunnel]\n\
                 wake = \"first-frame\"\nsubprotocols = [\"chat.v2\"]\n";
    let said = "[[route]]\nhost = \"lazy.test\"\ninstance = \"lazy\"\n\
                response_headers = { set = [\"x-said: 1\"] }\n";
    let world = World::with(said, rules).await;
    let instance = world.plane.asleep(Wanted::hello("lazy")).await;
    world.claim(&instance);
    let open = async || {
        let url = format!("ws://{}/ws", world.front.address);
        let mut request = url.into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("host", "lazy.test".parse().unwrap());
        let offered = "chat.v1, chat.v2".parse().unwrap();
        headers.insert("sec-websocket-protocol", offered);
        let opened = tokio_tungstenite::connect_async(request).await;
        opened.unwrap()
    };
    let (mut socket, answer) = open().await;
    assert_eq!(answer.status(), 101);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat.v2");
    assert_eq!(answer.headers()["x-said"], "1");
    let names: Vec<_> = answer.headers().keys().map(ToString::to_string).collect();
    assert!(!names.iter().any(|name| name.contains("peer")), "{names:?}");
    socket.send(Message::Ping("x".into())).await.unwrap();
    let pong = socket.next().await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong("x".into()));
    let (mut other, _) = open().await;
    other.close(None).await.unwrap();
    while let Some(Ok(_)) = other.next().await {}
    assert_eq!(world.plane.operations(&instance.id, "restore").await, 0);
    for text in ["wake up", "and on"] {
        socket.send(Message::text(text)).await.unwrap();
        let echoed = socket.next().await.unwrap().unwrap();
        assert_eq!(echoed, Message::text(text));
    }
    assert_eq!(world.plane.operations(&instance.id, "restore").await, 1);
    world.plane.sleep(&instance.id).await;
    let closed = loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Close(Some(frame)) => break u16::from(frame.code),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(closed, 1012);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_does_not_switch_answers_as_usual() {
    let world = World::new().await;
    let instance = world.plane.listening(Wanted::hello("app")).await;
    world.claim(&instance);
    let answer = by_hand(
        &world,
        "GET / HTTP/1.1\r\nhost: app.test\r\nconnection: upgrade, close\r\nupgrade: foo\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("hello from app") && !answer.contains("x-wakegate-peer"),
        "{answer}"
    );
    let answer = by_hand(
        &world,
        "GET /ws HTTP/1.1\r\nhost: app.test\r\nconnection: upgrade, close\r\nupgrade: foo\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_connection_goes_through_and_half_of_it_may_be_closed() {
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"db.test\"\n";
    let world = World::with(listener, "").await;
    let instance = world.plane.asleep(Wanted::hello("db")).await;
    world.claim(&instance);
    let mut stream = TcpStream::connect(world.front.addresses[1]).await.unwrap();
    let request = "GET /headers HTTP/1.1\r\nhost: any\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(!answer.contains("x-forwarded-for"), "{answer}");
    assert_eq!(world.plane.operations(&instance.id, "restore").await, 1);
    let passed = "wakegate_raw_connections_total{kind=\"tcp\",outcome=\"passed_on\"}";
    for gateway in [&world.front, &world.node.gateway] {
        eventually("it is counted", async || {
            gateway.metric(passed).await == 1.0
        })
        .await;
    }
    // One whose host is away is closed, and counted as what it is.
    world.directory.put(
        "db",
        wakegate::fleet::Place::Unreachable {
            host: "h-2".to_owned(),
        },
    );
    let mut stream = TcpStream::connect(world.front.addresses[1]).await.unwrap();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(matches!(read.unwrap(), Ok(0) | Err(_)));
    let away = "wakegate_raw_connections_total{kind=\"tcp\",outcome=\"host_unreachable\"}";
    eventually("it is counted", async || {
        world.front.metric(away).await == 1.0
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tcp_connection_tells_its_instance_who_has_connected() {
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"db.test\"\n";
    let node = "[[route]]\nhost = \"db.test\"\ninstance = \"db\"\nproxy_protocol = \"v1\"\n";
    let world = World::with(listener, node).await;
    let (reference, origin) = world.plane.own_origin("db").await;
    world
        .directory
        .put("db", at(&world.node.member, reference.as_str()));
    let mut stream = TcpStream::connect(world.front.addresses[1]).await.unwrap();
    let (client, local) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    stream.write_all(b"hello").await.unwrap();
    let expected = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello",
        client.port(),
        local.port()
    );
    let heard = async {
        loop {
            let (mut asked, _) = origin.accept().await.unwrap();
            let mut whole = vec![0; expected.len()];
            if asked.read_exact(&mut whole).await.is_ok() {
                return String::from_utf8(whole).unwrap();
            }
        }
    };
    let heard = tokio::time::timeout(PATIENCE, heard).await.unwrap();
    assert_eq!(heard, expected);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_share_few_connections() {
    let world = World::new().await;
    let instance = world.plane.listening(Wanted::hello("app")).await;
    world.claim(&instance);
    let client = world.front.client();
    let all = (0..300).map(|_| {
        let request = client.request("GET", "app", "/slow?delay=4s");
        spawn(async move { request.send().await.unwrap().status().as_u16() })
    });
    let all: Vec<_> = all.collect();
    for one in all {
        assert_eq!(one.await.unwrap(), 200);
    }
    let made = "wakegate_tls_handshakes_total{outcome=\"full\"}";
    let made = world.node.gateway.metric(made).await;
    assert!((2.0..=5.0).contains(&made), "{made}");
    world.stop().await;
}
