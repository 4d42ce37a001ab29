//! What comes of instances, in their clients' share of memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::app::LONG;
use super::{get, h2_client, request};
use crate::support::{Gateway, Plane, eventually, route, spawn};

const BUFFERED: &str = "wakegate_buffered_bytes";

/// Answers each connection with the beginning of a large head, and nothing more.
async fn begin_heads(listener: TcpListener) {
    let part = format!("HTTP/1.1 200 OK\r\nx-large: {}", "v".repeat(40_000));
    let mut kept = Vec::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let _asked = stream.read(&mut [0; 1024]).await;
        stream.write_all(part.as_bytes()).await.unwrap();
        kept.push(stream);
    }
}

async fn ask(gateway: &Gateway, instance: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {instance}.test\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_head_counts_to_its_client_while_it_comes_also_where_the_request_has_no_body() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("big").await;
    let mut serving = JoinSet::new();
    serving.spawn(begin_heads(origin));
    let keys = "[server]\nmax_buffered_bytes = \"1MiB\"\n";
    let gateway = Gateway::start(&plane, keys).await;
    let counts = async || {
        eventually("it counts", async || {
            gateway.metric(BUFFERED).await >= 40_000.0
        })
        .await;
    };
    let gone = async || {
        eventually("nothing is left of it", async || {
            gateway.metric(BUFFERED).await < 1.0
        })
        .await;
    };
    let asked = ask(&gateway, "big", "/").await;
    counts().await;
    drop(asked);
    gone().await;
    let client = h2_client(&gateway, 65_535, 1 << 20).await;
    let mut sender = client.clone().ready().await.unwrap();
    let (asked, _) = sender
        .send_request(request(Method::GET, "big", "/"), true)
        .unwrap();
    counts().await;
    drop(asked);
    gone().await;
    // What its client has no room for is not read.
    let mut asked = Vec::new();
    for _ in 0..40 {
        asked.push(ask(&gateway, "big", "/").await);
    }
    eventually("some are refused", async || {
        gateway.metric("wakegate_memory_refusals_total").await >= 1.0
    })
    .await;
    assert!(gateway.metric(BUFFERED).await <= f64::from(1 << 20));
    drop(asked);
    gone().await;
    gateway.stop().await;
    plane.stop().await;
}

/// Sends as much as the windows allow, of [`LARGE`] bytes for each request but one for `/short`, and says how
/// much that was.
async fn send_large(listener: TcpListener, sent: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let sent = Arc::clone(&sent);
        connections.spawn(async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut streams = JoinSet::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let is_short = request.uri().path() == "/short";
                let response = respond.send_response(Response::new(()), is_short);
                if is_short {
                    continue;
                }
                let (mut stream, sent) = (response.unwrap(), Arc::clone(&sent));
                streams.spawn(async move {
                    let mut left = LARGE;
                    while left > 0 {
                        stream.reserve_capacity(left);
                        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
                        let Some(Ok(capacity)) = capacity else {
                            return;
                        };
                        let part = Bytes::from(vec![b'x'; capacity.min(left)]);
                        left -= part.len();
                        sent.fetch_add(part.len(), Ordering::SeqCst);
                        if stream.send_data(part, left == 0).is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }
}

const LARGE: usize = 4 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn little_comes_of_a_response_over_http_2_whose_client_takes_nothing_and_all_where_it_does() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("large").await;
    let sent = Arc::<AtomicUsize>::default();
    let serving = spawn(send_large(origin, Arc::clone(&sent)));
    let gateway = Gateway::start(&plane, &route("large", "protocol = \"h2c\"")).await;
    let mut client = h2_client(&gateway, 1, 1 << 20).await;
    let untaken = get(&mut client, "large", "/").await;
    eventually("the first window is used up", async || {
        sent.load(Ordering::SeqCst) >= 56 * 1024
    })
    .await;
    // The gateway has read all that was there before these.
    for _ in 0..10 {
        assert_eq!(get(&mut client, "large", "/short").await.status(), 200);
    }
    assert_eq!(sent.load(Ordering::SeqCst), 56 * 1024);
    drop(untaken);
    for mut client in [
        h2_client(&gateway, 65_535, 1 << 20).await,
        // One that opens its window by little is served, too.
        h2_client(&gateway, 16_384, 1 << 20).await,
    ] {
        let mut body = get(&mut client, "large", "/").await.into_body();
        let mut taken = 0;
        while let Some(part) = timeout(LONG, body.data()).await.expect("it stands still") {
            let part = part.unwrap();
            taken += part.len();
            body.flow_control().release_capacity(part.len()).unwrap();
        }
        assert_eq!(taken, LARGE);
    }
    serving.abort();
    gateway.stop().await;
    plane.stop().await;
}
