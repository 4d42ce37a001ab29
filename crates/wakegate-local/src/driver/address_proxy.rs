//! An instance's own network address, which can be opened and closed.
//!
//! Guarantees: while open, each port that the program listens at on its private address
//! (127.78.x.y) is reachable at its public one (127.77.x.y) within a few milliseconds, and a port
//! that it does not listen at is refused; closing cuts every connection and refuses new ones at
//! once, as a removed TAP would; half-closed connections stay half-closed.
//!
//! A frozen process' own sockets would go on accepting into their backlog, which would hide every
//! race that matters; hence this proxy in front of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connections::ConnectionTable;
use crate::clock::Clock;
use crate::policy::auto_standby::Policy;

/// The pauses between two looks for the program's listeners: while it comes up, and later.
const LOOK_COMING_UP: Duration = Duration::from_millis(2);
const LOOK_LATER: Duration = Duration::from_millis(100);
const COMING_UP: Duration = Duration::from_secs(10);

/// The bytes and the events of an address.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
    /// The time when a connection that counts was last opened or closed, in µs; 0 is never.
    last_event: AtomicI64,
    /// The policy that says which connections count.
    pub(crate) policy: ArcSwapOption<Policy>,
}

/// An instance's address, which is closed at first.
#[derive(Debug)]
pub(super) struct AddressProxy {
    pub(super) public: Ipv4Addr,
    pub(super) private: Ipv4Addr,
    port: u16,
    clock: Clock,
    pub(super) traffic: Arc<Traffic>,
    /// Nothing while it is closed.
    open: Mutex<Option<OpenAddress>>,
    /// The ports that were open when the address was last closed.
    ports: Mutex<BTreeSet<u16>>,
}

/// What runs while an address is open.
#[derive(Debug)]
struct OpenAddress {
    closed: CancellationToken,
    tasks: TaskTracker,
}

// === impl Traffic ===

impl Traffic {
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn last_event(&self) -> Option<Timestamp> {
        match self.last_event.load(Ordering::Relaxed) {
            0 => None,
            micros => Timestamp::from_microsecond(micros).ok(),
        }
    }

    /// Takes over what another counter has counted.
    pub(in crate::driver) fn replace(&self, received: u64, sent: u64) {
        self.received.store(received, Ordering::Relaxed);
        self.sent.store(sent, Ordering::Relaxed);
    }

    fn note(&self, source: Ipv4Addr, port: u16, now: Timestamp) {
        let counts = self
            .policy
            .load()
            .as_ref()
            .is_none_or(|policy| policy.counts(source, port));
        if counts {
            self.last_event
                .store(now.as_microsecond(), Ordering::Relaxed);
        }
    }
}

// === impl AddressProxy ===

impl AddressProxy {
    /// The address `127.77.x.y`, in front of a program at `127.78.x.y`.
    pub(super) fn new(clock: Clock, low: [u8; 2], port: u16) -> Self {
        let [x, y] = low;
        Self {
            public: Ipv4Addr::new(127, 77, x, y),
            private: Ipv4Addr::new(127, 78, x, y),
            port,
            clock,
            traffic: Arc::default(),
            open: Mutex::default(),
            ports: Mutex::default(),
        }
    }

    /// A random address at whose `port` nobody listens, neither we (`used`) nor another control
    /// plane.
    pub(super) fn free(clock: &Clock, port: u16, used: impl Fn(Ipv4Addr) -> bool) -> Option<Self> {
        let free = |ip| std::net::TcpListener::bind((ip, port)).is_ok();
        (0..1000)
            .map(|_| {
                Self::new(
                    clock.clone(),
                    [fastrand::u8(..), fastrand::u8(1..=254)],
                    port,
                )
            })
            .find(|new| !used(new.public) && free(new.public) && free(new.private))
    }

    /// Names the ports that are to be open when the address is opened the first time.
    pub(super) fn expect(&self, ports: &BTreeSet<u16>) {
        ports.clone_into(&mut self.ports.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Opens the address. Ports that were open before are open again when this returns.
    pub(super) fn open(self: &Arc<Self>) {
        let open = OpenAddress {
            closed: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let mut listeners = BTreeMap::new();
        let before = self
            .ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for port in before {
            self.open_port(port, &open, &mut listeners);
        }
        let watcher = Arc::clone(self).watch(open.closed.clone(), open.tasks.clone(), listeners);
        open.tasks.spawn(watcher);
        let replaced = self
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(open);
        if let Some(replaced) = replaced {
            replaced.closed.cancel();
        }
    }

    /// Closes the address; when this returns, every connection is cut.
    pub(super) async fn close(&self) {
        let open = self
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(open) = open else { return };
        open.closed.cancel();
        open.tasks.close();
        open.tasks.wait().await;
    }

    /// Opens and closes ports as the program does.
    async fn watch(
        self: Arc<Self>,
        closed: CancellationToken,
        tasks: TaskTracker,
        mut listeners: BTreeMap<u16, CancellationToken>,
    ) {
        let open = OpenAddress { closed, tasks };
        let opened = Instant::now();
        loop {
            // A table that cannot be read now is read again at the next look.
            if let Ok(table) = ConnectionTable::read() {
                let listening: BTreeSet<u16> = table.listening(self.private).collect();
                listeners.retain(|port, token| {
                    let stays = listening.contains(port);
                    if !stays {
                        token.cancel();
                    }
                    stays
                });
                for port in listening {
                    self.open_port(port, &open, &mut listeners);
                }
                let open = listeners.keys().copied().collect();
                *self.ports.lock().unwrap_or_else(PoisonError::into_inner) = open;
            }
            let coming_up = !listeners.contains_key(&self.port) && opened.elapsed() < COMING_UP;
            let pause = if coming_up {
                LOOK_COMING_UP
            } else {
                LOOK_LATER
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = open.closed.cancelled() => return,
            }
        }
    }

    fn open_port(
        self: &Arc<Self>,
        port: u16,
        open: &OpenAddress,
        listeners: &mut BTreeMap<u16, CancellationToken>,
    ) {
        if listeners.contains_key(&port) {
            return;
        }
        let listener = match listen(SocketAddrV4::new(self.public, port)) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(address = %self.public, port, %error, "cannot open the instance's port");
                return;
            }
        };
        let token = open.closed.child_token();
        listeners.insert(port, token.clone());
        let serve = Arc::clone(self).serve(
            listener,
            port,
            token,
            open.closed.clone(),
            open.tasks.clone(),
        );
        open.tasks.spawn(serve);
    }

    /// Accepts until the port closes; connections go on until the address does.
    async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        port: u16,
        port_closed: CancellationToken,
        closed: CancellationToken,
        tasks: TaskTracker,
    ) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = port_closed.cancelled() => return,
            };
            match accepted {
                Ok((client, peer)) => {
                    let source = match peer.ip() {
                        std::net::IpAddr::V4(source) => source,
                        std::net::IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
                    };
                    tasks.spawn(Arc::clone(&self).proxy(client, source, port, closed.clone()));
                }
                // Out of descriptors, most likely: others will be freed.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Serves one connection from its beginning to its end.
    async fn proxy(
        self: Arc<Self>,
        client: TcpStream,
        source: Ipv4Addr,
        port: u16,
        closed: CancellationToken,
    ) {
        self.traffic.note(source, port, self.clock.now());
        let target = SocketAddrV4::new(self.private, port);
        let mut client = counted(client, &self.traffic.received);
        let copied = async {
            let server = TcpStream::connect(target).await?;
            // Small answers must not wait for more; a socket that cannot do this still works.
            let _slower = (client.get_ref().set_nodelay(true), server.set_nodelay(true));
            let mut server = counted(server, &self.traffic.sent);
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        };
        let result = tokio::select! {
            result = copied => result.map(drop),
            () = closed.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        if result.is_err() {
            // A reset, since there was no orderly end. Without it the cut is only less abrupt.
            let _gentler =
                socket2::SockRef::from(client.get_ref()).set_linger(Some(Duration::ZERO));
        }
        drop(client);
        self.traffic.note(source, port, self.clock.now());
    }
}

fn listen(address: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address.into())?;
    socket.listen(4096)
}

/// The stream, with a count of the bytes that are read from it.
fn counted(stream: TcpStream, count: &AtomicU64) -> InspectReader<TcpStream, impl FnMut(&[u8])> {
    InspectReader::new(stream, |bytes| {
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    })
}
