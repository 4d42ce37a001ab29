//! The address of a VM, which is opened and closed with its sleep.
//!
//! Guarantees: while closed, nothing reaches the VM and what was open is cut; a VM that was copied
//! learns its own address and never answers at its original's.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::bridge::{self, Tap, mac};
use super::command::VmNetwork;
use crate::driver::address_proxy::AddressProxy;
use crate::driver::error::DriverError;
use crate::driver::traffic::Traffic;
use crate::guest::GuestNetwork;

/// QEMU's own names for its user network (its documentation, "Using the user mode network stack").
const USER_ADDRESS: &str = "10.0.2.15/24";
const USER_ROUTER: &str = "10.0.2.2";

/// A VM's address, as the host sees it.
#[derive(Debug, Clone)]
pub(super) enum VmAddress {
    /// Our own listeners before QEMU's.
    User(Arc<AddressProxy>),
    /// A device on the host's bridge.
    Tap(Arc<Tap>),
}

impl VmAddress {
    /// The address that clients connect to.
    pub(super) fn public(&self) -> Ipv4Addr {
        match self {
            Self::User(address) => address.public,
            Self::Tap(tap) => tap.address,
        }
    }

    /// Names the ports that are to be open, at once or when the address opens.
    pub(super) fn expect(&self, ports: &BTreeSet<u16>) {
        match self {
            Self::User(address) => address.expect(ports),
            Self::Tap(_) => {}
        }
    }

    /// Makes what QEMU needs before it starts.
    pub(super) async fn prepare(&self) -> Result<(), DriverError> {
        match self {
            Self::User(_) => Ok(()),
            Self::Tap(tap) => tap.prepare().await,
        }
    }

    pub(super) fn open(&self) {
        match self {
            Self::User(address) => address.open(),
            // Its device is there since before QEMU started.
            Self::Tap(_) => {}
        }
    }

    /// Closes the address: connections through our listeners are cut. Those over the bridge hear
    /// nothing, as on a Hypeman server: their VM stands still.
    pub(super) async fn close(&self) {
        match self {
            Self::User(address) => address.close().await,
            Self::Tap(_) => {}
        }
    }

    /// Takes back what was prepared, when QEMU has ended: while it runs, it would look at a device
    /// that is gone and at nothing else.
    pub(super) async fn leave(&self) {
        match self {
            Self::User(_) => {}
            Self::Tap(tap) => tap.remove().await,
        }
    }

    pub(super) fn traffic(&self) -> Arc<Traffic> {
        match self {
            Self::User(address) => Arc::clone(&address.traffic),
            Self::Tap(tap) => tap.traffic(),
        }
    }
}

/// What the agent needs to know of the VM's network.
pub(super) fn inside(network: &VmNetwork) -> Option<GuestNetwork> {
    match network {
        VmNetwork::None => None,
        VmNetwork::User { address, .. } => Some(GuestNetwork {
            address: USER_ADDRESS.to_owned(),
            router: USER_ROUTER.to_owned(),
            mac: mac(*address),
        }),
        VmNetwork::Tap { address } => Some(GuestNetwork {
            address: bridge::with_prefix(*address),
            router: bridge::router().to_string(),
            mac: mac(*address),
        }),
    }
}

/// Whether a VM that has learnt one of these networks has to learn the other. Its card's address
/// alone makes no difference to anybody.
pub(super) fn is_another_inside(one: &VmNetwork, other: &VmNetwork) -> bool {
    let place = |network| inside(network).map(|inside| (inside.address, inside.router));
    place(one) != place(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_learns_its_network_anew_when_it_is_another_from_inside() {
        let user = |last| VmNetwork::User {
            address: Ipv4Addr::new(127, 78, 1, last),
            egress: false,
            elsewhere: None,
        };
        let tap = |last| VmNetwork::Tap {
            address: Ipv4Addr::new(10, 177, 1, last),
        };
        assert!(!is_another_inside(&user(1), &user(2)));
        assert!(!is_another_inside(&tap(1), &tap(1)));
        assert!(is_another_inside(&tap(1), &tap(2)));
        assert!(is_another_inside(&user(1), &tap(1)));
        assert!(is_another_inside(&tap(1), &user(1)));
    }
}
