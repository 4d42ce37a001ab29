//! What an instance is sent of a client's request, besides its header fields.
//!
//! Guarantees: nothing goes on whose framing could be read in two ways; the target is in origin form
//! with the route's prefix taken off where it says so, and never normalised otherwise.

use std::net::IpAddr;

use http::header::{CONTENT_TYPE, HOST, HeaderValue, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, Request, Uri, Version};
use subtle::ConstantTimeEq as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::dispatch::Transport;
use super::error::ProxyError;
use crate::config::{HeaderAuth, ServerConfig};
use crate::upstream::{
    BodyError, Field, Fields, ForwardError, Hop, Outgoing, RequestBody, Upstream, UpstreamBody,
};
use crate::wake::{Endpoint, OpenConnection};

/// What hyper lets through and must not go further.
pub(super) fn check_framing(headers: &HeaderMap, fields: Fields) -> Result<(), ProxyError> {
    if !fields.has(Field::TransferEncoding) {
        return Ok(());
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let fine = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    match fine {
        true => Ok(()),
        false => Err(ProxyError::TransferCoding),
    }
}

/// How fast a body must come, in bytes a second. Streams of gRPC may be silent for long.
pub(super) fn min_body_rate(headers: &HeaderMap, fields: Fields, config: &ServerConfig) -> usize {
    let grpc = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/grpc");
    match fields.has(Field::ContentType) && headers.get(CONTENT_TYPE).is_some_and(grpc) {
        true => 0,
        false => config.min_body_rate.0,
    }
}

/// The path that a route is found by. `*` is of OPTIONS alone and means the whole server (RFC 9110
/// §9.3.7); an authority alone is of CONNECT (RFC 9112 §3.2.3), which has been dealt with.
pub(super) fn routed_path(request: &Request<RequestBody>) -> Result<&str, ProxyError> {
    let uri = request.uri();
    if uri.authority().is_some() && uri.scheme().is_none() {
        return Err(ProxyError::Target);
    }
    match uri.path() {
        "*" if request.method() == Method::OPTIONS => Ok("/"),
        "*" => Err(ProxyError::Target),
        path => Ok(path),
    }
}

/// Whether the request has the field that its route asks for; takes it away. In constant time for
/// values of one length.
pub(super) fn authenticate(auth: &HeaderAuth, headers: &mut HeaderMap) -> Result<(), ProxyError> {
    let mut given = headers.get_all(&auth.header).iter();
    let expected = auth.value.reveal().as_bytes();
    let known = match (given.next(), given.next()) {
        (Some(value), None) => bool::from(value.as_bytes().ct_eq(expected)),
        _ => false,
    };
    headers.remove(&auth.header);
    match known {
        true => Ok(()),
        false => Err(ProxyError::Unauthenticated),
    }
}

/// About as many bytes as the head took on the wire.
pub(super) fn head_bytes(uri: &Uri, fields: Fields) -> usize {
    let target = uri.path_and_query().map(PathAndQuery::as_str);
    fields.bytes() + target.map_or(0, str::len)
}

/// HTTP/2's authority is HTTP/1.1's Host, its port included; an absolute-form target's is, too (RFC
/// 9112 §3.2.2).
pub(super) fn adopt_authority(request: &mut Request<RequestBody>) {
    let authority = request.uri().authority().map(Authority::as_str);
    if let Some(Ok(host)) = authority.map(HeaderValue::from_str) {
        request.headers_mut().insert(HOST, host);
    }
}

/// HTTP/1.1 with the target that an origin expects (RFC 9112 §3.2.1), without `prefix`.
pub(super) fn to_origin_form(request: &mut Request<RequestBody>, prefix: Option<&str>) {
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

fn without_prefix(target: &PathAndQuery, prefix: &str) -> Option<PathAndQuery> {
    let rest = target.as_str().strip_prefix(prefix)?;
    match rest.starts_with('/') {
        true => rest.parse().ok(),
        false => format!("/{rest}").parse().ok(),
    }
}

/// Whether it is of use to read the request's body beforehand: it could be sent again then.
pub(super) fn gains_from_buffer(request: &Request<RequestBody>) -> bool {
    request.method().is_idempotent() && !request.body().is_repeatable()
}

/// Reads a small body beforehand.
pub(super) async fn buffered(
    request: Request<RequestBody>,
    limit: usize,
    deadline: Instant,
) -> Result<Request<RequestBody>, ProxyError> {
    let (parts, body) = request.into_parts();
    match timeout_at(deadline, body.buffer(limit)).await {
        Ok(Ok(body)) => Ok(Request::from_parts(parts, body)),
        Ok(Err(BodyError::Hyper(_))) => Err(ProxyError::BodyBroke),
        Ok(Err(BodyError::TooSlow)) | Err(_) => Err(ProxyError::BodyTooSlow),
    }
}

/// Whom a trusted peer speaks for: the last of `x-forwarded-for` that no trusted proxy has, or the peer itself.
pub(super) fn named_client(
    peer: IpAddr,
    headers: &HeaderMap,
    trusts: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let named = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(|text| text.trim().parse::<IpAddr>());
    let named: Vec<_> = named.collect();
    for address in named.into_iter().rev() {
        match address {
            Ok(address) if trusts(address) => {}
            Ok(address) => return address,
            Err(_) => break,
        }
    }
    peer
}

impl Transport for std::sync::Arc<Upstream> {
    type Stream = TcpStream;
    type Request = Outgoing;
    type Response = http::Response<UpstreamBody>;

    async fn send(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(TcpStream, OpenConnection)>,
        request: &mut Outgoing,
        now: Instant,
    ) -> Result<http::Response<UpstreamBody>, ForwardError> {
        Upstream::send(self, endpoint, hop, given, request, now).await
    }

    fn may_repeat(&self, request: &Outgoing) -> bool {
        request.may_repeat()
    }

    fn status(&self, response: &http::Response<UpstreamBody>) -> u16 {
        response.status().as_u16()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn a_prefix_is_taken_off_on_a_segment_border() {
        let strip = |target: &str, prefix: &str| {
            let target: PathAndQuery = target.parse().unwrap();
            without_prefix(&target, prefix).map(|rest| rest.to_string())
        };
        assert_eq!(strip("/v1/a?b=c", "/v1").as_deref(), Some("/a?b=c"));
        assert_eq!(strip("/v1", "/v1").as_deref(), Some("/"));
        assert_eq!(strip("/v1?b=/v1", "/v1").as_deref(), Some("/?b=/v1"));
        assert_eq!(strip("/other", "/v1"), None);
    }

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
