//! Addresses of sockets, of both families of IP.
//!
//! Guarantees: a client of IPv4 has an IPv4 address, whatever socket it came over; a socket for
//! both families leaves IPv4 to another one that listens at the same port.

use std::net::{IpAddr, SocketAddr};

/// The same address; an IPv4 address that is written as an IPv6 one (RFC 4291 §2.5.5.2) as IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(_) => address,
        ip @ IpAddr::V6(_) => match ip.to_canonical() {
            // Keeps the scope of a link-local address.
            IpAddr::V6(_) => address,
            v4 @ IpAddr::V4(_) => SocketAddr::new(v4, address.port()),
        },
    }
}

/// Whether a socket at `address` takes clients of IPv6 only: one of the others, which may have it
/// among them, takes those of IPv4 at the same port.
pub fn is_v6_only(address: SocketAddr, others: impl IntoIterator<Item = SocketAddr>) -> bool {
    let takes_v4 = |other: SocketAddr| other.port() == address.port() && canonical(other).is_ipv4();
    address.is_ipv6() && address.port() != 0 && others.into_iter().any(takes_v4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_that_it_stands_for() {
        for (address, expected) in [
            ("[::ffff:192.0.2.1]:80", "192.0.2.1:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("[::]:80", "[::]:80"),
            ("[fe80::1%3]:80", "[fe80::1%3]:80"),
        ] {
            assert_eq!(canonical(at(address)), at(expected));
        }
    }

    #[test]
    fn a_socket_leaves_ipv4_to_one_at_the_same_port_and_to_no_other() {
        let others = [
            at("0.0.0.0:80"),
            at("[::]:80"),
            at("[::]:81"),
            at("127.0.0.1:82"),
            at("0.0.0.0:0"),
        ];
        for (address, expected) in [
            ("[::]:80", true),
            ("[::]:81", false),
            ("[::1]:80", true),
            ("[::]:82", true),
            ("[::]:0", false),
            ("0.0.0.0:80", false),
        ] {
            assert_eq!(is_v6_only(at(address), others), expected, "{address}");
        }
    }
}
