//! Sockets, and the connections that they accept.
//!
//! Guarantees: a socket that was handed over (by systemd, say) is used as it is; whichever worker
//! has time accepts, and none has clearly more connections than another; a drain takes what is
//! already in the kernel's queue before it closes a socket; an IPv4 client is one from here on,
//! also where it came over a socket of both families.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::address::canonical;
use super::connection::{self, Arrived};
use super::kept::Kept;
use super::service::Service;
use super::settings::{ListenerSettings, SettingsHandle};
use super::shared::Shared;
use crate::telemetry::ListenerMetrics;
use crate::workers::{Worker, Workers};

/// Connections that may wait in the kernel's queue.
const BACKLOG: u32 = 4096;
/// The pause after an accept error, which is most likely a lack of descriptors: other connections
/// need time to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A client that vanishes without a word (a tunnel's, above all) is detected after two minutes of
/// silence, so that it keeps no instance awake for ever; each byte from it starts them again.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// Bytes that the kernel keeps of a connection besides those under way. `server.send_timeout` sees
/// a client only take half of them at once, and a client that takes nothing costs as much.
#[cfg(target_os = "linux")]
const NOT_SENT: u32 = 128 * 1024;

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: Arc<std::net::TcpListener>,
    address: SocketAddr,
    settings: Arc<SettingsHandle>,
}

/// Sockets that another process opened and left to this one.
#[derive(Debug, Default)]
pub struct Inherited(Vec<std::net::TcpListener>);

// === impl Inherited ===

impl Inherited {
    /// The sockets of systemd's protocol (`LISTEN_FDS`, `sd_listen_fds(3)`), if there are any.
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

    /// The addresses of the sockets that nobody has taken.
    pub fn left(&self) -> Vec<SocketAddr> {
        let locals = self.0.iter().map(std::net::TcpListener::local_addr);
        locals.filter_map(Result::ok).collect()
    }
}

/// A socket that listens at `address`. One at `[::]` is for both families, whatever the system's
/// default is (`net.ipv6.bindv6only`), unless it is `v6_only`.
pub fn bind(address: SocketAddr, reuse_port: bool, v6_only: bool) -> io::Result<TcpListener> {
    bound(address, reuse_port, v6_only)?.listen(BACKLOG)
}

/// Whether such a socket could be had just now. Nobody can connect to it, and another process can
/// still open the address meanwhile.
pub fn probe(address: SocketAddr, reuse_port: bool, v6_only: bool) -> io::Result<()> {
    bound(address, reuse_port, v6_only).map(drop)
}

fn bound(address: SocketAddr, reuse_port: bool, v6_only: bool) -> io::Result<TcpSocket> {
    let address = canonical(address);
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.is_ipv6() {
        SockRef::from(&socket).set_only_v6(v6_only)?;
    }
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(reuse_port)?;
    socket.bind(address)?;
    Ok(socket)
}

// === impl Listener ===

impl Listener {
    /// Takes the socket; accepts nothing yet.
    pub fn bind(
        address: SocketAddr,
        settings: ListenerSettings,
        inherited: Option<std::net::TcpListener>,
        reuse_port: bool,
        v6_only: bool,
    ) -> io::Result<Self> {
        let socket = match inherited {
            Some(socket) => {
                socket.set_nonblocking(true)?;
                socket
            }
            None => bind(address, reuse_port, v6_only)?.into_std()?,
        };
        // Accepted connections inherit both (tcp(7)); a socket that cannot do it still works. Small
        // responses must not wait for more.
        let _none = SockRef::from(&socket).set_tcp_keepalive(&KEEPALIVE);
        let _slower = SockRef::from(&socket).set_tcp_nodelay(true);
        #[cfg(target_os = "linux")]
        let _more = SockRef::from(&socket).set_tcp_notsent_lowat(NOT_SENT);
        let address = socket.local_addr()?;
        Ok(Self {
            socket: Arc::new(socket),
            address,
            settings: Arc::new(SettingsHandle::new(settings)),
        })
    }

    /// The settings of its connections.
    pub fn settings(&self) -> &Arc<SettingsHandle> {
        &self.settings
    }

    /// The address where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts and serves on each of the workers until the drain begins or `close`.
    ///
    /// All of them accept from this one socket. Sockets of their own at the same address
    /// (`SO_REUSEPORT`) would hide that another program has it, and what is in the queue of one
    /// whose worker is busy, or ends, would be nobody else's.
    pub fn serve<S: Service>(
        self,
        service: &S,
        shared: &Shared,
        close: &CancellationToken,
        workers: &Workers,
    ) {
        let shared = Arc::new(shared.clone());
        for worker in workers.iter() {
            let acceptor = Acceptor {
                socket: Arc::clone(&self.socket),
                address: self.address,
                settings: Arc::clone(&self.settings),
                service: service.clone(),
                counts: shared.metrics.listener(self.address),
                shared: Arc::clone(&shared),
                here: worker.clone(),
                workers: workers.clone(),
            };
            // A drain waits for it, and so for what it finds in the queue.
            let accepting = acceptor.run(close.clone());
            let tracker = shared.drain.served();
            tracker.spawn_on(accepting, worker.runtime());
        }
    }
}

/// One worker's part in accepting a socket's connections.
struct Acceptor<S> {
    socket: Arc<std::net::TcpListener>,
    address: SocketAddr,
    settings: Arc<SettingsHandle>,
    service: S,
    shared: Arc<Shared>,
    counts: ListenerMetrics,
    here: Worker,
    workers: Workers,
}

/// A stream and the worker that it is for.
enum Placed {
    Here(TcpStream),
    Elsewhere(std::net::TcpStream),
}

// === impl Acceptor ===

impl<S: Service> Acceptor<S> {
    async fn run(self, close: CancellationToken) {
        // A fault while it accepts is no reason to accept nobody any more.
        let accepting = async {
            while AssertUnwindSafe(self.accept_all())
                .catch_unwind()
                .await
                .is_err()
            {
                sleep(ACCEPT_PAUSE).await;
            }
        };
        tokio::select! {
            () = accepting => {}
            () = self.shared.drain.draining().cancelled() => {}
            () = close.cancelled() => {}
        }
        // A client that the kernel has let in is not turned away: another process may have the
        // address already, and then nobody else will find these. The worker that ends last finds
        // the last ones.
        while let Ok(permit) = Arc::clone(&self.shared.permits).try_acquire_owned() {
            let Ok((stream, peer)) = self.socket.accept() else {
                return;
            };
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                // What cannot be moved is closed.
                let _moved = self.spawn(stream, peer, permit);
            }
        }
    }

    async fn accept_all(&self) {
        loop {
            let socket = self.socket.try_clone().and_then(TcpListener::from_std);
            let failed = match socket {
                Ok(socket) => self.accept_from(&socket).await.err(),
                Err(error) => Some(error),
            };
            if let Some(error) = failed {
                self.shared.note_not_accepted(&error, self.address);
            }
            sleep(ACCEPT_PAUSE).await;
        }
    }

    /// Accepts until that fails.
    async fn accept_from(&self, socket: &TcpListener) -> io::Result<()> {
        loop {
            let mut permit = Some(self.shared.permit().await?);
            let accepted = poll_fn(|cx| {
                if permit.is_none() {
                    // Somebody has come.
                    return Poll::Ready(None);
                }
                let polled = socket.poll_accept(cx);
                if polled.is_pending() {
                    // Whoever only waits leaves the permit to the other workers.
                    permit = None;
                }
                polled.map(Some)
            });
            if let (Some(accepted), Some(permit)) = (accepted.await, permit) {
                let (stream, peer) = accepted?;
                self.spawn(stream, peer, permit)?;
            }
        }
    }

    /// Serves a connection, here or where there are fewer.
    fn spawn(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        let worker = self.workers.place(&self.here);
        let stream = match worker.is(&self.here) {
            true => Placed::Here(stream),
            false => Placed::Elsewhere(stream.into_std()?),
        };
        let (counted, seat) = (self.counts.accepted(), worker.seat());
        let shared = Arc::clone(&self.shared);
        let counted = (counted, shared.metrics.downstream());
        let arrived = Arrived {
            adopt: move || stream.adopt(),
            peer: canonical(peer),
            at: self.address,
            settings: self.settings.load(),
            service: self.service.clone(),
        };
        let connection = connection::serve(arrived, shared, Kept::new(permit, seat, counted));
        let tracker = self.shared.drain.served();
        // In a box, which is written to at once: a task is moved several times, and this one is
        // large.
        let connection = Box::into_pin(Box::write(Box::new_uninit(), connection));
        tracker.spawn_on(connection, worker.runtime());
        Ok(())
    }
}

// === impl Placed ===

impl Placed {
    /// The stream as one of this runtime's, which has its events from here on.
    fn adopt(self) -> io::Result<TcpStream> {
        match self {
            Self::Here(stream) => Ok(stream),
            Self::Elsewhere(stream) => TcpStream::from_std(stream),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ListenerConfig;

    /// What a listener has accepted, and the other end.
    async fn accepted() -> (TcpStream, TcpStream) {
        let config = ListenerConfig {
            address: ([127, 0, 0, 1], 0).into(),
            ..ListenerConfig::default()
        };
        let settings =
            ListenerSettings::new(&config, &crate::listener::TlsParts::default()).unwrap();
        let listener = Listener::bind(config.address, settings, None, false, false).unwrap();
        let client = TcpStream::connect(listener.address()).await.unwrap();
        let listener = listener.socket.try_clone().unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        (listener.accept().await.unwrap().0, client)
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
