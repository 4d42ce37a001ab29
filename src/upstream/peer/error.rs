//! Why a request to another member has no response.
//!
//! Guarantees: an error says whether anything may have been done with the request, and never that it
//! was not where it may.

use std::sync::Arc;

use crate::upstream::request_body::BodyFailure;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A request to another member has no response.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It does not answer. A request that may have been sent can be sent again all the same.
    #[error("the host of the instance cannot be reached")]
    Unreachable,
    /// One side does not believe the other; nothing was sent.
    #[error("the host of the instance and this gateway do not believe each other: {0}")]
    Refused(Arc<str>),
    /// The connection broke after it had taken some of the request.
    #[error("the connection to the host of the instance broke before its response: {0}")]
    Broken(#[source] Cause),
    /// It had the request, and did not begin to answer it in time.
    #[error("the host of the instance did not begin to answer in time")]
    TimedOut,
    /// It cannot be passed on as it is; nothing was sent.
    #[error("the request cannot be passed on to the host of the instance: {0}")]
    Unfit(#[source] Cause),
    /// It was not taken, as often as it was sent.
    #[error("the host of the instance does not take the request")]
    Untaken,
    /// The client did not send its body as it should.
    #[error("the request's body did not come as it should")]
    Client(BodyFailure),
}
