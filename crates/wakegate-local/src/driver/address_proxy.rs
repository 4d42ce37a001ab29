//! An instance's own network address, which can be opened and closed.
//!
//! Guarantees: while open, each port that it was told of leads from the public address (127.77.x.y)
//! to where the program listens, and every other port is refused; a port that leads elsewhere from
//! now on is not closed for that. When a close returns, new connections are refused, as with a
//! removed TAP, and those that were open are cut, or are kept and hear nothing until the address
//! opens again; after the close for good none is left. Half-closed connections stay half-closed.
//! Nothing of it runs while nobody connects.
//!
//! A frozen process' own sockets would go on accepting into their backlog, which would hide every
//! race that matters; hence this proxy in front of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address_range::{HeldAddress, LOOPBACK, Low, public_and_private};
use super::own_port::bound;
use super::traffic::{CountedConnection, Traffic};
use crate::clock::Clock;

/// The most that is copied at once.
const PART: usize = 8 * 1024;

/// Where each public port leads.
pub(super) type Targets = BTreeMap<u16, SocketAddr>;

/// An instance's address, which is closed at first.
#[derive(Debug)]
pub(super) struct AddressProxy {
    pub(super) public: Ipv4Addr,
    pub(super) private: Ipv4Addr,
    /// The port at which clients expect the program.
    pub(super) port: u16,
    clock: Clock,
    pub(super) traffic: Arc<Traffic>,
    /// Whether connections outlive the time in which the address is closed.
    keeps_flows: AtomicBool,
    /// Whether connections that were kept may go on; ended by [`AddressProxy::cut`].
    awake: watch::Sender<bool>,
    /// Somebody has connected and the program has refused: what is known of its ports is old.
    pub(super) refused: Arc<Notify>,
    /// Ended by [`AddressProxy::cut`].
    gone: CancellationToken,
    /// Every connection, also those that were kept.
    connections: TaskTracker,
    state: Mutex<Ports>,
    _held: HeldAddress,
}

#[derive(Debug, Default)]
struct Ports {
    /// Nothing while the address is closed.
    open: Option<OpenAddress>,
    targets: Targets,
}

/// What runs while an address is open.
#[derive(Debug)]
struct OpenAddress {
    /// Ends its connections.
    closed: CancellationToken,
    accepting: TaskTracker,
    listeners: BTreeMap<u16, OpenPort>,
}

/// What accepts at one port.
#[derive(Debug)]
struct OpenPort {
    closed: CancellationToken,
    listener: Arc<TcpListener>,
}

// === impl OpenPort ===

impl OpenPort {
    /// Refuses new connections from now on.
    fn close(&self) {
        self.closed.cancel();
        // At once, and not when its task comes to it; a failure means that it is closed.
        let _closed = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
    }
}

// === impl AddressProxy ===

impl AddressProxy {
    /// The address `127.77.x.y`, in front of a program that has `127.78.x.y`.
    pub(super) fn new(clock: Clock, low: Low, port: u16) -> Self {
        Self::at(clock, LOOPBACK.former(low), port)
    }

    fn at(clock: Clock, held: HeldAddress, port: u16) -> Self {
        let (public, private) = public_and_private(held.low());
        let connections = TaskTracker::new();
        // So that it can be waited for at any time; more may come afterwards.
        connections.close();
        Self {
            public,
            private,
            port,
            clock,
            traffic: Arc::default(),
            keeps_flows: AtomicBool::new(false),
            awake: watch::Sender::new(false),
            refused: Arc::default(),
            gone: CancellationToken::new(),
            connections,
            state: Mutex::default(),
            _held: held,
        }
    }

    /// A random address that is nobody's and at whose `port` nobody listens, neither we (`used`) nor
    /// another control plane.
    pub(super) fn free(clock: &Clock, port: u16, used: impl Fn(Ipv4Addr) -> bool) -> Option<Self> {
        let free = |ip| bound((ip, port)).is_ok();
        let held = LOOPBACK.free(|low| {
            let (public, private) = public_and_private(low);
            !used(public) && free(public) && free(private)
        });
        Some(Self::at(clock.clone(), held?, port))
    }

    fn state(&self) -> MutexGuard<'_, Ports> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on a close keeps connections, and lets them hear nothing.
    pub(super) fn keep_flows(&self) {
        self.keeps_flows.store(true, Ordering::Release);
    }

    /// Where each port leads, also while the address is closed.
    pub(super) fn targets(&self) -> Targets {
        self.state().targets.clone()
    }

    /// Opens and closes ports that lead to the same ports of the private address, at once or when
    /// the address opens.
    pub(super) fn expect(self: &Arc<Self>, ports: &BTreeSet<u16>) {
        let target = |port: &u16| (*port, SocketAddrV4::new(self.private, *port).into());
        self.warn(&self.follow(ports.iter().map(target).collect()));
    }

    fn warn(&self, failed: &[(u16, io::Error)]) {
        for (port, error) in failed {
            tracing::warn!(address = %self.public, port, %error, "cannot open the instance's port");
        }
    }

    /// Opens and closes ports as the program does, at once or when the address opens. Returns those
    /// that cannot be opened, which are tried again the next time.
    pub(super) fn follow(self: &Arc<Self>, targets: Targets) -> Vec<(u16, io::Error)> {
        let mut state = self.state();
        state.targets = targets;
        self.settle(&mut state)
    }

    /// Opens the address and the ports that are known, unless it was closed for good. Of one that
    /// is open already, no connection and no port hears of it.
    pub(super) fn open(self: &Arc<Self>) {
        if self.gone.is_cancelled() {
            return;
        }
        let mut state = self.state();
        state.open.get_or_insert_with(|| OpenAddress {
            closed: self.gone.child_token(),
            accepting: TaskTracker::new(),
            listeners: BTreeMap::new(),
        });
        self.warn(&self.settle(&mut state));
        self.awake.send_replace(true);
    }

    /// Makes the open ports those that lead somewhere.
    fn settle(self: &Arc<Self>, state: &mut Ports) -> Vec<(u16, io::Error)> {
        let Ports { open, targets } = state;
        let Some(open) = open else { return Vec::new() };
        open.listeners.retain(|port, listener| {
            let stays = targets.contains_key(port);
            if !stays {
                listener.close();
            }
            stays
        });
        let mut failed = Vec::new();
        for port in targets.keys() {
            if open.listeners.contains_key(port) {
                continue;
            }
            match listen(SocketAddrV4::new(self.public, *port)) {
                Ok(listener) => {
                    let listener = Arc::new(listener);
                    let open_port = OpenPort {
                        closed: open.closed.child_token(),
                        listener: Arc::clone(&listener),
                    };
                    let (all_closed, port_closed) = (open.closed.clone(), open_port.closed.clone());
                    let serve = Arc::clone(self).serve(listener, *port, port_closed, all_closed);
                    open.accepting.spawn(serve);
                    open.listeners.insert(*port, open_port);
                }
                Err(error) => failed.push((*port, error)),
            }
        }
        failed
    }

    /// Closes the address for a sleep. When this returns, new connections are refused and those
    /// that were open are cut, or hear nothing where they are kept.
    pub(super) async fn close(&self) {
        self.awake.send_replace(false);
        let open = self.state().open.take();
        let Some(open) = open else { return };
        for listener in open.listeners.values() {
            listener.close();
        }
        let keeps = self.keeps_flows.load(Ordering::Acquire);
        if !keeps {
            open.closed.cancel();
        }
        // Nobody takes up what was accepted any more afterwards.
        open.accepting.close();
        open.accepting.wait().await;
        if !keeps {
            self.connections.wait().await;
        }
    }

    /// Closes the address for good, and cuts what was kept.
    pub(super) async fn cut(&self) {
        self.keeps_flows.store(false, Ordering::Release);
        self.gone.cancel();
        self.close().await;
        self.connections.wait().await;
    }

    /// Accepts until the port closes; connections go on until the address does.
    async fn serve(
        self: Arc<Self>,
        listener: Arc<TcpListener>,
        port: u16,
        port_closed: CancellationToken,
        closed: CancellationToken,
    ) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = port_closed.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((client, peer)) => {
                    let target = self.state().targets.get(&port).copied();
                    // It has just come to lead nowhere.
                    let Some(target) = target else { continue };
                    let source = match peer.ip() {
                        IpAddr::V4(source) => source,
                        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
                    };
                    let counted = CountedConnection::new(&self.traffic, &self.clock, source, port);
                    let proxy = Arc::clone(&self).proxy(client, target, counted, closed.clone());
                    self.connections.spawn(proxy);
                }
                Err(_) if port_closed.is_cancelled() => return,
                Err(error) => {
                    // Out of descriptors, most likely: others will be freed.
                    let address = self.public;
                    tracing::debug!(%address, port, %error, "cannot accept a connection");
                    sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    /// Serves one connection from its beginning to its end.
    async fn proxy(
        self: Arc<Self>,
        client: TcpStream,
        target: SocketAddr,
        counted: CountedConnection,
        closed: CancellationToken,
    ) {
        let mut client = inspected(client, &self.traffic.received);
        let result = {
            let mut copied = pin!(self.copy(&mut client, target));
            let mut awake = self.awake.subscribe();
            loop {
                tokio::select! {
                    biased;
                    () = closed.cancelled() => break Err(io::ErrorKind::ConnectionAborted.into()),
                    () = self.falls_asleep(&mut awake) => {
                        if !self.hears_nothing(&mut awake, &closed).await {
                            break Err(io::ErrorKind::ConnectionAborted.into());
                        }
                    }
                    result = &mut copied => break result,
                }
            }
        };
        if result.is_err() {
            // A reset, since there was no orderly end. Without it the cut is only less abrupt.
            let _gentler = SockRef::from(client.get_ref()).set_linger(Some(Duration::ZERO));
        }
        drop(client);
        drop(counted);
    }

    /// Ends when the address closes and keeps its connections.
    async fn falls_asleep(&self, awake: &mut watch::Receiver<bool>) {
        if !self.keeps_flows.load(Ordering::Acquire)
            || awake.wait_for(|awake| !awake).await.is_err()
        {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the address opens again; whether the connection is still kept.
    async fn hears_nothing(
        &self,
        awake: &mut watch::Receiver<bool>,
        closed: &CancellationToken,
    ) -> bool {
        tokio::select! {
            woken = awake.wait_for(|awake| *awake) => woken.is_ok(),
            () = closed.cancelled() => false,
        }
    }

    /// Copies both ways until both are over.
    async fn copy(
        &self,
        client: &mut InspectReader<TcpStream, impl FnMut(&[u8])>,
        target: SocketAddr,
    ) -> io::Result<()> {
        let server = TcpStream::connect(target).await.inspect_err(|error| {
            let address = self.public;
            tracing::debug!(%address, %target, %error, "the program cannot be connected to");
            self.refused.notify_one();
        })?;
        // Small answers must not wait for more; a socket that cannot do this still works.
        let _slower = (client.get_ref().set_nodelay(true), server.set_nodelay(true));
        let server = inspected(server, &self.traffic.sent);
        let (from_client, to_client) = tokio::io::split(client);
        let (from_server, to_server) = tokio::io::split(server);
        let mut sending = pin!(pass(from_client, to_server));
        let mut answering = pin!(pass(from_server, to_client));
        tokio::select! {
            answered = &mut answering => {
                answered?;
                Ok(sending.await?)
            }
            sent = &mut sending => match sent {
                Ok(()) => Ok(answering.await?),
                Err(Broken::From(error)) => Err(error),
                Err(Broken::To(error)) => {
                    // What the program has said before it closed is heard all the same.
                    answering.await?;
                    Err(error)
                }
            },
        }
    }
}

/// Which end of a direction broke.
enum Broken {
    From(io::Error),
    To(io::Error),
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::From(error) | Broken::To(error) => error,
        }
    }
}

/// Copies one way until its end, which it hands on, too.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> Result<(), Broken> {
    let mut room = vec![0; PART];
    loop {
        let count = from.read(&mut room).await.map_err(Broken::From)?;
        if count == 0 {
            return to.shutdown().await.map_err(Broken::To);
        }
        let part = room.get(..count).unwrap_or_default();
        to.write_all(part).await.map_err(Broken::To)?;
    }
}

fn listen(address: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address.into())?;
    socket.listen(4096)
}

/// The stream, with a count of the bytes that are read from it.
fn inspected(stream: TcpStream, count: &AtomicU64) -> InspectReader<TcpStream, impl FnMut(&[u8])> {
    InspectReader::new(stream, |bytes| {
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// An address before an application of the test's own.
    async fn address() -> (Arc<AddressProxy>, TcpListener) {
        let clock = Clock::system();
        let proxy = AddressProxy::free(&clock, 8080, |_| false).unwrap();
        let application = TcpListener::bind((proxy.private, 0)).await.unwrap();
        let proxy = Arc::new(proxy);
        let target = application.local_addr().unwrap();
        assert!(proxy.follow(Targets::from([(8080, target)])).is_empty());
        (proxy, application)
    }

    /// A connection through the address, and its other end.
    async fn connect(proxy: &AddressProxy, application: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect((proxy.public, 8080)).await.unwrap();
        let accepting = timeout(Duration::from_secs(10), application.accept()).await;
        let (server, _) = accepting.expect("it leads to the application").unwrap();
        (client, server)
    }

    async fn refuses(proxy: &AddressProxy) -> bool {
        let connected = TcpStream::connect((proxy.public, 8080)).await;
        connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }

    #[tokio::test]
    async fn a_closed_address_refuses_and_cuts_and_an_open_one_leads_where_it_was_told() {
        let (proxy, application) = address().await;
        assert!(refuses(&proxy).await, "closed at first");
        proxy.open();
        let (mut client, mut server) = connect(&proxy, &application).await;
        client.write_all(b"there").await.unwrap();
        let mut read = [0; 5];
        server.read_exact(&mut read).await.unwrap();
        server.write_all(b"back!").await.unwrap();
        client.read_exact(&mut read).await.unwrap();
        let traffic = Arc::clone(&proxy.traffic);
        assert_eq!((traffic.received(), traffic.sent()), (5, 5));
        assert_eq!(traffic.active(|_, port| port == 8080), 1);
        proxy.close().await;
        assert!(client.read(&mut read).await.is_err(), "it is cut");
        assert_eq!(traffic.active(|_, _| true), 0);
        assert!(refuses(&proxy).await);
        proxy.open();
        connect(&proxy, &application).await;
        proxy.follow(Targets::new());
        assert!(refuses(&proxy).await, "it leads nowhere");
    }

    #[tokio::test]
    async fn what_a_program_says_before_it_closes_is_heard_by_whoever_still_sends() {
        let (proxy, application) = address().await;
        proxy.open();
        let (mut client, mut server) = connect(&proxy, &application).await;
        client.write_all(b"one").await.unwrap();
        server.readable().await.unwrap();
        // It has not read everything, so that its close is a reset.
        server.write_all(b"no more").await.unwrap();
        drop(server);
        client.write_all(b"two").await.unwrap();
        let mut read = [0; 7];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"no more");
        assert_eq!(client.read(&mut read).await.unwrap_or(0), 0, "and its end");
    }

    #[tokio::test]
    async fn an_address_that_is_open_already_can_be_opened_and_cuts_nothing() {
        let (proxy, application) = address().await;
        proxy.open();
        let (mut client, mut server) = connect(&proxy, &application).await;
        proxy.open();
        client.write_all(b"there").await.unwrap();
        let mut read = [0; 5];
        server.read_exact(&mut read).await.unwrap();
        connect(&proxy, &application).await;
        proxy.close().await;
        assert!(client.read(&mut read).await.is_err(), "it is cut");
        assert!(refuses(&proxy).await);
    }

    #[tokio::test]
    async fn a_kept_connection_hears_nothing_while_the_address_is_closed_and_goes_on_in_order() {
        let (proxy, application) = address().await;
        proxy.keep_flows();
        proxy.open();
        let (mut client, mut server) = connect(&proxy, &application).await;
        let mut read = [0; 3];
        client.write_all(b"one").await.unwrap();
        server.read_exact(&mut read).await.unwrap();
        proxy.close().await;
        assert!(refuses(&proxy).await, "new ones are refused");
        client.write_all(b"two").await.unwrap();
        server.write_all(b"own").await.unwrap();
        let silent = Duration::from_millis(100);
        let heard = timeout(silent, client.read(&mut read)).await;
        assert!(heard.is_err(), "{heard:?}");
        let heard = timeout(silent, server.read(&mut read)).await;
        assert!(heard.is_err(), "{heard:?}");
        assert_eq!(proxy.traffic.active(|_, _| true), 1, "it is open");
        proxy.open();
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"two");
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"own");
        // For good: nothing is kept.
        proxy.close().await;
        proxy.cut().await;
        assert!(client.read(&mut read).await.is_err(), "it is cut");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_close_that_keeps_connections_accepts_no_other_one_after_it_has_returned() {
        let (proxy, _application) = address().await;
        proxy.keep_flows();
        for round in 0..200 {
            proxy.open();
            proxy.close().await;
            assert!(refuses(&proxy).await, "round {round}");
        }
        assert_eq!(proxy.traffic.active(|_, _| true), 0);
    }

    #[tokio::test]
    async fn a_kept_connection_of_an_earlier_wake_is_cut_for_good_as_well() {
        let (proxy, application) = address().await;
        proxy.keep_flows();
        proxy.open();
        let (mut client, _server) = connect(&proxy, &application).await;
        proxy.close().await;
        proxy.open();
        proxy.cut().await;
        assert_eq!(proxy.traffic.active(|_, _| true), 0, "none is left");
        assert!(client.read(&mut [0]).await.is_err(), "it is cut");
        proxy.open();
        assert!(refuses(&proxy).await, "it was closed for good");
    }

    #[tokio::test]
    async fn a_port_that_leads_elsewhere_from_now_on_stays_open() {
        let (proxy, application) = address().await;
        proxy.open();
        connect(&proxy, &application).await;
        let other = TcpListener::bind((proxy.private, 0)).await.unwrap();
        let target = other.local_addr().unwrap();
        let failed = proxy.follow(Targets::from([(8080, target)]));
        assert!(failed.is_empty(), "{failed:?}");
        connect(&proxy, &other).await;
        // One that is closed and opened again is open.
        proxy.follow(Targets::new());
        let failed = proxy.follow(Targets::from([(8080, target)]));
        assert!(failed.is_empty(), "{failed:?}");
        connect(&proxy, &other).await;
    }

    #[tokio::test]
    async fn whoever_connects_to_a_program_that_has_closed_its_port_makes_it_known() {
        let (proxy, application) = address().await;
        proxy.open();
        // Also where a program that is being started has a copy of it.
        SockRef::from(&application)
            .shutdown(Shutdown::Both)
            .unwrap();
        let mut client = TcpStream::connect((proxy.public, 8080)).await.unwrap();
        let known = timeout(Duration::from_secs(10), proxy.refused.notified());
        known.await.expect("it is made known");
        assert!(client.read(&mut [0]).await.is_err());
    }
}
