//! TLS to instances: whom the gateway believes, what it shows, and what is carried over it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, IsCa,
    Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{
    ConfigFile, Gateway, Lines, Plane, Program, Wanted, eventually, route, spawn, wakegate,
};

/// A refusal takes no longer, on a machine that is busy with much else.
const SOON: Duration = Duration::from_secs(10);

/// A directory of a CA and of what it has issued.
struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

// === impl Authority ===

impl Authority {
    fn new() -> Self {
        let (dir, key) = (tempfile::tempdir().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self {
            dir,
            issuer,
            certificate,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Issues `name.crt` and `name.key` for these hosts.
    fn issue(&self, name: &str, hosts: &[&str]) {
        self.issue_as(name, hosts, |_| {});
    }

    fn issue_as(&self, name: &str, hosts: &[&str], change: impl Fn(&mut CertificateParams)) {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let (mut params, key) = (
            CertificateParams::new(hosts).unwrap(),
            KeyPair::generate().unwrap(),
        );
        change(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.crt")), leaf.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// Writes the list of those that are revoked.
    fn revoke(&self, serial: u64) {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: date_time_ymd(2025, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        std::fs::write(self.path("crl.pem"), list.pem().unwrap()).unwrap();
    }

    /// An instance of the demo server with a certificate.
    fn secure(&self, instance: &str, certificate: &str) -> Wanted {
        let [cert, key] = ["crt", "key"].map(|end| self.path(&format!("{certificate}.{end}")));
        Wanted::hello(instance)
            .env("HELLO_TLS_CERT", cert.to_str().unwrap())
            .env("HELLO_TLS_KEY", key.to_str().unwrap())
    }

    /// Keys of a route that believes this CA, and these further keys of `upstream_tls`.
    fn believed(&self, protocol: &str, more: &str) -> String {
        let ca = self.path("ca.pem");
        let ca = ca.display();
        format!("protocol = \"{protocol}\"\nupstream_tls = {{ ca = \"{ca}\"{more} }}\n")
    }

    /// A server's configuration with this certificate.
    fn server(&self, certificate: &str, alpn: &[&[u8]], asks: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match asks {
            false => builder.with_no_client_auth(),
            true => {
                let mut roots = RootCertStore::empty();
                roots.add(self.certificate.der().clone()).unwrap();
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let file = |end: &str| std::fs::read(self.path(&format!("{certificate}.{end}"))).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(&file("crt")).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(&file("key")).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

/// An application of the test's own that speaks HTTP/2 over TLS and says what it got.
fn serve_h2(listener: TcpListener, config: Arc<ServerConfig>, connections: Arc<AtomicUsize>) {
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            spawn(async move {
                let stream = match acceptor.accept(stream).into_fallible().await {
                    Ok(stream) => stream,
                    // What it says is read before the connection ends.
                    Err((_, mut stream)) => {
                        let _end = stream.read_to_end(&mut Vec::new()).await;
                        return;
                    }
                };
                let service = service_fn(|request: Request<Incoming>| async {
                    let version = format!("{:?} {}", request.version(), request.uri());
                    let body = request.into_body().collect().await?.to_bytes();
                    let text = format!("{version} {}", body.len());
                    Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(text))))
                });
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ended = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}

/// The ledger's entries about an instance, the newest first.
async fn wakes(gateway: &Gateway, name: &str) -> Vec<serde_json::Value> {
    let url = format!("http://{}/api/wakes", gateway.admin);
    let all: serde_json::Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    let wakes = all.as_array().unwrap().iter();
    wakes.filter(|wake| wake["name"] == name).cloned().collect()
}

/// Names of instances whose TLS is refused, and what is said of it.
const REFUSED: [(&str, &str); 5] = [
    ("expired", "expired"),
    ("named", "not for the name named.test"),
    ("own", "self-signed"),
    ("revoked", "revoked"),
    ("clear", "does not speak TLS"),
];

/// Puts those instances to sleep; their ids, and their routes.
async fn refused(plane: &Plane, authority: &Authority) -> (Vec<String>, String) {
    authority.issue_as("expired", &["expired.test"], |params| {
        (params.not_before, params.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    authority.issue("named", &["somebody.else.test"]);
    authority.issue_as("revoked", &["revoked.test"], |params| {
        params.serial_number = Some(SerialNumber::from(77_u64));
    });
    authority.revoke(77);
    let own = rcgen::generate_simple_self_signed(vec!["own.test".to_owned()]).unwrap();
    std::fs::write(authority.path("own.crt"), own.cert.pem()).unwrap();
    std::fs::write(authority.path("own.key"), own.signing_key.serialize_pem()).unwrap();
    let crl = format!(", crl = \"{}\"", authority.path("crl.pem").display());
    let (mut ids, mut routes) = (Vec::new(), String::new());
    for (name, _) in REFUSED {
        let wanted = match name {
            "clear" => Wanted::hello(name),
            _ => authority.secure(name, name),
        };
        let more = if name == "revoked" { &*crl } else { "" };
        ids.push(plane.asleep(wanted).await.id);
        routes.push_str(&route(name, &authority.believed("https", more)));
    }
    (ids, routes)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_why_a_certificate_is_refused_after_a_wake_and_when_it_is_awake() {
    let (plane, authority) = (Plane::start().await, Authority::new());
    let (_, routes) = refused(&plane, &authority).await;
    let file = ConfigFile::new(&plane, "", &routes);
    let mut program = Program::start(&["serve", "-c", file.path.to_str().unwrap()]);
    let mut log = Lines::of(program.0.stderr.take().unwrap());
    eventually("it serves", async || {
        let ready = reqwest::get(format!("http://{}/readyz", file.admin)).await;
        ready.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (name, reason) in REFUSED {
        for _ in 0..2 {
            let asked = client.get(format!("http://{}/", file.listen));
            let asked = asked.header("host", format!("{name}.test")).send();
            assert_eq!(asked.await.unwrap().status(), 502, "{name}");
        }
        let says = |line: &String| {
            let named = format!("name={name}");
            line.contains(&named) && line.contains("upstream_tls") && line.contains(reason)
        };
        log.say("upstream_tls", 1).await;
        eventually(&format!("{name}: {reason}"), async || {
            log.say("upstream_tls", 1).await;
            log.story.iter().any(says)
        })
        .await;
    }
    program.kill();
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_certificate_is_a_refusal_at_once_with_its_reason_and_one_restore() {
    let (plane, authority) = (Plane::start().await, Authority::new());
    let (ids, routes) = refused(&plane, &authority).await;
    let gateway = Gateway::start(&plane, &routes).await;
    for ((name, reason), id) in REFUSED.into_iter().zip(&ids) {
        for _ in 0..2 {
            let began = Instant::now();
            let (status, code, _) = gateway.client().problem(name).await;
            assert_eq!((status, code.as_str()), (502, "upstream_tls"), "{name}");
            assert!(began.elapsed() < SOON, "{name}: {:?}", began.elapsed());
        }
        assert_eq!(plane.operations(id, "restore").await, 1, "{name}");
        let wakes = wakes(&gateway, name).await;
        let failed: Vec<_> = wakes.iter().filter(|w| w["outcome"] == "failed").collect();
        assert_eq!(failed.len(), 1, "{wakes:?}");
        assert_eq!(failed[0]["code"], "upstream_tls");
        let told = failed[0]["reason"].as_str().unwrap();
        assert!(told.contains(reason), "{name}: {told}");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_with_the_right_certificate_is_served_over_tls_and_sessions_are_resumed() {
    let (plane, authority) = (Plane::start().await, Authority::new());
    authority.issue("shop", &["shop.internal"]);
    authority.revoke(1);
    let instance = plane.asleep(authority.secure("shop", "shop")).await;
    let crl = authority.path("crl.pem");
    let keys = authority.believed(
        "https",
        &format!(", server_name = \"{{app}}.internal\", crl = {crl:?}"),
    );
    let route = format!(
        "[[route]]\nhost = \"{{app}}.shops.test\"\ninstance = \"{{app}}\"\n{keys}\
         wake = {{ ready = \"health\", health_path = \"/\", warmup = \"/count\" }}\n"
    );
    let gateway = Gateway::start(&plane, &route).await;
    let (http, url) = (
        reqwest::Client::new(),
        format!("http://{}", gateway.address),
    );
    let ask = |request: reqwest::RequestBuilder| request.header("host", "shop.shops.test").send();
    let first = ask(http.get(format!("{url}/headers"))).await.unwrap();
    assert_eq!(first.status(), 200, "{:?}", first.text().await);
    // A body that TLS takes in many records comes whole, both ways.
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    let echoed = ask(http.post(format!("{url}/echo")).body(body.clone())).await;
    assert!(echoed.unwrap().bytes().await.unwrap() == body);
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let request = "ws://shop.shops.test/ws".into_client_request().unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream)
        .await
        .unwrap();
    socket.send(Message::text("over tls")).await.unwrap();
    let heard = socket.next().await.unwrap().unwrap();
    assert!(heard.to_text().unwrap().contains("over tls"), "{heard:?}");
    // The connection of before is the tunnel's now.
    let again = ask(http.get(format!("{url}/headers"))).await.unwrap();
    assert_eq!(again.status(), 200);
    assert_eq!(plane.operations(&instance.id, "restore").await, 1);
    let resumed = "wakegate_upstream_tls_handshakes_total{outcome=\"resumed\"}";
    assert!(
        gateway.metric(resumed).await > 0.0,
        "another connection resumes a session"
    );
    drop(socket);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_believed_by_one_name_and_refused_by_another_and_neither_disturbs_the_other()
{
    let (plane, authority) = (Plane::start().await, Authority::new());
    authority.issue("wild", &["good.wild.test"]);
    plane.listening(authority.secure("wild", "wild")).await;
    let keys = authority.believed("https", "");
    let route = format!("[[route]]\nhost = \"*.wild.test\"\ninstance = \"wild\"\n{keys}");
    let gateway = Gateway::start(&plane, &route).await;
    let http = reqwest::Client::new();
    for _ in 0..3 {
        for (host, status) in [("bad", 502), ("good", 200), ("good", 200), ("other", 502)] {
            let request = http.get(format!("http://{}/", gateway.address));
            let answer = request
                .header("host", format!("{host}.wild.test"))
                .send()
                .await;
            assert_eq!(answer.unwrap().status(), status, "{host}");
        }
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_verification_anybody_is_believed_and_the_operator_is_warned() {
    let (plane, authority) = (Plane::start().await, Authority::new());
    authority.issue("any", &["nobody.test"]);
    plane.asleep(authority.secure("any", "any")).await;
    let keys = "protocol = \"https\"\nupstream_tls = { verify = false }\n";
    let gateway = Gateway::start(&plane, &route("any", keys)).await;
    assert_eq!(gateway.client().get("any", "/").await.status(), 200);
    gateway.stop().await;
    let file = authority.path("wakegate.toml");
    std::fs::write(&file, route("any", keys)).unwrap();
    let checked = check(&file);
    assert!(
        checked.0 && checked.1.contains("unverified_tls"),
        "{}",
        checked.1
    );
    plane.stop().await;
}

/// Whether `wakegate check` accepts a file, and what it says.
fn check(file: &Path) -> (bool, String) {
    let mut command = wakegate();
    let checked = command
        .args(["check", "--json", "-c"])
        .arg(file)
        .output()
        .unwrap();
    let said = [checked.stdout, checked.stderr].concat();
    (checked.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn check_refuses_what_serve_would_refuse() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.issue("own", &["own.test"]);
    other.issue("own", &["own.test"]);
    let [cert, key, ca] = ["own.crt", "own.key", "ca.pem"].map(|name| authority.path(name));
    let strange = other.path("own.key");
    std::fs::write(authority.path("empty.pem"), "").unwrap();
    let empty = authority.path("empty.pem");
    for (keys, key_at_fault) in [
        (format!("upstream_tls = {{ ca = {ca:?} }}"), "upstream_tls"),
        (
            "protocol = \"https\"\nupstream_tls = { ca = \"/nowhere/ca.pem\" }".to_owned(),
            "upstream_tls.ca",
        ),
        (
            format!("protocol = \"h2\"\nupstream_tls = {{ ca = {empty:?} }}"),
            "upstream_tls.ca",
        ),
        (
            format!("protocol = \"h2\"\nupstream_tls = {{ ca = {key:?} }}"),
            "upstream_tls.ca",
        ),
        (
            format!(
                "protocol = \"https\"\nupstream_tls = {{ ca = {ca:?}, client_cert = {cert:?} }}"
            ),
            "upstream_tls.client_key",
        ),
        (
            format!(
                "protocol = \"https\"\nupstream_tls = {{ ca = {ca:?}, client_cert = {cert:?}, \
                 client_key = {strange:?} }}"
            ),
            "upstream_tls.client_key",
        ),
        (
            format!("protocol = \"https\"\nupstream_tls = {{ ca = {ca:?}, crl = {ca:?} }}"),
            "upstream_tls.crl",
        ),
        (
            format!(
                "protocol = \"https\"\nupstream_tls = {{ ca = {ca:?}, server_name = \"{{x}}.y\" }}"
            ),
            "upstream_tls.server_name",
        ),
        (
            format!("protocol = \"https\"\nupstream_tls = {{ ca = {ca:?}, verify = false }}"),
            "upstream_tls.ca",
        ),
    ] {
        let file = authority.path("wakegate.toml");
        std::fs::write(&file, route("own", &keys)).unwrap();
        let (accepted, said) = check(&file);
        assert!(!accepted, "{keys}: {said}");
        let key = format!("\"route[0].{key_at_fault}\"");
        assert!(said.contains(&key), "{keys}: {said}");
    }
    let file = authority.path("wakegate.toml");
    let keys = format!(
        "protocol = \"h2\"\nupstream_tls = {{ ca = {ca:?}, client_cert = {cert:?}, client_key = {key:?} }}"
    );
    std::fs::write(&file, route("own", &keys)).unwrap();
    let (accepted, said) = check(&file);
    assert!(accepted, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_over_h2_where_the_route_says_so_and_an_instance_without_it_is_told_of() {
    let (plane, authority) = (Plane::start().await, Authority::new());
    authority.issue("both", &["modern.test", "ancient.test", "mute.test"]);
    let connections = Arc::new(AtomicUsize::new(0));
    let mut routes = String::new();
    for (name, alpn) in [
        ("modern", &[b"h2".as_slice(), b"http/1.1"][..]),
        ("ancient", &[b"http/1.1".as_slice()]),
        ("mute", &[]),
    ] {
        let (_, listener) = plane.own_origin(name).await;
        let config = authority.server("both", alpn, false);
        serve_h2(listener, config, Arc::clone(&connections));
        routes.push_str(&route(name, &authority.believed("h2", "")));
    }
    let gateway = Gateway::start(&plane, &routes).await;
    let client = gateway.client();
    let text = client.get("modern", "/a?b").await.text().await.unwrap();
    assert_eq!(text, "HTTP/2.0 https://modern.test/a?b 0");
    let large = vec![7_u8; 1_000_000];
    let asked = client.request("POST", "modern", "/").body(large);
    let text = asked.send().await.unwrap().text().await.unwrap();
    assert_eq!(text, "HTTP/2.0 https://modern.test/ 1000000");
    assert_eq!(
        connections.load(Ordering::SeqCst),
        1,
        "the probe's, which carries both"
    );
    for name in ["ancient", "mute"] {
        let began = Instant::now();
        let (status, code, _) = client.problem(name).await;
        assert_eq!((status, code.as_str()), (502, "upstream_invalid"), "{name}");
        assert!(began.elapsed() < SOON);
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_calls_pass_over_h2() {
    let (plane, authority) = (Plane::start().await, Authority::new());
    authority.issue("rpc", &["rpc.test"]);
    let (_, listener) = plane.own_origin("rpc").await;
    let config = authority.server("rpc", &[b"h2"], false);
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(Arc::clone(&config));
            spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service = service_fn(|request: Request<Incoming>| async {
                    assert_eq!(request.headers()["te"], "trailers");
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    let body = request.into_body().collect().await?.to_bytes();
                    let body = Full::new(body).with_trailers(async { Some(Ok(trailers)) });
                    let response = Response::builder().header("content-type", "application/grpc");
                    Ok::<_, hyper::Error>(response.body(body).unwrap())
                });
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ended = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let gateway = Gateway::start(&plane, &route("rpc", &authority.believed("h2", ""))).await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = made.await.unwrap();
    spawn(async move { drop(connection.await) });
    let request = Request::post("http://rpc.test/wakegate.Hello/Echo")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let message = Bytes::from_static(b"\0\0\0\0\x02hi");
    let request = request.body(Full::new(message.clone())).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), message);
    drop(sender);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_asks_for_a_certificate_is_shown_the_route_s() {
    let (plane, authority) = (Plane::start().await, Authority::new());
    authority.issue("strict", &["strict.test", "bare.test"]);
    authority.issue("gateway", &["gateway.test"]);
    let mut routes = String::new();
    for name in ["strict", "bare"] {
        let (_, listener) = plane.own_origin(name).await;
        let config = authority.server("strict", &[b"h2"], true);
        serve_h2(listener, config, Arc::default());
        let [cert, key] = ["gateway.crt", "gateway.key"].map(|file| authority.path(file));
        let more = match name {
            "strict" => format!(", client_cert = {cert:?}, client_key = {key:?}"),
            _ => String::new(),
        };
        routes.push_str(&route(name, &authority.believed("h2", &more)));
    }
    let gateway = Gateway::start(&plane, &routes).await;
    assert_eq!(gateway.client().get("strict", "/").await.status(), 200);
    let (status, code, _) = gateway.client().problem("bare").await;
    assert_eq!((status, code.as_str()), (502, "upstream_tls"));
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_closes_before_tls_answers_is_waited_for_after_a_wake() {
    let (plane, authority) = (Plane::start().await, Authority::new());
    authority.issue("slow", &["slow.test"]);
    let (id, listener) = plane.own_origin("slow").await;
    plane.sleep(id.as_str()).await;
    let config = authority.server("slow", &[b"h2"], false);
    let (connections, hello) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, heard) = (Arc::clone(&connections), Arc::clone(&hello));
    spawn(async move {
        // It closes some at once, and some when it has read what the gateway says first.
        for number in 0..6 {
            let (mut stream, _) = listener.accept().await.unwrap();
            if number % 2 == 1 {
                let mut bytes = [0; 1024];
                heard.fetch_add(stream.read(&mut bytes).await.unwrap(), Ordering::SeqCst);
            }
        }
        serve_h2(listener, config, counted);
    });
    let gateway = Gateway::start(&plane, &route("slow", &authority.believed("h2", ""))).await;
    let answer = gateway.client().get("slow", "/").await;
    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    assert!(hello.load(Ordering::SeqCst) > 0 && connections.load(Ordering::SeqCst) == 1);
    assert_eq!(plane.operations(id.as_str(), "restore").await, 1);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_are_used_for_new_connections_and_bad_ones_change_nothing() {
    let (plane, authority, other) = (Plane::start().await, Authority::new(), Authority::new());
    other.issue("late", &["late.test"]);
    plane.listening(other.secure("late", "late")).await;
    let gateway = Gateway::start(&plane, &route("late", &authority.believed("https", ""))).await;
    let status = async || gateway.client().get("late", "/").await.status().as_u16();
    assert_eq!(status().await, 502);
    let roots = std::fs::read(other.path("ca.pem")).unwrap();
    std::fs::write(authority.path("ca.pem"), roots).unwrap();
    gateway.handle.refresh_certificates();
    assert_eq!(status().await, 200);
    std::fs::write(authority.path("ca.pem"), "nothing").unwrap();
    gateway.handle.refresh_certificates();
    eventually("the old ones stay", async || status().await == 200).await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_names_no_host_of_a_certificate_gets_a_refusal_and_wakes_nobody() {
    let (plane, authority) = (Plane::start().await, Authority::new());
    authority.issue("odd", &["odd.test"]);
    let instance = plane.asleep(authority.secure("odd", "odd")).await;
    let keys = authority.believed("https", "");
    let route = format!("[[route]]\nhost = \"*\"\ninstance = \"odd\"\n{keys}");
    let gateway = Gateway::start(&plane, &route).await;
    let ask = async |at: SocketAddr, host: &str| {
        let request = reqwest::Client::new().get(format!("http://{at}/"));
        request
            .header("host", host)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(ask(gateway.address, "123.456").await, 502);
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hooks_of_a_workload_go_over_tls_as_its_requests_do() {
    let (plane, authority) = (Plane::start().await, Authority::new());
    authority.issue("shop", &["shop.test"]);
    plane.asleep(authority.secure("shop", "shop")).await;
    let hooks = "[route.wake.hooks]\nresumed = \"/echo\"\nbefore_standby = \"/echo\"\n";
    let route = route("shop", &authority.believed("https", "")) + hooks;
    let gateway = Gateway::start(&plane, &route).await;
    assert_eq!(gateway.client().get("shop", "/").await.status(), 200);
    let standby = format!("http://{}/api/instances/shop/standby", gateway.admin);
    let standby = reqwest::Client::new().post(standby).send().await.unwrap();
    assert_eq!(standby.status(), 200);
    for hook in ["resumed", "before_standby"] {
        let ok = format!("wakegate_hooks_total{{hook=\"{hook}\",outcome=\"ok\"}}");
        assert_eq!(gateway.metric(&ok).await, 1.0, "{hook}");
    }
    gateway.stop().await;
    plane.stop().await;
}
