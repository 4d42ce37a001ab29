//! HTTP/2 frame by frame: what RFC 9113 forbids ends the stream or the connection, what it allows
//! does not, and floods are cut. The cases are those of h2spec's generic and http2 sections that
//! concern a server of this kind.

mod interim;

use std::time::Duration;

use crate::support::{Gateway, Plane, Wanted};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// What has to come of a case.
#[derive(Debug, Clone, Copy)]
enum Want {
    /// The stream or the connection is ended for the client's error.
    Refused,
    /// A response with a status of this class.
    Answered(u8),
    /// A PING is answered, so the connection goes on.
    Alive,
}

use Want::{Alive, Answered, Refused};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&[a, b, c, kind, flags][..], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A field that no table has.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let (n, v) = (
        u8::try_from(name.len()).unwrap(),
        u8::try_from(value.len()).unwrap(),
    );
    [&[0, n], name.as_bytes(), &[v], value.as_bytes()].concat()
}

/// `:method`, `:scheme`, `:path` and `:authority` of a GET.
fn get() -> Vec<u8> {
    [&[0x82, 0x86, 0x84][..], &literal(":authority", "edge.test")].concat()
}

fn post() -> Vec<u8> {
    let mut block = get();
    block[0] = 0x83;
    block
}

fn get_with(fields: &[(&str, &str)]) -> Vec<u8> {
    let more = fields.iter().map(|(name, value)| literal(name, value));
    [get(), more.collect::<Vec<_>>().concat()].concat()
}

fn headers(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, block)
}

fn open(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, block)
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &payload)
}

fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"are you?")
}

struct Answer {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

async fn next(stream: &mut TcpStream) -> Option<Answer> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, ..] = head;
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.ok()?;
    Some(Answer {
        kind,
        flags,
        payload,
    })
}

async fn connect(gateway: &Gateway) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// The first thing that the gateway says which decides a case.
async fn verdict(mut stream: TcpStream, bytes: &[u8]) -> &'static str {
    let _sent = stream.write_all(bytes).await;
    let deciding = async {
        loop {
            let Some(answer) = next(&mut stream).await else {
                return "closed";
            };
            match answer.kind {
                GOAWAY if answer.payload[4..8] != [0; 4] => return "goaway",
                RST_STREAM if answer.payload != [0; 4] => return "reset",
                HEADERS => return class(&answer.payload),
                PING if answer.flags & ACK != 0 => return "pong",
                _ => {}
            }
        }
    };
    timeout(crate::support::PATIENCE, deciding)
        .await
        .unwrap_or("nothing")
}

/// The class of a response's status, which comes first: by its index in the static table (RFC 7541,
/// Appendix A), or as a literal, most likely in Huffman's code, where `4` is `011010` and `5` is
/// `011011`.
fn class(block: &[u8]) -> &'static str {
    match *block {
        [0x88..=0x8a, ..] => "2xx",
        [0x8c | 0x8d, ..] | [0x08 | 0x48, _, b'4', ..] => "4xx",
        [0x8e, ..] => "5xx",
        [0x08 | 0x48, 0x80..=0xff, first, ..] if first >> 2 == 0b01_1010 => "4xx",
        [0x08 | 0x48, 0x80..=0xff, first, ..] if first >> 2 == 0b01_1011 => "5xx",
        _ => "another status",
    }
}

/// A request that nobody answers yet, so that the stream is open while the case goes on.
fn unfinished() -> Vec<u8> {
    open(1, &post())
}

fn cases() -> Vec<(&'static str, Vec<u8>, Want)> {
    let then = |one: Vec<u8>, other: Vec<u8>| [one, other].concat();
    let mut second_path = get();
    second_path.push(0x84);
    let mut no_method = get();
    no_method.remove(0);
    let mut no_scheme = get();
    no_scheme.remove(1);
    let mut no_path = get();
    no_path.remove(2);
    let empty_path = then(no_path.clone(), literal(":path", ""));
    let ended = || then(headers(1, &get()), ping());
    let too_big = vec![0; 16_385];
    let sum = literal("x-sum", "1");
    // A table entry of 1,000 bytes, and it again and again.
    let mut large_trailers = [&[0x40, 1, b'x', 0x7f, 0xe9, 0x06][..], &[b'a'; 1000]].concat();
    large_trailers.extend([0xbe; 80]);
    let connect = |more: &[(&str, &str)]| {
        let fields = more.iter().map(|(name, value)| literal(name, value));
        headers(
            1,
            &then(
                literal(":method", "CONNECT"),
                fields.collect::<Vec<_>>().concat(),
            ),
        )
    };
    let (host, web, path) = (
        (":authority", "edge.test"),
        (":protocol", "websocket"),
        (":path", "/"),
    );
    let without_authority = get()[..3].to_vec();
    vec![
        (
            "4.1: an unknown frame is ignored",
            then(frame(0x16, 0, 0, b"12345678"), ping()),
            Alive,
        ),
        (
            "4.1: unknown flags are ignored",
            frame(PING, 0x16, 0, b"12345678"),
            Alive,
        ),
        (
            "4.1: the reserved bit is ignored",
            frame(PING, 0, 0x8000_0000, b"12345678"),
            Alive,
        ),
        (
            "4.2: DATA larger than is allowed",
            then(unfinished(), frame(DATA, 0, 1, &too_big)),
            Refused,
        ),
        (
            "4.2: HEADERS larger than is allowed",
            headers(1, &too_big),
            Refused,
        ),
        (
            "4.3: a field block that is none",
            headers(1, &[0x40]),
            Refused,
        ),
        (
            "4.3: an index that no table has",
            headers(1, &[0xff, 0xff, 0xff, 0x0f]),
            Refused,
        ),
        (
            "4.3: PRIORITY inside a field block",
            then(
                frame(HEADERS, END_STREAM, 1, &get()),
                frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 255]),
            ),
            Refused,
        ),
        (
            "4.3: another stream inside a field block",
            then(frame(HEADERS, END_STREAM, 1, &get()), headers(3, &get())),
            Refused,
        ),
        (
            "5.1: DATA on an idle stream",
            frame(DATA, END_STREAM, 1, b"test"),
            Refused,
        ),
        (
            "5.1: RST_STREAM on an idle stream",
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            Refused,
        ),
        (
            "5.1: WINDOW_UPDATE on an idle stream",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 100]),
            Refused,
        ),
        (
            "5.1: CONTINUATION on an idle stream",
            frame(CONTINUATION, END_HEADERS, 1, &get()),
            Refused,
        ),
        (
            "5.1: DATA after the stream's end",
            then(headers(1, &get()), frame(DATA, END_STREAM, 1, b"test")),
            Refused,
        ),
        (
            "5.1: HEADERS after the stream's end",
            then(headers(1, &get()), headers(1, &get())),
            Refused,
        ),
        (
            "5.1: CONTINUATION after the stream's end",
            then(
                headers(1, &get()),
                frame(CONTINUATION, END_HEADERS, 1, &get()),
            ),
            Refused,
        ),
        (
            "5.1: DATA after RST_STREAM",
            then(
                then(unfinished(), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
                frame(DATA, END_STREAM, 1, b"test"),
            ),
            Refused,
        ),
        (
            "5.1: WINDOW_UPDATE on a closed stream is fine",
            then(
                then(unfinished(), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
                then(frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]), ping()),
            ),
            Alive,
        ),
        ("5.1.1: an even stream", headers(2, &get()), Refused),
        (
            "5.1.1: a stream below the last",
            then(headers(5, &get()), headers(3, &get())),
            Refused,
        ),
        (
            "5.3: PRIORITY on an idle stream is fine",
            then(frame(PRIORITY, 0, 7, &[0, 0, 0, 0, 255]), ping()),
            Alive,
        ),
        (
            "5.5: an unknown frame inside a field block",
            then(
                frame(HEADERS, END_STREAM, 1, &get()),
                frame(0x16, 0, 0, b"12345678"),
            ),
            Refused,
        ),
        (
            "6.1: DATA on stream 0",
            frame(DATA, END_STREAM, 0, b"test"),
            Refused,
        ),
        (
            "6.1: more padding than DATA",
            then(
                unfinished(),
                frame(DATA, END_STREAM | PADDED, 1, b"\x06test"),
            ),
            Refused,
        ),
        ("6.2: HEADERS on stream 0", headers(0, &get()), Refused),
        (
            "6.2: more padding than HEADERS",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | PADDED,
                1,
                &then(vec![255], get()),
            ),
            Refused,
        ),
        (
            "6.2: padded HEADERS",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | PADDED,
                1,
                &then(then(vec![3], get()), vec![0; 3]),
            ),
            Answered(2),
        ),
        (
            "6.3: PRIORITY on stream 0",
            frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 255]),
            Refused,
        ),
        (
            "6.3: a short PRIORITY",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 0]),
            Refused,
        ),
        (
            "6.4: RST_STREAM on stream 0",
            frame(RST_STREAM, 0, 0, &[0, 0, 0, 8]),
            Refused,
        ),
        (
            "6.4: a short RST_STREAM",
            then(unfinished(), frame(RST_STREAM, 0, 1, &[0, 0, 8])),
            Refused,
        ),
        (
            "6.5: SETTINGS' acknowledgement with content",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            Refused,
        ),
        (
            "6.5: SETTINGS on a stream",
            frame(SETTINGS, 0, 1, &[]),
            Refused,
        ),
        (
            "6.5: SETTINGS of a wrong length",
            frame(SETTINGS, 0, 0, &[0; 3]),
            Refused,
        ),
        ("6.5.2: ENABLE_PUSH is 0 or 1", setting(2, 2), Refused),
        ("6.5.2: a window of 2^31", setting(4, 0x8000_0000), Refused),
        ("6.5.2: a frame below 2^14", setting(5, 16_383), Refused),
        ("6.5.2: a frame of 2^24", setting(5, 1 << 24), Refused),
        (
            "6.5.2: an unknown setting is ignored",
            then(setting(0xff, 1), ping()),
            Alive,
        ),
        ("6.7: PING", ping(), Alive),
        (
            "6.7: PING on a stream",
            frame(PING, 0, 1, b"12345678"),
            Refused,
        ),
        ("6.7: a short PING", frame(PING, 0, 0, b"123456"), Refused),
        (
            "6.8: GOAWAY on a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            Refused,
        ),
        (
            "6.9: a connection's WINDOW_UPDATE of 0",
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
            Refused,
        ),
        (
            "6.9: a stream's WINDOW_UPDATE of 0",
            then(unfinished(), frame(WINDOW_UPDATE, 0, 1, &[0; 4])),
            Refused,
        ),
        (
            "6.9: a short WINDOW_UPDATE",
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]),
            Refused,
        ),
        (
            "6.9.1: a connection's window beyond 2^31-1",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]).repeat(2),
            Refused,
        ),
        (
            "6.9.1: a stream's window beyond 2^31-1",
            then(
                unfinished(),
                frame(WINDOW_UPDATE, 0, 1, &[0x7f, 255, 255, 255]).repeat(2),
            ),
            Refused,
        ),
        (
            "6.10: fields in two frames",
            then(
                frame(HEADERS, END_STREAM, 1, &get()[..3]),
                frame(CONTINUATION, END_HEADERS, 1, &get()[3..]),
            ),
            Answered(2),
        ),
        (
            "6.10: CONTINUATION on stream 0",
            then(
                frame(HEADERS, END_STREAM, 1, &get()[..3]),
                frame(CONTINUATION, END_HEADERS, 0, &get()[3..]),
            ),
            Refused,
        ),
        (
            "6.10: CONTINUATION after the block's end",
            then(
                unfinished(),
                frame(CONTINUATION, END_HEADERS, 1, &literal("a", "b")),
            ),
            Refused,
        ),
        (
            "6.10: CONTINUATION after DATA",
            then(
                then(unfinished(), frame(DATA, 0, 1, b"test")),
                frame(CONTINUATION, END_HEADERS, 1, &literal("a", "b")),
            ),
            Refused,
        ),
        (
            "8.2: a name in capitals",
            headers(1, &get_with(&[("X-TEST", "ok")])),
            Refused,
        ),
        (
            "8.2.1: a value with a line end",
            headers(1, &get_with(&[("x-test", "a\r\nb")])),
            Refused,
        ),
        (
            "8.2.2: a field of the connection",
            headers(1, &get_with(&[("connection", "keep-alive")])),
            Refused,
        ),
        (
            "8.2.2: Transfer-Encoding",
            headers(1, &get_with(&[("transfer-encoding", "chunked")])),
            Refused,
        ),
        (
            "8.2.2: TE is trailers or nothing",
            headers(1, &get_with(&[("te", "gzip")])),
            Refused,
        ),
        (
            "8.2.2: TE of trailers",
            headers(1, &get_with(&[("te", "trailers")])),
            Answered(2),
        ),
        (
            "8.3: an unknown pseudo-field",
            headers(1, &get_with(&[(":test", "ok")])),
            Refused,
        ),
        (
            "8.3: a response's pseudo-field",
            headers(1, &get_with(&[(":status", "200")])),
            Refused,
        ),
        (
            "8.3: a pseudo-field after a field",
            headers(1, &get_with(&[("x-test", "ok"), (":path", "/")])),
            Refused,
        ),
        (
            "8.1: a pseudo-field in trailers",
            then(unfinished(), headers(1, &literal(":method", "GET"))),
            Refused,
        ),
        (
            "8.1: a pseudo-field of a table in trailers after a body",
            then(
                then(unfinished(), frame(DATA, 0, 1, b"test")),
                headers(1, &[0x82]),
            ),
            Refused,
        ),
        (
            "8.1: a pseudo-field in padded trailers",
            then(
                unfinished(),
                frame(
                    HEADERS,
                    END_STREAM | END_HEADERS | PADDED,
                    1,
                    &[2, 0x84, 0, 0],
                ),
            ),
            Refused,
        ),
        (
            "8.1: a pseudo-field in the second frame of trailers",
            then(
                then(unfinished(), frame(HEADERS, END_STREAM, 1, &[])),
                frame(CONTINUATION, END_HEADERS, 1, &[0x84]),
            ),
            Refused,
        ),
        (
            "8.1: trailers in two frames",
            then(
                then(unfinished(), frame(HEADERS, END_STREAM, 1, &sum[..4])),
                frame(CONTINUATION, END_HEADERS, 1, &sum[4..]),
            ),
            Answered(2),
        ),
        (
            "8.1: trailers after an update of the table's size",
            then(unfinished(), headers(1, &then(vec![0x20], sum.clone()))),
            Answered(2),
        ),
        (
            "8.1: trailers that are larger than a head may be",
            then(unfinished(), headers(1, &large_trailers)),
            Refused,
        ),
        (
            "8.1: trailers that do not end the stream",
            then(unfinished(), open(1, &literal("x-test", "ok"))),
            Refused,
        ),
        ("8.3.1: no method", headers(1, &no_method), Refused),
        ("8.3.1: no scheme", headers(1, &no_scheme), Refused),
        ("8.3.1: no path", headers(1, &no_path), Refused),
        ("8.3.1: an empty path", headers(1, &empty_path), Refused),
        ("8.3.1: two paths", headers(1, &second_path), Refused),
        (
            "8.3.1: another host in Host",
            headers(1, &get_with(&[("host", "other.test")])),
            Answered(4),
        ),
        (
            "8.3.1: the same host in Host",
            headers(1, &get_with(&[("host", "edge.test")])),
            Answered(2),
        ),
        (
            "8.1.1: less than the length",
            then(
                open(1, &then(post(), literal("content-length", "9"))),
                frame(DATA, END_STREAM, 1, b"test"),
            ),
            Refused,
        ),
        (
            "8.1.1: more than the length",
            then(
                open(1, &then(post(), literal("content-length", "1"))),
                frame(DATA, END_STREAM, 1, b"test"),
            ),
            Refused,
        ),
        (
            "8.1.1: less than the length, and trailers",
            then(
                open(1, &then(post(), literal("content-length", "9"))),
                then(frame(DATA, 0, 1, b"test"), headers(1, &sum)),
            ),
            Refused,
        ),
        (
            "8.1.1: a length and no body",
            headers(1, &then(post(), literal("content-length", "9"))),
            Refused,
        ),
        (
            "8.1.1: a length that is no number",
            headers(1, &get_with(&[("content-length", "+0")])),
            Refused,
        ),
        (
            "8.1.1: an empty length",
            headers(1, &get_with(&[("content-length", "")])),
            Refused,
        ),
        (
            "8.1.1: two lengths",
            headers(
                1,
                &get_with(&[("content-length", "0"), ("content-length", "1")]),
            ),
            Refused,
        ),
        (
            "8.2.1: a value that begins with a space",
            headers(1, &get_with(&[("x-test", " a")])),
            Refused,
        ),
        (
            "8.2.1: a value that ends with a tab",
            headers(1, &get_with(&[("x-test", "a\t")])),
            Refused,
        ),
        (
            "8.2.2: Keep-Alive",
            headers(1, &get_with(&[("keep-alive", "timeout=5")])),
            Refused,
        ),
        (
            "8.2.2: Proxy-Connection",
            headers(1, &get_with(&[("proxy-connection", "keep-alive")])),
            Refused,
        ),
        (
            "8.2.2: Upgrade",
            headers(1, &get_with(&[("upgrade", "h2c")])),
            Refused,
        ),
        (
            "8.2.2: a field of the connection in trailers",
            then(unfinished(), headers(1, &literal("connection", "close"))),
            Refused,
        ),
        (
            "8.3.1: a path that does not begin with a slash",
            headers(1, &then(no_path.clone(), literal(":path", "index"))),
            Refused,
        ),
        (
            "8.3.1: a whole URL for a path",
            headers(
                1,
                &then(no_path.clone(), literal(":path", "http://edge.test/")),
            ),
            Refused,
        ),
        (
            "8.3.1: an asterisk for GET",
            headers(1, &then(no_path.clone(), literal(":path", "*"))),
            Refused,
        ),
        (
            "8.3.1: user information",
            headers(
                1,
                &then(
                    without_authority.clone(),
                    literal(":authority", "me@edge.test"),
                ),
            ),
            Answered(4),
        ),
        (
            "8.3.1: two hosts in Host",
            headers(
                1,
                &get_with(&[("host", "edge.test"), ("host", "edge.test")]),
            ),
            Answered(4),
        ),
        (
            "8.3.1: no host at all",
            headers(1, &without_authority),
            Answered(4),
        ),
        ("8.5: CONNECT with a path", connect(&[host, path]), Refused),
        (
            "8.5: CONNECT with a scheme",
            connect(&[host, (":scheme", "http")]),
            Refused,
        ),
        ("8.5: CONNECT to nowhere", connect(&[]), Refused),
        (
            "8.5: CONNECT, which is not for a gateway",
            connect(&[host]),
            Answered(4),
        ),
        (
            "RFC 8441 §4: a protocol without CONNECT",
            headers(1, &then(literal(":protocol", "websocket"), get())),
            Refused,
        ),
        (
            "RFC 8441 §4: no path",
            connect(&[host, web, (":scheme", "http")]),
            Refused,
        ),
        (
            "RFC 8441 §4: no scheme",
            connect(&[host, web, path]),
            Refused,
        ),
        (
            "6.9.2: a setting that makes a stream's window too large",
            then(
                then(unfinished(), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 255, 0, 0])),
                setting(4, 0x7fff_ffff),
            ),
            Refused,
        ),
        ("8: a GET", ended(), Alive),
        (
            "8: a POST",
            then(unfinished(), frame(DATA, END_STREAM, 1, b"test")),
            Answered(2),
        ),
        (
            "8: a POST with trailers",
            then(
                then(unfinished(), frame(DATA, 0, 1, b"test")),
                headers(1, &literal("x-sum", "1")),
            ),
            Answered(2),
        ),
        (
            "8: a preface that is none",
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
            Refused,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_rfc_forbids_is_refused_and_what_it_allows_is_not() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("edge")).await;
    let gateway = Gateway::start(&plane, "").await;
    let mut wrong = Vec::new();
    let cases = cases();
    for (rule, bytes, want) in &cases {
        let stream = connect(&gateway).await;
        let verdict = verdict(stream, bytes).await;
        let fine = match want {
            Refused => matches!(verdict, "closed" | "goaway" | "reset" | "4xx"),
            Answered(class) => verdict == format!("{class}xx"),
            Alive => matches!(verdict, "pong" | "2xx"),
        };
        if !fine {
            wrong.push(format!("RFC 9113 §{rule}: wanted {want:?}, got {verdict}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    // Nothing of it has done any harm.
    assert_eq!(gateway.client().get("edge", "/").await.status(), 200);
    gateway.stop().await;
    plane.stop().await;
}

/// Sends `bytes` again and again; whether the gateway puts an end to it.
async fn is_cut(gateway: &Gateway, mut bytes: impl FnMut(u32) -> Vec<u8>) -> bool {
    let mut stream = connect(gateway).await;
    let flooding = async {
        for round in 0..2000 {
            if stream.write_all(&bytes(round)).await.is_err() {
                return true;
            }
            // What it says is read, so that it does not wait for us.
            let mut part = vec![0; 65_536];
            loop {
                match stream.try_read(&mut part) {
                    Ok(0) => return true,
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(_) => return true,
                }
            }
            tokio::task::yield_now().await;
        }
        // The kernel may have taken all of it before the gateway has read any.
        let mut rest = Vec::new();
        let _ended = stream.read_to_end(&mut rest).await;
        true
    };
    timeout(crate::support::PATIENCE, flooding)
        .await
        .unwrap_or(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_are_cut_and_neighbours_do_not_notice() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("edge")).await;
    let gateway = Gateway::start(&plane, "").await;
    let settings = frame(SETTINGS, 0, 0, &[]).repeat(100);
    let pings = ping().repeat(100);
    let empties = frame(DATA, 0, 1, &[]).repeat(100);
    let crumbs = frame(CONTINUATION, 0, 1, &literal("x", "y")).repeat(100);
    assert!(is_cut(&gateway, |_| settings.clone()).await, "SETTINGS");
    assert!(is_cut(&gateway, |_| pings.clone()).await, "PING");
    for (kind, what) in [
        (WINDOW_UPDATE, "WINDOW_UPDATE"),
        (0x0b, "a frame that nobody knows"),
        (0x10, "PRIORITY_UPDATE (RFC 9218)"),
    ] {
        let flood = frame(kind, 0, 0, &[0, 0, 0, 1]).repeat(1000);
        assert!(is_cut(&gateway, |_| flood.clone()).await, "{what}");
    }
    let empty = |round| match round {
        0 => unfinished(),
        _ => empties.clone(),
    };
    assert!(is_cut(&gateway, empty).await, "empty DATA");
    let endless = |round| match round {
        0 => frame(HEADERS, END_STREAM, 1, &get()),
        _ => crumbs.clone(),
    };
    assert!(
        is_cut(&gateway, endless).await,
        "CONTINUATION (CVE-2024-27316)"
    );
    let rapid = |round: u32| {
        let pairs = (0..50).map(|index| {
            let stream = (round * 50 + index) * 2 + 1;
            let reset = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
            [open(stream, &post()), reset].concat()
        });
        pairs.collect::<Vec<_>>().concat()
    };
    assert!(
        is_cut(&gateway, rapid).await,
        "HEADERS and RST_STREAM (CVE-2023-44487)"
    );
    // A table entry of 4 KB that is used 4,000 times: a big head of few bytes.
    let mut bomb = get();
    bomb.extend([0x40, 1, b'x', 0x7f, 0x81, 0x1e]);
    bomb.extend(vec![b'a'; 3968]);
    bomb.extend(vec![0xbe; 4000]);
    let mut stream = connect(&gateway).await;
    stream.write_all(&headers(1, &bomb)).await.unwrap();
    let verdict = verdict(stream, &[]).await;
    assert!(
        matches!(verdict, "4xx" | "reset" | "goaway" | "closed"),
        "{verdict}"
    );
    assert_eq!(gateway.client().get("edge", "/").await.status(), 200);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_slow_connections_take_nothing_from_the_others() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("edge")).await;
    let gateway = Gateway::start(&plane, "[server]\nheader_timeout = \"2s\"\n").await;
    let client = gateway.client();
    let ask = async || {
        let started = tokio::time::Instant::now();
        assert_eq!(client.get("edge", "/").await.status(), 200);
        started.elapsed()
    };
    // The quickest of a hundred, since the machine may be busy with something else.
    let quickest = async || {
        let mut best = Duration::MAX;
        for _ in 0..100 {
            best = best.min(ask().await);
        }
        best
    };
    let before = quickest().await;
    let mut slow = Vec::new();
    for index in 0..2000_usize {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let start: &[u8] = match index % 3 {
            0 => b"GET / HTTP/1.1\r\nHost: edge.test\r\nX-Slow: ",
            1 => b"PRI * HTTP/2.0\r\n\r\n",
            _ => b"",
        };
        stream.write_all(start).await.unwrap();
        slow.push(stream);
    }
    let beside = quickest().await;
    assert!(
        beside < before * 10,
        "{before:?}, and beside them {beside:?}"
    );
    // Each has had its time, and is closed, whatever it goes on to send.
    for (index, mut stream) in slow.into_iter().enumerate() {
        let mut rest = Vec::new();
        let ended = timeout(crate::support::PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "connection {index} is still open");
    }
    gateway.stop().await;
    plane.stop().await;
}

/// Reads until so many streams have ended.
async fn ends(stream: &mut TcpStream, mut count: usize) {
    let reading = async {
        while count > 0 {
            let answer = next(stream).await.expect("the connection has ended");
            assert_ne!(answer.kind, GOAWAY, "{:?}", answer.payload);
            let is_reset = answer.kind == RST_STREAM;
            count -= usize::from(is_reset);
        }
    };
    timeout(crate::support::PATIENCE, reading).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_still_sends_to_uploads_that_were_refused_harms_no_other_request() {
    let plane = Plane::start().await;
    let gateway = Gateway::start(&plane, "").await;
    let mut stream = connect(&gateway).await;
    // Names that are no host's, in two rounds of as many as may be open at once.
    let mut block = post();
    block.truncate(3);
    block.extend(literal(":authority", "nobody"));
    for round in 0..3 {
        let streams: Vec<u32> = (0..100)
            .map(|number| 1 + 2 * (100 * round + number))
            .collect();
        let heads: Vec<_> = streams.iter().flat_map(|id| open(*id, &block)).collect();
        stream.write_all(&heads).await.unwrap();
        ends(&mut stream, streams.len()).await;
        // Their bodies were under way.
        for id in &streams {
            stream
                .write_all(&frame(DATA, END_STREAM, *id, &[0; 100]))
                .await
                .unwrap();
        }
    }
    assert_eq!(verdict(stream, &ping()).await, "pong");
    gateway.stop().await;
    plane.stop().await;
}
