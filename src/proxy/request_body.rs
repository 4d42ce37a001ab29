//! A request's body, as far as the gateway has rules for it: its slowest rate, and the small body
//! that is read beforehand so that the request can be sent again.
//!
//! Guarantees: no more than the route's buffer is read, nor than its client may have in memory, and
//! not beyond the request's deadline.

use http::header::CONTENT_TYPE;
use tokio::time::{Instant, timeout_at};

use super::error::ProxyError;
use crate::client::Request;
use crate::config::{LimitsConfig, ServerConfig};
use crate::upstream::{BodyError, Field, Fields, Outgoing};

/// The slowest rate at which a body may come, in bytes a second: the route's, or else the server's.
/// Streams of gRPC may be silent for long, where their route says nothing.
pub(super) fn min_body_rate<B>(
    request: &Request<B>,
    fields: Fields,
    server: &ServerConfig,
    route: &LimitsConfig,
) -> usize {
    if let Some(rate) = route.min_body_rate {
        return rate.0;
    }
    let is_grpc = |kind: &[u8]| kind.starts_with(b"application/grpc");
    match fields.has(Field::ContentType) && request.values(CONTENT_TYPE).next().is_some_and(is_grpc)
    {
        true => 0,
        false => server.min_body_rate.0,
    }
}

/// Reads a body of no more than `limit` bytes beforehand.
pub(super) async fn read_beforehand(
    outgoing: &mut Outgoing,
    limit: usize,
    deadline: Instant,
) -> Result<(), ProxyError> {
    match timeout_at(deadline, outgoing.read_beforehand(limit)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(BodyError::Client(_))) => Err(ProxyError::BodyBroke),
        Ok(Err(BodyError::TooSlow)) | Err(_) => Err(ProxyError::BodyTooSlow),
    }
}
