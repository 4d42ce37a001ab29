//! Clients of HTTP/2 whose network has its share of the gateway's memory, with bodies that no instance takes.

use bytes::Bytes;
use h2::client::SendRequest;
use http::Method;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::app::{Greedy, LONG, Speaks};
use super::{get, h2_client, request};
use crate::support::{Gateway, Plane, eventually, route};

const BUFFERED: &str = "wakegate_buffered_bytes";
const KEYS: &str = "[server]\nmax_buffered_bytes = \"1MiB\"\n";
const CONNECTIONS: usize = 12;
const UPLOADS: usize = 2;
/// More than a stream's window.
const UPLOAD: Bytes = Bytes::from_static(&[b'x'; 240_000]);
/// What an instance lets come of a connection before it takes something.
const H2: Speaks = Speaks::H2 {
    streams: 1000,
    window: 65_535,
};

/// Sends bodies over several connections that nobody takes, until nothing more is read of them; they end with
/// the set.
async fn crowd(gateway: &Gateway, app: &Greedy) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let socket = TcpStream::connect(gateway.address).await.unwrap();
        let (sender, connection) = h2::client::handshake(socket).await.unwrap();
        clients.spawn(async move { drop(connection.await) });
        for _ in 0..UPLOADS {
            let mut sender: SendRequest<Bytes> = sender.clone().ready().await.unwrap();
            let asked = sender.send_request(request(Method::POST, "deaf", "/deaf"), false);
            let (answer, mut body) = asked.unwrap();
            body.send_data(UPLOAD, true).unwrap();
            clients.spawn(async move {
                let _body = body;
                drop(answer.await);
            });
        }
    }
    eventually("they are there", async || {
        let buffered = gateway.metric(BUFFERED).await;
        app.asked() >= CONNECTIONS * UPLOADS && buffered > 700_000.0
    })
    .await;
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_while_nothing_is_read_of_them_leave_nothing_in_memory() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("deaf").await;
    let app = Greedy::serve(origin, H2);
    let config = format!("{}{KEYS}", route("deaf", "protocol = \"h2c\""));
    let gateway = Gateway::start(&plane, &config).await;
    let mut clients = crowd(&gateway, &app).await;
    clients.shutdown().await;
    eventually("nothing is left of them", async || {
        let inflight = gateway.metric("wakegate_inflight_requests").await;
        inflight < 1.0 && gateway.metric(BUFFERED).await < 1.0
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_a_client_that_has_its_share_move_a_little_at_a_time() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("deaf").await;
    let app = Greedy::serve(origin, H2);
    let (_, origin) = plane.own_origin("big").await;
    let _big = Greedy::serve(origin, Speaks::H1);
    let (_, origin) = plane.own_origin("shared").await;
    let _shared = Greedy::serve(origin, H2);
    let h2c = |instance| route(instance, "protocol = \"h2c\"");
    let config = format!("{}{}{KEYS}", h2c("deaf"), h2c("shared"));
    let gateway = Gateway::start(&plane, &config).await;
    let mut clients = crowd(&gateway, &app).await;
    let mut client = h2_client(&gateway, 65_535, 1 << 20).await;
    for instance in ["big", "shared"] {
        let mut sender = client.clone().ready().await.unwrap();
        let asked = sender.send_request(request(Method::POST, instance, "/swallow"), false);
        let (answer, mut body) = asked.unwrap();
        body.send_data(Bytes::from(vec![b'x'; 500_000]), true)
            .unwrap();
        let answer = timeout(LONG, answer).await.expect("an upload stands still");
        let length = answer.unwrap().into_body().data().await.unwrap().unwrap();
        assert_eq!(length, "500000", "{instance}");
        let mut body = get(&mut client, instance, "/endless").await.into_body();
        let mut taken = 0;
        while taken < 500_000 {
            let data = timeout(LONG, body.data()).await;
            let data = data.expect("a response stands still").unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            taken += data.len();
        }
    }
    clients.shutdown().await;
    gateway.stop().await;
    plane.stop().await;
}
