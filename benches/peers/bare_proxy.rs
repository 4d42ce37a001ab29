//! What the peers' benchmark needs besides the peers: an origin, and the least proxy that hyper can
//! be.
//!
//! `origin ADDRESS` answers `/small`, `/size/BYTES` and whatever is posted to `/sink`, and echoes
//! WebSocket messages. `calls ADDRESS` answers unary gRPC calls, by HTTP/2 without TLS. `messages ADDRESS SECONDS CONNECTIONS` sends such messages and prints how
//! many came back, and the median and the 99th percentile of how long that took, in microseconds.
//! `plane ADDRESS` is a control plane with as many instances as are asked for, quick enough for ten
//! thousand; those called `sleepy…` fall asleep and never wake. `proxy ADDRESS ORIGIN` passes
//! requests on with hyper's own pooling client: no routes, no leases, no header rules, no metrics.
//! The distance from it is what wakegate's features cost, its distance from nginx what hyper costs.
//! One thread each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "bench"
)]

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

type Passed = Either<Incoming, Full<Bytes>>;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    match words.get(1..) {
        Some(["origin", address]) => runtime.block_on(origin(address.parse().unwrap())),
        Some(["calls", address]) => runtime.block_on(calls(address.parse().unwrap())),
        Some(["plane", address]) => runtime.block_on(serve(address.parse().unwrap(), tell)),
        Some(["proxy", address, to]) => {
            runtime.block_on(proxy(address.parse().unwrap(), to.parse().unwrap()));
        }
        Some(["messages", address, seconds, connections]) => {
            let (seconds, connections) = (seconds.parse().unwrap(), connections.parse().unwrap());
            runtime.block_on(messages(address.parse().unwrap(), seconds, connections));
        }
        _ => panic!(
            "origin ADDRESS | calls ADDRESS | plane ADDRESS | proxy ADDRESS ORIGIN | \
             messages ADDRESS SECONDS CONNECTIONS"
        ),
    }
}

/// Answers each connection's requests with `answer`.
async fn serve<A, F, B>(address: SocketAddr, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let listener = TcpListener::bind(address).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let answer = service_fn(answer.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            // Whoever leaves has had enough.
            let _left = connection.with_upgrades().await;
        });
    }
}

async fn origin(address: SocketAddr) {
    // Made once, so that the origin costs little beside what it serves.
    let zeroes = Bytes::from(vec![0; 16 << 20]);
    serve(address, move |request| answer(request, zeroes.clone())).await;
}

async fn answer(
    mut request: Request<Incoming>,
    zeroes: Bytes,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/ws" {
        return Ok(echo(&mut request));
    }
    let size = path
        .strip_prefix("/size/")
        .and_then(|size| size.parse().ok());
    let body = match size {
        Some(size) => zeroes.slice(..usize::min(size, zeroes.len())),
        None => {
            Bytes::from_static(b"sixty bytes, which is what an answer to a health check has..\n")
        }
    };
    if path == "/sink" {
        while let Some(Ok(_)) = request.body_mut().frame().await {}
    }
    Ok(Response::new(Full::new(body)))
}

async fn calls(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.max_concurrent_streams(1000);
            let connection = http.serve_connection(TokioIo::new(stream), service_fn(reply));
            // Whoever leaves has had enough.
            let _left = connection.await;
        });
    }
}

/// A message of sixteen bytes, and trailers.
async fn reply(
    mut request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    while let Some(Ok(_)) = request.body_mut().frame().await {}
    let message = Bytes::from_static(b"\0\0\0\0\x10sixteen bytes ..");
    let trailers = HeaderMap::from_iter([(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let body = Full::new(message).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed());
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    Ok(response)
}

/// Bytes come back as they are; the client's frames are masked, and a load generator does not mind.
fn echo(request: &mut Request<Incoming>) -> Response<Full<Bytes>> {
    let key = request.headers().get("sec-websocket-key").cloned();
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgraded.await {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
            let _left = tokio::io::copy(&mut reader, &mut writer).await;
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, "websocket".parse().unwrap());
    headers.insert(header::CONNECTION, "upgrade".parse().unwrap());
    if let Some(key) = key {
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        headers.insert("sec-websocket-accept", accept.parse().unwrap());
    }
    response
}

/// What a control plane says to a hold of an instance without a policy.
const NOT_HELD: &str = r#"{"supported":true,"configured":false,"enabled":false,"eligible":false,"status":"disabled","reason":"policy_missing","active_inbound_connections":0,"tracking_mode":"conntrack_events_v4_tcp"}"#;

/// What it says to a hold of an instance that is asleep.
const ASLEEP: &str = r#"{"code":"instance_in_standby","message":"instance is in standby; restore it before connecting"}"#;

/// What a control plane says of an instance whose id is its name with zeros after it.
async fn tell(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let asked = path.strip_prefix("/instances/").unwrap_or("bench");
    let name = asked.split('/').next().unwrap().trim_end_matches('0');
    let state = match name.starts_with("sleepy") {
        true if path.ends_with("/restore") => std::future::pending().await,
        true => "Standby",
        false => "Running",
    };
    let instance = format!(
        r#"{{"id":"{name:0<24}","name":"{name}","image":"bench","state":"{state}","created_at":"2026-01-01T00:00:00Z","network":{{"ip":"127.0.0.1"}}}}"#
    );
    let (status, text) = match path {
        "/instances" => (StatusCode::OK, format!("[{instance}]")),
        _ if path.ends_with("/auto-standby/hold") && state == "Standby" => {
            (StatusCode::CONFLICT, ASLEEP.to_owned())
        }
        _ if path.contains("/auto-standby/") => (StatusCode::OK, NOT_HELD.to_owned()),
        _ => (StatusCode::OK, instance),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}

/// One message at a time on each connection.
async fn messages(address: SocketAddr, seconds: u64, connections: usize) {
    let until = Instant::now() + Duration::from_secs(seconds);
    let talking: Vec<_> = (0..connections)
        .map(|_| tokio::spawn(talk(address, until)))
        .collect();
    let mut took = Vec::new();
    for one in talking {
        took.extend(one.await.unwrap());
    }
    took.sort_unstable();
    let at = |percent: usize| took[took.len() * percent / 100].as_micros();
    println!("{} {} {}", took.len(), at(50), at(99));
}

async fn talk(address: SocketAddr, until: Instant) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let ask = "GET /ws HTTP/1.1\r\nhost: bench.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
               sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    // A masked binary frame with 58 bytes in it.
    let mut frame = [7; 64];
    frame[..2].copy_from_slice(&[0x82, 0x80 | 0x3a]);
    let (mut took, mut back) = (Vec::new(), [0; 64]);
    while Instant::now() < until {
        let since = Instant::now();
        stream.write_all(&frame).await.unwrap();
        stream.read_exact(&mut back).await.unwrap();
        took.push(since.elapsed());
    }
    took
}

/// Idle connections to the origin.
type Pool = Arc<Mutex<Vec<SendRequest<Incoming>>>>;

async fn proxy(address: SocketAddr, origin: SocketAddr) {
    let pool = Pool::default();
    serve(address, move |request| {
        pass(request, Arc::clone(&pool), origin)
    })
    .await;
}

async fn pass(
    mut request: Request<Incoming>,
    pool: Pool,
    origin: SocketAddr,
) -> Result<Response<Passed>, Infallible> {
    let target = request.uri().path_and_query().cloned().unwrap();
    *request.uri_mut() = Uri::from(target);
    let idle = pool.lock().unwrap().pop();
    let mut sender = match idle.filter(SendRequest::is_ready) {
        Some(sender) => sender,
        None => {
            let stream = TcpStream::connect(origin).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (sender, task) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
                .await
                .unwrap();
            tokio::spawn(task);
            sender
        }
    };
    let Ok(response) = sender.send_request(request).await else {
        let mut failed = Response::new(Either::Right(Full::default()));
        *failed.status_mut() = StatusCode::BAD_GATEWAY;
        return Ok(failed);
    };
    tokio::spawn(async move {
        if sender.ready().await.is_ok() {
            pool.lock().unwrap().push(sender);
        }
    });
    Ok(response.map(Either::Left))
}
