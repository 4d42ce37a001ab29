//! What a client has sent instead of a request.
//!
//! Guarantees: nothing is in it that was not read with certainty.

use http::header::ACCEPT;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method};

use super::Request;

/// Bytes that are no request, as far as anything is known of them.
#[derive(Debug)]
pub struct Refusal {
    /// What is wrong with them.
    pub reason: RefusalReason,
    /// The method, if the start line has one.
    pub method: Option<Method>,
    /// The target, if the start line was read as a whole.
    pub target: Option<PathAndQuery>,
    /// What the client wants to read, if that was read.
    pub accept: Option<HeaderValue>,
}

/// Why bytes are no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// They are not HTTP/1.0 or HTTP/1.1, or have two readings (RFC 9112 §2, §6.3).
    #[error("this is no valid request of HTTP/1.0 or HTTP/1.1")]
    Malformed,
    /// The target is longer than any that is passed on.
    #[error("the request's target is too long")]
    LongTarget,
    /// The head is larger, or has more fields, than the server allows.
    #[error("the request's head is too large")]
    LargeHead,
    /// A transfer coding other than one `chunked` (RFC 9112 §6.1).
    #[error("the request's transfer coding is not supported")]
    TransferCoding,
    /// The head is large, and the client has as much in the gateway's memory as it may have.
    #[error("the client's requests take too much memory together")]
    NoRoom,
    /// A request in clear at a listener with TLS.
    #[error("the request came in clear to a port with TLS")]
    WrongScheme,
}

// === impl Refusal ===

impl Refusal {
    /// A request that is readable, and is not answered for another reason.
    pub fn of_request<B>(reason: RefusalReason, request: &Request<B>) -> Self {
        Self {
            reason,
            method: Some(request.method().clone()),
            target: request.uri().path_and_query().cloned(),
            accept: request.field(&ACCEPT),
        }
    }
}
