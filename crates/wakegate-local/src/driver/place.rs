//! The address and the port of one program.
//!
//! Guarantees: no two programs have the same, also when they are started at once; each that was
//! chosen is free until its program runs, as far as it is ours to say.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::address_proxy::AddressProxy;
use super::error::DriverError;
use super::own_port::free_port;
use crate::clock::Clock;

/// The addresses and ports of programs that are being started.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<Vec<(Ipv4Addr, u16)>>>);

/// An address and a port that nobody else gets while this lives.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) address: Arc<AddressProxy>,
    pub(super) own_port: u16,
    all: Places,
}

// === impl Places ===

impl Places {
    /// Chooses for a program that is to be reached at `port`. `running` are the addresses and ports
    /// of the others; `refused` is told when somebody connects and the program refuses.
    pub(super) fn choose(
        &self,
        clock: &Clock,
        port: u16,
        refused: Arc<Notify>,
        running: impl Iterator<Item = (Option<Ipv4Addr>, u16)>,
    ) -> Result<Place, DriverError> {
        // Held over the choice, so that no two that start at once get the same.
        let mut starting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut addresses, mut ports): (Vec<_>, Vec<_>) = starting.iter().copied().unzip();
        for (address, own_port) in running {
            addresses.extend(address);
            ports.push(own_port);
        }
        let mut address = AddressProxy::free(clock, port, |one| addresses.contains(&one))
            .ok_or(DriverError::NoAddress(port))?;
        address.refused = refused;
        let own_port = free_port(|one| one == port || ports.contains(&one));
        let own_port = own_port.ok_or(DriverError::NoPort)?;
        starting.push((address.public, own_port));
        Ok(Place {
            address: Arc::new(address),
            own_port,
            all: self.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut starting = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        starting.retain(|(public, _)| *public != self.address.public);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_is_nobody_elses_until_it_is_given_back() {
        let (places, clock) = (Places::default(), Clock::system());
        let first = places.choose(&clock, 8080, Arc::default(), std::iter::empty());
        let first = first.unwrap();
        assert_ne!(first.own_port, 8080);
        let running = [(Some(first.address.public), first.own_port)];
        let second = places.choose(&clock, 8080, Arc::default(), running.into_iter());
        let second = second.unwrap();
        assert_ne!(second.address.public, first.address.public);
        assert_ne!(second.own_port, first.own_port);
        assert_eq!(places.0.lock().unwrap().len(), 2);
        drop((first, second));
        assert!(places.0.lock().unwrap().is_empty());
    }
}
