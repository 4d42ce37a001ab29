//! The end of an instance's epoch, for whoever carries something of it.
//!
//! Guarantees: what comes from another member of the fleet has no epoch here: it is cut there.

use std::future::pending;

use crate::wake::Endpoint;

/// Completes when the epoch ends; never, where it is another gateway's.
pub(super) async fn cut(endpoint: Option<&Endpoint>) {
    match endpoint {
        Some(endpoint) => endpoint.cut().cancelled().await,
        None => pending().await,
    }
}
