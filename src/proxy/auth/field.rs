//! A field with a secret value.
//!
//! Guarantees: exactly one field with the right value lets a request in; values of one length are
//! compared in constant time.

use http::{HeaderMap, HeaderName, HeaderValue};
use subtle::ConstantTimeEq as _;

use super::refusal::Refusal;
use crate::config::HeaderAuth;

/// Whether the field is there once and right.
pub(in crate::proxy) fn judge(
    auth: &HeaderAuth,
    headers: &HeaderMap,
) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    let mut values = headers.get_all(&auth.header).iter();
    let expected = auth.value.reveal().as_bytes();
    match (values.next(), values.next()) {
        (None, _) => Err(Refusal::Missing),
        (Some(value), None) if bool::from(value.as_bytes().ct_eq(expected)) => Ok(Vec::new()),
        (Some(_), _) => Err(Refusal::Invalid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_field_with_the_right_value_authenticates() {
        let auth = HeaderAuth::new("x-key", "0123456789abcdef0123456789abcdef").unwrap();
        let check = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-key", value.parse().unwrap());
            }
            judge(&auth, &headers)
        };
        let right = "0123456789abcdef0123456789abcdef";
        assert_eq!(check(&[right]), Ok(Vec::new()));
        assert_eq!(check(&[]), Err(Refusal::Missing));
        for wrong in [
            &["wrong"][..],
            &["0123456789abcdef0123456789abcdeg"],
            &[right, right],
        ] {
            assert_eq!(check(wrong), Err(Refusal::Invalid));
        }
    }
}
