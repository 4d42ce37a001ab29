//! The PROXY header that names a client to its instance (the PROXY protocol, versions 1 and 2).
//!
//! Guarantees: a header names exactly one client, or none where its addresses are of two families.

use std::fmt;
use std::net::SocketAddr;

use ppp::v2;

use crate::config::ProxyProtocol;

/// A PROXY header: the addresses of a client's connection.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The version of the protocol.
    pub version: ProxyProtocol,
    /// The client's address.
    pub client: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
}

// === impl ProxyHeader ===

impl ProxyHeader {
    /// The header's bytes. No header has addresses of two families: then it says "unknown" (version
    /// 1) or "local" (version 2).
    pub fn to_bytes(&self) -> Vec<u8> {
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (client, local) = (canonical(self.client), canonical(self.local));
        let same = client.is_ipv4() == local.is_ipv4();
        match (self.version, same) {
            (ProxyProtocol::V1, true) => {
                let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
                let (from, to) = (client.ip(), local.ip());
                format!(
                    "PROXY {family} {from} {to} {} {}\r\n",
                    client.port(),
                    local.port()
                )
                .into_bytes()
            }
            (ProxyProtocol::V1, false) => b"PROXY UNKNOWN\r\n".to_vec(),
            (ProxyProtocol::V2, _) => {
                let (command, protocol, addresses) = match same {
                    true => (
                        v2::Command::Proxy,
                        v2::Protocol::Stream,
                        v2::Addresses::from((client, local)),
                    ),
                    false => (
                        v2::Command::Local,
                        v2::Protocol::Unspecified,
                        v2::Addresses::Unspecified,
                    ),
                };
                let version = v2::Version::Two | command;
                let header = v2::Builder::with_addresses(version, protocol, addresses);
                // Its only error is a length beyond 65,535.
                header.build().unwrap_or_default()
            }
        }
    }
}

impl fmt::Debug for ProxyHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} -> {}", self.version, self.client, self.local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: ProxyProtocol, client: &str, local: &str) -> Vec<u8> {
        let (client, local) = (client.parse().unwrap(), local.parse().unwrap());
        ProxyHeader {
            version,
            client,
            local,
        }
        .to_bytes()
    }

    #[test]
    fn a_client_is_named_in_both_versions() {
        let v1 = header(ProxyProtocol::V1, "192.0.2.7:4000", "198.51.100.1:443");
        assert_eq!(v1, b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 443\r\n");
        let mapped = header(
            ProxyProtocol::V1,
            "[::ffff:192.0.2.7]:4000",
            "198.51.100.1:443",
        );
        assert_eq!(mapped, v1);
        let v2 = header(ProxyProtocol::V2, "192.0.2.7:4000", "198.51.100.1:443");
        let expected = [
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".as_slice(),
            &[192, 0, 2, 7, 198, 51, 100, 1, 0x0f, 0xa0, 0x01, 0xbb],
        ];
        assert_eq!(v2, expected.concat());
        let v6 = header(ProxyProtocol::V2, "[2001:db8::1]:1", "[2001:db8::2]:2");
        assert_eq!(v6.len(), 16 + 36);
    }

    #[test]
    fn addresses_of_two_families_are_not_sent() {
        let unknown = header(ProxyProtocol::V1, "192.0.2.7:4000", "[2001:db8::2]:443");
        assert_eq!(unknown, b"PROXY UNKNOWN\r\n");
        let local = header(ProxyProtocol::V2, "192.0.2.7:4000", "[2001:db8::2]:443");
        assert_eq!(local, b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
    }
}
