//! What a certificate says of itself: its names, and how long it holds.
//!
//! Guarantees: what cannot be read of a certificate's time is no reason to refuse it.

use std::path::Path;

use rustls::sign::CertifiedKey;

use super::tls_error::TlsError;
use crate::validity::validity;

/// When the first certificate of a chain expires, in seconds since 1970.
pub(super) fn expiry_of(certified: &CertifiedKey) -> Option<i64> {
    let chain = certified.cert.iter();
    chain
        .filter_map(|certificate| Some(validity(certificate)?.1))
        .min()
}

/// The DNS names of its subject alternative names; a wildcard without its star.
pub(super) fn names_of(certified: &CertifiedKey, path: &Path) -> Result<Vec<String>, TlsError> {
    let wrong = |what: String| TlsError::Content {
        path: path.to_owned(),
        what,
    };
    let leaf = certified.cert.first();
    let leaf = leaf.ok_or_else(|| wrong("has no certificate in it".to_owned()))?;
    let parsed = webpki::EndEntityCert::try_from(leaf)
        .map_err(|error| wrong(format!("is not an X.509 v3 certificate: {error}")))?;
    let names = parsed.valid_dns_names().map(str::to_ascii_lowercase);
    Ok(names
        .map(|name| name.strip_prefix('*').map_or(name.clone(), str::to_owned))
        .collect())
}
