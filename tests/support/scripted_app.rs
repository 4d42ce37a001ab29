//! The application of a scripted instance: a small server at an address of its own.
//!
//! Guarantees: it counts its connections and, by path, its requests; it never closes a connection
//! by itself; without power its connections are reset and its address refuses; when it is dropped,
//! they are closed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::spawn;

/// The port of every application, which is that of the tests' route.
pub const PORT: u16 = 8080;

/// An application.
pub struct Application {
    pub ip: IpAddr,
    seen: Arc<Seen>,
    /// Whether its instance is awake. Otherwise its connections are reset and its address refuses.
    pub power: Power,
    task: JoinHandle<()>,
}

/// The state of an instance as its application feels it.
pub type Power = Arc<watch::Sender<bool>>;

#[derive(Default)]
struct Seen {
    label: String,
    h2c: bool,
    connections: AtomicUsize,
    open: AtomicUsize,
    listening: AtomicBool,
    requests: Mutex<BTreeMap<String, usize>>,
}

/// Counts a connection as open.
struct Open(Arc<Seen>);

type Body = BoxBody<Bytes, Infallible>;

// === impl Application ===

impl Application {
    /// Of HTTP/1.1. `/` says `label`; `/reset` resets its connection, `/hang` does not answer,
    /// `/stream` does not end, `/slow` takes a third of a second, `/ws` is a WebSocket that echoes, `/hold` wants to stay awake.
    pub async fn start(label: &str) -> Self {
        Self::start_as(label, false).await
    }

    /// The same of HTTP/2 without TLS.
    pub async fn start_h2c(label: &str) -> Self {
        Self::start_as(label, true).await
    }

    async fn start_as(label: &str, h2c: bool) -> Self {
        let listener = loop {
            let noise = [(); 3].map(|()| fastrand::u8(1..255));
            let ip = Ipv4Addr::new(127, 100 + noise[0] % 100, noise[1], noise[2]);
            match TcpListener::bind((ip, PORT)).await {
                Ok(listener) => break listener,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
            }
        };
        let ip = listener.local_addr().unwrap().ip();
        let label = label.to_owned();
        let seen = Arc::new(Seen {
            label,
            h2c,
            ..Seen::default()
        });
        let power: Power = Arc::new(watch::channel(true).0);
        let task = spawn(serve(listener, Arc::clone(&seen), Arc::clone(&power)));
        Self {
            ip,
            seen,
            power,
            task,
        }
    }

    pub fn label(&self) -> &str {
        &self.seen.label
    }

    pub fn is_h2c(&self) -> bool {
        self.seen.h2c
    }

    /// Connections that came so far.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Those that are open.
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    /// Requests for a path so far.
    pub fn requests(&self, path: &str) -> usize {
        self.seen.counts().get(path).copied().unwrap_or(0)
    }

    /// All requests so far.
    pub fn all_requests(&self) -> usize {
        self.seen.counts().values().sum()
    }

    /// Returns when it is as if nobody were there, a moment after its power was switched off.
    pub async fn has_gone(&self) {
        while self.open() > 0 || self.seen.listening.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Ends it: connections to it are closed, and its address refuses.
    pub async fn end(mut self) {
        self.task.abort();
        let _aborted = (&mut self.task).await;
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Seen ===

impl Seen {
    fn counts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(listener: TcpListener, seen: Arc<Seen>, power: Power) {
    let address = listener.local_addr().unwrap();
    let mut switch = power.subscribe();
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    while switch.wait_for(|power| *power).await.is_ok() {
        let open = match listener.take() {
            Some(listener) => listener,
            None => TcpListener::bind(address).await.unwrap(),
        };
        seen.listening.store(true, Ordering::SeqCst);
        loop {
            tokio::select! {
                biased;
                _off = switch.wait_for(|power| !power) => break,
                accepted = open.accept() => {
                    let (stream, _) = accepted.unwrap();
                    connections.spawn(connection(stream, Arc::clone(&seen), power.subscribe()));
                }
            }
            while connections.try_join_next().is_some() {}
        }
        drop(open);
        seen.listening.store(false, Ordering::SeqCst);
    }
}

/// Counts a connection, which is reset when the power is switched off.
fn connection(
    stream: TcpStream,
    seen: Arc<Seen>,
    mut power: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send {
    seen.connections.fetch_add(1, Ordering::SeqCst);
    seen.open.fetch_add(1, Ordering::SeqCst);
    let open = Open(seen);
    async move {
        // The same socket once more, so that it can be said how it is closed.
        let stream = stream.into_std().unwrap();
        let socket = Arc::new(stream.try_clone().unwrap());
        let stream = TcpStream::from_std(stream).unwrap();
        tokio::select! {
            biased;
            _off = power.wait_for(|power| !power) => {
                let _gone = SockRef::from(&*socket).set_linger(Some(Duration::ZERO));
            }
            () = converse(stream, &socket, &open.0) => {}
        }
    }
}

/// One connection, to its end.
async fn converse(stream: TcpStream, socket: &Arc<std::net::TcpStream>, seen: &Arc<Seen>) {
    let io = TokioIo::new(stream);
    let (upgrade, mut upgraded) = tokio::sync::mpsc::channel(1);
    let service = service_fn(move |request: Request<Incoming>| {
        let (seen, socket, upgrade) = (Arc::clone(seen), Arc::clone(socket), upgrade.clone());
        async move {
            let path = request.uri().path().to_owned();
            *seen.counts().entry(path.clone()).or_default() += 1;
            if path == "/reset" {
                SockRef::from(&*socket).set_linger(Some(Duration::ZERO))?;
                return Err(io::Error::other("reset"));
            }
            respond(&seen, &path, request, &upgrade).await
        }
    });
    if seen.h2c {
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ended = http.serve_connection(io, service).await;
        return;
    }
    let http = hyper::server::conn::http1::Builder::new();
    let _ended = http.serve_connection(io, service).with_upgrades().await;
    if let Ok(upgraded) = upgraded.try_recv() {
        echo(upgraded).await;
    }
}

async fn respond(
    seen: &Seen,
    path: &str,
    mut request: Request<Incoming>,
    upgrade: &tokio::sync::mpsc::Sender<hyper::upgrade::OnUpgrade>,
) -> io::Result<Response<Body>> {
    let response = Response::builder();
    let first = Bytes::from_static(b"first\n");
    let body = match path {
        "/hang" => {
            // What is read shows when the connection ends.
            while let Some(frame) = request.body_mut().frame().await {
                frame.map_err(io::Error::other)?;
            }
            std::future::pending().await
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Full::from(seen.label.clone()).boxed()
        }
        "/stream" => {
            let first = stream::iter([Ok(Frame::data(first))]);
            BodyExt::boxed(StreamBody::new(first.chain(stream::pending())))
        }
        "/ws" => {
            let key = request.headers()["sec-websocket-key"].as_bytes();
            let accept = derive_accept_key(key);
            upgrade.try_send(hyper::upgrade::on(&mut request)).unwrap();
            let response = response
                .status(101)
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-accept", accept);
            return Ok(response.body(Full::default().boxed()).unwrap());
        }
        _ => Full::from(seen.label.clone()).boxed(),
    };
    let response = match path {
        "/hold" => response.header("x-wakegate-hold", "1m"),
        _ => response,
    };
    Ok(response.body(body).unwrap())
}

/// Says what it hears, until its connection ends.
async fn echo(upgraded: hyper::upgrade::OnUpgrade) {
    let Ok(upgraded) = upgraded.await else { return };
    let io = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if message.is_close() || socket.send(message).await.is_err() {
            return;
        }
    }
}
