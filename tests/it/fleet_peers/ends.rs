//! What becomes of requests and tunnels when the connection to a node, or the node, ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use wakegate::fleet::{Member, Role};

use super::wire::Wire;
use super::{World, answering};
use crate::support::fleet::{Authority, Directory, Node, at, member};
use crate::support::{Gateway, PATIENCE, Plane, Wanted, eventually, spawn};

type Socket = WebSocketStream<TcpStream>;

async fn websocket(front: &Gateway) -> Socket {
    let socket = TcpStream::connect(front.address).await.unwrap();
    let request = "ws://app.test/ws".into_client_request().unwrap();
    let handshake = tokio_tungstenite::client_async(request, socket);
    timeout(PATIENCE, handshake).await.unwrap().unwrap().0
}

/// Whether the tunnel still carries something to the instance and back.
async fn is_alive(socket: &mut Socket) -> bool {
    if socket.send(Message::text("there?")).await.is_err() {
        return false;
    }
    let heard = timeout(PATIENCE, socket.next()).await;
    matches!(heard, Ok(Some(Ok(Message::Text(text)))) if text.as_str() == "there?")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_drains_keeps_its_tunnels_and_its_successor_answers() {
    let (authority, plane) = (Authority::new(), Plane::start().await);
    let instance = plane.listening(Wanted::hello("app")).await;
    let identity = authority.identity("node", "h-1");
    let node = Node::start(&plane, Arc::clone(&identity), "").await;
    let directory = Directory::new();
    let address = node.member.endpoints[0].parse().unwrap();
    let host = member("h-1", Role::Node, address);
    directory.put("app", at(&host, &instance.id));
    let front = Gateway::front(authority.identity("front", "f-1"), &directory, "").await;
    let mut socket = websocket(&front).await;
    let slow = front.client().request("GET", "app", "/slow?delay=4s");
    let slow = spawn(async move { slow.send().await.unwrap().status().as_u16() });
    let inflight = "wakegate_inflight_requests";
    eventually("it is at the instance", async || {
        node.gateway.metric(inflight).await >= 1.0
    })
    .await;
    let draining = spawn(node.gateway.stop());
    eventually("its socket is closed", async || {
        std::net::TcpListener::bind(address).is_ok()
    })
    .await;
    // While its successor is not there, it is not said that the host is away to what it still does.
    assert_eq!(timeout(PATIENCE, slow).await.unwrap().unwrap(), 200);
    assert!(is_alive(&mut socket).await);
    let next = Node::start_at(&plane, identity, &Directory::new(), address, "").await;
    eventually("the successor answers", async || {
        front.client().get("app", "/").await.status() == 200
    })
    .await;
    for _ in 0..5 {
        assert_eq!(front.client().get("app", "/").await.status(), 200);
    }
    assert!(is_alive(&mut socket).await, "it lives on beside them");
    drop(socket);
    timeout(PATIENCE, draining).await.unwrap().unwrap();
    front.stop().await;
    next.gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_be_connected_to_and_answers_on_its_connection_is_there() {
    let world = World::new().await;
    let instance = world.plane.listening(Wanted::hello("app")).await;
    let mut wire = Wire::of(&world, "app", &instance.id);
    let mut socket = websocket(&world.front).await;
    wire.close_to_others().await;
    let client = world.front.client();
    let slow = client.request("GET", "app", "/slow?delay=5s").send();
    let answer = timeout(PATIENCE, slow).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert!(is_alive(&mut socket).await);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_cut_off_is_said_to_be_away_to_those_who_can_ask_again() {
    let world = World::new().await;
    let (reference, origin) = world.plane.own_origin("app").await;
    let mut wire = Wire::of(&world, "app", reference.as_str());
    let client = world.front.client();
    let asking = |method: &'static str| {
        let request = client.request(method, "app", "/");
        let request = match method {
            "POST" => request.body("once"),
            _ => request,
        };
        spawn(async move {
            let began = Instant::now();
            let answer = request.send().await.unwrap();
            let after = answer.headers().contains_key("retry-after");
            let status = answer.status().as_u16();
            let body: serde_json::Value = answer.json().await.unwrap();
            let code = body["code"].as_str().unwrap().to_owned();
            (status, code, after, began.elapsed())
        })
    };
    let (post, get) = (asking("POST"), asking("GET"));
    // Both are at the instance, which says nothing.
    let mut at_instance = Vec::new();
    while at_instance.len() < 2 {
        let (mut stream, _) = timeout(PATIENCE, origin.accept()).await.unwrap().unwrap();
        let mut part = [0; 4096];
        if stream.read(&mut part).await.unwrap() > 0 {
            at_instance.push(stream);
        }
    }
    wire.close_to_others().await;
    wire.hold();
    let (status, code, after, took) = timeout(PATIENCE, get).await.unwrap().unwrap();
    assert_eq!((status, &*code, after), (503, "host_unreachable", true));
    assert!(took < Duration::from_secs(15), "{took:?}");
    // This one may have been processed.
    let (status, code, after, _) = timeout(PATIENCE, post).await.unwrap().unwrap();
    assert_eq!((status, &*code, after), (502, "upstream_broke", false));
    assert_eq!(world.peer_requests("broken").await, 1.0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_whose_connection_broke_is_not_to_be_sent_again() {
    let world = World::new().await;
    let (reference, origin) = world.plane.own_origin("app").await;
    let wire = Wire::of(&world, "app", reference.as_str());
    let post = world
        .front
        .client()
        .request("POST", "app", "/")
        .body("once");
    let post = spawn(async move { post.send().await.unwrap() });
    let _asked = loop {
        let (mut stream, _) = timeout(PATIENCE, origin.accept()).await.unwrap().unwrap();
        let mut part = [0; 4096];
        if stream.read(&mut part).await.unwrap() > 0 {
            break stream;
        }
    };
    wire.cut();
    let answer = timeout(PATIENCE, post).await.unwrap().unwrap();
    assert_eq!(answer.status(), 502);
    assert!(!answer.headers().contains_key("retry-after"));
    let body: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(body["code"], "upstream_broke");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_answers_is_given_up() {
    let front = "[[route]]\nhost = \"app.test\"\ninstance = \"app\"\n\
                 [route.wake]\ntimeout = \"1s\"\n\
                 [upstream]\nresponse_timeout = \"1s\"\n";
    let world = World::with(front, "").await;
    let (reference, origin) = world.plane.own_origin("app").await;
    let place = at(&world.node.member, reference.as_str());
    world.directory.put("app", place);
    let accepting = spawn(async move {
        let mut silent = Vec::new();
        while let Ok((stream, _)) = origin.accept().await {
            silent.push(stream);
        }
    });
    let (status, code, after) = world.front.client().problem("app").await;
    assert_eq!((status, &*code, after), (504, "upstream_timeout", None));
    accepting.abort();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_no_more_tunnels_to_other_hosts_than_its_route_allows() {
    let front = "[[route]]\nhost = \"app.test\"\ninstance = \"app\"\n\
                 [route.tunnel]\nmax_per_client = 1\n";
    let world = World::with(front, "").await;
    let instance = world.plane.listening(Wanted::hello("app")).await;
    world.claim(&instance);
    let mut first = websocket(&world.front).await;
    let socket = TcpStream::connect(world.front.address).await.unwrap();
    let request = "ws://app.test/ws".into_client_request().unwrap();
    let second = tokio_tungstenite::client_async(request, socket).await;
    let Err(tokio_tungstenite::tungstenite::Error::Http(refusal)) = second else {
        panic!("a second one was opened");
    };
    assert_eq!(refusal.status(), 429);
    assert!(is_alive(&mut first).await);
    drop(first);
    let counted = "wakegate_errors_total{code=\"tunnel_limit\"}";
    assert_eq!(world.front.metric(counted).await, 1.0);
    eventually("its place is free again", async || {
        let socket = TcpStream::connect(world.front.address).await.unwrap();
        let request = "ws://app.test/ws".into_client_request().unwrap();
        let again = tokio_tungstenite::client_async(request, socket).await;
        again.is_ok()
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_key_is_taken_out_of_its_record_loses_its_connections() {
    let (authority, plane) = (Authority::new(), Plane::start().await);
    let instance = plane.listening(Wanted::hello("app")).await;
    let members = Directory::new();
    let identity = authority.identity("node", "h-1");
    let anywhere = ([127, 0, 0, 1], 0).into();
    let node = Node::start_at(&plane, identity, &members, anywhere, "").await;
    let identity = authority.identity("front", "f-1");
    let of_front = |spki| {
        let nowhere = ([127, 0, 0, 1], 1).into();
        let record = member("f-1", Role::Front, nowhere);
        Arc::new(Member {
            spki: Some(spki),
            ..(*record).clone()
        })
    };
    members.know(&of_front(identity.spki()));
    let directory = Directory::new();
    directory.put("app", at(&node.member, &instance.id));
    let front = Gateway::front(identity, &directory, "").await;
    let mut socket = websocket(&front).await;
    assert!(is_alive(&mut socket).await);
    members.know(&of_front([7; 32]));
    let ended = timeout(PATIENCE, async {
        while let Some(Ok(_)) = socket.next().await {}
    });
    ended.await.expect("its tunnel goes on");
    let (status, code, _) = front.client().problem("app").await;
    assert_eq!((status, &*code), (502, "peer_refused"));
    front.stop().await;
    node.gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_made_anew_under_its_name_is_found_by_the_claim_of_it() {
    let world = World::new().await;
    let first = world.plane.listening(Wanted::hello("app")).await;
    world.claim(&first);
    assert_eq!(world.front.client().get("app", "/").await.status(), 200);
    let gone = crate::support::reference(&first.id);
    world.plane.client.delete_instance(&gone).await.unwrap();
    let second = world.plane.listening(Wanted::hello("app")).await;
    assert_ne!(first.id, second.id);
    world.claim(&second);
    let answer = world.front.client().get("app", "/").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(world.directory.reads.load(Ordering::SeqCst), 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_a_host_that_has_the_name_no_more_is_no_invitation_to_repeat_by_oneself() {
    let world = World::new().await;
    let (reference, origin) = world.plane.own_origin("app").await;
    let count = answering(origin, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let place = at(&world.node.member, "another-id");
    world.directory.put(reference.as_str(), place.clone());
    world.directory.put("app", place);
    let answer = world
        .front
        .client()
        .request("POST", "app", "/")
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(count.load(Ordering::SeqCst), 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_its_host_is_called_ends_the_call_for_nobody() {
    let world = World::new().await;
    let instance = world.plane.listening(Wanted::hello("app")).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = member("h-1", Role::Node, listener.local_addr().unwrap());
    world.directory.put("app", at(&host, &instance.id));
    let mut leaving = TcpStream::connect(world.front.address).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: app.test\r\n\r\n";
    leaving.write_all(request.as_bytes()).await.unwrap();
    let (mut called, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    drop(leaving);
    eventually("the front knows that it has left", async || {
        let open = "wakegate_downstream_connections";
        world.front.metric(open).await < 1.0
    })
    .await;
    let staying = world.front.client().request("GET", "app", "/");
    let staying = spawn(async move { staying.send().await.unwrap().status().as_u16() });
    let node = world.node.member.endpoints[0].clone();
    let again = spawn(async move {
        let mut node = TcpStream::connect(node).await.unwrap();
        let _ended = tokio::io::copy_bidirectional(&mut called, &mut node).await;
    });
    assert_eq!(timeout(PATIENCE, staying).await.unwrap().unwrap(), 200);
    let moment = Duration::from_millis(50);
    let second = timeout(moment, listener.accept()).await;
    assert!(second.is_err(), "it was called once");
    again.abort();
    world.stop().await;
}
