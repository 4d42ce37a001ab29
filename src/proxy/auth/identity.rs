//! What is known about who has sent a request.
//!
//! Guarantees: what is here comes from the gateway's own judgement, and not from the client.

use http::{HeaderName, HeaderValue};

/// What the gateway knows about who has sent a request.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Identity {
    /// The fields that say so to the instance.
    pub(in crate::proxy) fields: Vec<(HeaderName, HeaderValue)>,
    /// The subprotocol that was for the gateway: its answer, if the instance picks none.
    pub(in crate::proxy) subprotocol: Option<HeaderValue>,
}
