//! A gateway, what it serves, and an honest client.
//!
//! Guarantees: the gateway has its own defaults but for the number of requests at an instance,
//! which lets more of the hostile ones in; the honest client is of another network than they are,
//! and everything ends with its owner.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::attacks::Reaches;
use crate::limits::app::{Greedy, LONG, Speaks};
use crate::support::gateway_process::GatewayProcess;
use crate::support::number;
use crate::support::reserved::Reserved;
use crate::support::scripted_plane::{Scripted, ScriptedPlane};

/// A client that leaves in the middle of a body that its instance does not take cannot be told from
/// one that waits: its upload is there until this time is over.
const UNANSWERED: &str = "30s";

/// The gateway and what belongs to it.
pub struct Site {
    pub gateway: GatewayProcess,
    /// Listeners with TLS, and for raw TCP.
    pub tls: SocketAddr,
    pub raw: SocketAddr,
    connector: [TlsConnector; 2],
    open: Greedy,
    shared: Greedy,
    flood: Flood,
    networks: u64,
    honest: reqwest::Client,
    _plane: ScriptedPlane,
    _kept: (Greedy, [Reserved; 2], tempfile::TempDir),
}

/// An application that sends without an end, and how many connections it has agreed to.
struct Flood {
    agreed: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

/// An address for an application.
async fn own_address() -> TcpListener {
    loop {
        let noise = [(); 3].map(|()| fastrand::u8(1..255));
        let ip = Ipv4Addr::new(127, 100 + noise[0] % 100, noise[1], noise[2]);
        if let Ok(listener) = TcpListener::bind((ip, 8080)).await {
            return listener;
        }
    }
}

/// Agrees to whatever the head asks for and sends without an end, and reads nothing more.
async fn flood(mut stream: TcpStream, agreed: Arc<AtomicUsize>) {
    let (mut head, mut part) = (Vec::new(), vec![0; 4096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut part).await {
            Ok(count @ 1..) => head.extend_from_slice(&part[..count]),
            Ok(0) | Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head);
    let value = |name: &str| {
        head.lines().find_map(|line| {
            let (other, value) = line.split_once(':')?;
            other.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let mut answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n".to_owned();
    let protocol = value("upgrade").unwrap_or("x");
    answer += &["Upgrade: ", protocol, "\r\n"].concat();
    if let Some(key) = value("sec-websocket-key") {
        let accept = derive_accept_key(key.as_bytes());
        answer += &["Sec-WebSocket-Accept: ", &accept, "\r\n"].concat();
    }
    answer += "\r\n";
    let mut sent = stream.write_all(answer.as_bytes()).await;
    agreed.fetch_add(1, Ordering::SeqCst);
    let part = vec![b'x'; 32 * 1024];
    while sent.is_ok() {
        sent = stream.write_all(&part).await;
    }
}

fn connector(root: &rustls::pki_types::CertificateDer<'static>, protocol: &[u8]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

impl Flood {
    fn serve(listener: TcpListener) -> Self {
        let (agreed, mut serving) = (Arc::<AtomicUsize>::default(), JoinSet::new());
        let counted = Arc::clone(&agreed);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(flood(stream, Arc::clone(&counted)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            agreed,
            _serving: serving,
        }
    }
}

impl Site {
    /// With `environment` more in the gateway's environment.
    pub async fn start(environment: &[(&str, &str)]) -> Self {
        let plane = ScriptedPlane::start().await;
        let (open, ip) = Greedy::start(Speaks::H1).await;
        let (honest, honest_ip) = Greedy::start(Speaks::H1).await;
        let h2c = Speaks::H2 {
            streams: 1000,
            window: 65_535,
        };
        let (shared, shared_ip) = Greedy::start(h2c).await;
        let listener = own_address().await;
        let flood_ip = listener.local_addr().unwrap().ip();
        let flood = Flood::serve(listener);
        let running = [
            ("open", ip),
            ("honest", honest_ip),
            ("shared", shared_ip),
            ("flood", flood_ip),
        ];
        for (name, ip) in running {
            plane.add(Scripted::running(name, ip).id(name));
        }
        let sleeps = Scripted::asleep("sleeps", ip).id("sleeps");
        plane.add(sleeps.restore_takes(Duration::from_secs(600)));

        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["open.test".to_owned()]).unwrap();
        let (cert, key) = (dir.path().join("a.crt"), dir.path().join("a.key"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let reserved = [(); 2].map(|()| Reserved::new());
        let [tls, raw] = reserved.each_ref().map(|one| one.address);
        // Twice what is usual, and all of it for one client.
        let keys = "limits = { max_inflight = 2000, max_inflight_per_client = 2000 }\n";
        let config = format!(
            "[[listener]]\naddress = \"{tls}\"\ntls = {{ cert = \"{}\", key = \"{}\" }}\n\
             [[listener]]\naddress = \"{raw}\"\nmode = \"tcp\"\nhost = \"flood.test\"\n\
             [log]\nlevel = \"error\"\naccess = \"off\"\n\
             [upstream]\nresponse_timeout = \"{UNANSWERED}\"\n\
             [[hypeman]]\nurl = \"http://{}\"\nrestore_timeout = \"10m\"\n\
             [[route]]\nhost = \"{{i}}.test\"\ninstance = \"{{i}}\"\nport = 8080\n{keys}\
             [[route]]\nhost = \"shared.test\"\ninstance = \"shared\"\nport = 8080\n\
             protocol = \"h2c\"\n{keys}",
            cert.display(),
            key.display(),
            plane.address
        );
        let gateway = GatewayProcess::start_in(environment, None, "", &config).await;
        let client = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .local_address(IpAddr::from([127, 9, 9, 9]))
            .resolve("honest.test", gateway.listen);
        let root = made.cert.der();
        Self {
            gateway,
            tls,
            raw,
            connector: [connector(root, b"http/1.1"), connector(root, b"h2")],
            open,
            shared,
            flood,
            networks: number("HOSTILE_NETWORKS").unwrap_or(1),
            honest: client.build().unwrap(),
            _plane: plane,
            _kept: (honest, reserved, dir),
        }
    }

    /// A hostile client's connection, from one of their networks.
    pub async fn connect(&self, to: SocketAddr, index: usize) -> TcpStream {
        let network = u8::try_from(index as u64 % self.networks.min(200)).unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        let from = SocketAddr::from(([127, 0, network, 1], 0));
        socket.bind(from).unwrap();
        socket.connect(to).await.unwrap()
    }

    /// The same with TLS, for HTTP/2 or HTTP/1.1.
    pub async fn connect_tls(&self, http2: bool, index: usize) -> TlsStream<TcpStream> {
        let socket = self.connect(self.tls, index).await;
        let name = ServerName::try_from("open.test").unwrap();
        let connector = &self.connector[usize::from(http2)];
        connector.connect(name, socket).await.unwrap()
    }

    /// How much of what an attack is for it has reached so far.
    pub async fn reached(&self, what: Reaches) -> usize {
        match what {
            Reaches::Nothing => 0,
            Reaches::Open => self.open.asked(),
            Reaches::Shared => self.shared.asked(),
            Reaches::Flood => self.flood.agreed.load(Ordering::SeqCst),
            Reaches::Hold => self.gateway.metric("wakegate_held_requests").await as usize,
        }
    }

    /// How long a request takes that means no harm, on a connection of its own; it gives up after
    /// [`LONG`].
    pub async fn honest_request(&self) -> Duration {
        let began = Instant::now();
        let url = format!("http://honest.test:{}/", self.gateway.listen.port());
        let answer = timeout(LONG, self.honest.get(url).send()).await;
        if let Ok(answer) = answer {
            assert_eq!(answer.unwrap().text().await.unwrap(), "short");
        }
        began.elapsed()
    }
}
