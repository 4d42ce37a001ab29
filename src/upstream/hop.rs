//! The last hop: how a route's requests reach its instance.
//!
//! Guarantees: a connection that begins with a PROXY header carries requests of that header's client
//! and of no other, since the header is a part of the hop.

use super::proxy_protocol::ProxyHeader;
use crate::config::Protocol;

/// How a request reaches its instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The instance's port.
    pub port: u16,
    /// The protocol that is spoken there.
    pub protocol: Protocol,
    /// The PROXY header that a connection begins with, if the route wants one.
    pub proxy_header: Option<ProxyHeader>,
}
