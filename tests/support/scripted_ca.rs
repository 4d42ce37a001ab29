//! A CA that speaks ACME and plays the part which a test writes for it, over a real socket.
//!
//! Guarantees: without a part of its own, an order is answered as RFC 8555 says, with `replaces`
//! (RFC 9773) and profiles, but nobody's name is looked at; a nonce is good once; each request is kept
//! with what it said; certificates are signed for the key of the request; what is started ends with its
//! owner.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "what no step has of its own is the same for all others"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData,
    SignatureAlgorithm,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::spawn;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Directory,
    Nonce,
    Account,
    Order,
    Authorization,
    Challenge,
    /// How an order stands.
    State,
    Finalize,
    Certificate,
    /// When to renew.
    Renewal,
    Unknown,
}

/// A request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub step: Step,
    pub path: String,
    /// What was signed; null for a request without.
    pub payload: Value,
    protected: Value,
    /// How many of its step came, with this one.
    pub count: usize,
}

/// What a request gets.
#[derive(Debug, Clone)]
pub enum Say {
    /// The answer by the RFCs.
    Usual,
    /// This one.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// None: what is asked for is not done.
    Hang,
    /// None, although it is done.
    Lost,
    /// The answer by the RFCs, when the test says so.
    Wait(Arc<Notify>),
}

type Part = Box<dyn FnMut(&Asked) -> Say + Send>;

/// The CA.
pub struct ScriptedCa {
    pub directory: String,
    shared: Arc<Shared>,
    dir: tempfile::TempDir,
    task: JoinHandle<()>,
}

struct Shared {
    base: String,
    stage: Mutex<Stage>,
    roots: [Authority; 2],
    /// The same issuer, certified by either root.
    intermediates: [String; 2],
    issuer: Issuer<'static, KeyPair>,
}

struct Authority {
    certificate: CertificateDer<'static>,
}

struct Stage {
    part: Part,
    asked: Vec<Asked>,
    nonces: BTreeSet<String>,
    accounts: BTreeSet<usize>,
    /// Which account a public key has.
    keys: BTreeMap<String, usize>,
    orders: Vec<Order>,
    made: usize,
    /// Seconds from now on.
    life: (i64, i64),
    has_alternate: bool,
}

struct Order {
    name: String,
    replaces: Option<Value>,
    is_proven: bool,
    chain: Option<String>,
}

/// The key of a certificate request.
struct PublicKey(Vec<u8>);

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// Reads the key out of a request (RFC 2986 §4).
fn key_of(request: &[u8]) -> PublicKey {
    let read = yasna::parse_der(request, |reader| {
        reader.read_sequence(|parts| {
            let key = parts.next().read_sequence(|info| {
                info.next().read_u8()?;
                info.next().read_der()?;
                let key = info.next().read_sequence(|key| {
                    key.next().read_der()?;
                    Ok(key.next().read_bitvec_bytes()?.0)
                })?;
                info.read_optional(|attributes| attributes.read_der().map(drop))?;
                Ok(key)
            })?;
            for _algorithm_signature in 0..2 {
                parts.next().read_der()?;
            }
            Ok(key)
        })
    });
    PublicKey(read.unwrap())
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn moment(seconds: i64) -> Duration {
    let at = Timestamp::now() + SignedDuration::from_secs(seconds);
    Duration::from_secs(at.as_second().try_into().unwrap())
}

// === impl Say ===

impl Say {
    /// A refusal in the words of RFC 8555 §6.7.
    pub fn problem(status: u16, kind: &str) -> Self {
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        let body = json!({ "type": kind, "detail": "so says the test", "status": status });
        Self::Answer(status, Vec::new(), body.to_string())
    }

    /// What is no answer of a CA.
    pub fn text(status: u16, text: &str) -> Self {
        Self::Answer(status, Vec::new(), text.to_owned())
    }

    #[must_use]
    pub fn with_field(self, name: &'static str, value: &str) -> Self {
        match self {
            Self::Answer(status, mut fields, body) => {
                fields.push((name, value.to_owned()));
                Self::Answer(status, fields, body)
            }
            other => other,
        }
    }
}

// === impl ScriptedCa ===

impl ScriptedCa {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://{}", listener.local_addr().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(dir.path().join("ca.pem"), own.cert.pem()).unwrap();
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], PrivateKeyDer::from(key))
            .unwrap();
        let issuing = KeyPair::generate().unwrap();
        let made = ["scripted root one", "scripted root two"].map(|name| {
            let (params, key) = (ca_params(name), KeyPair::generate().unwrap());
            let certificate = params.self_signed(&key).unwrap();
            let root = Issuer::new(params, key);
            let certified = ca_params("scripted issuer").signed_by(&issuing, &root);
            let authority = Authority {
                certificate: certificate.der().clone(),
            };
            (authority, certified.unwrap().pem())
        });
        let [(one, by_one), (two, by_two)] = made;
        let shared = Arc::new(Shared {
            base: base.clone(),
            stage: Mutex::new(Stage {
                part: Box::new(|_| Say::Usual),
                asked: Vec::new(),
                nonces: BTreeSet::new(),
                accounts: BTreeSet::new(),
                keys: BTreeMap::new(),
                orders: Vec::new(),
                made: 0,
                life: (-3600, 90 * 86_400),
                has_alternate: false,
            }),
            roots: [one, two],
            intermediates: [by_one, by_two],
            issuer: Issuer::new(ca_params("scripted issuer"), issuing),
        });
        let served = Arc::clone(&shared);
        let task = spawn(async move {
            let (acceptor, mut connections) = (TlsAcceptor::from(Arc::new(tls)), JoinSet::new());
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&served));
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                    // A client may leave in the middle.
                    let _left = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            directory: format!("{base}/dir"),
            shared,
            dir,
            task,
        }
    }

    /// `[acme]`, which keeps all in `dir`.
    pub fn acme(&self, dir: &Path, more: &str) -> String {
        let (directory, ca) = (&self.directory, self.dir.path().join("ca.pem"));
        let (ca, dir) = (ca.display(), dir.display());
        format!("[acme]\ndirectory = \"{directory}\"\nca = \"{ca}\"\ndir = \"{dir}\"\n{more}\n")
    }

    /// What requests get from now on.
    pub fn play(&self, part: impl FnMut(&Asked) -> Say + Send + 'static) {
        self.stage().part = Box::new(part);
    }

    /// All requests of a step so far.
    pub fn asked(&self, step: Step) -> Vec<Asked> {
        let stage = self.stage();
        let asked = stage.asked.iter().filter(|asked| asked.step == step);
        asked.cloned().collect()
    }

    /// Certificates from now on hold from so many seconds after now to so many.
    pub fn issue_for(&self, life: (i64, i64)) {
        self.stage().life = life;
    }

    /// From now on it offers another chain, too.
    pub fn offer_alternate(&self) {
        self.stage().has_alternate = true;
    }

    /// No account is known any more.
    pub fn forget_accounts(&self) {
        let mut stage = self.stage();
        stage.accounts.clear();
        stage.keys.clear();
    }

    /// How many accounts were made so far.
    pub fn made(&self) -> usize {
        self.stage().made
    }

    /// A certificate for a key of its own, in PEM: the key, and the chain.
    pub fn issue(&self, name: &str, life: (i64, i64)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let chain = self.shared.sign(name, &key, life);
        (key.serialize_pem(), chain + &self.shared.intermediates[0])
    }

    /// What clients trust that trust the first root, or the second.
    pub fn roots(&self, which: usize) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let root = self.shared.roots[which].certificate.clone();
        roots.add(root).unwrap();
        Arc::new(roots)
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.shared.stage()
    }
}

impl Drop for ScriptedCa {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(Collected::to_bytes);
    let asked = shared.note(parts.uri.path(), &body.unwrap_or_default());
    let say = (shared.stage().part)(&asked);
    let (status, fields, body) = match say {
        Say::Hang => std::future::pending().await,
        Say::Lost => {
            shared.usual(&asked);
            std::future::pending().await
        }
        Say::Answer(status, fields, body) => (status, fields, body),
        Say::Usual => shared.usual(&asked),
        Say::Wait(told) => {
            told.notified().await;
            shared.usual(&asked)
        }
    };
    let nonce = shared.fresh_nonce();
    let mut response = Response::builder()
        .status(status)
        .header("replay-nonce", nonce);
    for (name, value) in fields {
        response = response.header(name, value);
    }
    Ok(response.body(Full::from(body)).unwrap())
}

/// A status, fields and a body.
type Usual = (u16, Vec<(&'static str, String)>, String);

fn json_of(body: &Value) -> Usual {
    (200, Vec::new(), body.to_string())
}

fn problem(status: u16, kind: &str) -> Usual {
    match Say::problem(status, kind) {
        Say::Answer(status, fields, body) => (status, fields, body),
        _ => unreachable!("it is an answer"),
    }
}

/// Base64url's JSON; null where there is none.
fn decoded(text: &Value) -> Value {
    let bytes = text.as_str().and_then(|text| BASE64.decode(text).ok());
    bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or(Value::Null)
}

// === impl Shared ===

impl Shared {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh_nonce(&self) -> String {
        let nonce = format!("nonce{}", fastrand::u64(..));
        self.stage().nonces.insert(nonce.clone());
        nonce
    }

    fn note(&self, path: &str, body: &[u8]) -> Asked {
        let mut parts = path.trim_start_matches('/').split('/');
        let step = match (parts.next().unwrap_or_default(), parts.next()) {
            ("dir", _) => Step::Directory,
            ("nonce", _) => Step::Nonce,
            ("account", _) => Step::Account,
            ("order", None) => Step::Order,
            ("order", Some(_)) => Step::State,
            ("authorization", _) => Step::Authorization,
            ("challenge", _) => Step::Challenge,
            ("finalize", _) => Step::Finalize,
            ("certificate", _) => Step::Certificate,
            ("info", _) => Step::Renewal,
            _ => Step::Unknown,
        };
        let signed: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut stage = self.stage();
        let same = stage.asked.iter().filter(|asked| asked.step == step);
        let asked = Asked {
            step,
            path: path.to_owned(),
            payload: decoded(&signed["payload"]),
            protected: decoded(&signed["protected"]),
            count: same.count() + 1,
        };
        stage.asked.push(asked.clone());
        asked
    }

    /// What is wrong with how a request is signed.
    fn fault(&self, asked: &Asked) -> Option<Usual> {
        let (protected, mut stage) = (&asked.protected, self.stage());
        let nonce = protected["nonce"].as_str().unwrap_or_default();
        if !stage.nonces.remove(nonce) {
            return Some(problem(400, "badNonce"));
        }
        if protected["url"] != format!("{}{}", self.base, asked.path) {
            return Some(problem(400, "malformed"));
        }
        let kid = protected["kid"].as_str().unwrap_or_default();
        let known = kid.rsplit('/').next().and_then(|id| id.parse().ok());
        let is_known = known.is_some_and(|id| stage.accounts.contains(&id));
        match asked.step == Step::Account || is_known {
            true => None,
            false => Some(problem(400, "accountDoesNotExist")),
        }
    }

    fn usual(&self, asked: &Asked) -> Usual {
        let url = |path: &str| format!("{}{path}", self.base);
        match asked.step {
            Step::Directory => {
                return json_of(&json!({
                    "newNonce": url("/nonce"), "newAccount": url("/account"),
                    "newOrder": url("/order"), "renewalInfo": url("/info"),
                    "meta": { "profiles": { "shortlived": "for six days" } },
                }));
            }
            Step::Nonce => return (200, Vec::new(), String::new()),
            Step::Unknown => return problem(404, "malformed"),
            Step::Renewal => {
                let later = |days: i64| {
                    (Timestamp::now() + SignedDuration::from_hours(24 * days)).to_string()
                };
                let window = json!({ "start": later(50), "end": later(52) });
                return json_of(&json!({ "suggestedWindow": window }));
            }
            _ => {}
        }
        if let Some(fault) = self.fault(asked) {
            return fault;
        }
        let number = asked.path.split('/').nth(2).and_then(|id| id.parse().ok());
        let mut stage = self.stage();
        let number = match asked.step {
            Step::Account => {
                let key = asked.protected["jwk"].to_string();
                // RFC 8555 §7.3 and §7.3.1.
                let known = stage.keys.get(&key).copied();
                if known.is_none() && asked.payload["onlyReturnExisting"] == true {
                    return problem(400, "accountDoesNotExist");
                }
                let id = known.unwrap_or(stage.made + 1);
                stage.made = stage.made.max(id);
                stage.keys.insert(key, id);
                stage.accounts.insert(id);
                let place = ("location", url(&format!("/account/{id}")));
                return (201, vec![place], json!({ "status": "valid" }).to_string());
            }
            Step::Order => {
                let profile = asked.payload["profile"].as_str();
                if profile.is_some_and(|profile| profile != "shortlived") {
                    return problem(400, "invalidProfile");
                }
                let name = asked.payload["identifiers"][0]["value"].as_str();
                stage.orders.push(Order {
                    name: name.unwrap().to_owned(),
                    replaces: asked.payload.get("replaces").cloned(),
                    is_proven: false,
                    chain: None,
                });
                stage.orders.len() - 1
            }
            _ => number.unwrap_or(usize::MAX),
        };
        let (life, has_alternate) = (stage.life, stage.has_alternate);
        let Some(order) = stage.orders.get_mut(number) else {
            return problem(404, "malformed");
        };
        let status = |is_proven| if is_proven { "valid" } else { "pending" };
        let challenge = |kind: &str, is_proven| {
            json!({
                "type": kind, "url": url(&format!("/challenge/{number}")),
                "token": format!("token-{number}"), "status": status(is_proven),
            })
        };
        match asked.step {
            Step::Authorization => {
                let kinds = ["tls-alpn-01", "http-01"];
                let challenges = kinds.map(|kind| challenge(kind, order.is_proven));
                return json_of(&json!({
                    "identifier": { "type": "dns", "value": order.name },
                    "status": status(order.is_proven), "challenges": challenges,
                }));
            }
            Step::Challenge => {
                order.is_proven = true;
                return json_of(&challenge("tls-alpn-01", true));
            }
            Step::Finalize => {
                let request = asked.payload["csr"].as_str().unwrap();
                let key = key_of(&BASE64.decode(request).unwrap());
                order.chain = Some(self.sign(&order.name, &key, life));
            }
            Step::Certificate => {
                let which = usize::from(asked.path.ends_with("/other"));
                let chain = order.chain.clone().unwrap() + &self.intermediates[which];
                let other = url(&format!("/certificate/{number}/other"));
                let link = ("link", format!("<{other}>;rel=\"alternate\""));
                let fields = if has_alternate {
                    vec![link]
                } else {
                    Vec::new()
                };
                return (200, fields, chain);
            }
            _ => {}
        }
        let status = match (order.is_proven, &order.chain) {
            (_, Some(_)) => "valid",
            (true, None) => "ready",
            (false, None) => "pending",
        };
        let mut body = json!({
            "status": status,
            "identifiers": [{ "type": "dns", "value": order.name }],
            "authorizations": [url(&format!("/authorization/{number}"))],
            "finalize": url(&format!("/finalize/{number}")),
        });
        if order.chain.is_some() {
            body["certificate"] = Value::from(url(&format!("/certificate/{number}")));
        }
        if let Some(replaces) = &order.replaces {
            body["replaces"] = replaces.clone();
        }
        let place = ("location", url(&format!("/order/{number}")));
        (200, vec![place], body.to_string())
    }

    /// A certificate of the issuer's, in PEM.
    fn sign(&self, name: &str, key: &impl PublicKeyData, (from, to): (i64, i64)) -> String {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = (std::time::UNIX_EPOCH + moment(from)).into();
        params.not_after = (std::time::UNIX_EPOCH + moment(to)).into();
        params.serial_number = Some(fastrand::u64(1..).into());
        params.use_authority_key_identifier_extension = true;
        params.signed_by(key, &self.issuer).unwrap().pem()
    }
}
