//! The header field that a route may ask for before anything else happens.
//!
//! Guarantees: exactly one field with the right value lets a request in; values of one length are
//! compared in constant time; the instance never sees the field.

use http::HeaderMap;
use subtle::ConstantTimeEq as _;

use super::error::ProxyError;
use crate::config::HeaderAuth;

/// Checks the field that the route asks for, and takes it away.
pub(super) fn authenticate(auth: &HeaderAuth, headers: &mut HeaderMap) -> Result<(), ProxyError> {
    let mut values = headers.get_all(&auth.header).iter();
    let expected = auth.value.reveal().as_bytes();
    let is_right = match (values.next(), values.next()) {
        (Some(value), None) => bool::from(value.as_bytes().ct_eq(expected)),
        _ => false,
    };
    headers.remove(&auth.header);
    match is_right {
        true => Ok(()),
        false => Err(ProxyError::Unauthenticated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn only_one_field_with_the_right_value_authenticates_and_none_is_passed_on() {
        let auth = HeaderAuth {
            header: "x-key".parse().unwrap(),
            value: Secret::new("0123456789abcdef0123456789abcdef"),
            value_file: None,
        };
        let check = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-key", value.parse().unwrap());
            }
            let result = authenticate(&auth, &mut headers).is_ok();
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
}
