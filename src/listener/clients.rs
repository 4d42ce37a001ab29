//! The number of connections that each client has.
//!
//! Guarantees: a client (an IPv4 address, or an IPv6 /56) never has more than its share; only
//! clients that are connected are remembered.

use std::net::IpAddr;
use std::sync::Arc;

use dashmap::{DashMap, Entry};

use crate::names::ClientNetwork;

/// Everybody who is connected.
#[derive(Debug, Clone, Default)]
pub(super) struct Clients(Arc<DashMap<Client, usize>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    One(IpAddr),
    Network(ClientNetwork),
}

/// One connection of a client; it counts until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    clients: Clients,
    client: Client,
}

// === impl Clients ===

impl Clients {
    /// Counts one more connection of this client, unless it has `limit` already.
    pub(super) fn enter(&self, address: IpAddr, limit: usize) -> Option<Share> {
        let client = match address.to_canonical() {
            one @ IpAddr::V4(_) => Client::One(one),
            many @ IpAddr::V6(_) => Client::Network(many.into()),
        };
        match self.0.entry(client) {
            Entry::Occupied(count) if *count.get() >= limit => return None,
            Entry::Occupied(mut count) => *count.get_mut() += 1,
            // Nobody is remembered who is not let in.
            Entry::Vacant(_) if limit == 0 => return None,
            Entry::Vacant(place) => drop(place.insert(1)),
        }
        let clients = self.clone();
        Some(Share { clients, client })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clients.0.remove_if_mut(&self.client, |_, count| {
            *count -= 1;
            *count == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_and_no_more_and_leaves_no_trace() {
        let clients = Clients::default();
        let [one, other] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let (first, second) = (clients.enter(one, 2), clients.enter(mapped, 2));
        assert!(first.is_some() && second.is_some());
        assert!(clients.enter(one, 2).is_none(), "the third");
        assert!(clients.enter(other, 2).is_some());
        drop(first);
        assert!(clients.enter(one, 2).is_some());
        drop(second);
        assert!(clients.0.is_empty());
    }

    #[test]
    fn a_limit_of_zero_lets_nobody_in_and_remembers_nobody() {
        let clients = Clients::default();
        assert!(clients.enter(IpAddr::from([192, 0, 2, 1]), 0).is_none());
        assert!(clients.0.is_empty());
    }
}
