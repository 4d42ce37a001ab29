use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::task::Waker;

use http1::BodyLength;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::flow::BufferBudget;
use crate::telemetry::Metrics;
use crate::upstream::request_body::RequestBody;
use crate::wake::Endpoint;

const LIMITS: HeadLimits = HeadLimits {
    bytes: 256 * 1024,
    fields: 100,
};

/// A connection, and its instance's end of it.
async fn connection() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    let endpoint = Endpoint::alone();
    let open = endpoint.open_connection();
    let stream = LeasedStream::new(ours.unwrap().into(), open, Arc::new(Metrics::new()));
    let connection = Connection::new(stream, endpoint.cut(), LIMITS);
    (connection, theirs.unwrap().0)
}

fn request() -> Sending {
    let head = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec();
    Sending::new(head, BodyLength::Nothing, RequestBody::new(None, 0), None)
}

async fn head(connection: &mut Connection) -> Head {
    let mut sending = request();
    connection.begin(Instant::now(), Duration::from_secs(10));
    let interim = |_, _: &HeaderMap| {};
    poll_fn(|cx| connection.poll_head(&mut sending, &Method::GET, &interim, &|| None, cx))
        .await
        .unwrap()
}

#[tokio::test]
async fn who_waits_for_a_response_has_no_room_for_it_yet() {
    let (mut connection, _instance) = connection().await;
    let mut sending = request();
    connection.begin(Instant::now(), Duration::from_secs(10));
    let mut cx = Context::from_waker(Waker::noop());
    let head = connection.poll_head(&mut sending, &Method::GET, &|_, _| {}, &|| None, &mut cx);
    assert!(head.is_pending());
    assert!(sending.is_over(), "the request has gone");
    assert_eq!(connection.input.capacity(), 0);
}

#[tokio::test]
async fn the_room_of_a_large_head_goes_with_it_and_what_came_behind_it_stays() {
    let (mut connection, mut instance) = connection().await;
    let large = "v".repeat(60_000);
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx-large: {large}\r\n\r\nbody");
    let answering = async {
        instance.write_all(response.as_bytes()).await.unwrap();
        instance.read_u8().await.unwrap()
    };
    let (head, _) = tokio::join!(head(&mut connection), answering);
    assert_eq!(head.response.headers()["x-large"], large);
    while connection.input.len() < 4 {
        let more = poll_fn(|cx| connection.poll_more(None, cx)).await;
        assert!(matches!(more, Some(Ok(1..))));
    }
    assert_eq!(connection.input, "body");
    assert!(connection.input.capacity() <= KEPT_ROOM);
}

#[tokio::test]
async fn a_large_head_counts_to_its_client_while_it_comes_and_is_not_read_without_room() {
    for (budget, is_read) in [(1 << 20, true), (48 << 10, false)] {
        let (mut connection, mut instance) = connection().await;
        let budget = BufferBudget::new(budget);
        let client = budget.of(Ipv4Addr::LOCALHOST.into());
        let mut sending = request();
        connection.begin(Instant::now(), Duration::from_secs(10));
        let part = format!("HTTP/1.1 200 OK\r\nx-large: {}", "v".repeat(40_000));
        instance.write_all(part.as_bytes()).await.unwrap();
        let mut response = poll_fn(|cx| {
            let client = || Some(client.clone());
            let head = connection.poll_head(&mut sending, &Method::GET, &|_, _| {}, &client, cx);
            match head.is_pending() && connection.input.len() == part.len() {
                true => Poll::Ready(None),
                false => head.map(Some),
            }
        })
        .await;
        if is_read {
            assert!(response.is_none());
            assert!(budget.used() >= part.len());
            instance.write_all(b"\r\n\r\n").await.unwrap();
            let head = poll_fn(|cx| {
                let client = || Some(client.clone());
                connection.poll_head(&mut sending, &Method::GET, &|_, _| {}, &client, cx)
            });
            response = Some(head.await);
            assert_eq!(response.unwrap().unwrap().response.headers().len(), 1);
        } else {
            assert!(matches!(response, Some(Err(Failure::NoRoom))));
            assert_eq!(budget.refused(), 1);
            drop(connection);
        }
        assert_eq!(budget.used(), 0);
    }
}

#[tokio::test]
async fn an_idle_connection_keeps_no_room_that_a_large_body_needed() {
    let (mut connection, mut instance) = connection().await;
    let body = vec![b'x'; 1 << 20];
    let answering = async {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        instance.write_all(head.as_bytes()).await.unwrap();
        instance.write_all(&body).await.unwrap();
    };
    let reading = async {
        let _head = head(&mut connection).await;
        let mut left = body.len();
        loop {
            let input = connection.input();
            left -= input.len();
            drop(input.split());
            if left == 0 {
                break;
            }
            let useful = u64::try_from(left).ok();
            let more = poll_fn(|cx| connection.poll_more(useful, cx)).await;
            assert!(matches!(more, Some(Ok(1..))));
        }
    };
    let ((), ()) = tokio::join!(answering, reading);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(connection.reusable_since(&mut cx).is_some());
    assert_eq!(connection.input.capacity(), 0);
}
