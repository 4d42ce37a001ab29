//! What a member of a fleet shows to others, and whom it believes.
//!
//! Guarantees: both ends show a certificate of the fleet's CA that names their cell, role and name;
//! one of another cell, of a role that has no business here, with another name than the one that was
//! called, or with another key or role than the member's record says, is refused before a byte of a
//! request. Only who has clients calls: fronts, and nodes that are fronts as well.
//! Only TLS 1.3 is spoken, no session is resumed, and files are read again when they have changed; a
//! change that cannot be used leaves the old ones in force.

mod name;
mod verifiers;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ::aws_lc_rs::digest::{SHA256, digest};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use webpki::EndEntityCert;

pub use self::name::PeerName;
use self::verifiers::{Called, Callers, InForce, OwnKey};
use super::placement::{Member, Placement, Role};
use crate::file_stamp::FileStamp;
use crate::pem::{self, PemProblem};

/// The protocol that members speak with each other: HTTP/2 with extended CONNECT.
pub const ALPN: &[u8] = b"wakegate/1";

/// A member's identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The key of the file, below `fleet.identity`.
        key: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What is in a file cannot be used.
    #[error("{path} {what}")]
    Content {
        /// The key of the file, below `fleet.identity`.
        key: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// The files of an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate's chain, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The CA of all members, PEM.
    pub ca: PathBuf,
}

/// What a member shows, and whom it believes.
pub struct PeerIdentity {
    files: IdentityFiles,
    cell: String,
    loaded: ArcSwap<Loaded>,
    /// What was wrong when the files were looked at last.
    failed: Mutex<Option<String>>,
}

struct Loaded {
    stamps: Vec<FileStamp>,
    at: Timestamp,
    own: PeerName,
    spki: [u8; 32],
    certified: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    callers: Arc<dyn ClientCertVerifier>,
}

/// The digest by which a member's record knows the key of its certificate.
pub fn spki_of(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    let spki = parsed.subject_public_key_info();
    digest(&SHA256, &spki).as_ref().try_into().ok()
}

// === impl IdentityFiles ===

impl IdentityFiles {
    fn all(&self) -> [(&'static str, &Path); 3] {
        [("cert", &self.cert), ("key", &self.key), ("ca", &self.ca)]
    }

    fn stamps(&self) -> Result<Vec<FileStamp>, IdentityError> {
        let stamps = self.all().into_iter().map(|(key, path)| {
            let path = path.to_owned();
            FileStamp::of(&path).map_err(|source| IdentityError::Read { key, path, source })
        });
        stamps.collect()
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|source| {
        let path = path.to_owned();
        IdentityError::Read { key, path, source }
    })
}

// === impl Loaded ===

impl Loaded {
    fn read(files: &IdentityFiles, cell: &str) -> Result<Self, IdentityError> {
        let wrong = |key: &'static str, path: &Path, what: String| {
            let path = path.to_owned();
            IdentityError::Content { key, path, what }
        };
        let (stamps, at) = (files.stamps()?, Timestamp::now());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let bad = |what| wrong("cert", &files.cert, what);
        let chain = pem::certificates(&read("cert", &files.cert)?);
        let chain = chain.map_err(|problem| bad(problem.to_string()))?;
        let leaf = chain
            .first()
            .ok_or_else(|| bad(PemProblem::Empty.to_string()))?;
        let own = PeerName::of(leaf).map_err(|what| bad(format!("cannot be used: {what}")))?;
        if own.cell != cell {
            return Err(bad(format!(
                "is of the cell `{}`, and `fleet.cell` is `{cell}`",
                own.cell
            )));
        }
        let spki = spki_of(leaf).ok_or_else(|| bad("has no public key".to_owned()))?;
        let signer = pem::key(&read("key", &files.key)?)
            .map_err(|problem| wrong("key", &files.key, problem.to_string()))?;
        let certified = CertifiedKey::from_der(chain, signer, &provider).map_err(|error| {
            let what = format!("does not fit {}: {error}", files.cert.display());
            wrong("key", &files.key, what)
        })?;
        let roots = pem::roots(&read("ca", &files.ca)?)
            .map_err(|problem| wrong("ca", &files.ca, problem.to_string()))?;
        let roots = Arc::new(roots);
        let callers = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider);
        let callers = callers.build();
        Ok(Self {
            stamps,
            at,
            own,
            spki,
            certified: Arc::new(certified),
            roots,
            callers: callers.map_err(|error| wrong("ca", &files.ca, error.to_string()))?,
        })
    }
}

// === impl PeerIdentity ===

impl PeerIdentity {
    /// Reads the files of a member of `cell`.
    pub fn load(files: IdentityFiles, cell: &str) -> Result<Arc<Self>, IdentityError> {
        let loaded = Loaded::read(&files, cell)?;
        Ok(Arc::new(Self {
            files,
            cell: cell.to_owned(),
            loaded: ArcSwap::from_pointee(loaded),
            failed: Mutex::default(),
        }))
    }

    /// Reads the files again if they have changed; returns whether they had. The same failure is one
    /// once.
    pub fn refresh(&self) -> Result<bool, IdentityError> {
        let refreshed = self.refreshed();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match refreshed {
            Ok(has_changed) => {
                *failed = None;
                Ok(has_changed)
            }
            Err(error) => {
                let text = error.to_string();
                match failed.replace(text.clone()) == Some(text) {
                    true => Ok(false),
                    false => Err(error),
                }
            }
        }
    }

    fn refreshed(&self) -> Result<bool, IdentityError> {
        let before = self.loaded.load();
        let stamps = self.files.stamps()?;
        let is_settled = stamps.iter().all(|stamp| stamp.is_settled(before.at));
        if stamps == before.stamps && is_settled {
            return Ok(false);
        }
        let fresh = Loaded::read(&self.files, &self.cell)?;
        let has_changed = stamps != before.stamps;
        self.loaded.store(Arc::new(fresh));
        Ok(has_changed)
    }

    /// Its own name, as its certificate has it.
    pub fn own(&self) -> PeerName {
        self.loaded.load().own.clone()
    }

    /// The digest of its certificate's public key, for its record.
    pub fn spki(&self) -> [u8; 32] {
        self.loaded.load().spki
    }

    /// What rustls needs to be called by members; `members` says which keys they have.
    pub fn server_config(
        self: &Arc<Self>,
        members: Option<Arc<dyn Placement>>,
    ) -> Result<Arc<ServerConfig>, IdentityError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let callers = Arc::new(Callers::new(Arc::clone(self) as _, members));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(callers)
            .with_cert_resolver(Arc::new(OwnKey(Arc::clone(self) as _)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would not look at the caller's certificate again.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// What rustls needs to call this member.
    pub fn client_config(
        self: &Arc<Self>,
        member: &Arc<Member>,
    ) -> Result<Arc<ClientConfig>, IdentityError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let called = Arc::new(Called::new(Arc::clone(self) as _, Arc::clone(member)));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(called)
            .with_client_cert_resolver(Arc::new(OwnKey(Arc::clone(self) as _)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(Arc::new(config))
    }

    fn name_of(&self, certificate: &CertificateDer<'_>) -> Result<PeerName, String> {
        let name = PeerName::of(certificate)?;
        match name.cell == self.cell {
            true => Ok(name),
            false => Err(format!("`{name}` is of another cell than `{}`", self.cell)),
        }
    }
}

fn judge_record(
    name: &PeerName,
    certificate: &CertificateDer<'_>,
    record: &Member,
) -> Result<(), String> {
    if record.role != name.role {
        return Err(format!(
            "`{name}` has another role than its record in the directory says"
        ));
    }
    match record.spki {
        Some(expected) if spki_of(certificate) != Some(expected) => Err(format!(
            "`{name}` shows another key than its record in the directory says"
        )),
        Some(_) | None => Ok(()),
    }
}

impl InForce for PeerIdentity {
    fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.loaded.load().certified)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.loaded.load().roots)
    }

    fn callers(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.loaded.load().callers)
    }

    fn judge_caller(
        &self,
        certificate: &CertificateDer<'_>,
        members: Option<&dyn Placement>,
    ) -> Result<(), String> {
        let name = self.name_of(certificate)?;
        let own = self.loaded.load().own.role;
        if own == Role::Front && name.role == Role::Front {
            return Err(format!("`{name}` is a front, and this is one, too"));
        }
        if name.role == Role::Node {
            return Err(format!(
                "`{name}` is a node, and has no clients whose requests it could pass on; one that has is \
                 `both`"
            ));
        }
        let record = members.and_then(|members| members.member_as(name.role, &name.name));
        // A member whose record is not known is judged by what its certificate says.
        record.map_or(Ok(()), |record| judge_record(&name, certificate, &record))
    }

    fn judge_called(
        &self,
        certificate: &CertificateDer<'_>,
        member: &Member,
    ) -> Result<(), String> {
        let name = self.name_of(certificate)?;
        if name.role == Role::Front {
            return Err(format!("`{name}` is a front, and has no instances"));
        }
        if name.name != member.name {
            let wanted = &member.name;
            return Err(format!("`{name}` answers where `{wanted}` is expected"));
        }
        judge_record(&name, certificate, member)
    }
}

/// The judge of callers whose connections are open: what is known of them may change.
pub struct CallerJudge {
    identity: Arc<PeerIdentity>,
    members: Option<Arc<dyn Placement>>,
}

// === impl CallerJudge ===

impl CallerJudge {
    /// By what is in force of `identity`; `members` says which keys others have.
    pub fn new(identity: Arc<PeerIdentity>, members: Option<Arc<dyn Placement>>) -> Self {
        Self { identity, members }
    }

    /// Whether whoever has shown this certificate would be let in now; why not.
    pub fn judge(&self, certificate: &CertificateDer<'_>) -> Result<(), String> {
        let members = self.members.as_deref();
        self.identity.judge_caller(certificate, members)
    }
}

impl fmt::Debug for CallerJudge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallerJudge({:?})", self.identity)
    }
}

/// The name in a certificate of a connection that has been judged.
pub fn judged_name(certificate: &CertificateDer<'_>) -> Option<PeerName> {
    PeerName::of(certificate).ok()
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerIdentity({})", self.loaded.load().own)
    }
}
