//! Who chooses a connection's cipher suite.
//!
//! Guarantees: the gateway does, in the order of its provider, so that nobody between can make a client
//! agree on less; but a client that puts `ChaCha20` first, as phones without instructions for AES do, gets
//! what it prefers among the same suites.

use std::sync::Arc;

use rustls::server::ClientHello;
use rustls::{CipherSuite, ServerConfig};

/// One configuration in both orders; all else of it is shared.
#[derive(Debug, Clone)]
pub(super) struct CipherOrder {
    servers: Arc<ServerConfig>,
    clients: Arc<ServerConfig>,
}

// === impl CipherOrder ===

impl CipherOrder {
    pub(super) fn new(config: &ServerConfig) -> Self {
        let with = |ignore_client_order| {
            let mut config = config.clone();
            config.ignore_client_order = ignore_client_order;
            Arc::new(config)
        };
        Self {
            servers: with(true),
            clients: with(false),
        }
    }

    /// The configuration for a client that says this.
    pub(super) fn config(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let config = match prefers_chacha(hello.cipher_suites()) {
            true => &self.clients,
            false => &self.servers,
        };
        Arc::clone(config)
    }
}

/// Whether the first suite is one with `ChaCha20`; what browsers put there to exercise servers (GREASE,
/// RFC 8701) is none.
fn prefers_chacha(suites: &[CipherSuite]) -> bool {
    let first = suites
        .iter()
        .find(|suite| !matches!(suite, CipherSuite::Unknown(_)));
    matches!(
        first,
        Some(
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHACHA: CipherSuite = CipherSuite::TLS13_CHACHA20_POLY1305_SHA256;
    const AES: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;

    #[test]
    fn only_the_first_suite_counts_and_grease_is_none() {
        let grease = CipherSuite::Unknown(0x3a3a);
        for (suites, prefers) in [
            (&[][..], false),
            (&[grease], false),
            (&[AES, CHACHA], false),
            (&[grease, AES, CHACHA], false),
            (&[CHACHA, AES], true),
            (&[grease, CHACHA, AES], true),
        ] {
            assert_eq!(prefers_chacha(suites), prefers, "{suites:?}");
        }
    }
}
