//! What becomes of requests whose client network has its share of the gateway's memory.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderValue, Method};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::app::{Greedy, LONG, Speaks};
use super::request;
use crate::support::{Gateway, Plane, eventually};

const STREAMS: usize = 60;

async fn connect(gateway: &Gateway, network: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let from = SocketAddr::from(([127, 0, network, 1], 0));
    socket.bind(from).unwrap();
    socket.connect(gateway.address).await.unwrap()
}

/// A request for `/deaf` with a field of so many bytes, which is not answered.
async fn ask(client: &SendRequest<Bytes>, bytes: usize) -> ResponseFuture {
    let mut client = client.clone().ready().await.unwrap();
    let mut request = request(Method::GET, "big", "/deaf");
    let value = HeaderValue::try_from("v".repeat(bytes)).unwrap();
    request.headers_mut().insert("x-large", value);
    client.send_request(request, true).unwrap().0
}

/// The status and the body of an answer over HTTP/1.1, to a head of so many bytes.
async fn answer(gateway: &Gateway, network: u8, bytes: usize) -> (u16, String) {
    let mut stream = connect(gateway, network).await;
    let fields = format!(
        "Host: big.test\r\nConnection: close\r\nX-Large: {}\r\n",
        "v".repeat(bytes)
    );
    let head = format!("GET /empty HTTP/1.1\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    let read = timeout(LONG, stream.read_to_string(&mut text)).await;
    read.expect("no answer").unwrap();
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.unwrap(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn large_heads_beyond_a_client_s_share_are_refused_and_others_are_served() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("big").await;
    let app = Greedy::serve(origin, Speaks::H1);
    let keys = "[server]\nmax_buffered_bytes = \"1MiB\"\n";
    let gateway = Gateway::start(&plane, keys).await;
    assert_eq!(answer(&gateway, 1, 40_000).await.0, 200);
    let (mut clients, mut asked) = (JoinSet::new(), JoinSet::new());
    for _ in 0..2 {
        let socket = connect(&gateway, 1).await;
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        clients.spawn(async move { drop(connection.await) });
        for _ in 0..STREAMS {
            asked.spawn(ask(&client, 10_000).await);
        }
    }
    // What is refused has not been begun; all else goes on waiting.
    let refused = timeout(LONG, asked.join_next())
        .await
        .expect("nothing is refused");
    let error = refused.unwrap().unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
    eventually("the others are at their instance", async || {
        let refused = gateway.metric("wakegate_memory_refusals_total").await as usize;
        let waiting = gateway.metric("wakegate_held_requests").await as usize;
        // The first request came over HTTP/1.1.
        refused > 0 && app.asked() - 1 + waiting + refused == 2 * STREAMS
    })
    .await;
    let buffered = gateway.metric("wakegate_buffered_bytes").await;
    assert!((500_000.0..900_000.0).contains(&buffered), "{buffered}");
    // Over HTTP/1.1 it hears why, unless its request is small.
    let (status, text) = answer(&gateway, 1, 40_000).await;
    assert!(status == 503 && text.contains("\"memory_share\""), "{text}");
    assert!(text.contains("retry-after: 1\r\n"), "{text}");
    assert_eq!(answer(&gateway, 1, 1000).await.0, 200);
    // Another network has something left.
    assert_eq!(answer(&gateway, 2, 40_000).await.0, 200);
    clients.shutdown().await;
    drop(asked);
    eventually("nothing is left of it", async || {
        gateway.metric("wakegate_buffered_bytes").await < 1.0
    })
    .await;
    assert_eq!(answer(&gateway, 1, 40_000).await.0, 200);
    gateway.stop().await;
    plane.stop().await;
}
