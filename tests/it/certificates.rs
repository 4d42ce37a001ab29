//! Certificates of clients, stapled answers, and a CA of this machine's own.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::support::{Gateway, Plane, Wanted, config, eventually};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;

/// A CA and a certificate that it has issued, with its key, in PEM.
pub struct Issued {
    pub ca: String,
    pub leaf: String,
}

pub fn issued(name: &str) -> Issued {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    Issued {
        ca: ca.pem(),
        leaf: leaf.pem() + &key.serialize_pem(),
    }
}

pub fn server_certificate(dir: &Path, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.pem()
}

pub fn client(address: SocketAddr, root: &str, name: &str) -> reqwest::ClientBuilder {
    let root = reqwest::Certificate::from_pem(root.as_bytes()).unwrap();
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([root])
        .resolve(name, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_shows_a_certificate_of_the_right_ca_and_the_instance_is_told_which() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let instance = plane.asleep(Wanted::hello("members")).await;
    let root = server_certificate(dir.path(), &["members.test"]);
    let (known, stranger) = (issued("member"), issued("stranger"));
    std::fs::write(dir.path().join("ca.pem"), &known.ca).unwrap();
    let path = dir.path().display();
    let listener = |auth: &str| {
        format!(
            "[listener.tls]\ncert = \"{path}/cert.pem\"\nkey = \"{path}/key.pem\"\n\
             client_ca = \"{path}/ca.pem\"\n{auth}"
        )
    };
    let gateway = Gateway::start(&plane, &listener("")).await;
    let url = format!("https://members.test:{}/headers", gateway.address.port());
    let with = |identity: Option<&Issued>| {
        let builder = client(gateway.address, &root, "members.test");
        let builder = match identity {
            Some(issued) => {
                builder.identity(reqwest::Identity::from_pem(issued.leaf.as_bytes()).unwrap())
            }
            None => builder,
        };
        builder.build().unwrap().get(&url).send()
    };
    assert!(with(None).await.is_err(), "nobody comes in without one");
    assert!(with(Some(&stranger)).await.is_err());
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    let heard: Vec<(String, String)> = with(Some(&known)).await.unwrap().json().await.unwrap();
    let told = heard.iter().find(|(name, _)| name == "client-cert");
    let told = &told.unwrap().1;
    let der: String = known
        .leaf
        .lines()
        .skip(1)
        .take_while(|l| !l.starts_with('-'))
        .collect();
    assert_eq!(told, &format!(":{der}:"));
    // A new CA is believed from the next connection on, and the old one no more.
    std::fs::write(dir.path().join("ca.pem"), &stranger.ca).unwrap();
    gateway.handle.refresh_certificates();
    assert!(with(Some(&known)).await.is_err());
    assert_eq!(with(Some(&stranger)).await.unwrap().status(), 200);
    gateway.stop().await;

    // Where it is optional, a client cannot say that it has shown one.
    let gateway = Gateway::start(&plane, &listener("client_auth = \"optional\"\n")).await;
    let url = format!("https://members.test:{}/headers", gateway.address.port());
    let client = client(gateway.address, &root, "members.test")
        .build()
        .unwrap();
    let asked = client.get(url).header("client-cert", ":aGk=:");
    let heard: Vec<(String, String)> = asked.send().await.unwrap().json().await.unwrap();
    assert!(
        !heard.iter().any(|(name, _)| name == "client-cert"),
        "{heard:?}"
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_a_reload_removes_takes_its_series_along() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    server_certificate(dir.path(), &["one.test"]);
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let secure = format!(
        "[[listener]]\naddress = \"127.0.0.2:0\"\ntls = {{ cert = {cert:?}, key = {key:?} }}\n"
    );
    let gateway = Gateway::start(&plane, &secure).await;
    let series = async |address: SocketAddr| {
        let text = reqwest::get(format!("http://{}/metrics", gateway.admin));
        let text = text.await.unwrap().text().await.unwrap();
        let of = format!("{{listener=\"{address}\"}}");
        let lines = text.lines().filter(|line| line.contains(&of));
        lines
            .map(|line| line.split('{').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let (clear, removed) = (gateway.addresses[0], gateway.addresses[1]);
    let of_each = [
        "wakegate_listener_connections",
        "wakegate_listener_accepted_total",
    ];
    eventually("its certificate's expiry is there", async || {
        series(removed).await.len() == 3
    })
    .await;
    assert_eq!(series(clear).await, of_each);
    let without = config(plane.address, &plane.token, "");
    gateway.handle.reload(&without).unwrap();
    eventually("the listener's series are gone", async || {
        series(removed).await.is_empty()
    })
    .await;
    assert_eq!(series(clear).await, of_each);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machines_own_ca_makes_a_certificate_for_each_name_and_stays_the_same() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    for name in ["one", "two"] {
        plane.listening(Wanted::hello(name)).await;
    }
    let own = dir.path().join("ca");
    let listener = format!("[listener.tls]\ninternal = \"{}\"\n", own.display());
    let mut roots = Vec::new();
    for _ in 0..2 {
        let gateway = Gateway::start(&plane, &listener).await;
        let status = reqwest::get(format!("http://{}/api/status", gateway.admin));
        let status: serde_json::Value = status.await.unwrap().json().await.unwrap();
        let file = status["ca"][0].as_str().unwrap();
        assert_eq!(
            Path::new(file),
            own.join("ca.crt"),
            "status says where it is"
        );
        let root = std::fs::read_to_string(file).unwrap();
        for name in ["one.test", "two.test"] {
            let client = client(gateway.address, &root, name).build().unwrap();
            let url = format!("https://{name}:{}/", gateway.address.port());
            assert_eq!(client.get(url).send().await.unwrap().status(), 200);
        }
        roots.push(root);
        gateway.stop().await;
    }
    assert_eq!(roots[0], roots[1]);
    let mode = std::fs::metadata(own.join("ca.key"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    plane.stop().await;
}

/// Trusts everything, and keeps what was stapled.
#[derive(Debug, Default)]
struct Stapled(std::sync::Mutex<Vec<u8>>);

impl ServerCertVerifier for Stapled {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = ocsp.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = aws_lc_rs::default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ocsp_answer_is_stapled_and_an_old_version_refused() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    server_certificate(dir.path(), &["stapled.test"]);
    let path = dir.path().display();
    std::fs::write(dir.path().join("ocsp.der"), b"the CA's word").unwrap();
    let listener = format!(
        "[listener.tls]\ncert = \"{path}/cert.pem\"\nkey = \"{path}/key.pem\"\n\
         ocsp = \"{path}/ocsp.der\"\nmin_version = \"1.3\"\n"
    );
    let gateway = Gateway::start(&plane, &listener).await;
    let handshake = async |version: &'static rustls::SupportedProtocolVersion| {
        let verifier = Arc::new(Stapled::default());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
            .with_no_client_auth();
        let stream = TcpStream::connect(gateway.address).await.unwrap();
        let name = ServerName::try_from("stapled.test").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let done = connector.connect(name, stream).await.map(drop);
        done.map(|()| verifier.0.lock().unwrap().clone())
    };
    assert_eq!(
        handshake(&rustls::version::TLS13).await.unwrap(),
        b"the CA's word"
    );
    assert!(handshake(&rustls::version::TLS12).await.is_err());
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_chooses_the_cipher_suite_unless_a_client_prefers_chacha20() {
    use rustls::crypto::aws_lc_rs::cipher_suite as suite;
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    server_certificate(dir.path(), &["suites.test"]);
    let path = dir.path().display();
    let listener =
        format!("[listener.tls]\ncert = \"{path}/cert.pem\"\nkey = \"{path}/key.pem\"\n");
    let gateway = Gateway::start(&plane, &listener).await;
    let new = [
        suite::TLS13_AES_256_GCM_SHA384,
        suite::TLS13_AES_128_GCM_SHA256,
        suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    let old = [
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    for all in [new, old] {
        for (order, expected) in [([0, 1, 2], 0), ([1, 2, 0], 0), ([2, 1, 0], 2)] {
            let mut provider = aws_lc_rs::default_provider();
            provider.cipher_suites = order.map(|position: usize| all[position]).to_vec();
            let config = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_safe_default_protocol_versions()
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Stapled::default()))
                .with_no_client_auth();
            let stream = TcpStream::connect(gateway.address).await.unwrap();
            let name = ServerName::try_from("suites.test").unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let stream = connector.connect(name, stream).await.unwrap();
            let chosen = stream.get_ref().1.negotiated_cipher_suite().unwrap();
            assert_eq!(chosen.suite(), all[expected].suite(), "{order:?}");
        }
    }
    gateway.stop().await;
    plane.stop().await;
}
