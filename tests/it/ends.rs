//! How requests, responses and connections end when something is in the way.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::support::{Gateway, PATIENCE, Plane, Wanted, eventually, route, spawn};

/// Sends these bytes on a connection of their own.
async fn sent(gateway: &Gateway, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            if stream.read_buf(&mut seen).await.unwrap() == 0 {
                break;
            }
        }
    };
    let read = timeout(PATIENCE, reading).await;
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(read.is_ok(), "{seen}");
    seen
}

/// The first connection that asks for something, as far as its head: others may be probes.
async fn first_request(listener: &TcpListener) -> (TcpStream, String) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").await;
        if head.contains("\r\n\r\n") {
            return (stream, head);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_is_a_reset_for_a_client_that_knows_its_end_by_the_connections() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("old").await;
    let gateway = Gateway::start(&plane, "").await;
    let mut client = sent(&gateway, "GET / HTTP/1.0\r\nhost: old.test\r\n\r\n").await;
    let (mut instance, _) = first_request(&origin).await;
    let part = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    instance.write_all(part.as_bytes()).await.unwrap();
    assert!(read_until(&mut client, "hello").await.contains(" 200 "));
    drop(instance);
    let end = timeout(PATIENCE, client.read(&mut [0; 16])).await.unwrap();
    let error = end.expect_err("it looks like the end of the body");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_response_came_before_its_request_was_over_is_not_used_again() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("hasty").await;
    let gateway = Gateway::start(&plane, "").await;
    let head = "POST / HTTP/1.1\r\nhost: hasty.test\r\ncontent-length: 4\r\n\r\n";
    let mut client = sent(&gateway, head).await;
    let (mut instance, _) = first_request(&origin).await;
    let begin = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha";
    instance.write_all(begin.as_bytes()).await.unwrap();
    read_until(&mut client, "ha").await;
    client.write_all(b"body").await.unwrap();
    read_until(&mut instance, "body").await;
    instance.write_all(b"ha").await.unwrap();
    read_until(&mut client, "ha").await;
    // Many servers close such a connection, though they did not say so; a request that is on its
    // way by then is lost.
    let next = head.replace("content-length: 4", "content-length: 0");
    client.write_all(next.as_bytes()).await.unwrap();
    let (mut other, _) = timeout(PATIENCE, first_request(&origin)).await.unwrap();
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
    other.write_all(answer.as_bytes()).await.unwrap();
    read_until(&mut client, "done").await;
    let end = timeout(PATIENCE, instance.read(&mut [0; 16]))
        .await
        .unwrap();
    assert_eq!(end.unwrap_or(0), 0, "the first one is closed");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_is_one_of_its_clients_until_it_ends() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("shared")).await;
    let limit = "[server]\nmax_connections_per_client = 2\n";
    let gateway = Gateway::start(&plane, limit).await;
    let upgrade = "GET /ws HTTP/1.1\r\nhost: shared.test\r\nconnection: upgrade\r\n\
                   upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        let mut tunnel = sent(&gateway, upgrade).await;
        let head = read_until(&mut tunnel, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        tunnels.push(tunnel);
    }
    assert_eq!(gateway.metric("wakegate_downstream_connections").await, 2.0);
    let mut third = sent(&gateway, "GET / HTTP/1.1\r\nhost: shared.test\r\n\r\n").await;
    let mut nothing = Vec::new();
    // Closed or reset, without a word.
    let _ended = timeout(PATIENCE, third.read_to_end(&mut nothing))
        .await
        .unwrap();
    assert!(nothing.is_empty());
    tunnels.clear();
    eventually("there is room again", async || {
        let asked = gateway.client().request("GET", "shared", "/").send().await;
        asked.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_http_1_0_asks_for_is_none() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("old").await;
    let gateway = Gateway::start(&plane, "").await;
    let upgrade = "GET /ws HTTP/1.0\r\nhost: old.test\r\nconnection: upgrade\r\n\
                   upgrade: websocket\r\n\r\n";
    let mut client = sent(&gateway, upgrade).await;
    let (mut instance, head) = first_request(&origin).await;
    assert!(!head.to_lowercase().contains("upgrade"), "{head}");
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    instance.write_all(answer.as_bytes()).await.unwrap();
    assert!(read_until(&mut client, "ok").await.contains(" 200 "));
    gateway.stop().await;
    plane.stop().await;
}

/// An instance of HTTP/2's next connection.
async fn next_h2(listener: &TcpListener) -> h2::server::Connection<TcpStream, Bytes> {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        // A probe says nothing.
        if let Ok(connection) = h2::server::handshake(stream).await {
            return connection;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_which_the_instance_did_nothing_is_sent_again_whatever_its_method() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("busy").await;
    let gateway = Gateway::start(&plane, &route("busy", "protocol = \"h2c\"")).await;
    let instance = spawn(async move {
        let mut seen = 0;
        loop {
            let mut connection = next_h2(&origin).await;
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(request.method(), "POST");
                seen += 1;
                if seen == 1 {
                    respond.send_reset(Reason::REFUSED_STREAM);
                    continue;
                }
                respond.send_response(Response::new(()), true).unwrap();
                // The response goes out.
                let _ended = timeout(PATIENCE, poll_fn(|cx| connection.poll_closed(cx))).await;
                return seen;
            }
        }
    });
    let asked = gateway.client().request("POST", "busy", "/").send();
    let answer = timeout(PATIENCE, asked).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    gateway.stop().await;
    assert_eq!(instance.await.unwrap(), 2);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_over_http_2_ends_with_its_response() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("early").await;
    let gateway = Gateway::start(&plane, &route("early", "protocol = \"h2c\"")).await;
    let instance = spawn(async move {
        let mut connection = next_h2(&origin).await;
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut body = request.into_body();
        respond.send_response(Response::new(()), true).unwrap();
        let served = async { while connection.accept().await.is_some() {} };
        let read = async {
            // Whatever had been sent by then, and then the end of it.
            while let Some(part) = body.data().await {
                if let Err(error) = part {
                    return error.reason();
                }
            }
            None
        };
        tokio::select! {
            reason = read => reason,
            () = served => None,
        }
    });
    let head = "POST / HTTP/1.1\r\nhost: early.test\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut client = sent(&gateway, head).await;
    client.write_all(b"5\r\nhello\r\n").await.unwrap();
    let answer = read_until(&mut client, "\r\n\r\n").await;
    assert!(answer.contains(" 200 "), "{answer}");
    // Nothing more comes of the upload, and it is not ended either.
    let reason = timeout(Duration::from_secs(30), instance).await;
    let reason = reason.expect("it goes on").unwrap();
    assert_eq!(reason, Some(Reason::CANCEL));
    drop(client);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_reset_before_its_end_is_not_whole_whatever_the_reason() {
    let plane = Plane::start().await;
    let (_, origin) = plane.own_origin("back").await;
    let gateway = Gateway::start(&plane, &route("back", "protocol = \"h2c\"")).await;
    for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
        let asked = "GET / HTTP/1.1\r\nhost: back.test\r\nconnection: close\r\n\r\n";
        let mut client = sent(&gateway, asked).await;
        let mut connection = timeout(PATIENCE, next_h2(&origin)).await.unwrap();
        let (was_seen, is_seen) = oneshot::channel();
        let instance = spawn(async move {
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"part"), false).unwrap();
            tokio::select! {
                seen = is_seen => seen.unwrap(),
                _ = poll_fn(|cx| connection.poll_closed(cx)) => {}
            }
            body.send_reset(reason);
            // The next request has a connection of its own.
            connection.graceful_shutdown();
            let _ended = timeout(PATIENCE, poll_fn(|cx| connection.poll_closed(cx))).await;
        });
        read_until(&mut client, "part\r\n").await;
        was_seen.send(()).unwrap();
        let rest = read_until(&mut client, "0\r\n\r\n").await;
        assert_eq!(rest, "", "{reason}: it looks like the end of the body");
        instance.await.unwrap();
    }
    gateway.stop().await;
    plane.stop().await;
}
