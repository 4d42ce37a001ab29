//! Framing that must not go further.
//!
//! Guarantees: nothing passes whose framing could be read in two ways (RFC 9112 §6.1).

use http::HeaderMap;
use http::header::TRANSFER_ENCODING;

use super::error::ProxyError;
use crate::upstream::{Field, Fields};

/// Refuses what hyper lets through and an instance could read differently.
pub(super) fn check_framing(headers: &HeaderMap, fields: Fields) -> Result<(), ProxyError> {
    if !fields.has(Field::TransferEncoding) {
        return Ok(());
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_supported = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    match is_supported {
        true => Ok(()),
        false => Err(ProxyError::TransferCoding),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn one_chunked_coding_passes_and_nothing_else() {
        let check = |codings: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for coding in codings {
                headers.append(TRANSFER_ENCODING, HeaderValue::from_static(coding));
            }
            check_framing(&headers, Fields::of(&headers)).is_ok()
        };
        assert!(check(&[]));
        assert!(check(&["chunked"]) && check(&["Chunked"]));
        assert!(!check(&["gzip, chunked"]));
        assert!(!check(&["chunked", "chunked"]));
        assert!(!check(&["identity"]));
    }
}
