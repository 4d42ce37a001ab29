//! Clients that close their side of a connection before their answer.

use crate::support::{Door, Gateway, Plane, eventually, route};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A client that has asked, is held, and has nothing more to say.
async fn held(gateway: &Gateway, name: &str) -> TcpStream {
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {name}.test\r\nconnection: close\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    eventually("it is held", async || {
        gateway.metric("wakegate_held_requests").await == 1.0
    })
    .await;
    client.shutdown().await.unwrap();
    client
}

async fn left(gateway: &Gateway) -> f64 {
    let name = "wakegate_requests_total{code=\"499\",wake=\"cold\"}";
    gateway.metric(name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_client_that_closed_its_side_is_answered_where_that_is_set() {
    let plane = Plane::start().await;
    let (instance, door) = plane.behind_a_door("last").await;
    plane.sleep(&instance.id).await;
    let route = route("last", Door::ROUTE);
    // Without the key it has left.
    let gateway = Gateway::start(&plane, &route).await;
    let mut client = held(&gateway, "last").await;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "");
    assert_eq!(left(&gateway).await, 1.0);
    gateway.stop().await;

    let extra = format!("[server]\nhalf_close = \"answer\"\n{route}");
    let gateway = Gateway::start(&plane, &extra).await;
    let mut client = held(&gateway, "last").await;
    door.open().await;
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(left(&gateway).await, 0.0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_client_that_closed_its_side_and_is_reset_has_left() {
    let plane = Plane::start().await;
    let (instance, _door) = plane.behind_a_door("gone").await;
    plane.sleep(&instance.id).await;
    let route = route("gone", Door::ROUTE);
    let extra = format!("[server]\nhalf_close = \"answer\"\n{route}");
    let gateway = Gateway::start(&plane, &extra).await;
    let client = held(&gateway, "gone").await;
    client.set_zero_linger().unwrap();
    drop(client);
    eventually("it has left", async || left(&gateway).await == 1.0).await;
    gateway.stop().await;
    plane.stop().await;
}
