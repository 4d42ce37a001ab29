//! How long a certificate holds.
//!
//! Guarantees: what cannot be read of a certificate's times is `None`, and no panic.

use yasna::Tag;
use yasna::models::{GeneralizedTime, UTCTime};
use yasna::tags::TAG_UTCTIME;

/// The times between which a certificate holds, in seconds since 1970 (RFC 5280 §4.1).
pub fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let read = yasna::parse_der(certificate, |reader| {
        reader.read_sequence(|parts| {
            let times = parts.next().read_sequence(|parts| {
                parts.read_optional(|version| {
                    version.read_tagged(Tag::context(0), |version| version.read_u8().map(drop))
                })?;
                for _serial_algorithm_issuer in 0..3 {
                    parts.next().read_der()?;
                }
                let times = parts.next().read_sequence(|validity| {
                    let not_before = validity.next().read_tagged_der()?;
                    Ok((not_before, validity.next().read_tagged_der()?))
                })?;
                while parts
                    .read_optional(|part| part.read_der().map(drop))?
                    .is_some()
                {}
                Ok(times)
            })?;
            for _algorithm_signature in 0..2 {
                parts.next().read_der()?;
            }
            Ok(times)
        })
    });
    let (not_before, not_after) = read.ok()?;
    Some((seconds(&not_before)?, seconds(&not_after)?))
}

fn seconds(time: &yasna::models::TaggedDerValue) -> Option<i64> {
    Some(match time.tag() {
        TAG_UTCTIME => UTCTime::parse(time.value())?.datetime().unix_timestamp(),
        _ => GeneralizedTime::parse(time.value())?
            .datetime()
            .unix_timestamp(),
    })
}
