//! Sockets and clients' connections.
//!
//! Guarantees: a connection has a permit before it is accepted, so their number is bounded; a TLS
//! handshake and a head have a deadline, a head a size and a number of fields; HTTP/2 is served where
//! ALPN or the client's preface says so, with bounds on streams, windows and resets; a drain lets
//! each connection finish its requests and then closes it, and cuts what is left at its deadline.

mod tls;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

pub use self::tls::{Certificates, TlsError};
use crate::config::ServerConfig;
use crate::drain::Drain;
use crate::telemetry::Metrics;

/// Connections that may wait in the kernel's queue.
const BACKLOG: u32 = 4096;
/// After an accept error (out of descriptors, most likely) others need time to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Between two looks at a preface that comes in pieces.
const PEEK_PAUSE: Duration = Duration::from_millis(10);
/// HTTP/2: requests at once on a connection, and windows and buffers in bytes.
const MAX_STREAMS: u32 = 128;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
/// A peer that vanished without a word is noticed by its silence.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Who is at the other end of a request's connection.
#[derive(Debug, Clone)]
pub struct Downstream {
    /// The client's address.
    pub client: IpAddr,
    /// What its TLS handshake agreed on; `None` in clear.
    pub tls: Option<TlsSession>,
}

/// What a TLS handshake agreed on.
#[derive(Debug, Clone)]
pub struct TlsSession {
    certificates: Arc<Certificates>,
    sni: Option<Arc<str>>,
}

/// Something that answers requests.
pub trait Service: Clone + Send + Sync + 'static {
    /// Its responses' bodies.
    type Body: Body<Data = bytes::Bytes, Error = hyper::Error> + Send + 'static;

    /// A TLS client says which host it wants, before its handshake is over.
    fn greet(&self, sni: &str, client: IpAddr);

    /// Answers one request.
    fn call(
        &self,
        request: Request<Incoming>,
        from: Downstream,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Front>,
}

#[derive(Clone)]
struct Front {
    certificates: Arc<Certificates>,
    config: Arc<rustls::ServerConfig>,
}

// === impl Listener ===

impl Listener {
    /// Takes the socket; accepts nothing yet.
    pub fn bind(address: SocketAddr, certificates: Option<Arc<Certificates>>) -> io::Result<Self> {
        let front = |certificates: Arc<Certificates>| {
            let config = certificates.server_config().map_err(io::Error::other)?;
            Ok::<_, io::Error>(Front {
                certificates,
                config,
            })
        };
        let tls = certificates.map(front).transpose()?;
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?;
        let address = socket.local_addr()?;
        Ok(Self {
            socket,
            address,
            tls,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts and serves until the drain begins.
    pub async fn serve<S: Service>(
        self,
        service: S,
        config: Arc<ServerConfig>,
        permits: Arc<Semaphore>,
        metrics: Arc<Metrics>,
        drain: Drain,
    ) {
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.socket, &permits) => accepted,
                () = drain.draining().cancelled() => return,
            };
            let (stream, peer, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, address = %self.address, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (service, config) = (service.clone(), Arc::clone(&config));
            let (metrics, phases) = (Arc::clone(&metrics), drain.clone());
            let front = self.tls.clone();
            drain.served().spawn(async move {
                metrics.downstream_connections.increment(1.0);
                connection(stream, peer.ip(), front, service, &config, &phases).await;
                metrics.downstream_connections.decrement(1.0);
                drop(permit);
            });
        }
    }
}

async fn accept(
    socket: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = socket.accept().await?;
    Ok((stream, peer, permit))
}

/// One connection from its first byte to its last.
async fn connection<S: Service>(
    stream: TcpStream,
    client: IpAddr,
    front: Option<Front>,
    service: S,
    config: &ServerConfig,
    drain: &Drain,
) {
    // Small responses must not wait for more; a socket that cannot do this still works.
    let _slower = stream.set_nodelay(true);
    let limit = config.header_timeout;
    let result = match front {
        None => match timeout(limit, speaks_h2(&stream)).await {
            Ok(h2) => {
                let from = Downstream { client, tls: None };
                serve(stream, from, h2, service, config, drain).await
            }
            Err(_) => return,
        },
        Some(front) => match timeout(limit, handshake(stream, client, &front, &service)).await {
            Ok(Ok((stream, sni))) => {
                let (_, session) = stream.get_ref();
                let h2 = session.alpn_protocol() == Some(b"h2");
                let certificates = front.certificates;
                let tls = Some(TlsSession { certificates, sni });
                let from = Downstream { client, tls };
                serve(stream, from, h2, service, config, drain).await
            }
            Ok(Err(error)) => {
                tracing::debug!(%client, %error, "no TLS handshake");
                return;
            }
            Err(_) => return,
        },
    };
    if let Err(error) = result {
        // A client's mistake or departure.
        tracing::debug!(%client, %error, "connection ended");
    }
}

/// A TLS handshake, and the name that its client asked for.
async fn handshake<S: Service>(
    stream: TcpStream,
    client: IpAddr,
    front: &Front,
    service: &S,
) -> io::Result<(TlsStream<TcpStream>, Option<Arc<str>>)> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let sni: Option<Arc<str>> = hello.client_hello().server_name().map(Arc::from);
    if let Some(sni) = &sni {
        service.greet(sni, client);
    }
    Ok((hello.into_stream(Arc::clone(&front.config)).await?, sni))
}

/// Whether the client begins with HTTP/2's preface ("prior knowledge", RFC 9113 §3.3). Reads
/// nothing.
async fn speaks_h2(stream: &TcpStream) -> bool {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let (mut seen, mut before) = ([0; PREFACE.len()], 0);
    loop {
        let Ok(length) = stream.peek(&mut seen).await else {
            return false;
        };
        let start = seen.get(..length).unwrap_or_default();
        if length == 0 || !PREFACE.starts_with(start) {
            return false;
        }
        if length == PREFACE.len() {
            return true;
        }
        if length == before {
            // A byte at a time: peek does not wait for more than the first.
            sleep(PEEK_PAUSE).await;
        }
        before = length;
    }
}

/// Requests on a connection that has been accepted.
async fn serve<S: Service, I>(
    stream: I,
    from: Downstream,
    h2: bool,
    service: S,
    config: &ServerConfig,
    drain: &Drain,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request| {
        let (service, from) = (service.clone(), from.clone());
        async move { Ok::<_, Infallible>(service.call(request, from).await) }
    });
    let io = TokioIo::new(stream);
    if h2 {
        let mut builder = http2::Builder::new(Executor(drain.served().clone()));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX))
            // A held upload may fill its own window and must not fill the connection's.
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        let connection = builder.serve_connection(io, answer);
        tokio::pin!(connection);
        tokio::select! {
            result = connection.as_mut() => return result,
            () = drain.draining().cancelled() => connection.as_mut().graceful_shutdown(),
        }
        return tokio::select! {
            result = connection.as_mut() => result,
            () = drain.cut().cancelled() => Ok(()),
        };
    }
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_headers(config.max_headers)
        .max_header_size(config.max_header_bytes);
    let connection = builder.serve_connection(io, answer).with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = drain.draining().cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        result = connection.as_mut() => result,
        () = drain.cut().cancelled() => Ok(()),
    }
}

/// Streams' tasks are on the drain's tracker, like connections.
#[derive(Debug, Clone)]
struct Executor(TaskTracker);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

// === impl TlsSession ===

impl TlsSession {
    /// Whether this connection may carry requests for `host`.
    pub fn covers(&self, host: &str) -> bool {
        self.certificates.covers(self.sni.as_deref(), host)
    }
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Front({:?})", self.certificates)
    }
}
