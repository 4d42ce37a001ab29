//! The world as a network: connections, requests, and what goes on for long on one.
//!
//! Guarantees: a packet to an instance that sleeps or is gone is lost, without FIN and RST; what
//! arrives is held against what it was meant for.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use wakegate::instance_tls::TlsHop;
use wakegate::proxy::dispatch::Transport;
use wakegate::upstream::{ForwardError, Hop};
use wakegate::wake::{Dialer, Endpoint, OpenConnection};

use super::{Odd, View, World};

/// Between two signs of life of what goes on for long.
const BEAT: Duration = Duration::from_millis(300);
/// The longest wait for a response.
const RESPONSE: Duration = Duration::from_secs(20);

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// A response at once.
    Get,
    /// The same, and not to be repeated.
    Post,
    /// A body that takes so many milliseconds; not to be repeated.
    Upload(u64),
    /// A connection of its own for so many milliseconds; `true`: with nothing on it.
    Tunnel(u64, bool),
    /// A stream for so long on a connection that it shares.
    Stream(u64),
}

/// A request.
#[derive(Debug, Clone)]
pub struct Parcel {
    pub number: u32,
    pub errand: Errand,
    /// The name or id that it is for, and when it came.
    pub name: String,
    pub began: Instant,
}

/// A connection.
#[derive(Debug)]
pub struct Stream {
    pub(super) world: World,
    pub(super) id: String,
    pub(super) stretch: u64,
}

/// A connection that is counted.
#[derive(Debug)]
struct Counted {
    stream: Stream,
    open: Mutex<OpenConnection>,
    /// It is not given to others any more.
    broken: Mutex<bool>,
}

/// The connection that streams of one epoch share.
#[derive(Debug, Default)]
struct Shared(Mutex<Weak<Counted>>);

/// A response's head, and the connection of what goes on.
#[derive(Debug)]
pub struct Answered {
    connection: Option<Arc<Counted>>,
    endpoint: Endpoint,
    number: u32,
    errand: Errand,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut inner = self.world.0.lock().unwrap();
        let (id, stretch) = (self.id.clone(), self.stretch);
        if let Some(vm) = inner.by_id(&id).filter(|vm| vm.stretch == stretch) {
            vm.open = vm.open.saturating_sub(1);
            vm.idle_since = Instant::now();
        }
    }
}

impl Counted {
    fn sent(&self) {
        self.open.lock().unwrap().sent(Instant::now());
    }

    fn heard(&self) {
        self.open.lock().unwrap().heard(Instant::now());
    }
}

impl Errand {
    pub fn may_repeat(self) -> bool {
        !matches!(self, Self::Post | Self::Upload(_))
    }

    /// How long its response or its connection takes at most.
    pub fn takes(self) -> Duration {
        Duration::from_millis(match self {
            Self::Get | Self::Post => 400,
            Self::Upload(ms) | Self::Tunnel(ms, _) | Self::Stream(ms) => ms,
        })
    }
}

impl Answered {
    /// What goes on after the head, until its own end or that of its epoch.
    pub async fn go_on(self, view: &View) {
        let Some(connection) = &self.connection else {
            return;
        };
        let is_quiet = matches!(self.errand, Errand::Tunnel(_, true));
        let end = Instant::now() + self.errand.takes();
        let life = async {
            loop {
                sleep_until(end.min(Instant::now() + BEAT)).await;
                if !view.world.is_alive(&connection.stream) {
                    // Nothing comes any more.
                    std::future::pending::<()>().await;
                }
                if Instant::now() >= end {
                    return;
                }
                if !is_quiet {
                    connection.sent();
                    connection.heard();
                }
            }
        };
        tokio::select! {
            biased;
            () = self.endpoint.cut().cancelled() => {
                view.world.tell(&format!("request {}: its connection is cut", self.number));
                view.check_cut(&self.endpoint);
            }
            () = life => {}
        }
    }
}

impl View {
    async fn counted(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(Stream, OpenConnection)>,
    ) -> Result<Counted, ForwardError> {
        let (stream, mut open) = match given {
            Some(given) => given,
            None => {
                let open = endpoint.open_connection();
                let connect = Dialer::connect(self, endpoint.address(hop.port));
                let connected = timeout(Duration::from_millis(250), connect).await;
                match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok(stream) => (stream, open),
                    Err(source) => return Err(ForwardError::Connect(source)),
                }
            }
        };
        open.established();
        Ok(Counted {
            stream,
            open: Mutex::new(open),
            broken: Mutex::new(false),
        })
    }

    /// The connection that streams share, or a new one.
    async fn shared(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(Stream, OpenConnection)>,
    ) -> Result<Arc<Counted>, ForwardError> {
        let shared = endpoint.belongings();
        let shared = shared.get_or_insert(hop.port, Shared::default);
        let there = shared.0.lock().unwrap().upgrade();
        if let Some(there) = there.filter(|there| !*there.broken.lock().unwrap()) {
            return Ok(there);
        }
        let made = Arc::new(self.counted(endpoint, hop, given).await?);
        *shared.0.lock().unwrap() = Arc::downgrade(&made);
        Ok(made)
    }

    /// A request comes to what the connection leads to; whether anybody takes it.
    fn arrive(&self, endpoint: &Endpoint, stream: &Stream, parcel: &Parcel) -> bool {
        if !self.world.is_alive(stream) {
            return false;
        }
        let mut inner = self.world.lock();
        let meant = endpoint.instance().as_str().to_owned();
        inner
            .delivered
            .entry(parcel.number)
            .or_default()
            .push(meant);
        inner.tell(&format!(
            "request {} arrives at {}",
            parcel.number, stream.id
        ));
        if stream.id == endpoint.instance().as_str() {
            let (id, name) = (stream.id.as_str(), parcel.name.as_str());
            if let Err(why) = inner.may_reach(self.gateway, id, name, parcel.began) {
                inner.wrong(format!(
                    "request {} for {name} arrived at {id}: {why}",
                    parcel.number
                ));
            }
        } else if inner
            .by_id(&stream.id)
            .is_some_and(|vm| World::long_since(vm.ip_since))
        {
            inner.wrong(format!(
                "request {} for {} arrived at {}",
                parcel.number,
                endpoint.instance(),
                stream.id
            ));
        }
        true
    }
}

impl Dialer for View {
    type Stream = Stream;

    async fn connect(&self, address: SocketAddr) -> io::Result<Stream> {
        sleep(Duration::from_micros(100)).await;
        let outcome = {
            let mut inner = self.world.lock();
            let mut vms = inner.vms.iter_mut();
            match vms.find(|vm| vm.ip == address.ip()) {
                // A vanished TAP swallows the handshake.
                None => None,
                Some(vm) if !matches!(vm.state, "Running" | "Initializing") => None,
                Some(vm) if Instant::now() < vm.listens_at => {
                    Some(Err(io::ErrorKind::ConnectionRefused.into()))
                }
                Some(vm) => {
                    vm.open += 1;
                    Some(Ok(Stream {
                        world: self.world.clone(),
                        id: vm.id.clone(),
                        stretch: vm.stretch,
                    }))
                }
            }
        };
        match outcome {
            Some(outcome) => outcome,
            None => std::future::pending().await,
        }
    }

    async fn secure(&self, stream: Stream, _: &TlsHop) -> io::Result<Stream> {
        Ok(stream)
    }

    async fn get(&self, address: SocketAddr, _: &str, _: Option<&TlsHop>) -> io::Result<u16> {
        let stream = self.connect(address).await?;
        let mut inner = self.world.lock();
        let vm = inner.by_id(&stream.id);
        let status = match vm.is_some_and(|vm| vm.is(Odd::Unhealthy)) {
            true => 503,
            false => 200,
        };
        // The stream's end takes the lock, too.
        drop(inner);
        Ok(status)
    }
}

impl Transport for View {
    type Stream = Stream;
    type Request = Parcel;
    type Response = Answered;

    async fn send(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(Stream, OpenConnection)>,
        parcel: &mut Parcel,
        _now: Instant,
    ) -> Result<Answered, ForwardError> {
        // A request that is sent again may be the first to be sent there.
        self.note_epoch(endpoint);
        let (stale, breaks, before, takes) = {
            let mut inner = self.world.lock();
            let troubles = inner.troubles;
            let mut random = inner.random("send", &parcel.number.to_string());
            let stale = random.u8(0..100) < troubles.stale;
            let breaks = random.u8(0..100) < troubles.breaks;
            (stale, breaks, random.bool(), random.u64(0..400))
        };
        if stale && given.is_none() {
            self.world.tell(&format!(
                "request {} meets a stale connection",
                parcel.number
            ));
            return Err(ForwardError::Unsent);
        }
        if endpoint.cut().is_cancelled() {
            return Err(ForwardError::Severed);
        }
        let connecting = async {
            match parcel.errand {
                Errand::Stream(_) => self.shared(endpoint, hop, given).await,
                _ => self.counted(endpoint, hop, given).await.map(Arc::new),
            }
        };
        let connection = tokio::select! {
            biased;
            () = endpoint.cut().cancelled() => {
                self.check_cut(endpoint);
                return Err(ForwardError::Severed);
            }
            connection = connecting => connection?,
        };
        if breaks && before {
            self.world.tell(&format!(
                "request {} breaks before it arrives",
                parcel.number
            ));
            *connection.broken.lock().unwrap() = true;
            return Err(ForwardError::Broken("broke".into()));
        }
        // It arrives, if the instance is still what the connection was made to.
        let arrived = self.arrive(endpoint, &connection.stream, parcel);
        let takes = match parcel.errand {
            Errand::Upload(ms) => ms,
            _ => takes,
        };
        let answered = async {
            let end = Instant::now() + Duration::from_millis(takes);
            while Instant::now() < end {
                sleep_until(end.min(Instant::now() + BEAT)).await;
                connection.sent();
            }
            if !arrived || !self.world.is_alive(&connection.stream) {
                // Asleep: nothing comes any more, not even a reset.
                std::future::pending::<()>().await;
            }
        };
        let limit = RESPONSE + Duration::from_millis(takes);
        tokio::select! {
            biased;
            () = endpoint.cut().cancelled() => {
                self.world.tell(&format!("request {} is cut", parcel.number));
                self.check_cut(endpoint);
                Err(ForwardError::Severed)
            }
            answered = timeout(limit, answered) => match answered {
                Ok(()) => {
                    connection.heard();
                    if breaks {
                        *connection.broken.lock().unwrap() = true;
                        return Err(ForwardError::Broken("broke".into()));
                    }
                    let goes_on = matches!(parcel.errand, Errand::Tunnel(..) | Errand::Stream(_));
                    Ok(Answered {
                        connection: goes_on.then_some(connection),
                        endpoint: endpoint.clone(),
                        number: parcel.number,
                        errand: parcel.errand,
                    })
                }
                Err(_) => Err(ForwardError::TimedOut),
            },
        }
    }

    fn may_repeat(&self, parcel: &Parcel) -> bool {
        parcel.errand.may_repeat()
    }

    fn status(&self, _: &Answered) -> u16 {
        200
    }
}
