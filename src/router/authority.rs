//! Which host a request is for.
//!
//! Guarantees: one Host field exactly in HTTP/1.1 (RFC 9112 §3.2; hyper accepts none and two), a
//! valid one (no user information), and an absolute-form target wins over it (RFC 9112 §3.2.2); in
//! HTTP/2 `:authority` or Host, which must not differ (RFC 9113 §8.3.1).

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Uri, Version};

use crate::names::{Hostname, HostnameError};

/// The request names no host that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// HTTP/1.1 without a Host.
    #[error("the request has no Host")]
    Missing,
    /// More than one Host.
    #[error("the request has more than one Host")]
    Repeated,
    /// HTTP/2's `:authority` and Host name different hosts.
    #[error("the request's authority and Host differ")]
    Disagree,
    /// Not a host with an optional port.
    #[error("the request's Host is not valid")]
    Malformed,
    /// Not a host name.
    #[error("the request's Host is not valid: {0}")]
    Hostname(#[from] HostnameError),
}

/// The host that the request is for.
pub fn host_of(
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Hostname, AuthorityError> {
    let fields = headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    host_named(version, uri, fields)
}

/// The same of a request with these `Host` fields.
pub fn host_named<'h>(
    version: Version,
    uri: &Uri,
    mut fields: impl Iterator<Item = &'h [u8]>,
) -> Result<Hostname, AuthorityError> {
    let field = fields.next();
    if fields.next().is_some() {
        return Err(AuthorityError::Repeated);
    }
    if field.is_none() && version == Version::HTTP_11 {
        return Err(AuthorityError::Missing);
    }
    // The field must be valid even where the target wins.
    let from_field = field.map(parse).transpose()?;
    let from_target = uri
        .authority()
        .map(|authority| parse(authority.as_str().as_bytes()))
        .transpose()?;
    match (from_target, from_field) {
        // The instance sees the field, the route was found by the target: in HTTP/2, where both
        // come from the client, they must not differ.
        (Some(target), Some(field)) if version >= Version::HTTP_2 && target != field => {
            Err(AuthorityError::Disagree)
        }
        (Some(host), _) | (None, Some(host)) => Ok(host),
        (None, None) => Err(AuthorityError::Missing),
    }
}

fn parse(bytes: &[u8]) -> Result<Hostname, AuthorityError> {
    let authority = Authority::try_from(bytes).map_err(|_| AuthorityError::Malformed)?;
    if authority.as_str().contains('@') || authority.as_str().ends_with(':') {
        return Err(AuthorityError::Malformed);
    }
    let has_port = authority.as_str().len() > authority.host().len();
    if has_port && authority.port_u16().is_none() {
        return Err(AuthorityError::Malformed);
    }
    Ok(Hostname::parse(authority.host())?)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn in_http_2_authority_or_host_is_enough_and_both_must_agree() {
        let host = |uri: &str, field: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.extend(field.map(|field| (HOST, HeaderValue::from_static(field))));
            let found = host_of(Version::HTTP_2, &uri.parse().unwrap(), &headers);
            found.map(|host| host.as_str().to_owned())
        };
        assert_eq!(host("https://a.b/", None).as_deref(), Ok("a.b"));
        assert_eq!(host("https://a.b:443/", Some("a.b")).as_deref(), Ok("a.b"));
        assert_eq!(host("/", Some("a.b")).as_deref(), Ok("a.b"));
        assert_eq!(
            host("https://a.b/", Some("c.d")),
            Err(AuthorityError::Disagree)
        );
        assert_eq!(host("/", None), Err(AuthorityError::Missing));
    }

    fn host(uri: &str, hosts: &[&str]) -> Result<String, AuthorityError> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).unwrap());
        }
        host_of(Version::HTTP_11, &uri.parse().unwrap(), &headers).map(|h| h.to_string())
    }

    #[test]
    fn a_request_has_exactly_one_valid_host() {
        assert_eq!(host("/", &["A.b:80"]).unwrap(), "a.b");
        assert_eq!(host("/", &[]), Err(AuthorityError::Missing));
        assert_eq!(host("/", &["a", "a"]), Err(AuthorityError::Repeated));
        for bad in [
            "", "a b", "u@a", "a/c", "a:x", "a:", "a:99999", "[::1", "a,b",
        ] {
            assert!(host("/", &[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_absolute_target_wins_over_the_field() {
        assert_eq!(host("http://evil.com/x", &["a.b"]).unwrap(), "evil.com");
        assert!(
            host("http://evil.com/x", &["a b"]).is_err(),
            "the field must be valid all the same"
        );
    }

    proptest! {
        #[test]
        fn any_host_is_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = HeaderMap::from_iter([(HOST, value)]);
                let _ = host_of(Version::HTTP_11, &Uri::from_static("/"), &headers);
            }
        }
    }
}
