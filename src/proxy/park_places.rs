//! How many tunnels of each route are parked.
//!
//! Guarantees: a place is given back when what has it is dropped; a route without a parked tunnel is not
//! remembered; a change of the routes forgives nobody.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::RouteKey;

/// The parked tunnels of all routes.
#[derive(Debug, Clone, Default)]
pub(super) struct ParkPlaces(Arc<Mutex<HashMap<RouteKey, usize>>>);

/// The place of one of them.
#[must_use]
pub(super) struct ParkPlace {
    route: RouteKey,
    places: ParkPlaces,
}

// === impl ParkPlaces ===

impl ParkPlaces {
    fn lock(&self) -> MutexGuard<'_, HashMap<RouteKey, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more of the route, which may have so many.
    pub(super) fn take(&self, route: &RouteKey, most: usize) -> Option<ParkPlace> {
        let mut counts = self.lock();
        let count = counts.get(route).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        counts.insert(route.clone(), count + 1);
        drop(counts);
        Some(ParkPlace {
            route: route.clone(),
            places: self.clone(),
        })
    }
}

impl Drop for ParkPlace {
    fn drop(&mut self) {
        let mut counts = self.places.lock();
        if let Entry::Occupied(mut count) = counts.entry(self.route.clone()) {
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

impl fmt::Debug for ParkPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParkPlace({})", self.route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HostPattern, RouteName};

    #[test]
    fn a_route_has_its_places_and_one_without_parked_tunnels_is_not_remembered() {
        let places = ParkPlaces::default();
        let name = RouteName::new(&HostPattern::parse("a.b").unwrap(), "/");
        // They have one name, and are for different ports.
        let (one, other) = (name.key(Some(80)), name.key(Some(443)));
        let first = places.take(&one, 2).unwrap();
        let second = places.take(&one, 2).unwrap();
        assert!(places.take(&one, 2).is_none());
        let elsewhere = places.take(&other, 1).unwrap();
        drop(first);
        let again = places.take(&one, 2).unwrap();
        drop((second, again, elsewhere));
        assert!(places.lock().is_empty());
    }
}
