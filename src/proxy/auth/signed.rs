//! A URL that is signed.
//!
//! Guarantees: the URL is judged as the request has it, byte by byte, and its host as routes read
//! it.

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

use super::refusal::Refusal;
use crate::client::Request;
use crate::config::SignedUrlAuth;
use crate::identity::SignedUrl;

/// Whether the request's URL is signed for it.
pub(in crate::proxy) fn judge<B>(
    auth: &SignedUrlAuth,
    host: &str,
    request: &Request<B>,
) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    let target = request.uri().path_and_query().map(PathAndQuery::as_str);
    let signed = target.and_then(SignedUrl::parse).ok_or(Refusal::Missing)?;
    let key = auth.key_file.as_ref().ok_or(Refusal::Unavailable)?;
    let checked = signed.check(key.key(), request.method().as_str(), host, Timestamp::now());
    checked.map(|()| Vec::new()).map_err(|_| Refusal::Invalid)
}
