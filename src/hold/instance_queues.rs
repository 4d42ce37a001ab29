//! The queues before one instance: those who wait for it, and a gate for each of its ports.
//!
//! Guarantees: whoever keeps the queues owns all that this room knows of the instance; when they
//! are dropped and no request holds on to them, nothing is left. Gates of ports that nobody uses
//! are dropped before their number doubles.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::fair_count::FairCount;
use super::gate::Gate;
use hypeman::InstanceId;

/// So many gates of an instance are kept whether anybody uses them or not.
const FEW_GATES: usize = 8;

/// The queues before one instance. Cheap to clone.
#[derive(Clone)]
pub struct InstanceQueues(Arc<Queues>);

struct Queues {
    instance: InstanceId,
    held: FairCount,
    gates: Mutex<Gates>,
    ramp_step: Duration,
    serial: u64,
    registry: Arc<Registry>,
}

struct Gates {
    by_port: BTreeMap<u16, Arc<Gate>>,
    /// At so many, those that nobody uses are dropped.
    sweep_at: usize,
}

/// All queues that there are, to be counted. It owns none of them.
#[derive(Default)]
pub(super) struct Registry {
    serials: AtomicU64,
    all: Mutex<BTreeMap<u64, Weak<Queues>>>,
}

// === impl InstanceQueues ===

impl InstanceQueues {
    pub(super) fn new(instance: InstanceId, ramp_step: Duration, registry: &Arc<Registry>) -> Self {
        let gates = Gates {
            by_port: BTreeMap::new(),
            sweep_at: FEW_GATES,
        };
        let queues = Arc::new(Queues {
            instance,
            held: FairCount::default(),
            gates: Mutex::new(gates),
            ramp_step,
            serial: registry.serials.fetch_add(1, Ordering::Relaxed),
            registry: Arc::clone(registry),
        });
        let weak = Arc::downgrade(&queues);
        registry.lock().insert(queues.serial, weak);
        Self(queues)
    }

    /// The gate of one of the instance's ports.
    pub fn gate(&self, port: u16) -> Arc<Gate> {
        let mut gates = self.0.gates();
        if let Some(gate) = gates.by_port.get(&port) {
            return Arc::clone(gate);
        }
        if gates.by_port.len() >= gates.sweep_at {
            gates.by_port.retain(|_, gate| is_in_use(gate));
            gates.sweep_at = gates.by_port.len().saturating_mul(2).max(FEW_GATES);
        }
        let gate = Gate::new(self.0.ramp_step);
        gates.by_port.insert(port, Arc::clone(&gate));
        gate
    }

    pub(super) fn held_count(&self) -> &FairCount {
        &self.0.held
    }

    /// The instance.
    pub fn instance(&self) -> &InstanceId {
        &self.0.instance
    }

    /// Requests that wait for the instance.
    pub fn held(&self) -> usize {
        self.0.held.taken()
    }

    /// Requests at the instance.
    pub fn inside(&self) -> usize {
        let gates = self.0.gates();
        gates.by_port.values().map(|gate| gate.inside()).sum()
    }

    #[cfg(test)]
    pub(super) fn gates(&self) -> usize {
        self.0.gates().by_port.len()
    }
}

fn is_in_use(gate: &Arc<Gate>) -> bool {
    Arc::strong_count(gate) > 1 || !gate.is_idle()
}

impl fmt::Debug for InstanceQueues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, inside) = (self.held(), self.inside());
        write!(f, "InstanceQueues({held} held, {inside} inside)")
    }
}

// === impl Queues ===

impl Queues {
    fn gates(&self) -> MutexGuard<'_, Gates> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.serial);
    }
}

// === impl Registry ===

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Weak<Queues>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All queues that there are.
    pub(super) fn all(&self) -> Vec<InstanceQueues> {
        // Whichever is the last of its kind is dropped after the lock, which its drop takes.
        let all = self.lock();
        all.values()
            .filter_map(Weak::upgrade)
            .map(InstanceQueues)
            .collect()
    }
}
