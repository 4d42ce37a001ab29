//! An application that can be as slow, as greedy and as deaf as a test wants it to be.
//!
//! Guarantees: it counts the responses that are open; with its owner everything of it ends.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::support::spawn;

type Body = BoxBody<Bytes, Infallible>;

/// How the application speaks HTTP.
#[derive(Debug, Clone, Copy)]
pub enum Speaks {
    H1,
    /// Without TLS, with so many requests at once and this window of a connection.
    H2 {
        streams: u32,
        window: u32,
    },
    /// Answers each connection's first head with 101 and then sends without an end.
    Flood,
}

/// The application.
pub struct Greedy {
    counts: Arc<Counts>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    open: AtomicUsize,
    asked: AtomicUsize,
}

/// A response, or a connection, that is open.
struct Open(Arc<Counts>);

impl Open {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counts))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Greedy {
    pub fn serve(listener: TcpListener, speaks: Speaks) -> Self {
        let counts = Arc::<Counts>::default();
        let task = spawn(accept(listener, speaks, Arc::clone(&counts)));
        Self { counts, task }
    }

    /// At an address of its own.
    pub async fn start(speaks: Speaks) -> (Self, IpAddr) {
        loop {
            let noise = [(); 3].map(|()| fastrand::u8(1..255));
            let ip = IpAddr::from([127, 100 + noise[0] % 100, noise[1], noise[2]]);
            if let Ok(listener) = TcpListener::bind((ip, 8080)).await {
                return (Self::serve(listener, speaks), ip);
            }
        }
    }

    /// Connections that came so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// Endless responses, and flooded connections, that are open.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// Requests that came so far.
    pub fn asked(&self) -> usize {
        self.counts.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Greedy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, speaks: Speaks, counts: Arc<Counts>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        counts.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(converse(stream, speaks, Arc::clone(&counts)));
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(stream: TcpStream, speaks: Speaks, counts: Arc<Counts>) {
    if matches!(speaks, Speaks::Flood) {
        return flood(stream, &counts).await;
    }
    let service = service_fn(move |request| respond(request, Arc::clone(&counts)));
    let io = TokioIo::new(stream);
    let _ended = match speaks {
        Speaks::H2 { streams, window } => {
            let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            http.max_concurrent_streams(streams)
                .initial_connection_window_size(window)
                .initial_stream_window_size(window);
            http.serve_connection(io, service).await
        }
        Speaks::H1 | Speaks::Flood => {
            let http = hyper::server::conn::http1::Builder::new();
            http.serve_connection(io, service).await
        }
    };
}

/// `/endless` does not end, `/drip` falls silent, `/deaf` reads nothing and does not answer,
/// `/swallow` answers how much it has read, `/empty` has no body, `/fields` has large fields;
/// anything else is short.
async fn respond(
    mut request: Request<Incoming>,
    counts: Arc<Counts>,
) -> Result<Response<Body>, Infallible> {
    counts.asked.fetch_add(1, Ordering::SeqCst);
    let short = |text: String| Full::from(text).boxed();
    let body = match request.uri().path() {
        "/endless" => {
            let open = Open::new(&counts);
            let part = Bytes::from(vec![b'x'; 32 * 1024]);
            let parts = futures_util::stream::repeat_with(move || {
                let _open = &open;
                Ok(Frame::data(part.clone()))
            });
            BoxBody::new(StreamBody::new(parts))
        }
        "/drip" => {
            let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from("first")))]);
            BoxBody::new(StreamBody::new(
                first.chain(futures_util::stream::pending()),
            ))
        }
        "/deaf" => std::future::pending().await,
        "/swallow" => {
            let mut length = 0;
            while let Some(Ok(frame)) = request.body_mut().frame().await {
                length += frame.data_ref().map_or(0, Bytes::len);
            }
            short(length.to_string())
        }
        "/empty" => short(String::new()),
        "/fields" => {
            let mut response = Response::new(short(String::new()));
            for index in 0..40 {
                let name = http::HeaderName::try_from(format!("x-large-{index}")).unwrap();
                let value = http::HeaderValue::try_from("v".repeat(1000)).unwrap();
                response.headers_mut().insert(name, value);
            }
            return Ok(response);
        }
        _ => short("short".to_owned()),
    };
    Ok(Response::new(body))
}

/// Reads a head, agrees to whatever it asks for, and sends as long as it can.
async fn flood(mut stream: TcpStream, counts: &Arc<Counts>) {
    let (mut head, mut part) = (Vec::new(), vec![0; 4096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part).await {
            Ok(count @ 1..) => head.extend_from_slice(&part[..count]),
            Ok(0) | Err(_) => return,
        }
    }
    let _open = Open::new(counts);
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    let mut answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n".to_owned();
    if let Some(protocol) = field("upgrade:") {
        answer.extend(["Upgrade:", protocol, "\r\n"]);
    }
    answer += "\r\n";
    let mut sent = stream.write_all(answer.as_bytes()).await;
    while sent.is_ok() {
        sent = stream.write_all(&vec![b'x'; 32 * 1024]).await;
    }
}

/// As [`flood`], of a WebSocket; the key's letters matter.
pub async fn flood_websocket(listener: TcpListener, counts: Arc<AtomicUsize>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let (mut head, mut part) = (Vec::new(), vec![0; 4096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut part).await.unwrap();
        head.extend_from_slice(&part[..count]);
    }
    let head = String::from_utf8(head).unwrap();
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_key = name.eq_ignore_ascii_case("sec-websocket-key");
        is_key.then(|| value.trim().to_owned())
    });
    let accept = derive_accept_key(key.unwrap().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    counts.fetch_add(1, Ordering::SeqCst);
    while stream.write_all(&vec![b'x'; 32 * 1024]).await.is_ok() {}
    counts.fetch_add(1, Ordering::SeqCst);
}

/// Longer than each limit that the tests set, and shorter than what they wait for.
pub const LONG: Duration = Duration::from_secs(20);
