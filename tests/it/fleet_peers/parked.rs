//! Tunnels and connections that a node parks for clients of a front: between the two their streams stay open.

use std::time::Duration;

use futures_util::SinkExt as _;
use hypeman::wire::{Instance, InstanceState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::World;
use crate::parking::{keeping, ping, sleeps, unparks};
use crate::support::{PATIENCE, eventually};
use crate::tunnels::{closed, echoes, head, in_state, open};

/// What both of them say, as where both have the route of a directory.
const RULES: &str = "[route.tunnel]\nidle = \"4s\"\npark = { after = \"200ms\", probe = \"2s\" }\n\
                     [route.wake]\ntimeout = \"30s\"\n";
const IDLE: Duration = Duration::from_secs(4);
const REQUEST: &[u8] = b"GET /count HTTP/1.1\r\nhost: x\r\n\r\n";

async fn start(name: &str, front: &str) -> (World, Instance) {
    let world = World::with(&format!("{RULES}{front}"), RULES).await;
    let instance = world.plane.listening(keeping(name)).await;
    world.claim(&instance);
    (world, instance)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_of_a_front_is_parked_at_the_node_for_longer_than_it_may_be_idle() {
    let (world, instance) = start("chat", "").await;
    let node = &world.node.gateway;
    let mut socket = open(&world.front, "chat").await;
    for round in 1..=2_usize {
        echoes(&mut socket, "hello").await;
        sleeps(&world.plane, &instance.id).await;
        assert_eq!(in_state(node, "parked").await, 1.0);
        assert_eq!(in_state(&world.front, "open").await, 1.0);
        sleep(IDLE + Duration::from_secs(1)).await;
        ping(&mut socket).await;
        let restores = world.plane.operations(&instance.id, "restore").await;
        assert_eq!(restores, round - 1, "a ping wakes nobody");
        echoes(&mut socket, "and on").await;
        let restores = world.plane.operations(&instance.id, "restore").await;
        assert_eq!(restores, round);
    }
    assert_eq!(unparks(node, "client").await, 2.0);
    // Who leaves wakes nobody, and is gone at the node at once.
    sleeps(&world.plane, &instance.id).await;
    drop(socket);
    eventually("it is gone", async || unparks(node, "closed").await == 1.0).await;
    assert_eq!(
        world.plane.state(&instance.id).await,
        InstanceState::Standby
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_front_s_client_is_told_what_becomes_of_its_parked_websocket_at_the_node() {
    let (world, instance) = start("stuck", "").await;
    let mut socket = open(&world.front, "stuck").await;
    echoes(&mut socket, "hello").await;
    sleeps(&world.plane, &instance.id).await;
    let id = crate::support::reference(&instance.id);
    world.plane.client.delete_instance(&id).await.unwrap();
    let _ended = socket.send(Message::text("still there?")).await;
    assert_eq!(closed(&mut socket).await.0, 1012);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_connection_of_a_front_is_parked_at_the_node_and_reset_where_it_is_lost() {
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"raw.test\"\n";
    let (world, instance) = start("raw", listener).await;
    let node = &world.node.gateway;
    let mut stream = TcpStream::connect(world.front.addresses[1]).await.unwrap();
    for _ in 0..2 {
        stream.write_all(REQUEST).await.unwrap();
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        stream.read_u8().await.unwrap();
        sleeps(&world.plane, &instance.id).await;
        assert_eq!(in_state(node, "parked").await, 1.0);
        sleep(IDLE + Duration::from_secs(1)).await;
    }
    let id = crate::support::reference(&instance.id);
    world.plane.client.delete_instance(&id).await.unwrap();
    // Whichever comes first hears of it, and what comes after that sees an end.
    let error = match stream.write_all(REQUEST).await {
        Ok(()) => timeout(PATIENCE, stream.read_u8())
            .await
            .unwrap()
            .unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    world.stop().await;
}
