//! A request's target: the path that it is routed by, and the form that an instance is sent.
//!
//! Guarantees: an instance gets the target in origin form, with the route's prefix, and all slashes
//! behind it but one, taken off where the route says so, and never normalised otherwise.

use http::header::{HOST, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Uri, Version};

use super::error::ProxyError;
use crate::client::Request;
use crate::router::behind_prefix;

/// The path that a route is found by. `*` is of OPTIONS alone and means the whole server (RFC 9110
/// §9.3.7); an authority alone is of CONNECT (RFC 9112 §3.2.3), which has been dealt with.
pub(super) fn routed_path<B>(request: &Request<B>) -> Result<&str, ProxyError> {
    let uri = request.uri();
    if uri.authority().is_some() && uri.scheme().is_none() {
        return Err(ProxyError::Target);
    }
    match uri.path() {
        "*" if request.method() == Method::OPTIONS => Ok("/"),
        "*" => Err(ProxyError::Target),
        path if path.starts_with('/') => Ok(path),
        _ => Err(ProxyError::Target),
    }
}

/// HTTP/2's authority is HTTP/1.1's Host, its port included; an absolute-form target's is, too (RFC
/// 9112 §3.2.2).
pub(super) fn adopt_authority<B>(request: &mut Request<B>) {
    let authority = request.uri().authority().map(Authority::as_str);
    if let Some(Ok(host)) = authority.map(HeaderValue::from_str) {
        request.headers_mut().insert(HOST, host);
    }
}

/// HTTP/1.1 with the target that an origin expects (RFC 9112 §3.2.1), without `prefix`.
pub(super) fn to_origin_form<B>(request: &mut Request<B>, prefix: Option<&str>) {
    *request.version_mut() = Version::HTTP_11;
    let uri = request.uri();
    if prefix.is_none_or(|prefix| prefix == "/")
        && uri.authority().is_none()
        && uri.path_and_query().is_some()
    {
        // It is in this form already.
        return;
    }
    let target = uri.path_and_query().cloned();
    let target = match (target, prefix.filter(|prefix| *prefix != "/")) {
        (Some(target), Some(prefix)) => Some(without_prefix(&target, prefix).unwrap_or(target)),
        (target, _) => target,
    };
    *request.uri_mut() = target.map_or_else(|| Uri::from_static("/"), Uri::from);
}

/// The path that an instance is sent, where that is another one since `prefix` is taken off.
pub(super) fn path_behind(uri: &Uri, prefix: Option<&str>) -> Option<String> {
    let prefix = prefix.filter(|prefix| *prefix != "/")?;
    let target = without_prefix(uri.path_and_query()?, prefix)?;
    Some(target.path().to_owned())
}

fn without_prefix(target: &PathAndQuery, prefix: &str) -> Option<PathAndQuery> {
    behind_prefix(target.as_str(), prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_taken_off_on_a_segment_border() {
        let strip = |target: &str, prefix: &str| {
            let target: PathAndQuery = target.parse().unwrap();
            without_prefix(&target, prefix).map(|rest| rest.to_string())
        };
        assert_eq!(strip("/v1/a?b=c", "/v1").as_deref(), Some("/a?b=c"));
        assert_eq!(strip("/v1", "/v1").as_deref(), Some("/"));
        assert_eq!(strip("/v1///x//y?//", "/v1").as_deref(), Some("/x//y?//"));
        assert_eq!(strip("/v1//?a", "/v1").as_deref(), Some("/?a"));
        assert_eq!(strip("/v1?b=/v1", "/v1").as_deref(), Some("/?b=/v1"));
        assert_eq!(strip("/other", "/v1"), None);
        assert_eq!(strip("/%761/a%2fb", "/v1").as_deref(), Some("/a%2fb"));
        assert_eq!(strip("/a%2fb/c", "/a%2Fb").as_deref(), Some("/c"));
    }
}
