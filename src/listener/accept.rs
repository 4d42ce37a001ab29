//! Sockets, and what all their connections share.
//!
//! Guarantees: a socket that was handed over (by systemd, say) is used as it is; a drain takes what
//! is already in the kernel's queue before it closes one.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::certificates::{Certificates, TlsError};
use super::clients::{Clients, Refused, Share};
use super::{Service, connection};
use crate::config::{ListenerConfig, ListenerMode, ServerConfig, TlsConfig};
use crate::drain::Drain;
use crate::telemetry::{ListenerMetrics, Metrics};

/// Connections that may wait in the kernel's queue.
const BACKLOG: u32 = 4096;
/// After an accept error (out of descriptors, most likely) others need time to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A client that vanished without a word (a tunnel's, above all) is found out in two minutes, so that
/// it keeps no instance awake for ever.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    front: Arc<ListenerSettings>,
}

/// What a socket's connections begin with; it may change while the socket is open.
#[derive(Debug)]
pub struct ListenerSettings(ArcSwap<Beginning>);

/// What one connection begins with.
#[derive(Clone, Debug)]
pub(super) struct Beginning {
    pub(super) mode: ListenerMode,
    pub(super) proxy_protocol: bool,
    pub(super) tls: Option<Tls>,
}

#[derive(Clone)]
pub(super) struct Tls {
    pub(super) certificates: Arc<Certificates>,
    pub(super) config: Arc<rustls::ServerConfig>,
}

/// What the connections of all sockets share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Their limits; a change is for connections that begin afterwards.
    pub config: Arc<ArcSwap<ServerConfig>>,
    /// One for each connection there may be.
    pub permits: Arc<Semaphore>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Their end.
    pub drain: Drain,
    clients: Clients,
    refused: Arc<Refused>,
}

/// Sockets that another process opened and left to this one.
#[derive(Debug, Default)]
pub struct Inherited(Vec<std::net::TcpListener>);

// === impl Inherited ===

impl Inherited {
    /// Those of systemd's protocol (`LISTEN_FDS`, `sd_listen_fds(3)`), if there are any.
    pub fn from_process() -> io::Result<Self> {
        let mut given = listenfd::ListenFd::from_env();
        let sockets =
            (0..given.len()).filter_map(|index| given.take_tcp_listener(index).transpose());
        sockets.collect::<io::Result<_>>().map(Self)
    }

    /// The socket that listens at `address`.
    pub fn take(&mut self, address: SocketAddr) -> Option<std::net::TcpListener> {
        let at = |socket: &std::net::TcpListener| {
            socket.local_addr().is_ok_and(|local| local == address)
        };
        let index = self.0.iter().position(at)?;
        Some(self.0.swap_remove(index))
    }

    /// Where the sockets listen that nobody has taken.
    pub fn left(&self) -> Vec<SocketAddr> {
        let locals = self.0.iter().map(std::net::TcpListener::local_addr);
        locals.filter_map(Result::ok).collect()
    }
}

/// A socket that listens at `address`.
pub fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

// === impl ListenerSettings ===

impl ListenerSettings {
    /// As configured; reads the certificates.
    pub fn new(config: &ListenerConfig) -> Result<Self, TlsError> {
        let secure = |tls: &TlsConfig| {
            let certificates = Certificates::load(tls.clone())?;
            let config = certificates.server_config()?;
            Ok::<_, TlsError>(Tls {
                certificates,
                config,
            })
        };
        Ok(Self(ArcSwap::from_pointee(Beginning {
            mode: config.mode.clone(),
            proxy_protocol: config.proxy_protocol,
            tls: config.tls.as_ref().map(secure).transpose()?,
        })))
    }

    /// Its certificates, if it has some.
    pub fn certificates(&self) -> Option<Arc<Certificates>> {
        let beginning = self.0.load();
        beginning
            .tls
            .as_ref()
            .map(|tls| Arc::clone(&tls.certificates))
    }

    /// Connections that begin from now on begin as `other` says.
    pub fn become_like(&self, other: Self) {
        self.0.store(other.0.into_inner());
    }
}

// === impl Listener ===

impl Listener {
    /// Takes the socket; accepts nothing yet.
    pub fn bind(
        address: SocketAddr,
        front: ListenerSettings,
        inherited: Option<std::net::TcpListener>,
        reuse_port: bool,
    ) -> io::Result<Self> {
        let socket = match inherited {
            Some(socket) => {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket)?
            }
            None => bind(address, reuse_port)?,
        };
        // What is accepted inherits both (tcp(7)); a socket that cannot do it still works. Small responses must not
        // wait for more.
        let _none = SockRef::from(&socket).set_tcp_keepalive(&KEEPALIVE);
        let _slower = SockRef::from(&socket).set_tcp_nodelay(true);
        let (address, front) = (socket.local_addr()?, Arc::new(front));
        Ok(Self {
            socket,
            address,
            front,
        })
    }

    /// What its connections begin with.
    pub fn front(&self) -> &Arc<ListenerSettings> {
        &self.front
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts and serves until the drain begins or `close`.
    pub async fn serve<S: Service>(self, service: S, shared: Shared, close: CancellationToken) {
        let (front, shared) = (self.front, Arc::new(shared));
        let counts = shared.metrics.listener(self.address);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&self.socket, &shared.permits) => accepted,
                () = shared.drain.draining().cancelled() => break,
                () = close.cancelled() => break,
            };
            match accepted {
                Ok(accepted) => spawn(accepted, self.address, &front, &service, &shared, &counts),
                Err(error) => {
                    tracing::warn!(%error, address = %self.address, "cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // A client that the kernel has let in is not turned away: another process may have the
        // address already, and then nobody else will find these.
        let Ok(socket) = self.socket.into_std() else {
            return;
        };
        while let Ok(permit) = Arc::clone(&shared.permits).try_acquire_owned() {
            let Ok((stream, peer)) = socket.accept() else {
                return;
            };
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                let accepted = (stream, peer, permit);
                spawn(accepted, self.address, &front, &service, &shared, &counts);
            }
        }
    }
}

type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

async fn accept(socket: &TcpListener, permits: &Arc<Semaphore>) -> io::Result<Accepted> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = socket.accept().await?;
    Ok((stream, peer, permit))
}

fn spawn<S: Service>(
    (stream, peer, permit): Accepted,
    at: SocketAddr,
    front: &ListenerSettings,
    service: &S,
    shared: &Arc<Shared>,
    counts: &ListenerMetrics,
) {
    let counted = counts.accepted();
    let (front, service) = (front.0.load_full(), service.clone());
    let (tracker, shared) = (shared.drain.served(), Arc::clone(shared));
    let connection = async move {
        shared.metrics.downstream_connections.increment(1.0);
        connection::serve(stream, peer, at, &front, service, &shared).await;
        shared.metrics.downstream_connections.decrement(1.0);
        drop((permit, counted));
    };
    // In a box, which is written to at once: a task is moved some times, and this is a large one.
    tracker.spawn(Box::into_pin(Box::write(Box::new_uninit(), connection)));
}

// === impl Shared ===

impl Shared {
    /// With nobody connected yet.
    pub fn new(config: Arc<ArcSwap<ServerConfig>>, metrics: Arc<Metrics>, drain: Drain) -> Self {
        let most = config.load().max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            config,
            permits: Arc::new(Semaphore::new(most)),
            metrics,
            drain,
            clients: Clients::default(),
            refused: Arc::default(),
        }
    }

    /// From now on there may be so many connections; those that are too many end by themselves.
    pub fn resize(&self, most: usize) {
        let before = self.config.load().max_connections;
        if most > before {
            let room = Semaphore::MAX_PERMITS - self.permits.available_permits();
            self.permits.add_permits((most - before).min(room));
            return;
        }
        let mut many = before - most;
        many -= self.permits.forget_permits(many);
        if many > 0 {
            let (permits, draining) = (Arc::clone(&self.permits), self.drain.draining().clone());
            let many = u32::try_from(many).unwrap_or(u32::MAX);
            self.drain.served().spawn(async move {
                let taken = draining
                    .run_until_cancelled(permits.acquire_many(many))
                    .await;
                if let Some(Ok(taken)) = taken {
                    taken.forget();
                }
            });
        }
    }

    /// One more connection of this client, if it may have it.
    pub(super) fn share(&self, client: IpAddr, limit: usize) -> io::Result<Share> {
        self.clients.enter(client, limit).ok_or_else(|| {
            self.metrics.refused_connections.increment(1);
            if self.refused.is_worth_telling() {
                tracing::warn!(%client, limit, "a client has as many connections as it may have");
            }
            io::Error::other("the client has as many connections as it may have")
        })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({:?})", self.certificates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a listener has accepted, and the other end.
    async fn accepted() -> (TcpStream, TcpStream) {
        let config = ListenerConfig {
            address: ([127, 0, 0, 1], 0).into(),
            ..ListenerConfig::default()
        };
        let front = ListenerSettings::new(&config).unwrap();
        let listener = Listener::bind(config.address, front, None, false).unwrap();
        let client = TcpStream::connect(listener.address()).await.unwrap();
        (listener.socket.accept().await.unwrap().0, client)
    }

    #[tokio::test]
    async fn a_client_that_vanishes_is_found_out() {
        let (accepted, _client) = accepted().await;
        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap());
        assert_eq!(
            accepted.tcp_keepalive_time().unwrap(),
            Duration::from_secs(60)
        );
    }

    #[tokio::test]
    async fn small_responses_do_not_wait_for_more() {
        let (accepted, _client) = accepted().await;
        assert!(accepted.nodelay().unwrap());
    }
}
