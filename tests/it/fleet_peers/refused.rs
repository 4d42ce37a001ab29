//! Whom a member believes.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wakegate::fleet::{IdentityFiles, Member, PeerIdentity, Role};

use super::World;
use crate::support::fleet::{Authority, CELL, Directory, Node, at, member};
use crate::support::{Gateway, Plane, Wanted, eventually, spawn};

const REFUSED: (u16, &str) = (502, "peer_refused");

/// A caller without a judge, which shows these files, or nothing.
fn config(files: Option<&IdentityFiles>, ca: &Authority, alpn: &[u8]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(ca.dir.path().join("ca.pem")).unwrap();
    roots
        .add(CertificateDer::from_pem_slice(&pem).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match files {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain = CertificateDer::pem_file_iter(&files.cert).unwrap();
            let chain = chain.map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(Anybody));
    config
}

#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

/// Calls a node; an error of the handshake may only show when something is read.
async fn call(node: &Node, config: rustls::ClientConfig) -> std::io::Result<Stream> {
    let socket = TcpStream::connect(&node.member.endpoints[0]).await?;
    let name = ServerName::try_from("x.test").unwrap();
    let connecting = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket);
    let mut stream = connecting.await?;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await?;
    Ok(stream)
}

/// Whether a node lets this caller say anything.
async fn is_heard(node: &Node, config: rustls::ClientConfig) -> bool {
    let Ok(mut stream) = call(node, config).await else {
        return false;
    };
    let mut first = [0; 1];
    matches!(stream.read(&mut first).await, Ok(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_shows_a_certificate_of_the_fleet_its_cell_and_a_role() {
    let (authority, plane) = (Authority::new(), Plane::start().await);
    let node = Node::start(&plane, authority.identity("node", "h-1"), "").await;
    let issue = |file: &str, uri: &str| authority.issue(file, uri);
    let fine = issue("fine", &format!("wakegate://{CELL}/front/f-1"));
    let alpn = b"wakegate/1";
    assert!(is_heard(&node, config(Some(&fine), &authority, alpn)).await);
    let both = issue("both", &format!("wakegate://{CELL}/both/h-2"));
    assert!(is_heard(&node, config(Some(&both), &authority, alpn)).await);

    let stranger = Authority::new();
    let theirs = stranger.issue("theirs", &format!("wakegate://{CELL}/front/f-1"));
    let other_cell = issue("cell", "wakegate://elsewhere/front/f-1");
    let other_role = issue("role", &format!("wakegate://{CELL}/admin/f-1"));
    let no_name = issue("name", "https://test-1/front/f-1");
    // It has no clients whose requests it could pass on.
    let no_front = issue("no-front", &format!("wakegate://{CELL}/node/h-3"));
    for (what, files, alpn) in [
        ("no certificate", None, &alpn[..]),
        ("another CA", Some(&theirs), alpn),
        ("another cell", Some(&other_cell), alpn),
        ("no role", Some(&other_role), alpn),
        ("no name", Some(&no_name), alpn),
        ("a node", Some(&no_front), alpn),
        ("another protocol", Some(&fine), b"h2"),
    ] {
        assert!(
            !is_heard(&node, config(files, &authority, alpn)).await,
            "{what}"
        );
    }
    node.gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_the_one_that_was_meant_gets_nothing() {
    let (authority, plane) = (Authority::new(), Plane::start().await);
    let instance = plane.asleep(Wanted::hello("app")).await;
    let stranger = Authority::new();
    let of = |authority: &Authority, cell: &str, role: &str, name: &str| {
        let files = authority.issue(
            &format!("{cell}-{role}-{name}"),
            &format!("wakegate://{cell}/{role}/{name}"),
        );
        PeerIdentity::load(files, cell).unwrap()
    };
    for (what, identity) in [
        ("another CA", of(&stranger, CELL, "node", "h-1")),
        ("another cell", of(&authority, "elsewhere", "node", "h-1")),
        ("a front", of(&authority, CELL, "front", "h-1")),
        ("another name", of(&authority, CELL, "node", "h-2")),
    ] {
        let directory = Directory::new();
        let node = Node::start(&plane, identity, "").await;
        let meant = member("h-1", Role::Node, node.member.endpoints[0].parse().unwrap());
        directory.put("app", at(&meant, &instance.id));
        let front = Gateway::front(authority.identity("front", "f-1"), &directory, "").await;
        let (status, code, _) = front.client().problem("app").await;
        assert_eq!((status, &*code), REFUSED, "{what}");
        let refused = "wakegate_peer_requests_total{outcome=\"refused\"}";
        assert_eq!(front.metric(refused).await, 1.0);
        front.stop().await;
        node.gateway.stop().await;
    }
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_record_does_not_say_is_refused_on_both_sides() {
    let world = World::new().await;
    let instance = world.plane.asleep(Wanted::hello("app")).await;
    let with_key = |spki| {
        Arc::new(Member {
            spki: Some(spki),
            ..(*world.node.member).clone()
        })
    };
    let own = world.authority.identity("node", "h-9").spki();
    world.directory.put("app", at(&with_key(own), &instance.id));
    let (status, code, _) = world.front.client().problem("app").await;
    assert_eq!((status, &*code), REFUSED);

    // The node has another key for the front.
    let directory = Directory::new();
    let nowhere = ([127, 0, 0, 1], 1).into();
    directory.know(&Arc::new(Member {
        spki: Some([7; 32]),
        ..(*member("f-2", Role::Front, nowhere)).clone()
    }));
    let identity = world.authority.identity("node", "h-2");
    let anywhere = ([127, 0, 0, 1], 0).into();
    let other = Node::start_at(&world.plane, identity, &directory, anywhere, "").await;
    let placed = Directory::new();
    placed.put("app", at(&other.member, &instance.id));
    let identity = world.authority.identity("front", "f-2");
    let front = Gateway::front(identity, &placed, "").await;
    let (status, code, _) = front.client().problem("app").await;
    assert_eq!((status, &*code), REFUSED);
    assert_eq!(world.plane.operations(&instance.id, "restore").await, 0);
    front.stop().await;
    other.gateway.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_the_record_does_not_say_is_refused_on_both_sides() {
    let world = World::new().await;
    let instance = world.plane.asleep(Wanted::hello("app")).await;
    let as_both = Arc::new(Member {
        role: Role::Both,
        ..(*world.node.member).clone()
    });
    world.directory.put("app", at(&as_both, &instance.id));
    let (status, code, _) = world.front.client().problem("app").await;
    assert_eq!((status, &*code), REFUSED);

    let directory = Directory::new();
    directory.know(&member("f-2", Role::Both, ([127, 0, 0, 1], 1).into()));
    let identity = world.authority.identity("node", "h-2");
    let anywhere = ([127, 0, 0, 1], 0).into();
    let other = Node::start_at(&world.plane, identity, &directory, anywhere, "").await;
    let front = world
        .authority
        .issue("f-2", &format!("wakegate://{CELL}/front/f-2"));
    let shown = config(Some(&front), &world.authority, b"wakegate/1");
    assert!(!is_heard(&other, shown).await);
    assert_eq!(world.plane.operations(&instance.id, "restore").await, 0);
    other.gateway.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_at_a_members_first_address_hides_the_second_one_from_nobody() {
    let world = World::new().await;
    let instance = world.plane.listening(Wanted::hello("app")).await;
    let identity = world.authority.identity("node", "h-9");
    let other = Node::start(&world.plane, identity, "").await;
    let addresses = [&other.member, &world.node.member];
    let host = Arc::new(Member {
        endpoints: addresses.map(|one| one.endpoints[0].clone()).to_vec(),
        ..(*world.node.member).clone()
    });
    world.directory.put("app", at(&host, &instance.id));
    assert_eq!(world.front.client().get("app", "/").await.status(), 200);
    other.gateway.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_speaks_another_protocol_with_a_members_certificate_gets_nothing() {
    let (authority, directory) = (Authority::new(), Directory::new());
    let files = authority.issue("h-1", &format!("wakegate://{CELL}/node/h-1"));
    let chain = CertificateDer::pem_file_iter(&files.cert).unwrap();
    let chain = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    // It agrees on no protocol, and speaks HTTP/2 all the same.
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = member("h-1", Role::Node, listener.local_addr().unwrap());
    directory.put("app", at(&host, "x"));
    let heard = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&heard);
    spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let Ok(mut connection) = h2::server::handshake(stream).await else {
                continue;
            };
            while let Some(Ok(_)) = connection.accept().await {
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        }
    });
    let front = Gateway::front(authority.identity("front", "f-1"), &directory, "").await;
    let (status, code, _) = front.client().problem("app").await;
    assert_eq!((status, &*code), REFUSED);
    assert_eq!(heard.load(std::sync::atomic::Ordering::SeqCst), 0);
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_changed_is_in_force_soon_after() {
    let authority = Authority::new();
    let uri = format!("wakegate://{CELL}/node/h-1");
    let identity = PeerIdentity::load(authority.issue("n", &uri), CELL).unwrap();
    let before = identity.spki();
    authority.issue("n", &uri);
    assert!(identity.refresh().unwrap());
    let after = identity.spki();
    assert_ne!(before, after);
    // What cannot be used leaves the old one in force, and is said once.
    authority.issue("n", "wakegate://elsewhere/node/h-1");
    assert!(identity.refresh().is_err());
    assert!(!identity.refresh().unwrap());
    assert_eq!(identity.spki(), after);
}

/// Asks a node as a front would, with these fields; the status and the body.
async fn ask(node: &Node, authority: &Authority, fields: &[(&str, &str)]) -> (u16, String) {
    let files = authority.issue("asking", &format!("wakegate://{CELL}/front/f-1"));
    let socket = TcpStream::connect(&node.member.endpoints[0]).await.unwrap();
    let config = Arc::new(config(Some(&files), authority, b"wakegate/1"));
    let name = ServerName::try_from("x.test").unwrap();
    let connecting = tokio_rustls::TlsConnector::from(config).connect(name, socket);
    let stream = connecting.await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    spawn(async move { drop(connection.await) });
    let mut sender: h2::client::SendRequest<bytes::Bytes> = sender.ready().await.unwrap();
    let mut request = http::Request::builder().uri("https://app.test/");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let (response, _) = sender
        .send_request(request.body(()).unwrap(), true)
        .unwrap();
    let response = response.await.unwrap();
    let (status, mut body) = (response.status().as_u16(), response.into_body());
    let mut text = Vec::new();
    while let Some(part) = body.data().await {
        text.extend_from_slice(&part.unwrap());
    }
    (status, String::from_utf8(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_has_been_passed_on_twice_already_goes_in_a_circle() {
    let (authority, plane) = (Authority::new(), Plane::start().await);
    let instance = plane.asleep(Wanted::hello("app")).await;
    let node = Node::start(&plane, authority.identity("node", "h-1"), "").await;
    for hops in ["2", "3", "4294967295"] {
        let (status, body) = ask(&node, &authority, &[("x-wakegate-hops", hops)]).await;
        assert_eq!(status, 508, "{hops}: {body}");
        assert!(body.contains("\"code\":\"forward_loop\""), "{body}");
    }
    for fields in [
        [("x-wakegate-hops", "nonsense")],
        [("x-wakegate-peer", "nonsense")],
    ] {
        let (status, body) = ask(&node, &authority, &fields).await;
        assert_eq!(status, 400, "{body}");
    }
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    // A member that speaks for itself is served by the node's own route.
    let (status, body) = ask(&node, &authority, &[("x-wakegate-hops", "1")]).await;
    assert_eq!(status, 200, "{body}");
    node.gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_members_say_to_each_other_clients_cannot_say() {
    let world = World::new().await;
    let instance = world.plane.listening(Wanted::hello("app")).await;
    world.claim(&instance);
    let spellings = [
        ("x-wakegate-hops", "9"),
        ("X-Wakegate-Hops", "9"),
        ("x_wakegate_hops", "9"),
        ("X_WAKEGATE-Peer", "nonsense"),
        ("x-wakegate-peer", "nonsense"),
        ("x-wakegate-peer-strip", "/"),
        ("x-wakegate-peer-host", "evil"),
        ("x-wakegate_misplaced", "1"),
        ("x-wakegate-misplaced", "1"),
    ];
    let mut request = world.front.client().request("GET", "app", "/headers");
    for (name, value) in spellings {
        request = request.header(name, value);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let seen = response.text().await.unwrap().to_lowercase();
    assert!(
        !seen.contains("wakegate-hops") && !seen.contains("wakegate_hops"),
        "{seen}"
    );
    assert!(
        !seen.contains("peer") && !seen.contains("misplaced"),
        "{seen}"
    );
    // Nor at a node's own listener for clients.
    let client = world.node.gateway.client();
    let request = client.request("GET", "app", "/headers");
    let request = request.header("x-wakegate-hops", "9");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.text().await.unwrap().contains("hops"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_away_is_said_to_be_and_looked_for_once_a_second() {
    let world = World::new().await;
    let closed = {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        taken.local_addr().unwrap()
    };
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_at = silent.local_addr().unwrap();
    for (name, address) in [("gone", closed), ("mute", silent_at)] {
        let host = member(&format!("h-{name}"), Role::Node, address);
        world.directory.put(name, at(&host, "x"));
        let began = tokio::time::Instant::now();
        let (status, code, after) = world.front.client().problem(name).await;
        assert_eq!((status, &*code), (503, "host_unreachable"), "{name}");
        assert_eq!(after.as_deref(), Some("1"));
        assert!(
            began.elapsed() < std::time::Duration::from_secs(10),
            "{name}"
        );
    }
    let accepted = async {
        let mut count = 0;
        let moment = std::time::Duration::from_millis(50);
        while let Ok(Ok(_)) = tokio::time::timeout(moment, silent.accept()).await {
            count += 1;
        }
        count
    };
    assert_eq!(accepted.await, 1);
    for _ in 0..20 {
        let (status, ..) = world.front.client().problem("mute").await;
        assert_eq!(status, 503);
    }
    let accepted = async {
        let mut count = 0;
        let moment = std::time::Duration::from_millis(50);
        while let Ok(Ok(_)) = tokio::time::timeout(moment, silent.accept()).await {
            count += 1;
        }
        count
    };
    assert!(accepted.await <= 3, "not one for each request");
    world.directory.put(
        "none",
        wakegate::fleet::Place::Unreachable {
            host: "h-none".to_owned(),
        },
    );
    let (status, code, _) = world.front.client().problem("none").await;
    assert_eq!((status, &*code), (503, "host_unreachable"));
    let (status, code, _) = world.front.client().problem("nobody").await;
    assert_eq!((status, &*code), (404, "instance_not_found"));
    eventually("it is counted", async || {
        world.peer_requests("unreachable").await >= 22.0
    })
    .await;
    world.stop().await;
}
