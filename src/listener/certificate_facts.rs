//! What a certificate says of itself: its names, and how long it holds.
//!
//! Guarantees: what cannot be read of a certificate's time is no reason to refuse it.

use std::path::Path;

use rustls::sign::CertifiedKey;
use yasna::Tag;
use yasna::models::{GeneralizedTime, UTCTime};
use yasna::tags::TAG_UTCTIME;

use super::tls_error::TlsError;

/// When the first certificate of a chain expires, in seconds since 1970.
pub(super) fn expiry_of(certified: &CertifiedKey) -> Option<i64> {
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
