//! Handshakes that are a CA's challenge (RFC 8737).
//!
//! Guarantees: such a handshake is answered by what the CA has set for its name, and otherwise
//! refused; it is never asked for a client's certificate, carries no request, and is nobody's
//! reason to wake anything.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::tls_error::TlsError;
use crate::acme::{ACME_TLS, AcmeStore};

/// Finds the certificate that a CA wants to see.
struct Challenges(Arc<AcmeStore>);

/// Whether a client wants to see the answer to a challenge: it offers that protocol alone.
pub(super) fn is_challenge(hello: &ClientHello<'_>) -> bool {
    let mut offered = hello.alpn().into_iter().flatten();
    offered.next() == Some(ACME_TLS) && offered.next().is_none()
}

/// The configuration for such handshakes.
pub(super) fn challenge_config(store: &Arc<AcmeStore>) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let resolver = Arc::new(Challenges(Arc::clone(store)));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.challenge_certificate(hello.server_name()?)
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Challenges")
    }
}
