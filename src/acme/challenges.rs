//! Challenges that a CA has set, and the answers to them.
//!
//! Guarantees: any gateway on the directory answers; nothing but a token's or a name's own letters
//! becomes a part of a path; what nobody has set has no answer.

use std::io;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::shelf::{CHALLENGES, NameLock, OpenChallenge};
use super::store::AcmeStore;
use crate::names::Hostname;

/// Where a CA asks over HTTP (RFC 8555 §8.3).
const PREFIX: &str = "/.well-known/acme-challenge/";
/// The longest token that is looked for; the CAs' have 43 letters.
const LONGEST: usize = 128;

/// Whether a path is one of challenges.
pub fn is_challenge_path(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// The token that a path asks for, if it is one.
pub fn token_of(path: &str) -> Option<&str> {
    path.strip_prefix(PREFIX).filter(|token| is_token(token))
}

/// Letters of base64url (RFC 8555 §8.1).
fn is_token(text: &str) -> bool {
    let is_letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    !text.is_empty() && text.len() <= LONGEST && text.bytes().all(is_letter)
}

// === impl AcmeStore ===

impl AcmeStore {
    /// Answers a challenge from now on, for as long as the name's lock is held.
    pub(super) async fn set_challenge(
        &self,
        name: &str,
        lock: &NameLock,
        token: &str,
        key_authorization: &str,
    ) -> io::Result<OpenChallenge> {
        if !is_token(token) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the CA's token is none",
            ));
        }
        let names = [token_name(token), name_name(name)];
        let set = self.shelf.set_challenge(lock, names, key_authorization);
        set.await
    }

    /// What a CA is to read at a token's path.
    pub fn answer(&self, token: &str) -> Option<String> {
        let token = Some(token).filter(|token| is_token(token))?;
        String::from_utf8(self.shelf.read(&token_name(token)).ok()?).ok()
    }

    /// What a CA is to be shown in a handshake for a name (RFC 8737 §3).
    pub fn challenge_certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let name = Hostname::parse(name).ok()?;
        let key_authorization = self.shelf.read(&name_name(name.as_str())).ok()?;
        certificate(name.as_str(), &key_authorization)
            .inspect_err(|error| tracing::warn!(%error, "no certificate for a challenge"))
            .ok()
    }
}

fn token_name(token: &str) -> String {
    format!("{CHALLENGES}token-{token}")
}

fn name_name(name: &str) -> String {
    format!("{CHALLENGES}name-{name}")
}

fn certificate(
    name: &str,
    key_authorization: &[u8],
) -> Result<Arc<CertifiedKey>, Box<dyn std::error::Error>> {
    let digest = digest(&SHA256, key_authorization);
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest.as_ref())];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signer = any_supported_type(&key)?;
    // Not checked any further: it has an extension that only a CA understands.
    let chain = vec![certificate.der().clone()];
    Ok(Arc::new(CertifiedKey::new(chain, signer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_challenge_is_answered_by_every_gateway_until_it_is_over_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| AcmeStore::open(dir.path()).unwrap());
        let lock = one.try_lock("a.test").await.unwrap().unwrap();
        let set = one.set_challenge("a.test", &lock, "tok-en_1", "tok-en_1.thumb");
        let challenge = set.await.unwrap();
        assert_eq!(other.answer("tok-en_1").as_deref(), Some("tok-en_1.thumb"));
        assert!(other.challenge_certificate("A.test").is_some());
        for token in [
            "",
            "other",
            "../name-a.test",
            "tok-en_1/..",
            &"x".repeat(129),
        ] {
            assert_eq!(other.answer(token), None, "{token}");
        }
        for name in ["b.test", "../a.test", ""] {
            assert!(other.challenge_certificate(name).is_none(), "{name}");
        }
        let odd = one.set_challenge("a.test", &lock, "../x", "y");
        assert!(odd.await.is_err());
        drop(challenge);
        assert!(other.answer("tok-en_1").is_none());
        assert!(other.challenge_certificate("a.test").is_none());
    }

    #[test]
    fn a_token_is_what_follows_the_path_of_challenges() {
        assert_eq!(token_of("/.well-known/acme-challenge/abc"), Some("abc"));
        for path in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/a/b",
            "/abc",
        ] {
            assert_eq!(token_of(path), None, "{path}");
        }
    }
}
