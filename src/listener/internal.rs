//! A certification authority of this machine's own, for development (`tls = "internal"`).
//!
//! Guarantees: its key never leaves its directory, which only its owner can read; its files are written
//! whole, and of gateways that found it at once one does; a certificate is made when a client first asks
//! for its name, for this process only, and their number is bounded.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::tls_error::TlsError;
use crate::private_files::{self, Lock, can_create};

/// Names that certificates are kept for; clients of more names than a developer has get the first.
const MOST: usize = 1000;
const CA_FILE: &str = "ca.crt";
const KEY_FILE: &str = "ca.key";
const LOCK_FILE: &str = "ca.lock";
/// Days; a leaf lives no longer than clients accept (398 days), and no longer than its process.
const CA_DAYS: u32 = 3650;
const LEAF_DAYS: u32 = 90;
const DAY: Duration = Duration::from_secs(86_400);

/// The authority, and what it has signed.
pub(super) struct InternalCa {
    issuer: Issuer<'static, KeyPair>,
    leaves: DashMap<String, Arc<CertifiedKey>>,
    unnamed: Arc<CertifiedKey>,
}

/// The certificate of the CA that is kept in `dir`, for those who are to trust it.
pub fn ca_file(dir: &Path) -> PathBuf {
    dir.join(CA_FILE)
}

/// Sets the validity: `days` from now, and from yesterday on for clocks that disagree.
fn live_for(params: &mut CertificateParams, days: u32) {
    let seconds = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default();
    let now = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * days).into();
}

fn ca_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    let name = "wakegate development CA";
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    live_for(&mut params, CA_DAYS);
    Ok(params)
}

fn sign(
    issuer: &Issuer<'static, KeyPair>,
    names: Vec<String>,
) -> Result<CertifiedKey, Box<dyn std::error::Error>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    live_for(&mut params, LEAF_DAYS);
    let leaf = params.signed_by(&key, issuer)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = aws_lc_rs::default_provider();
    let chain = vec![leaf.der().clone()];
    Ok(CertifiedKey::from_der(chain, key, &provider)?)
}

// === impl InternalCa ===

impl InternalCa {
    /// Opens the authority that is kept in `dir`, or founds it.
    pub(super) fn open(dir: &Path) -> Result<Self, TlsError> {
        Self::open_in(dir).map_err(|error| TlsError::Internal {
            dir: dir.to_owned(),
            what: error.to_string(),
        })
    }

    /// Opens it without a trace. Where there is none yet, this one is forgotten; an error says what
    /// would keep it from being founded.
    pub(super) fn rehearse(dir: &Path) -> Result<Self, TlsError> {
        let wrong = |error: &dyn fmt::Display| TlsError::Internal {
            dir: dir.to_owned(),
            what: error.to_string(),
        };
        if dir.join(KEY_FILE).exists() {
            return Self::open(dir);
        }
        can_create(dir).map_err(|error| wrong(&error))?;
        let key = KeyPair::generate().map_err(|error| wrong(&error))?;
        Self::with(key).map_err(|error| wrong(&error))
    }

    fn open_in(dir: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        private_files::make_dir(dir)?;
        let (ca, key_path) = (ca_file(dir), dir.join(KEY_FILE));
        if !key_path.exists() {
            let _lock = Lock::acquire(&dir.join(LOCK_FILE))?;
            if !key_path.exists() {
                let key = KeyPair::generate()?;
                let certificate = ca_params()?.self_signed(&key)?;
                // The key last: it is what says that both are there.
                private_files::write_public(&ca, certificate.pem().as_bytes())?;
                private_files::write(&key_path, key.serialize_pem().as_bytes())?;
                tracing::info!(ca = %ca.display(), "a development CA; clients that trust it trust us");
            }
        }
        let key = KeyPair::from_pem(&fs::read_to_string(&key_path)?)?;
        let own = ca_params()?.self_signed(&key)?;
        let kept = CertificateDer::from_pem_file(&ca)?;
        let (own, kept) = (
            webpki::anchor_from_trusted_cert(own.der())?,
            webpki::anchor_from_trusted_cert(&kept)?,
        );
        if (own.subject, own.subject_public_key_info)
            != (kept.subject, kept.subject_public_key_info)
        {
            return Err(format!(
                "{CA_FILE} is not the certificate of {KEY_FILE} that was made here"
            )
            .into());
        }
        Self::with(key)
    }

    fn with(key: KeyPair) -> Result<Self, Box<dyn std::error::Error>> {
        let issuer = Issuer::new(ca_params()?, key);
        let unnamed = sign(
            &issuer,
            vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        )?;
        Ok(Self {
            issuer,
            leaves: DashMap::new(),
            unnamed: Arc::new(unnamed),
        })
    }

    /// The certificate for clients that name no host.
    pub(super) fn unnamed(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.unnamed)
    }

    /// The certificate for a name.
    pub(super) fn leaf(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        if let Some(leaf) = self.leaves.get(name) {
            return Some(Arc::clone(leaf.value()));
        }
        if self.leaves.len() >= MOST {
            return None;
        }
        let leaf = sign(&self.issuer, vec![name.to_owned()]);
        let leaf = Arc::new(leaf.ok()?);
        self.leaves.insert(name.to_owned(), Arc::clone(&leaf));
        Some(leaf)
    }
}

impl fmt::Debug for InternalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InternalCa({} names)", self.leaves.len())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn of_those_who_found_it_at_once_one_does_and_its_files_are_whole_and_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/ca");
        // What is left of one that was killed in the middle.
        private_files::make_dir(&place).unwrap();
        private_files::write(&ca_file(&place), b"of nobody").unwrap();
        let founders = [(); 8].map(|()| {
            let place = place.clone();
            std::thread::spawn(move || InternalCa::open(&place).map(drop))
        });
        for founder in founders {
            founder.join().unwrap().unwrap();
        }
        let mode = |name: &str| {
            let found = fs::metadata(place.join(name)).unwrap();
            found.permissions().mode() & 0o777
        };
        assert_eq!([mode(CA_FILE), mode(KEY_FILE)], [0o644, 0o600]);
        assert_eq!(fs::read_dir(&place).unwrap().count(), 3, "no draft stays");
    }
}
