//! One way of speaking TLS with instances: the roots, the revoked, and the gateway's certificate.
//!
//! Guarantees: its files are read whole before it is used; when they change, connections that begin
//! later go by the new ones, and a change that cannot be used leaves the old ones in force.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::alpn::Alpn;
use super::error::TlsSetupError;
use crate::config::UpstreamTlsConfig;
use crate::file_stamp::FileStamp;
use crate::pem;
use crate::signatures::signatures_by_provider;

/// Sessions that are remembered for each protocol.
const SESSIONS: usize = 1024;

/// What the connections of all routes that say the same of TLS have in common.
pub struct TlsProfile {
    config: UpstreamTlsConfig,
    loaded: ArcSwap<Loaded>,
    /// Why the files could not be used when they were looked at last.
    failed: Mutex<Option<String>>,
}

struct Loaded {
    /// How the files stood before they were read.
    stamps: Vec<FileStamp>,
    at: Timestamp,
    http1: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
}

/// Believes whoever can sign with the key of the certificate that is shown.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

// === impl TlsProfile ===

impl TlsProfile {
    /// Reads the files.
    pub(super) fn load(config: UpstreamTlsConfig) -> Result<Self, TlsSetupError> {
        let loaded = Loaded::read(&config)?;
        Ok(Self {
            config,
            loaded: ArcSwap::from_pointee(loaded),
            failed: Mutex::default(),
        })
    }

    /// Reads the files again if they have changed; returns whether they had.
    pub(super) fn refresh(&self) -> Result<bool, TlsSetupError> {
        let before = self.loaded.load();
        let stamps = stamps(&self.config)?;
        let is_settled = stamps.iter().all(|stamp| stamp.is_settled(before.at));
        if stamps == before.stamps && is_settled {
            return Ok(false);
        }
        self.loaded.store(Arc::new(Loaded::read(&self.config)?));
        Ok(stamps != before.stamps)
    }

    /// The same by the clock: the same failure is reported once.
    pub(super) fn look(&self) -> Result<bool, TlsSetupError> {
        let refreshed = self.refresh();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match refreshed {
            Ok(has_changed) => {
                *failed = None;
                Ok(has_changed)
            }
            Err(error) if failed.as_ref() == Some(&error.message) => Ok(false),
            Err(error) => {
                *failed = Some(error.message.clone());
                Err(error)
            }
        }
    }

    /// The configuration of a connection that begins now.
    pub(super) fn client_config(&self, alpn: Alpn) -> Arc<ClientConfig> {
        let loaded = self.loaded.load();
        Arc::clone(match alpn {
            Alpn::Http1 => &loaded.http1,
            Alpn::H2 => &loaded.h2,
        })
    }
}

impl fmt::Debug for TlsProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsProfile({:?})", self.config)
    }
}

/// The files, by their keys.
fn files(config: &UpstreamTlsConfig) -> impl Iterator<Item = (&'static str, &Path)> {
    let all = [
        ("ca", &config.ca),
        ("client_cert", &config.client_cert),
        ("client_key", &config.client_key),
        ("crl", &config.crl),
    ];
    all.into_iter()
        .filter_map(|(key, path)| Some((key, path.as_deref()?)))
}

fn stamps(config: &UpstreamTlsConfig) -> Result<Vec<FileStamp>, TlsSetupError> {
    files(config)
        .map(|(key, path)| {
            let stamp = FileStamp::of(path);
            stamp.map_err(|error| TlsSetupError::unreadable(key, path, &error))
        })
        .collect()
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsSetupError> {
    std::fs::read(path).map_err(|error| TlsSetupError::unreadable(key, path, &error))
}

// === impl Loaded ===

impl Loaded {
    fn read(config: &UpstreamTlsConfig) -> Result<Self, TlsSetupError> {
        let (stamps, at) = (stamps(config)?, Timestamp::now());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let unusable = |error: rustls::Error| {
            TlsSetupError::new("protocol", format!("TLS cannot be set up: {error}"))
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier(config, provider)?);
        let mut http1 = match (&config.client_cert, &config.client_key) {
            (Some(cert), Some(key)) => {
                let (chain, signer) = identity(cert, key)?;
                builder
                    .with_client_auth_cert(chain, signer)
                    .map_err(|error| {
                        let what = format!("does not fit {}: {error}", cert.display());
                        TlsSetupError::of_file("client_key", key, what)
                    })?
            }
            (_, _) => builder.with_no_client_auth(),
        };
        let mut h2 = http1.clone();
        for (made, alpn) in [(&mut http1, Alpn::Http1), (&mut h2, Alpn::H2)] {
            made.alpn_protocols = vec![alpn.name().to_vec()];
            made.resumption = Resumption::in_memory_sessions(SESSIONS);
        }
        Ok(Self {
            stamps,
            at,
            http1: Arc::new(http1),
            h2: Arc::new(h2),
        })
    }
}

fn verifier(
    config: &UpstreamTlsConfig,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TlsSetupError> {
    if !config.verify {
        return Ok(Arc::new(Anybody { provider }));
    }
    let (key, roots) = match &config.ca {
        Some(path) => ("ca", roots_of(path)?),
        None => ("protocol", roots_of_system()?),
    };
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match &config.crl {
        Some(path) => {
            let text = read("crl", path)?;
            let lists = CertificateRevocationListDer::pem_slice_iter(&text);
            let lists = lists.collect::<Result<Vec<_>, _>>().map_err(|error| {
                TlsSetupError::of_file("crl", path, format!("is not a PEM CRL: {error:?}"))
            })?;
            if lists.is_empty() {
                return Err(TlsSetupError::of_file("crl", path, "has no CRL in it"));
            }
            builder.with_crls(lists).enforce_revocation_expiration()
        }
        None => builder,
    };
    let verifier = builder.build().map_err(|error| {
        let key = if config.crl.is_some() { "crl" } else { key };
        TlsSetupError::new(key, format!("cannot be used: {error}"))
    })?;
    Ok(verifier)
}

fn roots_of(path: &Path) -> Result<RootCertStore, TlsSetupError> {
    let roots = pem::roots(&read("ca", path)?);
    roots.map_err(|problem| TlsSetupError::of_file("ca", path, problem))
}

/// What the system does not say, or says in a way that cannot be read, is not believed.
fn roots_of_system() -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err(TlsSetupError::new(
            "protocol",
            "speaks TLS, and this system has no CA that instances' certificates could be from: \
             install `ca-certificates`, or set `upstream_tls.ca`",
        )),
        false => Ok(roots),
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(cert: &Path, key: &Path) -> Result<Identity, TlsSetupError> {
    let chain = pem::certificates(&read("client_cert", cert)?)
        .map_err(|problem| TlsSetupError::of_file("client_cert", cert, problem))?;
    let signer = pem::key(&read("client_key", key)?)
        .map_err(|problem| TlsSetupError::of_file("client_key", key, problem))?;
    Ok((chain, signer))
}

// === impl Anybody ===

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures_by_provider!();
}
