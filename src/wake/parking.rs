//! Tunnels that may outlive their instance's sleep, as the instance's side sees them.
//!
//! Guarantees: the instance's handle stays for as long as one of them is there; one keeper at most looks
//! after them, for as long; whoever waits for the instance's next epoch hears of it, however it began.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

/// The tunnels of one instance that may be parked.
#[derive(Debug)]
pub struct Parking {
    tunnels: Mutex<Tunnels>,
    /// For the keeper: something has changed by which the instance may be put to sleep, or not.
    changed: Notify,
    /// The number of the epoch that began last.
    epochs: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Tunnels {
    count: usize,
    /// Whether somebody looks after them.
    is_kept: bool,
}

/// One such tunnel, until it is dropped.
#[must_use]
pub struct ParkableTunnel(Arc<Parking>);

// === impl Parking ===

impl Parking {
    fn lock(&self) -> MutexGuard<'_, Tunnels> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more tunnel; whether its owner has to see to it that somebody keeps them.
    pub fn register(self: &Arc<Self>) -> (ParkableTunnel, bool) {
        let mut tunnels = self.lock();
        tunnels.count += 1;
        let needs_keeper = !std::mem::replace(&mut tunnels.is_kept, true);
        drop(tunnels);
        (ParkableTunnel(Arc::clone(self)), needs_keeper)
    }

    /// How many there are.
    pub fn tunnels(&self) -> usize {
        self.lock().count
    }

    /// For the keeper: whether it may go, since there is none any more.
    pub fn is_over(&self) -> bool {
        let mut tunnels = self.lock();
        if tunnels.count == 0 {
            tunnels.is_kept = false;
        }
        tunnels.count == 0
    }

    /// For the keeper: waits until something has changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Something has changed.
    pub(super) fn change(&self) {
        self.changed.notify_one();
    }

    /// An epoch has begun.
    pub(super) fn began(&self, epoch: u64) {
        self.epochs.send_replace(epoch);
        self.change();
    }

    /// Hears of the epochs that begin from now on.
    pub fn epochs(&self) -> watch::Receiver<u64> {
        self.epochs.subscribe()
    }
}

impl Default for Parking {
    fn default() -> Self {
        Self {
            tunnels: Mutex::default(),
            changed: Notify::new(),
            epochs: watch::Sender::new(0),
        }
    }
}

impl Drop for ParkableTunnel {
    fn drop(&mut self) {
        self.0.lock().count -= 1;
        self.0.change();
    }
}

impl fmt::Debug for ParkableTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ParkableTunnel({})", self.0.tunnels())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_keeper_for_as_long_as_there_are_tunnels() {
        let parking = Arc::new(Parking::default());
        let (first, is_first) = parking.register();
        let (second, is_second) = parking.register();
        assert!(is_first && !is_second);
        drop(first);
        assert!(!parking.is_over());
        drop(second);
        // Another one comes before the keeper has looked.
        let (third, needs_keeper) = parking.register();
        assert!(!needs_keeper && !parking.is_over());
        drop(third);
        assert!(parking.is_over() && parking.tunnels() == 0);
        assert!(parking.register().1);
    }
}
