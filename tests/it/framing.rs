//! More than a hundred requests that could be read in two ways, or not at all, and what an instance
//! sees of them: byte by byte.

mod cases;
use std::sync::{Arc, Mutex};

use crate::support::{Gateway, Plane};
use cases::{Case, Want};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The requests that an instance heard, byte by byte; what was no whole request is marked.
type Heard = Arc<Mutex<Vec<String>>>;

async fn origin(listener: TcpListener, heard: Heard) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        crate::support::spawn(answer(stream, Arc::clone(&heard)));
    }
}

/// Reads requests as strictly as one can, and answers each.
async fn answer(mut stream: TcpStream, heard: Heard) {
    let mut seen = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = whole(&seen) {
                break Some(end);
            }
            match stream.read_buf(&mut seen).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break None,
            }
        };
        let Some(end) = end else {
            if !seen.is_empty() {
                let text = String::from_utf8_lossy(&seen).into_owned();
                heard.lock().unwrap().push(format!("(not whole) {text}"));
            }
            return;
        };
        let request: Vec<u8> = seen.drain(..end).collect();
        let text = String::from_utf8_lossy(&request).into_owned();
        let head = text.starts_with("HEAD ");
        heard.lock().unwrap().push(text);
        let body = if head { "" } else { "ok" };
        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}");
        if stream.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Where the first request in `seen` ends, if it is whole.
fn whole(seen: &[u8]) -> Option<usize> {
    let head = seen.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let fields = String::from_utf8_lossy(&seen[..head]).to_lowercase();
    let length = fields
        .split("\r\n")
        .find_map(|line| line.strip_prefix("content-length: "));
    let chunked = fields.contains("\r\ntransfer-encoding: chunked\r\n");
    assert!(
        !(chunked && length.is_some()),
        "two framings reach the instance: {fields}"
    );
    if chunked {
        let mut at = head;
        loop {
            let rest = &seen[at..];
            let line = rest.windows(2).position(|two| two == b"\r\n")?;
            let size = std::str::from_utf8(&rest[..line]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            at += line + 2 + size + 2;
            if size == 0 {
                // Trailers, if any, end with an empty line.
                let tail = &seen[at - 2..];
                let empty = tail.starts_with(b"\r\n").then_some(2);
                let after = || {
                    tail.windows(4)
                        .position(|four| four == b"\r\n\r\n")
                        .map(|n| n + 4)
                };
                return empty.or_else(after).map(|n| at - 2 + n);
            }
            if seen.len() < at {
                return None;
            }
        }
    }
    let end = head + length.map_or(0, |length| length.parse::<usize>().unwrap());
    (seen.len() >= end).then_some(end)
}

/// What the gateway says to a case; it closes, since it was asked to or because it will not go on.
async fn say(gateway: &Gateway, case: &Case) -> String {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    // It may refuse and close before it has read everything.
    let _sent = stream.write_all(&case.bytes).await;
    if matches!(case.want, Want::Broken) {
        let _half = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let mut read = async || {
        let mut part = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut part).await {
            answer.extend(&part[..count]);
        }
    };
    let ended = tokio::time::timeout(crate::support::PATIENCE, read()).await;
    assert!(ended.is_ok(), "{}: the connection stays open", case.rule);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_means_two_things() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("edge").await;
    let heard = Heard::default();
    let serving = crate::support::spawn(origin(listener, Arc::clone(&heard)));
    let gateway = Gateway::start(&plane, "").await;
    let cases = cases::all();
    assert!(cases.len() >= 100, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        heard.lock().unwrap().clear();
        let answer = say(&gateway, case).await;
        let seen = heard.lock().unwrap().clone();
        let requests: Vec<&String> = seen.iter().filter(|one| !one.starts_with("(not")).collect();
        let lines = answer.lines();
        let answers = lines.filter(|line| line.starts_with("HTTP/1.")).count()
            - usize::from(answer.contains("HTTP/1.1 100"));
        let fine = match &case.want {
            Want::Refused(status) => {
                seen.is_empty() && answers == 1 && answer.contains(&format!(" {status} "))
            }
            Want::Broken => requests.is_empty() && !answer.contains(" 200 "),
            Want::Passed(has, lacks) => {
                requests.len() == 1
                    && answers == 1
                    && answer.contains(" 200 OK")
                    && has.iter().all(|part| requests[0].contains(part))
                    && !lacks.iter().any(|part| requests[0].contains(part))
            }
        };
        if !fine {
            let bytes = String::from_utf8_lossy(&case.bytes)
                .chars()
                .take(200)
                .collect::<String>();
            let answer = answer.lines().next().unwrap_or("nothing").to_owned();
            wrong.push(format!(
                "{}\n  sent {bytes:?}\n  heard {seen:?}\n  said {answer}",
                case.rule
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    serving.abort();
    gateway.stop().await;
    plane.stop().await;
}
