//! TLS for clients: certificates by name, replaced without dropping a connection.
//!
//! Guarantees: a listener has at least one certificate before it accepts anything; the certificate
//! is the one whose names fit the client's SNI (exact, then wildcard), else the first; a reload
//! that fails leaves the old ones in force and says why; no key is in any message.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};
use yasna::Tag;
use yasna::models::{GeneralizedTime, UTCTime};
use yasna::tags::TAG_UTCTIME;

use super::internal::InternalCa;
use super::tls_error::TlsError;
use crate::config::{ClientAuth, ClientCertificates, TlsConfig, TlsSource, TlsVersion};

/// Two files as they were read.
#[derive(Clone, PartialEq, Eq)]
struct Pair {
    cert: PathBuf,
    chain: Vec<u8>,
    key_path: PathBuf,
    key: Vec<u8>,
    /// The OCSP response that is stapled.
    ocsp: Option<Vec<u8>>,
}

/// The certificates that are in force.
struct Loaded {
    pairs: Vec<Pair>,
    /// The CAs of clients' certificates, as they were read.
    client_ca: Vec<u8>,
    verifier: Arc<dyn ClientCertVerifier>,
    first: Arc<CertifiedKey>,
    /// The certificates by name, in lower case; a wildcard by its suffix with the dot.
    names: BTreeMap<String, Arc<CertifiedKey>>,
    /// The time when the first of them expires, in seconds since 1970.
    not_after: Option<i64>,
}

/// A listener's certificates.
pub struct Certificates {
    config: TlsConfig,
    loaded: ArcSwap<Loaded>,
    internal: Option<InternalCa>,
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

// === impl Pair ===

impl Pair {
    fn read(cert: PathBuf, key_path: PathBuf, ocsp: Option<&Path>) -> Result<Self, TlsError> {
        let (chain, key) = (read(&cert)?, read(&key_path)?);
        Ok(Self {
            cert,
            chain,
            key_path,
            key,
            ocsp: ocsp.map(read).transpose()?,
        })
    }

    fn certified(&self) -> Result<CertifiedKey, TlsError> {
        let wrong = |path: &Path, what: String| TlsError::Content {
            path: path.to_owned(),
            what,
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.chain)
            .collect::<Result<_, _>>()
            .map_err(|error| wrong(&self.cert, format!("is no PEM certificate: {error:?}")))?;
        if chain.is_empty() {
            return Err(wrong(&self.cert, "has no certificate in it".to_owned()));
        }
        // The error says what is wrong with a key without its bytes.
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| wrong(&self.key_path, "is no PEM private key".to_owned()))?;
        let provider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
            let what = format!("does not fit {}: {error}", self.cert.display());
            wrong(&self.key_path, what)
        });
        Ok(CertifiedKey {
            ocsp: self.ocsp.clone(),
            ..certified?
        })
    }
}

// === impl Certificates ===

impl Certificates {
    /// Loads the certificates.
    pub fn load(config: TlsConfig) -> Result<Arc<Self>, TlsError> {
        let internal = match &config.source {
            TlsSource::Internal { internal } => Some(InternalCa::open(internal)?),
            TlsSource::Files { .. } | TlsSource::Directory { .. } => None,
        };
        let loaded = ArcSwap::from_pointee(Loaded::read(&config, internal.as_ref())?);
        Ok(Arc::new(Self {
            config,
            loaded,
            internal,
        }))
    }

    /// Reads the files again; returns whether they had changed.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let before = self.loaded.load();
        if self.internal.is_some() && self.config.clients.is_none() {
            return Ok(false);
        }
        let fresh = Loaded::read(&self.config, self.internal.as_ref())?;
        let same = fresh.pairs == before.pairs && fresh.client_ca == before.client_ca;
        if !same {
            self.loaded.store(Arc::new(fresh));
        }
        Ok(!same)
    }

    /// The time when the first of them expires, in seconds since 1970; `None` for certificates that
    /// are made on demand.
    pub fn not_after(&self) -> Option<i64> {
        self.loaded.load().not_after
    }

    /// The certificate for a name.
    fn find(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        let loaded = self.loaded.load();
        let name = name.map(str::to_ascii_lowercase);
        if let (Some(ca), Some(name)) = (&self.internal, &name) {
            return ca.leaf(name).unwrap_or_else(|| Arc::clone(&loaded.first));
        }
        let found = name.and_then(|name| {
            let exact = loaded.names.get(&name);
            exact.cloned().or_else(|| {
                let (_, suffix) = name.split_once('.')?;
                loaded.names.get(&format!(".{suffix}")).cloned()
            })
        });
        found.unwrap_or_else(|| Arc::clone(&loaded.first))
    }

    /// Whether a connection made for `sni` may carry requests for `host`: the same certificate
    /// answers for both (RFC 9110 §15.5.20, RFC 9113 §9.1.1).
    pub fn covers(&self, sni: Option<&str>, host: &str) -> bool {
        sni.is_some_and(|sni| sni.eq_ignore_ascii_case(host))
            || Arc::ptr_eq(&self.find(sni), &self.find(Some(host)))
    }

    /// The configuration for rustls; HTTP/2 is offered first.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(self) as _;
        let versions: &[_] = match self.config.min_version {
            TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let verifier: Arc<dyn ClientCertVerifier> = match self.config.clients {
            Some(_) => Arc::new(CurrentVerifier(Arc::clone(self))),
            None => Arc::new(NoClientAuth),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        match self.config.clients {
            None => config.ticketer = aws_lc_rs::Ticketer::new()?,
            // A resumed session would not look at the client's certificate again.
            Some(_) => {
                config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
            }
        }
        Ok(Arc::new(config))
    }
}

/// Checks clients by the CAs that are in force when they come.
#[derive(Debug)]
struct CurrentVerifier(Arc<Certificates>);

impl CurrentVerifier {
    fn now(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.0.loaded.load().verifier)
    }
}

impl ClientCertVerifier for CurrentVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.now().client_auth_mandatory()
    }

    /// None, since they may change: clients then send what they have.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.now().verify_client_cert(leaf, chain, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.now().verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.now().verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.now().supported_verify_schemes()
    }
}

/// The verifier of clients' certificates, and the CAs' text.
fn verifier(
    clients: Option<&ClientCertificates>,
) -> Result<(Arc<dyn ClientCertVerifier>, Vec<u8>), TlsError> {
    let Some(ClientCertificates {
        client_ca,
        client_auth,
    }) = clients
    else {
        return Ok((Arc::new(NoClientAuth), Vec::new()));
    };
    let wrong = |what: String| TlsError::Content {
        path: client_ca.clone(),
        what,
    };
    let (text, mut roots) = (read(client_ca)?, RootCertStore::empty());
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate =
            certificate.map_err(|error| wrong(format!("is no PEM certificate: {error:?}")))?;
        let added = roots.add(certificate);
        added.map_err(|error| wrong(format!("has a certificate that is no CA: {error}")))?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match client_auth {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    let verifier = builder.build();
    Ok((verifier.map_err(|error| wrong(error.to_string()))?, text))
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.find(hello.server_name()))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificates({} names)", self.loaded.load().names.len())
    }
}

// === impl Loaded ===

impl Loaded {
    fn read(config: &TlsConfig, internal: Option<&InternalCa>) -> Result<Self, TlsError> {
        let (verifier, client_ca) = verifier(config.clients.as_ref())?;
        let pairs = pairs(&config.source)?;
        let (mut names, mut first) = (BTreeMap::new(), internal.map(InternalCa::unnamed));
        let mut not_after: Option<i64> = None;
        for pair in &pairs {
            let certified = Arc::new(pair.certified()?);
            let expiry = expiry_of(&certified);
            not_after = not_after.into_iter().chain(expiry).min();
            for name in names_of(&certified, pair)? {
                // The first that claims a name keeps it.
                names.entry(name).or_insert_with(|| Arc::clone(&certified));
            }
            first.get_or_insert(certified);
        }
        let first = first.ok_or_else(|| TlsError::Empty(PathBuf::new()))?;
        Ok(Self {
            pairs,
            client_ca,
            verifier,
            first,
            names,
            not_after,
        })
    }
}

/// When the first certificate of a chain expires, in seconds since 1970.
fn expiry_of(certified: &CertifiedKey) -> Option<i64> {
    let chain = certified.cert.iter();
    chain.filter_map(|certificate| not_after(certificate)).min()
}

/// When a certificate expires, in seconds since 1970 (RFC 5280 §4.1).
fn not_after(certificate: &[u8]) -> Option<i64> {
    let read = yasna::parse_der(certificate, |reader| {
        reader.read_sequence(|parts| {
            let not_after = parts.next().read_sequence(|parts| {
                parts.read_optional(|version| {
                    version.read_tagged(Tag::context(0), |version| version.read_u8().map(drop))
                })?;
                for _serial_algorithm_issuer in 0..3 {
                    parts.next().read_der()?;
                }
                let not_after = parts.next().read_sequence(|validity| {
                    validity.next().read_der()?;
                    validity.next().read_tagged_der()
                })?;
                while parts
                    .read_optional(|part| part.read_der().map(drop))?
                    .is_some()
                {}
                Ok(not_after)
            })?;
            for _algorithm_signature in 0..2 {
                parts.next().read_der()?;
            }
            Ok(not_after)
        })
    });
    let time = read.ok()?;
    let seconds = match time.tag() {
        TAG_UTCTIME => UTCTime::parse(time.value())?.datetime().unix_timestamp(),
        _ => GeneralizedTime::parse(time.value())?
            .datetime()
            .unix_timestamp(),
    };
    Some(seconds)
}

/// The DNS names of its subject alternative names; a wildcard without its star.
fn names_of(certified: &CertifiedKey, pair: &Pair) -> Result<Vec<String>, TlsError> {
    let wrong = |what: String| TlsError::Content {
        path: pair.cert.clone(),
        what,
    };
    let leaf = certified.cert.first();
    let leaf = leaf.ok_or_else(|| wrong("has no certificate in it".to_owned()))?;
    let parsed = webpki::EndEntityCert::try_from(leaf)
        .map_err(|error| wrong(format!("is no X.509 v3 certificate: {error}")))?;
    let names = parsed.valid_dns_names().map(str::to_ascii_lowercase);
    Ok(names
        .map(|name| name.strip_prefix('*').map_or(name.clone(), str::to_owned))
        .collect())
}

fn pairs(source: &TlsSource) -> Result<Vec<Pair>, TlsError> {
    let dir = match source {
        TlsSource::Files { cert, key, ocsp } => {
            let pair = Pair::read(cert.clone(), key.clone(), ocsp.as_deref())?;
            return Ok(vec![pair]);
        }
        TlsSource::Internal { .. } => return Ok(Vec::new()),
        TlsSource::Directory { dir } => dir,
    };
    let failed = |source| TlsError::Read {
        path: dir.clone(),
        source,
    };
    let mut entries = std::fs::read_dir(dir)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed)?;
    // The order of names decides which is first.
    entries.sort_by_key(std::fs::DirEntry::file_name);
    let mut found = Vec::new();
    for path in entries.into_iter().map(|entry| entry.path()) {
        let candidates = match path.is_dir() {
            true => vec![
                (path.join("fullchain.pem"), path.join("privkey.pem")),
                (path.join("tls.crt"), path.join("tls.key")),
            ],
            false if path.extension().is_some_and(|e| e == "crt" || e == "pem") => {
                vec![(path.clone(), path.with_extension("key"))]
            }
            false => Vec::new(),
        };
        for (cert, key) in candidates {
            if cert.is_file() && key.is_file() {
                let ocsp = Some(cert.with_extension("ocsp")).filter(|path| path.is_file());
                found.push(Pair::read(cert, key, ocsp.as_deref())?);
            }
        }
    }
    if found.is_empty() {
        return Err(TlsError::Empty(dir.clone()));
    }
    Ok(found)
}
