//! The lives of a soak's instances: each comes, is asked for by clients of every kind, sleeps, is
//! woken, is deleted, and its name and its address go to others. Every answer is judged.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::PATIENCE;
use crate::support::scripted_app::Application;
use crate::support::scripted_plane::{Scripted, ScriptedPlane};

/// All instances, and their clients.
pub(super) struct Neighbourhood {
    plane: ScriptedPlane,
    listen: SocketAddr,
    /// Applications at addresses that no instance has; the one that was given back first is next.
    free: Mutex<VecDeque<Application>>,
    /// Names of instances that are gone.
    names: Mutex<VecDeque<String>>,
    /// Clients of HTTP/1.1 and HTTP/2, with pools.
    clients: [reqwest::Client; 2],
    /// Between two days of a life.
    pace: Duration,
    pub(super) tally: Tally,
}

/// What was seen.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) born: AtomicU64,
    gets: AtomicU64,
    posts: AtomicU64,
    /// Requests that are not safe to repeat, and whose instance had just fallen asleep.
    broken: AtomicU64,
    streams: AtomicU64,
    sockets: AtomicU64,
    left: AtomicU64,
    not_found: AtomicU64,
    returned: AtomicU64,
}

/// What an instance's application speaks, which is the name of its route's domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    H1,
    H2c,
}

/// An instance's days.
struct Resident {
    number: u64,
    name: String,
    id: String,
    label: String,
    protocol: Protocol,
}

/// Every name leads here.
struct Here(IpAddr);

type WebSocket = WebSocketStream<TcpStream>;

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Clients without connections.
fn clients(listen: SocketAddr) -> [reqwest::Client; 2] {
    let client = || {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
        client.dns_resolver(Arc::new(Here(listen.ip())))
    };
    [
        client().build().unwrap(),
        client().http2_prior_knowledge().build().unwrap(),
    ]
}

impl Resolve for Here {
    fn resolve(&self, _: Name) -> Resolving {
        let addresses: Addrs = Box::new(std::iter::once(SocketAddr::new(self.0, 0)));
        Box::pin(std::future::ready(Ok(addresses)))
    }
}

// === impl Tally ===

impl Tally {
    pub(super) fn answers(&self) -> u64 {
        let counted = [
            &self.gets,
            &self.posts,
            &self.streams,
            &self.sockets,
            &self.not_found,
        ];
        counted
            .map(|kind| kind.load(Ordering::Relaxed))
            .iter()
            .sum()
    }

    /// Everything that a soak is made of has happened.
    pub(super) fn check(&self, expected_births: u64) {
        let born = self.born.load(Ordering::Relaxed);
        assert!(
            born * 5 >= expected_births * 4,
            "{born} instances of {expected_births}"
        );
        for (what, counter) in [
            ("GET", &self.gets),
            ("POST", &self.posts),
            ("stream", &self.streams),
            ("WebSocket", &self.sockets),
            ("client that left", &self.left),
            ("\"not found\"", &self.not_found),
            ("return", &self.returned),
        ] {
            let number = counter.load(Ordering::Relaxed);
            println!("{what}: {number}");
            assert!(number > 0, "no {what}");
        }
        let broken = self.broken.load(Ordering::Relaxed);
        println!("POST or WebSocket that its instance's sleep broke: {broken}");
    }
}

// === impl Protocol ===

impl Protocol {
    fn domain(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::H2c => "h2c",
        }
    }
}

// === impl Neighbourhood ===

impl Neighbourhood {
    pub(super) async fn new(plane: ScriptedPlane, listen: SocketAddr, pace: Duration) -> Arc<Self> {
        let mut free = VecDeque::new();
        for number in 0..128 {
            let label = format!("app-{number}");
            free.push_back(match number % 4 {
                0 => Application::start_h2c(&label).await,
                _ => Application::start(&label).await,
            });
        }
        for app in &free {
            app.power.send_replace(false);
        }
        Arc::new(Self {
            plane,
            listen,
            free: Mutex::new(free),
            names: Mutex::default(),
            clients: clients(listen),
            pace,
            tally: Tally::default(),
        })
    }

    /// The clients close what they have open: as long as a connection of HTTP/2 is, the gateway and
    /// its client ask each other whether they are there.
    pub(super) fn dismiss_clients(&mut self) {
        self.clients = clients(self.listen);
    }

    /// One instance, from its birth to its end.
    pub(super) async fn life(self: Arc<Self>) {
        let number = self.tally.born.fetch_add(1, Ordering::Relaxed);
        let app = self.free.lock().unwrap().pop_front();
        let app = app.expect("lives are short enough for the addresses that there are");
        let old_name = match number % 2 {
            0 => self.names.lock().unwrap().pop_front(),
            _ => None,
        };
        let name = old_name.unwrap_or_else(|| format!("resident-{number}"));
        let born = if number.is_multiple_of(3) {
            "Running"
        } else {
            "Standby"
        };
        let takes = Duration::from_millis(number % 5 * 20);
        let part = Scripted::of(born, &name, &app).restore_takes(takes);
        let resident = Resident {
            number,
            name,
            id: self.plane.add(part),
            label: app.label().to_owned(),
            protocol: if app.is_h2c() {
                Protocol::H2c
            } else {
                Protocol::H1
            },
        };
        // What its name meant before may be remembered for a moment, as "not found" say.
        self.is_found(&resident).await;
        for day in 0..3 {
            let mut socket = None;
            for visit in 0..3 {
                socket = self.visit(&resident, day * 2 + visit).await.or(socket);
            }
            sleep(self.pace).await;
            self.plane.sleep(&resident.id);
            app.has_gone().await;
            if let Some(mut socket) = socket {
                let end = async { while let Some(Ok(_)) = socket.next().await {} };
                timeout(PATIENCE, end).await.expect("it is cut");
            }
            sleep(self.pace / 2).await;
        }
        self.die(&resident, &app).await;
        if number.is_multiple_of(4) {
            self.names.lock().unwrap().push_back(resident.name);
        }
        self.free.lock().unwrap().push_back(app);
    }

    /// It is deleted, awake or asleep; some come back for a moment, as they were.
    async fn die(&self, resident: &Resident, app: &Application) {
        if resident.number % 3 == 1 {
            self.get(resident).await;
        }
        let old = self.plane.delete(&resident.id);
        app.has_gone().await;
        let request = self.request(resident, "GET", "/");
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 404, "{} is gone: {text}", resident.name);
        count(&self.tally.not_found);
        if resident.number.is_multiple_of(5) {
            self.plane.add(old);
            self.is_found(resident).await;
            count(&self.tally.returned);
            self.plane.delete(&resident.id);
        }
    }

    /// One client, of the kind whose turn it is. A WebSocket stays open.
    async fn visit(&self, resident: &Resident, turn: u64) -> Option<WebSocket> {
        match (resident.number + turn) % 6 {
            0 => {
                let crowd = (self.get(resident), self.get(resident), self.get(resident));
                tokio::join!(crowd.0, crowd.1, crowd.2);
            }
            1 => self.post(resident).await,
            2 => {
                // It leaves before or after its answer.
                let request = self.request(resident, "GET", "/").send();
                let patience = Duration::from_millis(resident.number % 30);
                let _left = timeout(patience, request).await;
                count(&self.tally.left);
            }
            3 => {
                let answer = self
                    .request(resident, "GET", "/stream")
                    .send()
                    .await
                    .unwrap();
                assert_eq!(answer.status(), 200, "{}", resident.name);
                let first = answer.bytes_stream().next().await.unwrap();
                assert_eq!(first.unwrap(), "first\n");
                count(&self.tally.streams);
            }
            4 if resident.protocol == Protocol::H1 => {
                let socket = self.websocket(resident).await;
                count(&self.tally.sockets);
                return Some(socket);
            }
            _ => self.get(resident).await,
        }
        None
    }

    fn request(&self, resident: &Resident, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let client = usize::try_from(resident.number % 2).unwrap();
        let host = format!("{}.{}", resident.name, resident.protocol.domain());
        let url = format!("http://{host}:{}{path}", self.listen.port());
        self.clients[client].request(method, url)
    }

    /// Asks until it answers.
    async fn is_found(&self, resident: &Resident) {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.request(resident, "GET", "/").send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            if (status.as_u16(), &text) == (200, &resident.label) {
                return;
            }
            assert!(Instant::now() < end, "{}: {status} {text}", resident.name);
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn get(&self, resident: &Resident) {
        let answer = self.request(resident, "GET", "/").send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(
            (status.as_u16(), &text),
            (200, &resident.label),
            "{}",
            resident.name
        );
        count(&self.tally.gets);
    }

    async fn post(&self, resident: &Resident) {
        let request = self.request(resident, "POST", "/").body("something");
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        match status.as_u16() {
            200 => assert_eq!(text, resident.label),
            // It may have been done already.
            502 if text.contains("upstream_broke") => count(&self.tally.broken),
            status => panic!("POST {}: {status} {text}", resident.name),
        }
        count(&self.tally.posts);
    }

    /// Opens one, once more when the first try was at an instance that slept: it is no more safe
    /// to repeat than a POST.
    async fn websocket(&self, resident: &Resident) -> WebSocket {
        let mut tries = 0;
        let mut socket = loop {
            let stream = TcpStream::connect(self.listen).await.unwrap();
            let url = format!("ws://{}.h1/ws", resident.name);
            let request = url.into_client_request().unwrap();
            let opened = tokio_tungstenite::client_async(request, stream);
            match timeout(PATIENCE, opened).await.unwrap() {
                Ok((socket, _)) => break socket,
                Err(Error::Http(answer)) if answer.status() == 502 && tries == 0 => {
                    count(&self.tally.broken);
                    tries += 1;
                }
                Err(error) => panic!("WebSocket to {}: {error}", resident.name),
            }
        };
        socket.send(Message::text("there?")).await.unwrap();
        let heard = timeout(PATIENCE, socket.next()).await.unwrap();
        assert_eq!(heard.unwrap().unwrap(), Message::text("there?"));
        socket
    }
}
