//! How many tunnels each client has, by route.
//!
//! Guarantees: a place is given back when what has it is dropped, however that ends; a client without
//! a tunnel is not remembered; a change of the routes forgives nobody.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::ProxyError;
use crate::config::{RouteConfig, RouteKey};

/// A client at a route: an IPv4 address or an IPv6 /64.
type Client = (RouteKey, IpAddr);

/// The tunnels of all clients.
#[derive(Debug, Clone, Default)]
pub(super) struct TunnelPlaces(Arc<Mutex<HashMap<Client, usize>>>);

/// A client's place for one tunnel.
#[must_use]
pub(super) struct TunnelPlace {
    client: Client,
    places: TunnelPlaces,
}

// === impl TunnelPlaces ===

impl TunnelPlaces {
    /// Takes a place for a tunnel of this client's; `None` where the route does not count them.
    pub(super) fn take(
        &self,
        route: &RouteConfig,
        client: IpAddr,
    ) -> Result<Option<TunnelPlace>, ProxyError> {
        let Some(most) = route.tunnel.max_per_client else {
            return Ok(None);
        };
        let client = (route.key(), address(client));
        let mut counts = self.lock();
        let count = counts.get(&client).copied().unwrap_or(0);
        if count >= most {
            return Err(ProxyError::TunnelLimit);
        }
        counts.insert(client.clone(), count + 1);
        drop(counts);
        let places = self.clone();
        Ok(Some(TunnelPlace { client, places }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address as one client's: whoever has an IPv6 address has its /64.
fn address(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & (u128::MAX << 64)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Drop for TunnelPlace {
    fn drop(&mut self) {
        let mut counts = self.places.lock();
        if let Entry::Occupied(mut count) = counts.entry(self.client.clone()) {
            match count.get() {
                0 | 1 => drop(count.remove()),
                more => {
                    let less = more - 1;
                    count.insert(less);
                }
            }
        }
    }
}

impl fmt::Debug for TunnelPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelPlace({})", self.client.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};

    fn route(host: &str, tunnel: &str) -> Arc<RouteConfig> {
        let text =
            format!("[[route]]\nhost = \"{host}\"\ninstance = \"x\"\n[route.tunnel]\n{tunnel}\n");
        let mut routes = load("w.toml", &text, &Variables::default()).unwrap().route;
        routes.remove(0)
    }

    #[test]
    fn a_client_has_its_places_at_a_route_until_its_tunnels_end() {
        let places = TunnelPlaces::default();
        let (one, other) = (
            route("a.b", "max_per_client = 2"),
            route("c.d", "max_per_client = 2"),
        );
        let take = |route: &RouteConfig, client: &str| places.take(route, client.parse().unwrap());
        let first = take(&one, "192.0.2.1").unwrap();
        let second = take(&one, "::ffff:192.0.2.1").unwrap();
        assert!(matches!(
            take(&one, "192.0.2.1"),
            Err(ProxyError::TunnelLimit)
        ));
        let _neighbour = take(&one, "192.0.2.2").unwrap();
        let _elsewhere = take(&other, "192.0.2.1").unwrap();
        drop(first);
        let again = take(&one, "192.0.2.1").unwrap();
        // A bound that has become smaller is one for the next.
        let stricter = route("a.b", "max_per_client = 1");
        assert!(take(&stricter, "192.0.2.1").is_err());
        drop((second, again));
        drop(take(&stricter, "192.0.2.1").unwrap());
        assert_eq!(places.lock().len(), 2);
    }

    #[test]
    fn routes_of_one_name_for_different_ports_have_places_of_their_own() {
        let places = TunnelPlaces::default();
        let at = |port: Option<u16>| {
            let mut config = RouteConfig::clone(&route("a.b", "max_per_client = 1"));
            config.listen_port = port;
            places.take(&config, IpAddr::from([192, 0, 2, 1]))
        };
        let _tunnels = [None, Some(80), Some(443)].map(|port| at(port).unwrap());
        assert!(matches!(at(Some(80)), Err(ProxyError::TunnelLimit)));
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_client_and_none_allowed_is_none() {
        let places = TunnelPlaces::default();
        let one = route("a.b", "max_per_client = 1");
        let take = |route: &RouteConfig, client: &str| places.take(route, client.parse().unwrap());
        let _first = take(&one, "2001:db8:0:1::1").unwrap();
        assert!(take(&one, "2001:db8:0:1:ffff::9").is_err());
        let _next = take(&one, "2001:db8:0:2::1").unwrap();
        assert!(take(&route("c.d", "max_per_client = 0"), "192.0.2.1").is_err());
        assert!(take(&route("e.f", ""), "192.0.2.1").unwrap().is_none());
    }
}
