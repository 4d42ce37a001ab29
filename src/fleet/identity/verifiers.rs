//! The judges of members' certificates, and the key of one's own, as rustls asks for them.
//!
//! Guarantees: what is judged by is what is in force at that moment; a refusal says why, to this
//! side's log alone.

use std::fmt;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore,
    SignatureScheme,
};

use crate::fleet::placement::{Member, Placement};
use crate::signatures::{signatures_by_provider, signatures_by_verifier};

/// What is in force of an identity, and its judgement of others.
pub(super) trait InForce: fmt::Debug + Send + Sync {
    /// Its own key.
    fn certified(&self) -> Arc<CertifiedKey>;

    /// The CA of all members.
    fn roots(&self) -> Arc<RootCertStore>;

    /// The judge of callers' chains.
    fn callers(&self) -> Arc<dyn ClientCertVerifier>;

    /// Whether a member that calls may do so, by its certificate, whose chain has been judged.
    fn judge_caller(
        &self,
        certificate: &CertificateDer<'_>,
        members: Option<&dyn Placement>,
    ) -> Result<(), String>;

    /// Whether the member that was called is the one that was meant, likewise.
    fn judge_called(&self, certificate: &CertificateDer<'_>, member: &Member)
    -> Result<(), String>;
}

/// A certificate of the CA that is not the right one here.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unfit(String);

fn unfit(what: String) -> rustls::Error {
    let other = OtherError(Arc::new(Unfit(what)));
    rustls::Error::InvalidCertificate(CertificateError::Other(other))
}

/// The key that is in force.
#[derive(Debug)]
pub(super) struct OwnKey(pub(super) Arc<dyn InForce>);

/// The judge of whoever calls.
#[derive(Debug)]
pub(super) struct Callers {
    identity: Arc<dyn InForce>,
    members: Option<Arc<dyn Placement>>,
}

/// The judge of the member that is called.
pub(super) struct Called {
    identity: Arc<dyn InForce>,
    member: Arc<Member>,
    provider: CryptoProvider,
}

impl OwnKey {
    fn now(&self) -> Arc<CertifiedKey> {
        self.0.certified()
    }
}

impl ResolvesServerCert for OwnKey {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl ResolvesClientCert for OwnKey {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

// === impl Callers ===

impl Callers {
    pub(super) fn new(identity: Arc<dyn InForce>, members: Option<Arc<dyn Placement>>) -> Self {
        Self { identity, members }
    }

    fn now(&self) -> Arc<dyn ClientCertVerifier> {
        self.identity.callers()
    }
}

impl ClientCertVerifier for Callers {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// None, since they may change: callers have one certificate.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.now().verify_client_cert(leaf, chain, now)?;
        match self.identity.judge_caller(leaf, self.members.as_deref()) {
            Ok(()) => Ok(verified),
            Err(what) => Err(unfit(what)),
        }
    }

    signatures_by_verifier!();
}

// === impl Called ===

impl Called {
    pub(super) fn new(identity: Arc<dyn InForce>, member: Arc<Member>) -> Self {
        Self {
            identity,
            member,
            provider: aws_lc_rs::default_provider(),
        }
    }
}

impl ServerCertVerifier for Called {
    /// Members are known by their names in the fleet, not by those of hosts.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let roots = self.identity.roots();
        let parsed = ParsedCertificate::try_from(leaf)?;
        let known = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, chain, now, known)?;
        match self.identity.judge_called(leaf, &self.member) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(what) => Err(unfit(what)),
        }
    }

    signatures_by_provider!();
}

impl fmt::Debug for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Called({})", self.member.name)
    }
}
