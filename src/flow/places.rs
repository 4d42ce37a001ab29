//! Places for the connections of a listener of the gateway's own.
//!
//! Guarantees: their number is bounded, and what one client has of them; a place that was taken goes
//! back when its guard is dropped, and nothing is kept of a client that has none.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The places; `K` is what a client is known by.
#[derive(Debug)]
pub struct ConnectionPlaces<K: Ord> {
    most: usize,
    most_of_one: usize,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    of: BTreeMap<K, usize>,
}

/// One of the places, until it is dropped.
pub struct ConnectionPlace<K: Ord> {
    places: Arc<ConnectionPlaces<K>>,
    client: K,
}

// === impl ConnectionPlaces ===

impl<K: Ord + Clone> ConnectionPlaces<K> {
    /// So many, of which one client has so many at most.
    pub fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        let of = BTreeMap::new();
        Arc::new(Self {
            most,
            most_of_one,
            taken: Mutex::new(Taken { all: 0, of }),
        })
    }

    /// A place for a client, if there is one and the client has not had its share.
    pub fn take(self: &Arc<Self>, client: K) -> Option<ConnectionPlace<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.of.get(&client).copied().unwrap_or_default();
        if taken.all >= self.most || own >= self.most_of_one {
            return None;
        }
        taken.all += 1;
        taken.of.insert(client.clone(), own + 1);
        let places = Arc::clone(self);
        Some(ConnectionPlace { places, client })
    }
}

// === impl ConnectionPlace ===

impl<K: Ord> Drop for ConnectionPlace<K> {
    fn drop(&mut self) {
        let taken = self.places.taken.lock();
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        match taken.of.get_mut(&self.client) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                taken.of.remove(&self.client);
            }
        }
    }
}

impl<K: Ord + fmt::Debug> fmt::Debug for ConnectionPlace<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionPlace({:?})", self.client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_share_of_the_places_and_what_goes_makes_room() {
        let places = ConnectionPlaces::new(4, 2);
        let mut one: Vec<_> = (0..2).map(|_| places.take(1).unwrap()).collect();
        assert!(places.take(1).is_none(), "its share is taken");
        let other: Vec<_> = (0..2).map(|_| places.take(2).unwrap()).collect();
        assert!(places.take(3).is_none(), "all are taken");
        one.pop();
        assert!(places.take(3).is_some());
        drop((one, other));
        assert!(places.taken.lock().unwrap().of.is_empty());
    }
}
