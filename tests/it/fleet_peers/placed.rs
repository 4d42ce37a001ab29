//! Where an instance is, and where it is no more: what is sent again, and what is not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use wakegate::app::Membership;
use wakegate::fleet::{Place, Role};
use wakegate::telemetry::AccessSink;

use super::{World, answering};
use crate::support::fleet::{Authority, Directory, Node, at, member, of_plane};
use crate::support::{Gateway, PATIENCE, Plane, Wanted, config, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_wakes_its_instance_at_its_host_once_for_all_fronts() {
    let world = World::new().await;
    let instance = world.plane.asleep(Wanted::hello("app")).await;
    world.claim(&instance);
    let identity = world.authority.identity("front", "f-2");
    let second = Gateway::front(identity, &world.directory, "").await;
    let (one, other) = (world.front.client(), second.client());
    let asking = |client: &crate::support::Client| {
        let client = client.clone();
        async move { client.get("app", "/").await }
    };
    let (first, also) = tokio::join!(asking(&one), asking(&other));
    for response in [first, also] {
        assert_eq!(response.status(), 200);
        assert!(response.headers().contains_key("x-request-id"));
        let wake = response.headers()["x-wakegate-wake"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(["cold", "joined", "warm"].contains(&&*wake), "{wake}");
        assert!(response.text().await.unwrap().starts_with("hello from app"));
    }
    assert_eq!(world.plane.operations(&instance.id, "restore").await, 1);
    assert_eq!(world.peer_requests("answered").await, 1.0);
    second.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_has_moved_is_found_with_the_body_from_its_beginning() {
    let world = World::new().await;
    let before = Plane::start().await;
    let identity = world.authority.identity("node", "h-0");
    let old = Node::start(&before, identity, "").await;
    let instance = world.plane.asleep(Wanted::hello("app")).await;
    world.claim(&instance);
    let sizes = [0_usize, 10, 40_000];
    for size in sizes {
        world
            .directory
            .put_stale("app", at(&old.member, "long-gone"));
        let body = vec![b'x'; size];
        let request = world.front.client().request("POST", "app", "/echo");
        let response = request.body(body.clone()).send().await.unwrap();
        assert_eq!(response.status(), 200, "{size}");
        assert!(response.bytes().await.unwrap().ends_with(&body), "{size}");
    }
    assert_eq!(world.directory.reads.load(Ordering::SeqCst), sizes.len());
    assert_eq!(world.peer_requests("misplaced").await, 3.0);
    assert_eq!(world.peer_requests("answered").await, 3.0);
    old.gateway.stop().await;
    before.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_misplaced_twice_is_refused_and_another_id_is_another_instance() {
    let world = World::new().await;
    let instance = world.plane.asleep(Wanted::hello("app")).await;
    let node = &world.node.member;
    world.directory.put("nobody", at(node, "x"));
    world.directory.put("app", at(node, "another-id"));
    for name in ["nobody", "app"] {
        let response = world.front.client().get(name, "/").await;
        // 421 is for members alone: clients would repeat the request by themselves.
        assert_eq!(response.status(), 503);
        assert!(!response.headers().contains_key("x-wakegate-misplaced"));
        let body: serde_json::Value = response.json().await.unwrap();
        assert_eq!(body["code"], "misplaced");
    }
    assert_eq!(world.directory.reads.load(Ordering::SeqCst), 2);
    assert_eq!(world.plane.operations(&instance.id, "restore").await, 0);
    // Nobody claims it any more.
    world.directory.put_stale("left", at(node, "x"));
    let (status, code, _) = world.front.client().problem("left").await;
    assert_eq!((status, &*code), (404, "instance_not_found"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_asked_for_at_the_control_plane_that_its_claim_names_and_at_no_other() {
    let authority = Authority::new();
    let (first, second) = (Plane::start().await, Plane::start().await);
    let more = second.declared_as("two", authority.dir.path());
    let node = Node::start(&first, authority.identity("node", "h-1"), &more).await;
    let directory = Directory::new();
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"app.test\"\n";
    let identity = authority.identity("front", "f-1");
    let front = Gateway::front(identity, &directory, listener).await;
    // Two tenants' instances of one name.
    let one = first.asleep(Wanted::hello("app")).await;
    let other = second.asleep(Wanted::hello("app")).await;
    let restores = async || {
        (
            first.operations(&one.id, "restore").await,
            second.operations(&other.id, "restore").await,
        )
    };
    let (mut ones, mut others) = restores().await;
    let at_node = &node.member;
    for place in [
        of_plane(at_node, &one.id, "gone"),
        of_plane(at_node, &one.id, "two"),
        at(at_node, &other.id),
    ] {
        directory.put("app", place);
        let (status, code, _) = front.client().problem("app").await;
        assert_eq!((status, &*code), (503, "misplaced"));
        assert_eq!(restores().await, (ones, others));
    }
    directory.put("app", of_plane(at_node, &other.id, "two"));
    assert_eq!(front.client().get("app", "/").await.status(), 200);
    others += 1;
    assert_eq!(restores().await, (ones, others));
    directory.put("app", at(at_node, &one.id));
    assert_eq!(front.client().get("app", "/").await.status(), 200);
    ones += 1;
    assert_eq!(restores().await, (ones, others));
    // A connection that is passed on as it is.
    second.sleep(&other.id).await;
    directory.put("app", of_plane(at_node, &other.id, "two"));
    let mut stream = TcpStream::connect(front.addresses[1]).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: any\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    read.unwrap().unwrap();
    assert!(answer.contains("hello from app"), "{answer}");
    assert_eq!(restores().await, (ones, others + 1));
    front.stop().await;
    node.gateway.stop().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instances_own_421_passes_and_is_never_sent_again() {
    let world = World::new().await;
    let (reference, origin) = world.plane.own_origin("app").await;
    let count = answering(
        origin,
        "HTTP/1.1 421 Misdirected Request\r\nx-wakegate-misplaced: 1\r\n\
         x-wakegate-peer-code: forged\r\ncontent-length: 4\r\n\r\nmine",
    );
    let place = at(&world.node.member, reference.as_str());
    world.directory.put("app", place);
    let response = world.front.client().get("app", "/").await;
    assert_eq!(response.status(), 421);
    let names: Vec<_> = response.headers().keys().map(ToString::to_string).collect();
    assert!(
        !names
            .iter()
            .any(|name| name.contains("misplaced") || name.contains("peer")),
        "{names:?}"
    );
    assert_eq!(response.text().await.unwrap(), "mine");
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert_eq!(world.directory.reads.load(Ordering::SeqCst), 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_refusals_pass_as_they_are() {
    let node = "[[route]]\nhost = \"shut.test\"\ninstance = \"shut\"\n\
                [route.admission]\nmethods = [\"POST\"]\n\
                [route.asleep]\nstatus = 418\nheaders = [\"x-own: node\"]\n";
    let front = "[[route]]\nhost = \"shut.test\"\ninstance = \"shut\"\n\
                 response_headers = { set = [\"x-front: 1\"] }\n";
    let world = World::with(front, node).await;
    let instance = world.plane.asleep(Wanted::hello("shut")).await;
    world.claim(&instance);
    let response = world.front.client().get("shut", "/").await;
    assert_eq!(response.status(), 418);
    let headers = response.headers().clone();
    assert_eq!(headers["x-own"], "node");
    assert_eq!(headers["x-wakegate-state"], "asleep");
    assert!(!headers.contains_key("x-front") && !headers.contains_key("x-wakegate-peer-code"));
    let id = headers["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(headers.get_all("x-request-id").iter().count(), 1);
    let body: serde_json::Value = response.json().await.unwrap();
    assert_eq!(
        (&body["code"], &body["request_id"]),
        (&"asleep".into(), &id.into())
    );
    assert_eq!(world.plane.operations(&instance.id, "restore").await, 0);
    let counted = "wakegate_errors_total{code=\"asleep\"}";
    eventually("the front counts it, too", async || {
        world.front.metric(counted).await == 1.0
    })
    .await;
    // What is served gets the front's fields.
    let response = world
        .front
        .client()
        .request("POST", "shut", "/")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-front"]),
        (200, &http::HeaderValue::from_static("1"))
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_restarted_between_two_posts_gets_each_once() {
    let (authority, plane) = (Authority::new(), Plane::start().await);
    let (reference, origin) = plane.own_origin("app").await;
    let count = answering(origin, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let identity = authority.identity("node", "h-1");
    let node = Node::start(&plane, Arc::clone(&identity), "").await;
    let (directory, address) = (Directory::new(), node.member.endpoints[0].parse().unwrap());
    let host = member("h-1", Role::Node, address);
    directory.put("app", at(&host, reference.as_str()));
    let front = Gateway::front(authority.identity("front", "f-1"), &directory, "").await;
    let post = || {
        front
            .client()
            .request("POST", "app", "/")
            .body("once")
            .send()
    };
    assert_eq!(post().await.unwrap().status(), 200);
    node.gateway.stop().await;
    let response = post().await.unwrap();
    assert_eq!(response.status(), 503);
    let node = Node::start_at(&plane, identity, &Directory::new(), address, "").await;
    eventually("the node is found again", async || {
        post().await.unwrap().status() == 200
    })
    .await;
    assert_eq!(count.load(Ordering::SeqCst), 2);
    front.stop().await;
    node.gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_has_moved_here_is_served_here_and_the_line_names_the_member() {
    let (authority, plane) = (Authority::new(), Plane::start().await);
    let instance = plane.asleep(Wanted::hello("app")).await;
    let elsewhere = Plane::start().await;
    let other = elsewhere.asleep(Wanted::hello("other")).await;
    let node = Node::start(&elsewhere, authority.identity("node", "h-1"), "").await;
    let directory = Directory::new();
    let membership = Membership {
        placement: Arc::clone(&directory) as _,
        identity: Some(authority.identity("both", "h-2")),
        listen: None,
        is_node: true,
    };
    let lines = tempfile::NamedTempFile::new().unwrap();
    let config = config(plane.address, &plane.token, "");
    let access = AccessSink::to(lines.reopen().unwrap(), &config.log);
    let (gateway, _) = Gateway::start_member(config, membership, access).await;
    // Once with a body that was sent on already.
    directory.put_stale("app", at(&node.member, "long-gone"));
    directory.truth("app", Place::Here);
    let post = gateway
        .client()
        .request("POST", "app", "/echo")
        .body("mine");
    let response = post.send().await.unwrap();
    assert_eq!(
        (
            response.status().as_u16(),
            response.text().await.unwrap().ends_with("mine")
        ),
        (200, true)
    );
    assert_eq!(plane.operations(&instance.id, "restore").await, 1);
    // What nobody has published is still this host's own.
    let own = plane.asleep(Wanted::hello("own")).await;
    assert_eq!(gateway.client().get("own", "/").await.status(), 200);
    assert_eq!(plane.operations(&own.id, "restore").await, 1);
    directory.put("other", at(&node.member, &other.id));
    assert_eq!(gateway.client().get("other", "/").await.status(), 200);
    eventually("the line names the member", async || {
        let text = std::fs::read_to_string(lines.path()).unwrap_or_default();
        text.lines()
            .any(|line| line.contains("other.test") && line.contains("h-1"))
    })
    .await;
    gateway.stop().await;
    node.gateway.stop().await;
    plane.stop().await;
    elsewhere.stop().await;
}
