//! Certificates and keys in PEM.
//!
//! Guarantees: whoever reads gets at least one certificate, or what is wrong in words that follow the
//! file's name; no byte of a key is in any message.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What is wrong with a text that should be PEM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemProblem {
    /// It is no PEM, or a block of it is damaged.
    #[error("is not a PEM certificate: {0}")]
    Certificate(String),
    /// It has no certificate.
    #[error("has no certificate in it")]
    Empty,
    /// A certificate that is to be believed cannot be.
    #[error("has a certificate that is not a CA: {0}")]
    Root(String),
    /// It has no key that can be read.
    #[error("is not a PEM private key")]
    Key,
}

/// The certificates of a chain, the first one's own first.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemProblem> {
    let chain = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if chain.is_empty() => Err(PemProblem::Empty),
        Ok(chain) => Ok(chain),
        Err(error) => Err(PemProblem::Certificate(format!("{error:?}"))),
    }
}

/// The CAs that are believed.
pub fn roots(text: &[u8]) -> Result<RootCertStore, PemProblem> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(text)? {
        let added = roots.add(certificate);
        added.map_err(|error| PemProblem::Root(error.to_string()))?;
    }
    Ok(roots)
}

/// The first private key.
pub fn key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemProblem> {
    // The library's error may say what it met.
    PrivateKeyDer::from_pem_slice(text).map_err(|_| PemProblem::Key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_certificate_is_told_from_what_is_damaged() {
        assert_eq!(certificates(b"nonsense"), Err(PemProblem::Empty));
        let damaged = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            certificates(damaged),
            Err(PemProblem::Certificate(_))
        ));
        assert!(matches!(
            roots(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            Err(PemProblem::Root(_))
        ));
    }

    #[test]
    fn a_key_that_cannot_be_read_is_told_without_its_bytes() {
        let text = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0!\n-----END PRIVATE KEY-----\n";
        let message = key(text).unwrap_err().to_string();
        assert_eq!(message, "is not a PEM private key");
    }

    #[test]
    fn a_chain_and_its_key_are_read() {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let text = format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem());
        assert_eq!(certificates(text.as_bytes()).unwrap().len(), 1);
        assert_eq!(roots(text.as_bytes()).unwrap().len(), 1);
        assert!(key(text.as_bytes()).is_ok());
    }
}
