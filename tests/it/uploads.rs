//! Requests with a body, and what instances do before they have all of it.

use crate::support::{Gateway, PATIENCE, Plane, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const MIB: usize = 1 << 20;

/// The next connection that sends something, as far as its head: others may be probes.
async fn next_request(listener: &TcpListener) -> (TcpStream, Vec<u8>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut seen = Vec::new();
        while let Ok(1..) = stream.read_buf(&mut seen).await {
            if seen.windows(4).any(|four| four == b"\r\n\r\n") {
                return (stream, seen);
            }
        }
    }
}

fn after_head(seen: &[u8]) -> usize {
    let head = seen
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    seen.len() - head - 4
}

async fn client(gateway: &Gateway, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let head = format!("{head}\r\nhost: edge.test\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn until(stream: &mut TcpStream, text: &str) -> String {
    let mut seen = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&seen).contains(text) {
            assert!(
                stream.read_buf(&mut seen).await.unwrap() > 0,
                "{}",
                String::from_utf8_lossy(&seen)
            );
        }
    };
    timeout(PATIENCE, reading).await.unwrap();
    String::from_utf8(seen).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_before_it_has_sent_all_gets_a_response_that_began_before() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("edge").await;
    let gateway = Gateway::start(&plane, "").await;
    let instance = crate::support::spawn(async move {
        let (stream, seen) = next_request(&listener).await;
        let (mut reading, mut writing) = stream.into_split();
        let answering = async {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 32 * MIB);
            writing.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..32 {
                writing.write_all(&vec![b'x'; MIB]).await.unwrap();
            }
        };
        let taking = async {
            let (mut left, mut room) = (32 * MIB - after_head(&seen), vec![0; MIB]);
            while left > 0 {
                left -= reading.read(&mut room).await.unwrap();
            }
        };
        tokio::join!(answering, taking);
    });
    let head = format!(
        "POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: {}",
        32 * MIB
    );
    let mut stream = client(&gateway, &head).await;
    let sending = async {
        for _ in 0..32 {
            stream.write_all(&vec![b'y'; MIB]).await.unwrap();
        }
    };
    timeout(PATIENCE, sending).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(after_head(&answer), 32 * MIB);
    timeout(PATIENCE, instance).await.unwrap().unwrap();
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_after_the_response_has_begun_reaches_the_instance() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("edge").await;
    let gateway = Gateway::start(&plane, "").await;
    let instance = crate::support::spawn(async move {
        let (mut stream, mut seen) = next_request(&listener).await;
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nbegun!\r\n";
        stream.write_all(head).await.unwrap();
        while !seen.ends_with(b"0\r\n\r\n") {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
        }
        stream.write_all(b"5\r\nended\r\n0\r\n\r\n").await.unwrap();
        // It is not known whether an instance that responds so early reads on: the connection serves
        // nobody else.
        assert_eq!(stream.read_buf(&mut seen).await.unwrap_or(0), 0);
    });
    let mut stream = client(&gateway, "POST / HTTP/1.1\r\ntransfer-encoding: chunked").await;
    until(&mut stream, "begun!").await;
    stream.write_all(b"4\r\nlate\r\n").await.unwrap();
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    until(&mut stream, "ended").await;
    timeout(PATIENCE, instance).await.unwrap().unwrap();
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_never_takes_a_part_of_an_upload_for_the_whole() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("edge").await;
    let gateway = Gateway::start(&plane, "").await;
    for begins_early in [false, true] {
        let stream = client(&gateway, "POST / HTTP/1.1\r\ntransfer-encoding: chunked").await;
        let (mut instance, mut seen) = timeout(PATIENCE, next_request(&listener)).await.unwrap();
        let mut stream = stream;
        if begins_early {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nbegun!\r\n";
            instance.write_all(head).await.unwrap();
            until(&mut stream, "begun!").await;
        }
        stream.write_all(b"4\r\npart\r\n").await.unwrap();
        while !seen.ends_with(b"part\r\n") {
            assert!(instance.read_buf(&mut seen).await.unwrap() > 0);
        }
        drop(stream);
        // The end of the connection, or a reset; no last chunk.
        let rest = timeout(PATIENCE, instance.read_buf(&mut seen))
            .await
            .unwrap();
        assert!(matches!(rest, Ok(0) | Err(_)), "{begins_early}");
        assert!(!seen.ends_with(b"0\r\n\r\n"), "{begins_early}");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_upload_was_not_wanted_carries_nothing_else() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("edge").await;
    let gateway = Gateway::start(&plane, "").await;
    let head = format!("POST / HTTP/1.1\r\ncontent-length: {}", 64 * MIB);
    let mut stream = client(&gateway, &head).await;
    stream.write_all(&vec![b'y'; MIB]).await.unwrap();
    let (mut instance, _) = timeout(PATIENCE, next_request(&listener)).await.unwrap();
    instance
        .write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    until(&mut stream, "413").await;
    let mut other = client(&gateway, "GET /next HTTP/1.1").await;
    let (mut next, seen) = timeout(PATIENCE, next_request(&listener)).await.unwrap();
    assert!(seen.starts_with(b"GET /next "));
    next.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
        .await
        .unwrap();
    until(&mut other, "204").await;
    let mut room = vec![0; MIB];
    let closing = async { while !matches!(instance.read(&mut room).await, Ok(0) | Err(_)) {} };
    timeout(PATIENCE, closing).await.unwrap();
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_switches_protocols_in_the_middle_of_a_request_is_not_believed() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("edge").await;
    let gateway = Gateway::start(&plane, "").await;
    let head = "POST / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: odd\r\ncontent-length: 9";
    let mut stream = client(&gateway, head).await;
    let (mut instance, _) = timeout(PATIENCE, next_request(&listener)).await.unwrap();
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: odd\r\n\r\n";
    instance.write_all(switch).await.unwrap();
    let answer = until(&mut stream, "upstream_invalid").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_s_first_bytes_may_come_with_the_switch() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("edge").await;
    let gateway = Gateway::start(&plane, "").await;
    let head = "GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: odd";
    let mut stream = client(&gateway, head).await;
    let (mut instance, _) = timeout(PATIENCE, next_request(&listener)).await.unwrap();
    let switch =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: odd\r\n\r\nfirst";
    instance.write_all(switch).await.unwrap();
    until(&mut stream, "first").await;
    stream.write_all(b"second").await.unwrap();
    until(&mut instance, "second").await;
    drop(instance);
    eventually("the client's side ends", async || {
        matches!(stream.read(&mut [0]).await, Ok(0) | Err(_))
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_may_have_as_many_fields_as_the_limits_say() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("edge").await;
    let config = "[upstream]\nmax_headers = 160\nmax_header_bytes = 16384\n";
    let gateway = Gateway::start(&plane, config).await;
    for (fields, length, is_served) in [(150, 10, true), (170, 10, false), (100, 200, false)] {
        let mut stream = client(&gateway, "GET / HTTP/1.1\r\nconnection: close").await;
        let (mut instance, _) = timeout(PATIENCE, next_request(&listener)).await.unwrap();
        let links = format!("link: {}\r\n", "x".repeat(length)).repeat(fields);
        let answer =
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\n{links}content-length: 0\r\n\r\n");
        // The gateway may close before it has taken all.
        let _taken = instance.write_all(answer.as_bytes()).await;
        let status = if is_served {
            "HTTP/1.1 200 "
        } else {
            "HTTP/1.1 502 "
        };
        let answer = until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with(status), "{fields} of {length}: {answer}");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_a_client_has_authenticated_is_nobody_else_s() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("edge").await;
    let gateway = Gateway::start(&plane, "").await;
    // The number of each request's connection, and what was asked for on it.
    let instance = crate::support::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            crate::support::spawn(async move {
                let (mut seen, mut user) = (Vec::new(), "nobody");
                while let Ok(1..) = stream.read_buf(&mut seen).await {
                    if !seen.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let text = String::from_utf8(std::mem::take(&mut seen)).unwrap();
                    let status = match text.contains("authorization: NTLM") {
                        true => {
                            user = "ann";
                            "200 OK"
                        }
                        false if text.starts_with("GET /secret") && user == "nobody" => {
                            "401 Unauthorized\r\nwww-authenticate: NTLM"
                        }
                        false => "200 OK",
                    };
                    let body = format!("{user} on {number:04}!");
                    let answer = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let ask = async |stream: &mut TcpStream, target: &str, field: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nhost: edge.test\r\n{field}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = until(stream, "!").await;
        let body = answer.rsplit("\r\n\r\n").next().unwrap().to_owned();
        (answer.contains(" 401 "), body)
    };
    let mut ann = TcpStream::connect(gateway.address).await.unwrap();
    let mut bob = TcpStream::connect(gateway.address).await.unwrap();
    let (is_refused, challenged) = ask(&mut ann, "/secret", "").await;
    assert!(is_refused, "{challenged}");
    let (_, authenticated) = ask(&mut ann, "/secret", "authorization: NTLM abc\r\n").await;
    let connection = authenticated.strip_prefix("ann on ").unwrap();
    assert!(
        challenged.ends_with(connection),
        "{challenged}, {authenticated}"
    );
    for _ in 0..5 {
        let (is_refused, body) = ask(&mut bob, "/secret", "").await;
        assert!(is_refused && body.starts_with("nobody"), "{body}");
        let (_, body) = ask(&mut ann, "/secret", "").await;
        assert_eq!(body, authenticated);
    }
    instance.abort();
    gateway.stop().await;
    plane.stop().await;
}
