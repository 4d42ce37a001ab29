//! What an instance may answer, and what a client is told of it: the same whether its request had a
//! body or none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Gateway, Plane};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How much of a response that broke off arrives is a matter of luck.
const BROKEN_OFF: &str = "(broken off)";
/// A response, and what the client's status line says.
const CASES: [(&str, &str); 25] = [
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "200 OK",
    ),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "200 OK",
    ),
    (
        "HTTP/1.1 200 Fine So Far\r\ncontent-length: 0\r\n\r\n",
        "200 Fine So Far",
    ),
    ("HTTP/1.1 404\r\ncontent-length: 1\r\n\r\nx", "404 "),
    ("HTTP/1.1 200 OK\r\n\r\nuntil the end", "200 OK"),
    ("HTTP/1.0 200 OK\r\n\r\nuntil the end", "200 OK"),
    ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "200 OK"),
    (
        "HTTP/1.1 200 OK\r\nconnection: close, x-gone\r\nx-gone: 1\r\ncontent-length: 2\r\n\r\nok",
        "200 OK",
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n",
        "200 OK",
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n",
        "200 OK",
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "200 OK",
    ),
    ("HTTP/1.1 204 No Content\r\n\r\n", "204 No Content"),
    (
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\netag: \"a\"\r\n\r\n",
        "304 Not Modified",
    ),
    (
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "200 OK",
    ),
    (
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "103 Early Hints",
    ),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel",
        BROKEN_OFF,
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        BROKEN_OFF,
    ),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        BROKEN_OFF,
    ),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        "502 Bad Gateway",
    ),
    (
        "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\nhello",
        "502 Bad Gateway",
    ),
    (
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "502 Bad Gateway",
    ),
    (
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        "502 Bad Gateway",
    ),
    ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "502 Bad Gateway"),
    ("\u{15}\u{3}\u{1}", "502 Bad Gateway"),
    ("HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n", "502 Bad Gateway"),
];

/// Answers requests with the cases that their paths name, some bytes at a time; closes where that
/// is part of the case, and else only when the gateway does.
async fn origin(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        stream.set_nodelay(true).unwrap();
        crate::support::spawn(answer(stream));
    }
}

async fn answer(mut stream: TcpStream) {
    let mut seen = Vec::new();
    while matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
        let whole = match seen.starts_with(b"POST ") {
            true => seen.ends_with(b"\r\n\r\nbody"),
            false => seen.ends_with(b"\r\n\r\n"),
        };
        if !whole {
            continue;
        }
        let text = String::from_utf8_lossy(&seen).into_owned();
        let path = text.split(' ').nth(1).unwrap();
        let (case, piece) = path.trim_matches('/').split_once('/').unwrap();
        let (bytes, status) = CASES[case.parse::<usize>().unwrap()];
        for piece in bytes.as_bytes().chunks(piece.parse().unwrap()) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        if status == BROKEN_OFF || status.starts_with("502") || bytes.ends_with("the end") {
            return;
        }
        seen.clear();
    }
}

/// Answers each request with what `answer` makes of it; `connections` counts where they came from.
async fn answering(
    listener: TcpListener,
    connections: Arc<AtomicUsize>,
    answer: impl Fn(&[u8]) -> &'static str + Clone + Send + 'static,
) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        connections.fetch_add(1, Ordering::Relaxed);
        let answer = answer.clone();
        crate::support::spawn(async move {
            let mut seen = Vec::new();
            while matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
                if seen.ends_with(b"\r\n\r\n") || seen.ends_with(b"\r\n\r\nbody") {
                    stream.write_all(answer(&seen).as_bytes()).await.unwrap();
                    seen.clear();
                }
            }
        });
    }
}

/// What a client hears, without what differs from request to request.
async fn heard(gateway: &Gateway, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let request = format!("{head}\r\nhost: edge.test\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let read = tokio::time::timeout(crate::support::PATIENCE, reading).await;
    // A reset is one way to say that a response broke off.
    let _whole = read.unwrap();
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.rsplit_once("\r\n\r\n").unwrap_or((&text, ""));
    let (head, body) = match text.find("transfer-encoding: chunked") {
        // Its last chunk ends with an empty line as well.
        Some(at) => {
            let (before, after) = text.split_at(at);
            let (field, chunks) = after.split_once("\r\n\r\n").unwrap();
            let head = text.get(..before.len() + field.len()).unwrap();
            (head, unchunked(chunks))
        }
        None => (head, body_of_length(head, body)),
    };
    if body == BROKEN_OFF || text.is_empty() {
        return BROKEN_OFF.to_owned();
    }
    let lines = head.split("\r\n").filter(|line| {
        let differs = [
            "x-request-id:",
            "date:",
            "server-timing:",
            "x-wakegate-wake:",
        ];
        !differs.iter().any(|name| line.starts_with(name))
    });
    let mut lines: Vec<_> = lines.collect();
    // In any order, but for the first.
    lines
        .get_mut(1..)
        .into_iter()
        .for_each(<[_]>::sort_unstable);
    lines.join("\n") + "\n\n" + &body
}

/// The data of chunks, wherever they were cut.
fn unchunked(mut text: &str) -> String {
    let mut data = String::new();
    loop {
        let Some((size, rest)) = text.split_once("\r\n") else {
            return BROKEN_OFF.to_owned();
        };
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return data + rest.trim_end();
        }
        let Some(chunk) = rest.get(..size) else {
            return BROKEN_OFF.to_owned();
        };
        data += chunk;
        text = rest.get(size + 2..).unwrap_or_default();
    }
}

fn body_of_length(head: &str, body: &str) -> String {
    let length = head
        .split("\r\n")
        .find_map(|line| line.strip_prefix("content-length: "));
    let without = head.contains(" 304 ") || head.contains(" 502 ");
    match length {
        Some(length) if !without && length.parse() != Ok(body.len()) && !body.is_empty() => {
            BROKEN_OFF.to_owned()
        }
        _ if head.contains(" 502 ") => String::new(),
        _ => body.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_means_the_same_over_either_kind_of_connection() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("edge").await;
    let serving = crate::support::spawn(origin(listener));
    let gateway = Gateway::start(&plane, "").await;
    for (case, (bytes, status)) in CASES.iter().enumerate() {
        for piece in [1, 7, 10_000] {
            let get = format!("GET /{case}/{piece} HTTP/1.1");
            let without = heard(&gateway, &get, "").await;
            let post = format!("POST /{case}/{piece} HTTP/1.1\r\ncontent-length: 4");
            let with = heard(&gateway, &post, "body").await;
            assert_eq!(without, with, "{bytes:?}, {piece} at a time");
            let line = match status {
                &BROKEN_OFF => BROKEN_OFF.to_owned(),
                status => format!("HTTP/1.1 {status}\n"),
            };
            assert!(without.starts_with(&line), "{bytes:?}: {without}");
            assert!(!without.contains("x-gone"), "{without}");
        }
    }
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_no_body_and_its_connection_serves_the_next_request() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("edge").await;
    let connections = Arc::new(AtomicUsize::new(0));
    let answer = |request: &[u8]| match request.starts_with(b"HEAD ") {
        true => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
        false => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    };
    let serving = crate::support::spawn(answering(listener, Arc::clone(&connections), answer));
    let gateway = Gateway::start(&plane, "").await;
    // The probe's connection may be another.
    heard(&gateway, "GET / HTTP/1.1", "").await;
    let before = connections.load(Ordering::Relaxed);
    for _ in 0..20 {
        let head = heard(&gateway, "HEAD / HTTP/1.1", "").await;
        assert!(
            head.contains("content-length: 2") && head.ends_with("\n\n"),
            "{head}"
        );
        assert!(
            heard(&gateway, "GET / HTTP/1.1", "")
                .await
                .ends_with("\n\nok")
        );
    }
    assert_eq!(connections.load(Ordering::Relaxed), before);
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_that_the_instance_closes_is_closed_here_too() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("edge").await;
    let (close, closing) = tokio::sync::watch::channel(false);
    let serving = crate::support::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut closing = closing.clone();
            crate::support::spawn(async move {
                let mut seen = Vec::new();
                let answering = async {
                    while matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
                        if seen.ends_with(b"\r\n\r\n") {
                            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                            stream.write_all(answer).await.unwrap();
                            seen.clear();
                        }
                    }
                };
                tokio::select! {
                    () = answering => {}
                    _ = closing.wait_for(|closing| *closing) => {}
                }
            });
        }
    });
    let gateway = Gateway::start(&plane, "").await;
    assert!(heard(&gateway, "GET / HTTP/1.1", "").await.ends_with("ok"));
    assert!(gateway.metric("wakegate_upstream_connections").await >= 1.0);
    close.send_replace(true);
    crate::support::eventually("no connection is left", async || {
        gateway.metric("wakegate_upstream_connections").await < 1.0
    })
    .await;
    serving.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gateway_says_of_a_request_is_said_once_and_not_by_the_instance() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("edge").await;
    let theirs = "HTTP/1.1 200 OK\r\nx-request-id: theirs\r\nx-wakegate-wake: theirs\r\n\
        server-timing: db;dur=1\r\ncontent-length: 0\r\n\r\n";
    let serving = crate::support::spawn(answering(listener, Arc::default(), move |_| theirs));
    let gateway = Gateway::start(&plane, "").await;
    let client = reqwest::Client::new();
    let url = format!("http://{}/", gateway.address);
    for request in [client.get(&url), client.post(&url).body("body")] {
        let request = request.header("host", "edge.test");
        let response = request.send().await.unwrap();
        let said = |name: &str| {
            let values = response.headers().get_all(name).iter();
            values
                .map(|value| value.to_str().unwrap())
                .collect::<Vec<_>>()
        };
        let (id, wake, timing) = (
            said("x-request-id"),
            said("x-wakegate-wake"),
            said("server-timing"),
        );
        assert!(id.len() == 1 && id != ["theirs"], "{id:?}");
        assert_eq!(wake, ["warm"]);
        assert!(timing.len() == 2 && timing[0] == "db;dur=1", "{timing:?}");
    }
    serving.abort();
}
