//! The last hop: how a route's requests reach its instance.
//!
//! Guarantees: a hop with a PROXY header belongs to one client; a connection over it carries
//! requests of that client and of no other.

use super::proxy_protocol::ProxyHeader;
use crate::config::Protocol;
use crate::instance_tls::TlsHop;

/// How a request reaches its instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The instance's port.
    pub port: u16,
    /// The protocol that is spoken there.
    pub protocol: Protocol,
    /// The TLS that it goes over, for the protocols that have it.
    pub tls: Option<TlsHop>,
    /// The PROXY header that a connection begins with, if the route wants one.
    pub proxy_header: Option<ProxyHeader>,
}
