//! What a connection over TLS is for.
//!
//! Guarantees: one protocol is offered for each connection, so that the other side cannot choose
//! another.

/// The protocol that a connection is for (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    H2,
}

// === impl Alpn ===

impl Alpn {
    /// Its name in a handshake.
    pub(super) const fn name(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::H2 => b"h2",
        }
    }
}
