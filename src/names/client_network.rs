//! Which client, for rates and fairness.
//!
//! Guarantees: addresses that one party usually holds together are one client: an IPv4 /24, an IPv6
//! /56, and an IPv4 address written as IPv6 is the IPv4 one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A client's network: its first address, and how many bits all of its addresses share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientNetwork(IpAddr, u8);

// === impl ClientNetwork ===

impl ClientNetwork {
    /// Every client together.
    pub const ALL: Self = Self(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

    /// The network of a whole provider that it is in: an IPv4 /16, an IPv6 /32.
    pub fn widened(self) -> Self {
        match self.0 {
            IpAddr::V4(v4) => Self(
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & (u32::MAX << 16))),
                16,
            ),
            IpAddr::V6(v6) => Self(
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & (u128::MAX << 96))),
                32,
            ),
        }
    }
}

impl From<IpAddr> for ClientNetwork {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & (u32::MAX << 8))),
                24,
            ),
            IpAddr::V6(v6) => Self(
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & (u128::MAX << 72))),
                56,
            ),
        }
    }
}

impl fmt::Display for ClientNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_client() {
        let of = |text: &str| ClientNetwork::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("192.0.2.7"), of("192.0.2.200"));
        assert_eq!(of("192.0.2.7"), of("::ffff:192.0.2.9"));
        assert_ne!(of("192.0.2.7"), of("192.0.3.7"));
        assert_eq!(of("2001:db8:0:1100::1"), of("2001:db8:0:11ff::1"));
        assert_ne!(of("2001:db8:0:1100::1"), of("2001:db8:0:1200::1"));
        assert_eq!(of("192.0.2.7").to_string(), "192.0.2.0/24");
        assert_eq!(of("192.0.2.7").widened(), of("192.0.200.7").widened());
        assert_ne!(of("192.0.0.7").widened(), of("192.0.0.7"));
        assert_eq!(of("192.0.2.7").widened().to_string(), "192.0.0.0/16");
        let wide = of("2001:db8:7:1100::1").widened();
        assert_eq!(wide.to_string(), "2001:db8::/32");
    }
}
