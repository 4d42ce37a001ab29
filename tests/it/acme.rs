//! Certificates by ACME, against Debian's pebble, which looks at names as a real CA does.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::support::reserved::Reserved;
use crate::support::skips::{Lacking, skip};
use crate::support::{
    ConfigFile, Gateway, Plane, Program, Wanted, config, eventually_within, route, wakegate,
};

const PATIENCE: Duration = Duration::from_secs(120);

/// A program that ends with its owner.
struct Tool(Child);

impl Drop for Tool {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// A CA with a DNS in which every name is this machine.
pub(crate) struct Pebble {
    directory: String,
    management: SocketAddr,
    http: Reserved,
    tls: Reserved,
    dir: tempfile::TempDir,
    _own: [Reserved; 4],
    _programs: [Tool; 2],
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

fn run(program: &str, arguments: &[&str], dir: &Path, sleeps: bool) -> Tool {
    let mut command = Command::new(program);
    let mut command = command.args(arguments).current_dir(dir);
    // It refuses some nonces, as it always does.
    if !sleeps {
        command = command.env("PEBBLE_VA_NOSLEEP", "1");
    }
    let command = command.env("PEBBLE_ALTERNATE_ROOTS", "2");
    Tool(
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    )
}

impl Pebble {
    /// Starts it, unless this machine has none: then the test is skipped.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(json!({}), false).await
    }

    /// The same with more of its configuration; `sleeps` says that it waits for seconds before it
    /// looks at a name.
    async fn start_with(more: Value, sleeps: bool) -> Option<Self> {
        if !has("pebble") || !has("pebble-challtestsrv") {
            skip(Lacking::Tool, "this package is not installed: pebble");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let own = [(); 4].map(|()| Reserved::new());
        let [acme, management, dns, dns_management] = own.each_ref().map(|one| one.address);
        let (http, tls) = (Reserved::new(), Reserved::new());
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(dir.path().join("ca.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        let mut config = json!({ "pebble": {
            "listenAddress": acme.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": "ca.pem",
            "privateKey": "key.pem",
            "httpPort": http.address.port(),
            "tlsPort": tls.address.port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        for (key, value) in more.as_object().unwrap() {
            config["pebble"][key] = value.clone();
        }
        std::fs::write(dir.path().join("pebble.json"), config.to_string()).unwrap();
        let (dns, dns_management) = (dns.to_string(), dns_management.to_string());
        let names = [
            ["-dns01", &dns],
            ["-management", &dns_management],
            ["-http01", ""],
            ["-https01", ""],
            ["-tlsalpn01", ""],
            ["-defaultIPv6", ""],
            ["-defaultIPv4", "127.0.0.1"],
        ];
        let names = run("pebble-challtestsrv", &names.concat(), dir.path(), sleeps);
        let ca = ["-strict", "-config", "pebble.json", "-dnsserver", &dns];
        let ca = run("pebble", &ca, dir.path(), sleeps);
        let pebble = Self {
            directory: format!("https://{acme}/dir"),
            management,
            http,
            tls,
            dir,
            _own: own,
            _programs: [names, ca],
        };
        eventually_within(PATIENCE, "the CA answers", async || {
            TcpStream::connect(acme).await.is_ok()
        })
        .await;
        Some(pebble)
    }

    /// `[acme]`, which keeps all in `dir`.
    pub(crate) fn acme(&self, dir: &Path, more: &str) -> String {
        let (directory, ca) = (&self.directory, self.dir.path().join("ca.pem"));
        let (ca, dir) = (ca.display(), dir.display());
        format!(
            "[acme]\ndirectory = \"{directory}\"\nca = \"{ca}\"\ndir = \"{dir}\"\n\
             contact = [\"mailto:ops@wakegate.test\"]\n{more}\n"
        )
    }

    /// Listeners where the CA looks.
    pub(crate) fn listeners(&self, tls: &str) -> String {
        let (http, secure) = (self.http.address, self.tls.address);
        format!(
            "[[listener]]\naddress = \"{http}\"\n[[listener]]\naddress = \"{secure}\"\ntls = {tls}\n"
        )
    }

    /// Where the CA looks at names over TLS.
    pub(crate) fn tls_address(&self) -> SocketAddr {
        self.tls.address
    }

    /// What a client trusts that trusts this CA.
    pub(crate) async fn roots(&self) -> Arc<RootCertStore> {
        let ca = std::fs::read(self.dir.path().join("ca.pem")).unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()]);
        let url = format!("https://{}/roots/0", self.management);
        let root = client
            .build()
            .unwrap()
            .get(url)
            .send()
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&root).unwrap())
            .unwrap();
        Arc::new(roots)
    }
}

/// Whether a handshake for a name succeeds with a certificate that the CA has issued.
pub(crate) async fn is_trusted(at: SocketAddr, roots: &Arc<RootCertStore>, name: &str) -> bool {
    handshake(at, roots, name).await.is_ok()
}

/// The same, and why not.
pub(crate) async fn handshake(
    at: SocketAddr,
    roots: &Arc<RootCertStore>,
    name: &str,
) -> std::io::Result<()> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    let stream = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map(drop)
}

pub(crate) async fn certificates(gateway: &Gateway) -> Vec<Value> {
    let url = format!("http://{}/api/certificates", gateway.admin);
    let all: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    all.as_array().unwrap().clone()
}

pub(crate) async fn orders(gateway: &Gateway, outcome: &str) -> f64 {
    let name = format!("wakegate_acme_orders_total{{outcome=\"{outcome}\"}}");
    gateway.metric(&name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_get_certificates_by_handshakes_and_by_requests_and_nothing_is_woken_for_it() {
    for challenge in ["tls-alpn-01", "http-01"] {
        let Some(pebble) = Pebble::start().await else {
            return;
        };
        let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
        let instance = plane.asleep(Wanted::hello("shop")).await;
        let eager = "wake = { on_tls_hello = true }\nadmission = { rate = \"1000/s\" }";
        let extra = [
            route("shop", eager),
            route("other", "instance = \"shop\"").replace("instance = \"other\"\n", ""),
            pebble.acme(
                &dir.path().join("acme"),
                &format!("challenge = \"{challenge}\""),
            ),
            pebble.listeners("\"acme\""),
        ];
        let gateway = Gateway::start(&plane, &extra.concat()).await;
        let (roots, at) = (pebble.roots().await, pebble.tls.address);
        for name in ["shop.test", "other.test"] {
            eventually_within(PATIENCE, name, async || {
                let all = certificates(&gateway).await;
                all.iter()
                    .any(|one| one["name"] == name && one["not_after"].is_string())
            })
            .await;
        }
        assert_eq!(
            plane.operations(&instance.id, "restore").await,
            0,
            "{challenge}"
        );
        for name in ["shop.test", "other.test"] {
            assert!(is_trusted(at, &roots, name).await, "{name}");
        }
        assert!(!is_trusted(at, &roots, "nobody.test").await);
        assert_eq!(orders(&gateway, "ok").await, 2.0);
        gateway.stop().await;
        // What is there is not ordered again.
        let gateway = Gateway::start(&plane, &extra.concat()).await;
        assert!(is_trusted(at, &roots, "shop.test").await);
        gateway.handle.refresh_certificates();
        assert_eq!(orders(&gateway, "ok").await, 0.0);
        gateway.stop().await;
        plane.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_gateways_on_one_directory_one_orders_and_both_serve() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let extra = |listeners: &str| {
        let acme = pebble.acme(&dir.path().join("acme"), "");
        [route("shop", ""), acme, listeners.to_owned()].concat()
    };
    let elsewhere = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"acme\"\n";
    let first = Gateway::start(&plane, &extra(&pebble.listeners("{ acme = true }"))).await;
    let second = Gateway::start(&plane, &extra(elsewhere)).await;
    let (roots, other) = (pebble.roots().await, second.addresses[1]);
    for at in [pebble.tls.address, other] {
        eventually_within(PATIENCE, "both have it", async || {
            second.handle.refresh_certificates();
            is_trusted(at, &roots, "shop.test").await
        })
        .await;
    }
    assert_eq!(
        orders(&first, "ok").await + orders(&second, "ok").await,
        1.0
    );
    first.stop().await;
    second.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_is_not_there_is_told_of_and_a_stranger_s_challenge_has_no_answer() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let instance = plane.asleep(Wanted::hello("shop")).await;
    let nobody = Reserved::new();
    let acme = dir.path().join("acme");
    let extra = format!(
        "{}[acme]\ndirectory = \"https://{}/dir\"\ndir = {acme:?}\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"acme\"\n",
        route(
            "shop",
            "wake = { on_tls_hello = true }\nadmission = { rate = \"1000/s\" }"
        ),
        nobody.address
    );
    let gateway = Gateway::start(&plane, &extra).await;
    eventually_within(PATIENCE, "the failure is told of", async || {
        let all = certificates(&gateway).await;
        all.len() == 1 && all[0]["error"].is_string() && all[0]["name"] == "shop.test"
    })
    .await;
    assert!(orders(&gateway, "failed").await >= 1.0);
    let ready = reqwest::get(format!("http://{}/readyz", gateway.admin))
        .await
        .unwrap();
    assert_eq!(ready.status(), 200);
    let path = "/.well-known/acme-challenge/unknown";
    let asked = gateway.client().get("shop", path).await;
    assert_eq!(asked.status(), 404);
    // A handshake that looks like a challenge is refused, and wakes nobody.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let stream = TcpStream::connect(gateway.addresses[1]).await.unwrap();
    let name = ServerName::try_from("shop.test").unwrap();
    let error = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("alert"), "{error}");
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    let before = certificates(&gateway).await;
    gateway.stop().await;
    // A gateway that is started again asks no sooner, and still says why.
    let gateway = Gateway::start(&plane, &extra).await;
    eventually_within(PATIENCE, "the failure is still known", async || {
        certificates(&gateway).await == before
    })
    .await;
    assert_eq!(orders(&gateway, "failed").await, 0.0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_a_reload_adds_is_ordered_and_the_ca_is_not_asked_for_a_client_certificate() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let ca = rcgen::generate_simple_self_signed(vec!["clients".to_owned()]).unwrap();
    let client_ca = dir.path().join("clients.pem");
    std::fs::write(&client_ca, ca.cert.pem()).unwrap();
    let acme = dir.path().join("acme");
    let tls = format!("{{ acme = true, client_ca = {client_ca:?}, client_auth = \"required\" }}");
    let extra = |routes: &str| [routes, &pebble.acme(&acme, ""), &pebble.listeners(&tls)].concat();
    let gateway = Gateway::start(&plane, &extra("")).await;
    assert_eq!(certificates(&gateway).await, Vec::<Value>::new());
    let fresh = config(plane.address, &plane.token, &extra(&route("shop", "")));
    gateway.handle.reload(&fresh).unwrap();
    eventually_within(PATIENCE, "the new name has a certificate", async || {
        let all = certificates(&gateway).await;
        all.len() == 1 && all[0]["not_after"].is_string()
    })
    .await;

    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut folders = vec![acme];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder), 0o700, "{folder:?}");
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(mode(&path), 0o600, "{path:?}");
                files += 1;
            }
        }
    }
    assert!(files >= 2, "an account and a certificate");

    let url = format!("http://{}", gateway.admin);
    let shown = async |words: &[&str]| {
        let mut command = wakegate();
        command.args(["certificates", "--url", &url]).args(words);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = output.await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let told: Value = serde_json::from_str(&shown(&["--json"]).await).unwrap();
    assert_eq!(told, Value::from(certificates(&gateway).await));
    let table = shown(&[]).await;
    let expires = told[0]["not_after"].as_str().unwrap();
    assert!(
        table.starts_with("NAME") && table.contains(expires),
        "{table}"
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_demand_a_name_has_its_certificate_with_the_first_handshake_and_a_made_up_one_never() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let instance = plane.asleep(Wanted::hello("shop")).await;
    let acme = pebble.acme(&dir.path().join("acme"), "on_demand = true");
    let extra = [acme, pebble.listeners("\"acme\"")].concat();
    let gateway = Gateway::start(&plane, &extra).await;
    let (roots, at) = (pebble.roots().await, pebble.tls.address);
    let began = Instant::now();
    for name in ["nobody.test", "a.shop.test", "shop.org"] {
        assert!(!is_trusted(at, &roots, name).await, "{name}");
    }
    assert!(began.elapsed() < Duration::from_secs(6));
    assert_eq!(certificates(&gateway).await, Vec::<Value>::new());
    // The first two wait for the same order.
    let (one, other) = tokio::join!(
        is_trusted(at, &roots, "shop.test"),
        is_trusted(at, &roots, "SHOP.test")
    );
    assert!(one && other);
    let made_up = stream::iter(0..10_000).map(|number| {
        let roots = &roots;
        async move {
            let name = format!("made-up-{number}.test");
            assert!(!is_trusted(at, roots, &name).await, "{name}");
        }
    });
    made_up.buffer_unordered(50).collect::<()>().await;
    assert_eq!(certificates(&gateway).await.len(), 1);
    assert_eq!(orders(&gateway, "ok").await, 1.0);
    assert_eq!(orders(&gateway, "failed").await, 0.0);
    gateway.stop().await;
    // It is not ordered again.
    let gateway = Gateway::start(&plane, &extra).await;
    assert!(is_trusted(at, &roots, "shop.test").await);
    assert_eq!(orders(&gateway, "ok").await, 0.0);
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_bound_where_the_ca_wants_it_and_certificates_are_renewed_before_they_end() {
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let more = json!({
        "externalAccountBindingRequired": true,
        "externalAccountMACKeys": { "kid-1": key },
        "certificateValidityPeriod": 12,
    });
    let Some(pebble) = Pebble::start_with(more, false).await else {
        return;
    };
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let extra = |more: &str| {
        let acme = pebble.acme(&dir.path().join("acme"), more);
        [route("shop", ""), acme, pebble.listeners("\"acme\"")].concat()
    };
    let gateway = Gateway::start(&plane, &extra("")).await;
    eventually_within(PATIENCE, "the CA's words are told", async || {
        let told = certificates(&gateway).await;
        let told = told[0]["error"].as_str().unwrap_or_default();
        told.contains("urn:ietf:params:acme:error:externalAccountRequired")
    })
    .await;
    gateway.stop().await;

    let key_file = dir.path().join("eab");
    std::fs::write(&key_file, format!("{key}\n")).unwrap();
    let eab = format!(
        "eab = {{ kid = \"kid-1\", key_file = \"{}\" }}",
        key_file.display()
    );
    let gateway = Gateway::start(&plane, &extra(&eab)).await;
    let (roots, at) = (pebble.roots().await, pebble.tls.address);
    for count in [1.0, 2.0, 3.0] {
        eventually_within(PATIENCE, "a new certificate", async || {
            orders(&gateway, "ok").await >= count
        })
        .await;
        assert!(is_trusted(at, &roots, "shop.test").await, "{count}");
    }
    assert_eq!(orders(&gateway, "failed").await, 0.0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_in_the_middle_of_an_order_hinders_no_later_one() {
    let Some(pebble) = Pebble::start_with(json!({}), true).await else {
        return;
    };
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let acme = dir.path().join("acme");
    let extra = [
        route("shop", ""),
        pebble.acme(&acme, ""),
        pebble.listeners("\"acme\""),
    ];
    let file = ConfigFile::new(&plane, "", &extra.concat());
    let serve = ["serve", "-c", file.path.to_str().unwrap()];
    let mut program = Program::start(&serve);
    eventually_within(PATIENCE, "a challenge is set", async || {
        let set = std::fs::read_dir(acme.join("challenges"));
        set.is_ok_and(|mut set| set.next().is_some())
    })
    .await;
    program.kill();
    let _second = Program::start(&serve);
    let (roots, at) = (pebble.roots().await, pebble.tls.address);
    eventually_within(PATIENCE, "the certificate is there", async || {
        TcpStream::connect(at).await.is_ok() && is_trusted(at, &roots, "shop.test").await
    })
    .await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_names_have_their_certificates_and_a_reload_orders_none_again() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let routes = (0..200)
        .map(|number| format!("[[route]]\nhost = \"n{number}.test\"\ninstance = \"shop\"\n"));
    let acme = pebble.acme(&dir.path().join("acme"), "");
    let extra = [routes.collect(), acme, pebble.listeners("\"acme\"")].concat();
    let gateway = Gateway::start(&plane, &extra).await;
    eventually_within(PATIENCE, "all have one", async || {
        let all = certificates(&gateway).await;
        all.len() == 200 && all.iter().all(|one| one["not_after"].is_string())
    })
    .await;
    let fresh = config(plane.address, &plane.token, &extra);
    gateway.handle.reload(&fresh).unwrap();
    let roots = pebble.roots().await;
    assert!(is_trusted(pebble.tls.address, &roots, "n199.test").await);
    assert_eq!(orders(&gateway, "ok").await, 200.0);
    gateway.stop().await;
    plane.stop().await;
}
