//! Session tickets: whom they resume a session with, and whom not.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::certificates::{Issued, issued, server_certificate};
use crate::support::{Gateway, Plane, eventually};

/// The tickets of a client, which shows them to everybody, whatever the name.
#[derive(Debug, Default)]
struct Tickets(
    Mutex<Vec<Tls13ClientSessionValue>>,
    Mutex<Option<Tls12ClientSessionValue>>,
);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        *self.1.lock().unwrap() = Some(session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.1.lock().unwrap().clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        *self.1.lock().unwrap() = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.0.lock().unwrap().push(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().unwrap().pop()
    }
}

/// A client that remembers its tickets.
struct Visitor {
    config: Arc<ClientConfig>,
    tickets: Arc<Tickets>,
}

impl Visitor {
    fn new(root: &str, identity: Option<&Issued>) -> Self {
        Self::speaking(&rustls::version::TLS13, root, identity)
    }

    fn speaking(
        version: &'static SupportedProtocolVersion,
        root: &str,
        identity: Option<&Issued>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(root.as_bytes()).unwrap();
        roots.add(root).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let text = issued.leaf.as_bytes();
                let chain = vec![CertificateDer::from_pem_slice(text).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(text).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let tickets = Arc::<Tickets>::default();
        config.resumption = Resumption::store(Arc::clone(&tickets) as _);
        let config = Arc::new(config);
        Self { config, tickets }
    }

    /// Whether a connection resumes a session. It stays until the server has given a ticket, if it
    /// gives any.
    async fn resumes(&self, at: SocketAddr, name: &'static str) -> bool {
        let stream = TcpStream::connect(at).await.unwrap();
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let name = ServerName::try_from(name).unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let kind = stream.get_ref().1.handshake_kind();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: nobody.test\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        let _answer = timeout(Duration::from_secs(10), stream.read_to_end(&mut Vec::new())).await;
        kind == Some(HandshakeKind::Resumed)
    }

    fn forgets(&self) {
        self.tickets.0.lock().unwrap().clear();
        *self.tickets.1.lock().unwrap() = None;
    }

    fn has_tickets(&self) -> bool {
        let Tickets(new, old) = &*self.tickets;
        !new.lock().unwrap().is_empty() || old.lock().unwrap().is_some()
    }
}

/// Both versions.
const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// A listener with TLS and these further keys.
fn listener(dir: &Path, keys: &str) -> String {
    let path = dir.display();
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ cert = \"{path}/cert.pem\", key = \
         \"{path}/key.pem\"{keys} }}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_resumes_at_another_gateway_and_after_a_restart_under_its_own_name_alone() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let root = server_certificate(dir.path(), &["one.test", "other.test"]);
    let tickets = dir.path().join("keys/tickets");
    let extra = format!(
        "[tickets]\ndir = {tickets:?}\nrotate = \"1h\"\n{}",
        listener(dir.path(), "")
    );
    let first = Gateway::start(&plane, &extra).await;
    let second = Gateway::start(&plane, &extra).await;
    let visitor = Visitor::new(&root, None);
    assert!(!visitor.resumes(first.addresses[1], "one.test").await);
    assert!(visitor.has_tickets());
    assert!(visitor.resumes(second.addresses[1], "one.test").await);
    assert!(visitor.has_tickets());
    assert!(
        !visitor.resumes(first.addresses[1], "other.test").await,
        "another name"
    );
    first.stop().await;
    second.stop().await;
    let again = Gateway::start(&plane, &extra).await;
    assert!(
        visitor.resumes(again.addresses[1], "other.test").await,
        "after a restart"
    );
    // With other keys nobody knows the tickets of before.
    again.stop().await;
    std::fs::write(tickets.join("ring"), "damaged").unwrap();
    let fresh = Gateway::start(&plane, &extra).await;
    assert!(visitor.has_tickets());
    assert!(!visitor.resumes(fresh.addresses[1], "other.test").await);
    assert!(visitor.resumes(fresh.addresses[1], "other.test").await);
    fresh.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_of_tls_1_2_resumes_under_its_own_name_alone_too() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let root = server_certificate(dir.path(), &["one.test", "other.test"]);
    let tickets = dir.path().join("keys");
    let extra = format!("[tickets]\ndir = {tickets:?}\n{}", listener(dir.path(), ""));
    let first = Gateway::start(&plane, &extra).await;
    let second = Gateway::start(&plane, &extra).await;
    let visitor = Visitor::speaking(&rustls::version::TLS12, &root, None);
    assert!(!visitor.resumes(first.addresses[1], "one.test").await);
    assert!(visitor.has_tickets());
    assert!(visitor.resumes(second.addresses[1], "one.test").await);
    assert!(visitor.has_tickets());
    assert!(
        !visitor.resumes(first.addresses[1], "other.test").await,
        "another name"
    );
    first.stop().await;
    second.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_must_show_a_certificate_shows_it_each_time() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let root = server_certificate(dir.path(), &["members.test"]);
    let member = issued("member");
    std::fs::write(dir.path().join("ca.pem"), &member.ca).unwrap();
    let (tickets, ca) = (dir.path().join("tickets"), dir.path().join("ca.pem"));
    let asking = |how: &str| {
        let keys = format!(", client_ca = {ca:?}, client_auth = \"{how}\"");
        listener(dir.path(), &keys)
    };
    let extra = [
        format!("[tickets]\ndir = {tickets:?}\n"),
        listener(dir.path(), ""),
        asking("required"),
        asking("optional"),
    ];
    let gateway = Gateway::start(&plane, &extra.concat()).await;
    let [_, open, required, optional] = gateway.addresses[..] else {
        panic!("{:?}", gateway.addresses);
    };
    for version in VERSIONS {
        let visitor = Visitor::speaking(version, &root, Some(&member));
        for at in [required, optional] {
            assert!(!visitor.resumes(at, "members.test").await);
            assert!(!visitor.has_tickets(), "none is given");
            assert!(!visitor.resumes(open, "members.test").await);
            assert!(visitor.has_tickets());
            assert!(!visitor.resumes(at, "members.test").await, "none is taken");
            visitor.forgets();
        }
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_while_the_gateway_runs() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let root = server_certificate(dir.path(), &["one.test"]);
    let tickets = dir.path().join("tickets");
    let extra = format!(
        "[tickets]\ndir = {tickets:?}\nrotate = \"1s\"\n{}",
        listener(dir.path(), "")
    );
    let gateway = Gateway::start(&plane, &extra).await;
    let keys = || {
        let text = std::fs::read_to_string(tickets.join("ring")).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let before = keys();
    eventually("none of the keys of before is left", async || {
        gateway.handle.refresh_certificates();
        let now = keys();
        before[1..before.len() - 1]
            .iter()
            .all(|key| !now.contains(key))
    })
    .await;
    let visitor = Visitor::new(&root, None);
    visitor.resumes(gateway.addresses[1], "one.test").await;
    assert!(visitor.resumes(gateway.addresses[1], "one.test").await);
    gateway.stop().await;
    plane.stop().await;
}
