//! Our own side of HTTP/1.1 beside hyper's.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::header::{CONNECTION, CONTENT_LENGTH, ETAG};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use ::http1::InterimSink;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Collected, Empty, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::super::settings::ConnectionLimits;
use super::*;
use crate::client::{ClientBody, ClientBodyError, ClientRequest, Refusal};
use crate::config::HalfClose;
use crate::flow::BufferBudget;
use crate::listener::service::ExtraHeaders;

/// Ends every head and body, so that what was written can be cut into them.
const END: &str = "\r\n\r\n";

type Answer = Response<BoxBody<Bytes, io::Error>>;

/// What a service answers, in turn.
#[derive(Debug, Clone)]
enum Says {
    Nothing,
    NoContent,
    NotModified,
    Close,
    Reason,
    /// A body of known length.
    Known(usize),
    /// A body of unknown length, in parts.
    Parts(Vec<usize>),
    /// A body whose head has one length, and which itself has another.
    Lengths(usize, usize),
    /// A body that breaks off.
    Breaks(usize),
    /// A body of a hundred such parts, which are counted as they are read.
    Counted(usize, Arc<AtomicUsize>),
    /// A body of a long part and very many of a byte, which are counted as they are read.
    Tiny(Arc<AtomicUsize>),
}

/// Answers as its script says, and keeps the requests that it got.
#[derive(Clone)]
struct Scripted(Arc<Mutex<(VecDeque<Says>, Vec<String>)>>);

fn text(length: usize) -> Bytes {
    Bytes::from("x".repeat(length) + END)
}

fn stream(parts: Vec<io::Result<Bytes>>) -> BoxBody<Bytes, io::Error> {
    let frames = parts.into_iter().map(|part| part.map(Frame::data));
    BoxBody::new(StreamBody::new(futures_util::stream::iter(frames)))
}

fn response(says: Says) -> Answer {
    let empty = || Empty::new().map_err(|never| match never {}).boxed();
    let mut response = Response::new(empty());
    let headers = response.headers_mut();
    headers.insert("x-a", HeaderValue::from_static("1"));
    headers.append("x-a", HeaderValue::from_static("2"));
    match says {
        Says::Nothing => {}
        Says::NoContent => *response.status_mut() = StatusCode::NO_CONTENT,
        Says::NotModified => {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            let headers = response.headers_mut();
            headers.insert(ETAG, HeaderValue::from_static("\"e\""));
        }
        Says::Close => {
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Says::Reason => {
            let reason = hyper::ext::ReasonPhrase::from_static(b"Fine So Far");
            response.extensions_mut().insert(reason);
            let reason = ::http1::Reason::new("Fine So Far");
            response.extensions_mut().insert(reason);
        }
        Says::Known(length) => {
            let body = Full::new(text(length)).map_err(|never| match never {});
            *response.body_mut() = body.boxed();
        }
        Says::Parts(parts) => {
            let parts = parts.into_iter().map(|length| Ok(text(length)));
            *response.body_mut() = stream(parts.collect());
        }
        Says::Lengths(header, length) => {
            let header = HeaderValue::from(header + END.len());
            response.headers_mut().insert(CONTENT_LENGTH, header);
            let whole = text(length);
            let parts = whole
                .chunks(6000)
                .map(|part| Ok(Bytes::copy_from_slice(part)));
            *response.body_mut() = stream(parts.collect());
        }
        Says::Counted(length, count) => {
            let parts = (0..100).map(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                Ok(Frame::data(text(length)))
            });
            let parts = futures_util::stream::iter(parts);
            *response.body_mut() = BoxBody::new(StreamBody::new(parts));
        }
        Says::Tiny(count) => {
            let parts = (0..100_000).map(move |number| {
                count.fetch_add(1, Ordering::Relaxed);
                let length = if number == 0 { 50_000 } else { 1 };
                Ok(Frame::data(Bytes::from(vec![b'x'; length])))
            });
            let parts = futures_util::stream::iter(parts);
            *response.body_mut() = BoxBody::new(StreamBody::new(parts));
        }
        Says::Breaks(length) => {
            let parts = vec![Ok(text(length)), Err(io::ErrorKind::BrokenPipe.into())];
            *response.body_mut() = stream(parts);
        }
    }
    response
}

impl ExtraHeaders for BoxBody<Bytes, io::Error> {
    fn extra_headers(&self, mut say: impl FnMut(&HeaderName, &HeaderValue)) {
        let extra = HeaderValue::from_static("of the body's");
        say(&HeaderName::from_static("x-extra"), &extra);
    }
}

impl Service for Scripted {
    type ConnectionCache = ();
    type Body = BoxBody<Bytes, io::Error>;

    fn on_client_hello(&self, _sni: &str, _client: std::net::IpAddr, _port: u16) {}

    async fn call(
        &self,
        request: ClientRequest,
        _from: &(Downstream, ()),
        interim: &InterimSink,
    ) -> Answer {
        let (head, body) = request.into_http().into_parts();
        let body = match body {
            Some(_) if head.uri.path() == "/unread" => None,
            Some(body) if head.uri.path() == "/dropped" => {
                drop(body);
                None
            }
            _ if head.uri.path() == "/never" => std::future::pending().await,
            Some(body) => body.collect().await.map(Collected::to_bytes).ok(),
            None => Some(Bytes::new()),
        };
        // As a request that waits for something does.
        yield_now().await;
        let mut script = self.0.lock().unwrap();
        let says = script.0.pop_front().unwrap_or(Says::Nothing);
        let request = format!("{} {} {:?} {body:?}", head.method, head.uri, head.headers);
        script.1.push(request);
        let mut response = response(says);
        if head.uri.path() == "/late" {
            // Read when the response's head has been written.
            let sink = interim.clone();
            let part = futures_util::stream::once(async move {
                sink(StatusCode::EARLY_HINTS, &HeaderMap::new());
                Ok(Frame::data(text(3)))
            });
            *response.body_mut() = BoxBody::new(StreamBody::new(part));
        }
        response
    }

    fn refuse(&self, refusal: Refusal, _from: &Downstream) -> Answer {
        let known = format!("refused {:?} {:?}", refusal.method, refusal.target);
        self.0.lock().unwrap().1.push(known);
        let mut response = response(Says::Known(3));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        response
    }

    async fn proxy_tcp(&self, _: super::super::RawConnection, _: crate::flow::ClientBuffers) {}
}

/// The limits of a connection that has a whole budget to itself.
fn limits() -> ConnectionLimits {
    let buffers = BufferBudget::new(1 << 30).of([127, 0, 0, 1].into());
    ConnectionLimits::of_client(ServerConfig::default().idle_timeout, buffers)
}

fn from() -> Downstream {
    Downstream::in_clear(([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into())
}

/// The same service behind hyper's server.
async fn serve_by_hyper(
    stream: DuplexStream,
    from: Downstream,
    service: Scripted,
) -> hyper::Result<()> {
    let shared = Arc::new((service, (from, ())));
    let answer = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let (service, from) = &*shared;
            let request = request.map(|body| {
                let body = Some(body).filter(|body| !body.is_end_stream());
                body.map(|body| ClientBody::of(body.map_err(|_| ClientBodyError::Ended)))
            });
            let interim: InterimSink = Arc::new(|_, _| {});
            let answer = service.call(Box::new(request.into()), from, &interim).await;
            let (mut head, body) = answer.into_parts();
            body.extra_headers(|name, value| {
                head.headers.append(name.clone(), value.clone());
            });
            Ok::<_, Infallible>(Response::from_parts(head, body))
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(ServerConfig::default().header_timeout);
    builder.serve_connection(TokioIo::new(stream), answer).await
}

/// What a client that sends `pieces` reads, and the requests that its service got.
async fn served(
    pieces: &[&[u8]],
    script: &[Says],
    room: usize,
    own: bool,
) -> (String, Vec<String>) {
    let (near, far) = tokio::io::duplex(room);
    let service = Scripted(Arc::new(Mutex::new((
        script.iter().cloned().collect(),
        Vec::new(),
    ))));
    let from = from();
    let (config, drain) = (ServerConfig::default(), Drain::default());
    let serving = async {
        // How it ends is seen by the client.
        match own {
            true => drop(serve_h1(far, from, service.clone(), &config, limits(), &drain).await),
            false => drop(serve_by_hyper(far, from, service.clone()).await),
        }
    };
    let talking = async {
        let (mut read, mut write) = tokio::io::split::<DuplexStream>(near);
        let sending = async {
            for piece in pieces {
                // It may have closed already.
                let _sent = write.write_all(piece).await;
                yield_now().await;
            }
        };
        let mut received = Vec::new();
        let ((), read) = tokio::join!(sending, read.read_to_end(&mut received));
        read.unwrap();
        String::from_utf8(received).unwrap()
    };
    let ((), received) = tokio::join!(serving, talking);
    let requests = service.0.lock().unwrap().1.clone();
    (received, requests)
}

/// In any order of fields, without the time, and with bodies short enough to be read.
fn sorted(received: &str) -> Vec<Vec<String>> {
    let pieces = received.split(END).map(|piece| {
        let lines = piece
            .split("\r\n")
            .map(|line| match line.trim_matches('x') {
                "" => format!("{} bytes", line.len()),
                _ => line.to_owned(),
            });
        let mut lines: Vec<_> = lines.collect();
        if piece.starts_with("HTTP/1.") {
            lines.retain(|line| !line.starts_with("date: "));
            lines.sort_unstable();
        }
        lines
    });
    pieces.collect()
}

fn says() -> impl Strategy<Value = Says> {
    prop_oneof![
        Just(Says::Nothing),
        Just(Says::NoContent),
        Just(Says::NotModified),
        Just(Says::Close),
        Just(Says::Reason),
        (0_usize..20_000).prop_map(Says::Known),
        prop::collection::vec(prop_oneof![0_usize..20, 4000_usize..20_000], 0..5)
            .prop_map(Says::Parts),
        (0_usize..20_000).prop_map(|length| Says::Lengths(length, length)),
    ]
}

fn plain() -> impl Strategy<Value = String> {
    let method = prop::sample::select(vec![
        Method::GET,
        Method::HEAD,
        Method::DELETE,
        Method::OPTIONS,
    ]);
    let fields = prop::sample::select(vec![
        "",
        "Connection: close\r\n",
        "connection: Keep-Alive\r\nx-b: \u{e9}\r\n",
    ]);
    (method, fields)
        .prop_map(|(method, fields)| format!("{method} /a?b HTTP/1.1\r\nHost: a.b\r\n{fields}\r\n"))
}

fn unusual() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "",
        "\r\n",
        "\n\r\n\n",
        "POST /c HTTP/1.1\r\nhost: a.b\r\ncontent-length: 3\r\n\r\nabc",
        "POST /c HTTP/1.1\r\nhost: a.b\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST /c HTTP/1.1\r\nhost: a.b\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
        "GET /c HTTP/1.1\r\nhost: a.b\r\nte: trailers\r\n\r\n",
        "GET /c HTTP/1.1\r\nhost: a.b\r\nconnection: x, close\r\n\r\n",
    ])
    .prop_map(str::to_owned)
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

proptest! {
    #[test]
    fn a_client_cannot_tell_our_side_from_hypers(
        heads in prop::collection::vec(plain(), 0..4),
        unusual in unusual(),
        after in prop::collection::vec(plain(), 0..2),
        script in prop::collection::vec(says(), 8),
        piece in prop_oneof![1_usize..60, Just(100_000)],
        room in prop_oneof![1_usize..100, Just(100_000)],
    ) {
        let last = "GET /last HTTP/1.1\r\nhost: a.b\r\nconnection: close\r\n\r\n";
        let all = heads.concat() + &unusual + &after.concat() + last;
        let pieces: Vec<_> = all.as_bytes().chunks(piece).collect();
        let ours = block_on(served(&pieces, &script, room, true));
        let hypers = block_on(served(&pieces, &script, room, false));
        prop_assert_eq!(sorted(&ours.0), sorted(&hypers.0), "{}", all);
        prop_assert_eq!(ours.1, hypers.1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_as_long_as_its_head_says_ends_the_connection() {
    let request: &[u8] = b"GET / HTTP/1.1\r\nhost: a.b\r\n\r\n";
    let lengths = [(5, 4), (4, 5), (9000, 5), (5, 9000)];
    let scripts = lengths.map(|(header, length)| (header, Says::Lengths(header, length)));
    for (header, says) in scripts.into_iter().chain([(9000, Says::Breaks(9000))]) {
        let script = [says];
        let (received, requests) = served(&[request, request], &script, 100_000, true).await;
        let (_, body) = received.split_once(END).unwrap_or_default();
        let whole = received.contains("chunked") && received.ends_with("0\r\n\r\n");
        assert!(!whole && body.len() <= header + 20, "{received}");
        assert_eq!(requests.len(), 1, "{script:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_ends_the_connection_at_its_deadline() {
    let config = ServerConfig::default();
    let (head, idle) = (config.header_timeout, config.idle_timeout);
    for (begun, limit) in [
        (&b""[..], idle),
        (b"GET / HTTP/1.1\r\nhost", head),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", idle),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET", head),
    ] {
        let began = tokio::time::Instant::now();
        let (received, requests) = served(&[begun], &[], 100_000, true).await;
        assert_eq!(received.is_empty(), requests.is_empty(), "{received}");
        let slack = Duration::from_millis(10);
        let took = began.elapsed();
        assert!((limit..limit + slack).contains(&took), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_read_ahead_of_to_the_limit() {
    let (mut near, far) = tokio::io::duplex(1000);
    let (length, count) = (50_000, Arc::<AtomicUsize>::default());
    let script = VecDeque::from([Says::Counted(length, Arc::clone(&count))]);
    let service = Scripted(Arc::new(Mutex::new((script, Vec::new()))));
    let (config, drain) = (ServerConfig::default(), Drain::default());
    let request = b"GET / HTTP/1.1\r\nhost: a.b\r\n\r\n";
    near.write_all(request).await.unwrap();
    let serving = serve_h1(far, from(), service, &config, limits(), &drain);
    let served = tokio::time::timeout(Duration::from_secs(1), serving).await;
    assert!(served.is_err(), "it waits for its client");
    let read = count.load(Ordering::Relaxed) * length;
    assert!((250_000..400_000).contains(&read), "{read}");
}

#[tokio::test(start_paused = true)]
async fn parts_that_are_read_ahead_are_bounded_in_number_however_short_they_are() {
    let (mut near, far) = tokio::io::duplex(1000);
    let count = Arc::<AtomicUsize>::default();
    let script = VecDeque::from([Says::Tiny(Arc::clone(&count))]);
    let service = Scripted(Arc::new(Mutex::new((script, Vec::new()))));
    let (config, drain) = (ServerConfig::default(), Drain::default());
    let request = b"GET / HTTP/1.1\r\nhost: a.b\r\n\r\n";
    near.write_all(request).await.unwrap();
    let serving = serve_h1(far, from(), service, &config, limits(), &drain);
    let served = tokio::time::timeout(Duration::from_secs(1), serving).await;
    assert!(served.is_err(), "it waits for its client");
    let read = count.load(Ordering::Relaxed);
    assert!((1000..1100).contains(&read), "{read}");
}

#[tokio::test(start_paused = true)]
async fn an_interim_response_that_comes_too_late_is_not_the_next_requests() {
    let late: &[u8] = b"GET /late HTTP/1.1\r\nhost: a.b\r\n\r\n";
    let last: &[u8] = b"GET / HTTP/1.1\r\nhost: a.b\r\nconnection: close\r\n\r\n";
    let (received, requests) = served(&[late, last], &[], 100_000, true).await;
    assert_eq!(requests.len(), 2);
    assert_eq!(received.matches(" 200 OK").count(), 2, "{received}");
    assert!(!received.contains(" 103 "), "{received}");
}

#[tokio::test(start_paused = true)]
async fn a_client_of_http_1_0_is_answered_in_a_way_that_it_understands() {
    let asks = |options: &str| format!("GET / HTTP/1.0\r\n{options}\r\n");
    let (once, again) = (asks(""), asks("connection: keep-alive\r\n"));
    for (requests, says, answers, has) in [
        ([&once, &once], Says::Known(3), 1, "connection: close\r\n"),
        (
            [&again, &once],
            Says::Known(3),
            2,
            "connection: keep-alive\r\n",
        ),
        // Only the connection's end tells where the body's is.
        (
            [&again, &once],
            Says::Parts(vec![3, 3]),
            1,
            "connection: close\r\n",
        ),
    ] {
        let pieces = requests.map(String::as_bytes);
        let (received, _) = served(&pieces, &[says], 100_000, true).await;
        assert_eq!(
            received.matches("HTTP/1.0 200 OK").count(),
            answers,
            "{received}"
        );
        assert!(received.contains(has), "{received}");
        assert!(!received.contains("chunked"), "{received}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_sent_before_it_broke_off_reaches_the_client() {
    let request: &[u8] = b"GET / HTTP/1.1\r\nhost: a.b\r\n\r\n";
    let (received, _) = served(&[request], &[Says::Breaks(3000)], 100_000, true).await;
    assert!(received.starts_with("HTTP/1.1 200 OK\r\n"), "{received}");
    assert!(received.contains(&"x".repeat(3000)) && !received.ends_with("0\r\n\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_reads_is_read_over_if_it_is_short_and_ends_the_connection_else() {
    for (length, answers) in [(1000, 2), (1_000_000, 1)] {
        let head =
            format!("POST /unread HTTP/1.1\r\nhost: a.b\r\ncontent-length: {length}\r\n\r\n");
        let (body, last) = (
            "y".repeat(length),
            "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
        );
        let pieces = [head.as_bytes(), body.as_bytes(), last.as_bytes()];
        let (received, _) = served(&pieces, &[], 10_000, true).await;
        assert_eq!(
            received.matches("HTTP/1.1 200 OK").count(),
            answers,
            "{received}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_says_that_its_connection_ends_when_a_body_was_dropped_long_before() {
    for (fields, length) in [("", 1_000_000), ("expect: 100-continue\r\n", 10)] {
        let head = format!(
            "POST /dropped HTTP/1.1\r\nhost: a.b\r\n{fields}content-length: {length}\r\n\r\n"
        );
        let (received, _) = served(&[head.as_bytes()], &[], 10_000, true).await;
        assert!(received.contains("connection: close\r\n"), "{received}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_refused_once_and_read_on_so_that_the_answer_arrives() {
    let (mut near, far) = tokio::io::duplex(1000);
    let service = Scripted(Arc::default());
    let (config, drain) = (ServerConfig::default(), Drain::default());
    let serving = serve_h1(far, from(), service.clone(), &config, limits(), &drain);
    let talking = async {
        let wrong = b"POST /a HTTP/1.1\r\nhost: a.b\r\ncontent-length: x\r\n\r\n";
        near.write_all(wrong).await.unwrap();
        // The client is in the middle of it.
        for _ in 0..100 {
            near.write_all(&[b'\n'; 1000]).await.unwrap();
        }
        near.shutdown().await.unwrap();
        let mut received = String::new();
        near.read_to_string(&mut received).await.unwrap();
        received
    };
    let (served, received) = tokio::join!(serving, talking);
    served.unwrap();
    assert_eq!(received.matches("HTTP/1.1 400").count(), 1, "{received}");
    assert!(received.contains("connection: close\r\n"), "{received}");
    assert!(received.ends_with("\r\n\r\nxxx\r\n\r\n"), "{received}");
    let known = service.0.lock().unwrap().1.clone();
    assert_eq!(known, ["refused Some(POST) Some(/a)"]);
}

/// Sends `bytes` and closes the sending side; what is read until the connection ends, or nothing if
/// it does not within a minute.
async fn half_closed(bytes: &[u8], how: HalfClose) -> Option<String> {
    let (mut near, far) = tokio::io::duplex(100_000);
    let (service, drain) = (Scripted(Arc::default()), Drain::default());
    let config = ServerConfig {
        half_close: how,
        ..ServerConfig::default()
    };
    let serving = serve_h1(far, from(), service, &config, limits(), &drain);
    let talking = async {
        near.write_all(bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let mut received = String::new();
        near.read_to_string(&mut received).await.unwrap();
        received
    };
    let both = async { tokio::join!(serving, talking).1 };
    tokio::time::timeout(Duration::from_secs(60), both)
        .await
        .ok()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_its_side_after_its_request_is_answered_where_that_is_set() {
    let all = [
        "GET / HTTP/1.1\r\nhost: a.b\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a.b\r\ncontent-length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nhost: a.b\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a.b\r\n\r\nGET / HTTP/1.1\r\nhost: a.b\r\n\r\n",
    ];
    for text in all {
        let asked = text.matches("HTTP/1").count();
        let answered = half_closed(text.as_bytes(), HalfClose::Answer).await;
        let answered = answered.unwrap();
        assert_eq!(
            answered.matches(" 200 OK").count(),
            asked,
            "{text}{answered}"
        );
        let aborted = half_closed(text.as_bytes(), HalfClose::Abort).await;
        assert_eq!(aborted.unwrap(), "", "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_its_side_in_the_middle_of_its_body_has_left_in_any_case() {
    let text = b"POST /never HTTP/1.1\r\nhost: a.b\r\ncontent-length: 30\r\n\r\nabc";
    for how in [HalfClose::Answer, HalfClose::Abort] {
        assert_eq!(half_closed(text, how).await.unwrap(), "", "{how:?}");
    }
    // One that has said all waits for as long as its answer takes.
    let text = b"GET /never HTTP/1.1\r\nhost: a.b\r\n\r\n";
    assert_eq!(half_closed(text, HalfClose::Answer).await, None);
    assert_eq!(half_closed(text, HalfClose::Abort).await.unwrap(), "");
}
