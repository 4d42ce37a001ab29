//! Sockets and clients' connections.
//!
//! Guarantees: a connection has a permit before it is accepted, so their number is bounded; a head
//! has a deadline, a size and a number of fields; a drain lets each connection finish its request
//! and then closes it, and cuts what is left at its deadline.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::config::ServerConfig;
use crate::drain::Drain;
use crate::telemetry::Metrics;

/// Connections that may wait in the kernel's queue.
const BACKLOG: u32 = 4096;
/// After an accept error (out of descriptors, most likely) others need time to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Something that answers requests.
pub trait Service: Clone + Send + Sync + 'static {
    /// Its responses' bodies.
    type Body: Body<Data = bytes::Bytes, Error = hyper::Error> + Send + 'static;

    /// Answers one request of a client at this address.
    fn call(
        &self,
        request: Request<Incoming>,
        client: IpAddr,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

// === impl Listener ===

impl Listener {
    /// Takes the socket; accepts nothing yet.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let socket = socket.listen(BACKLOG)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
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
            drain.served().spawn(async move {
                metrics.downstream_connections.increment(1.0);
                connection(stream, peer.ip(), service, &config, &phases).await;
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
    service: S,
    config: &ServerConfig,
    drain: &Drain,
) {
    // Small responses must not wait for more; a socket that cannot do this still works.
    let _slower = stream.set_nodelay(true);
    let answer = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.call(request, client).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_headers(config.max_headers)
        .max_header_size(config.max_header_bytes);
    let connection = builder
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = drain.draining().cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection.as_mut() => result,
                () = drain.cut().cancelled() => return,
            }
        }
    };
    if let Err(error) = result {
        // A client's mistake or departure.
        tracing::debug!(%client, %error, "connection ended");
    }
}
