//! What a client has sent instead of a request.
//!
//! Guarantees: nothing is in it that was not read with certainty.

use http::Method;
use http::uri::PathAndQuery;

/// Bytes that are no request, as far as anything is known of them.
#[derive(Debug)]
pub struct Refusal {
    /// What is wrong with them.
    pub reason: RefusalReason,
    /// The method, if the start line has one.
    pub method: Option<Method>,
    /// The target, if the start line was read as a whole.
    pub target: Option<PathAndQuery>,
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
}
