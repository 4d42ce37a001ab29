//! What a route may ask a request to show before anything else happens.
//!
//! Guarantees: exactly one field with the right value lets a request in; values of one length are
//! compared in constant time; the instance never sees the field. A certificate counts only if the
//! listener that the connection came to has verified it: it belongs to the connection, whatever host
//! of the listener's a request on it is for.

use http::{HeaderMap, HeaderValue};
use subtle::ConstantTimeEq as _;

use super::error::ProxyError;
use crate::config::{AuthConfig, HeaderAuth, Proof};

/// Checks what the route asks for, and takes fields that prove it away. `certificate` is the one that
/// the connection's listener has verified.
pub(super) fn authenticate(
    auth: &AuthConfig,
    headers: &mut HeaderMap,
    certificate: Option<&HeaderValue>,
) -> Result<(), ProxyError> {
    let field = auth.header.as_ref();
    let has_field = field.is_some_and(|field| take_field(field, headers));
    let is_shown = |proof: &Proof| match proof {
        Proof::ClientCertificate => certificate.is_some(),
    };
    match has_field || auth.any.iter().any(is_shown) {
        true => Ok(()),
        false => Err(ProxyError::Unauthenticated),
    }
}

/// Whether the field is there once and right; it is not there any more then.
fn take_field(auth: &HeaderAuth, headers: &mut HeaderMap) -> bool {
    let mut values = headers.get_all(&auth.header).iter();
    let expected = auth.value.reveal().as_bytes();
    let is_right = match (values.next(), values.next()) {
        (Some(value), None) => bool::from(value.as_bytes().ct_eq(expected)),
        _ => false,
    };
    headers.remove(&auth.header);
    is_right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_field_with_the_right_value_authenticates_and_none_is_passed_on() {
        let auth = HeaderAuth::new("x-key", "0123456789abcdef0123456789abcdef").unwrap();
        let auth = AuthConfig::from(auth);
        let check = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-key", value.parse().unwrap());
            }
            let result = authenticate(&auth, &mut headers, None).is_ok();
            assert!(headers.is_empty());
            result
        };
        let right = "0123456789abcdef0123456789abcdef";
        assert!(check(&[right]));
        assert!(!check(&[]));
        assert!(!check(&["wrong"]));
        assert!(!check(&["0123456789abcdef0123456789abcdeg"]));
        assert!(!check(&[right, right]));
    }

    #[test]
    fn a_certificate_that_was_verified_lets_in_and_a_field_of_that_name_does_not() {
        let auth = AuthConfig {
            header: None,
            any: vec![Proof::ClientCertificate],
        };
        let shown = HeaderValue::from_static(":aGk=:");
        let mut headers = HeaderMap::new();
        assert!(authenticate(&auth, &mut headers, Some(&shown)).is_ok());
        headers.insert("client-cert", shown);
        assert!(authenticate(&auth, &mut headers, None).is_err());
    }
}
