//! Addresses that the gateway never connects to.
//!
//! Guarantees: whatever a control plane says, no request goes to an address that can be no
//! instance's, nor to a listener of this gateway, which would answer itself for ever.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use arc_swap::ArcSwap;

/// The listeners of this gateway.
#[derive(Debug, Default)]
pub struct OwnListeners(ArcSwap<Vec<SocketAddr>>);

/// Whether an address can be no instance's: unspecified, broadcast, multicast or link-local (where
/// clouds have their metadata services; RFC 3927, RFC 4291 §2.5.6).
pub(super) fn is_refused(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            // The whole of 0.0.0.0/8 is "this host" (RFC 1122 §3.2.1.3).
            ip.octets()[0] == 0 || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast()
        }
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local(),
    }
}

/// Whether an address is one of this machine's.
fn is_of_this_machine(ip: IpAddr) -> bool {
    // Only such an address can be bound to. The socket sends nothing and is closed at once.
    UdpSocket::bind((ip, 0)).is_ok()
}

// === impl OwnListeners ===

impl OwnListeners {
    /// The listeners are these from now on.
    pub fn set(&self, addresses: Vec<SocketAddr>) {
        self.0.store(addresses.into());
    }

    /// Whether a connection to `address` would come back to this gateway.
    pub fn include(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.0.load().iter().any(|listener| {
            let bound = listener.ip().to_canonical();
            listener.port() == address.port()
                && (bound == ip || bound.is_unspecified() && is_of_this_machine(ip))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_can_be_no_instances_is_refused() {
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:169.254.169.254",
        ] {
            assert!(is_refused(refused.parse().unwrap()), "{refused}");
        }
        for usable in [
            "10.100.0.2",
            "127.77.0.2",
            "192.0.2.1",
            "2001:db8::1",
            "fd00::2",
        ] {
            assert!(!is_refused(usable.parse().unwrap()), "{usable}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_met_at_each_address_of_this_machine_and_nowhere_else() {
        let own = OwnListeners::default();
        assert!(!own.include("127.0.0.1:8080".parse().unwrap()));
        own.set(vec![
            "0.0.0.0:8080".parse().unwrap(),
            "127.0.0.1:9090".parse().unwrap(),
        ]);
        for ours in [
            "127.0.0.1:8080",
            "127.5.5.5:8080",
            "127.0.0.1:9090",
            "[::ffff:127.0.0.1]:9090",
        ] {
            assert!(own.include(ours.parse().unwrap()), "{ours}");
        }
        // TEST-NET-1 (RFC 5737) is nobody's.
        for others in ["192.0.2.1:8080", "127.0.0.2:9090", "127.0.0.1:8081"] {
            assert!(!own.include(others.parse().unwrap()), "{others}");
        }
    }
}
