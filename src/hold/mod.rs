//! Who may wait for a wake.
//!
//! Guarantees: held requests are bounded per instance and in total, by number and by bytes; a limit
//! of 0 sheds everything; a [`Ticket`] gives its place back when it is dropped, however that
//! happens. This room never calls the control plane. The request's body is not read while it
//! waits: a held request costs its head.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use tokio::time::Instant;

use crate::config::WakeConfig;
use crate::names::InstanceId;
use crate::telemetry::{Metrics, ReleaseReason, ShedReason};

/// There is no place for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// The instance's queue is full.
    #[error("too many requests wait for this instance")]
    InstanceQueue,
    /// The gateway's queue is full.
    #[error("too many requests wait for instances")]
    TotalQueue,
    /// The held heads are at their limit of bytes.
    #[error("the requests that wait for instances are too large together")]
    Bytes,
}

/// Counts who waits.
pub struct Hold {
    per_instance: usize,
    in_all: usize,
    bytes: usize,
    places: DashMap<InstanceId, Arc<AtomicUsize>>,
    held: AtomicUsize,
    held_bytes: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// One request's place.
#[must_use]
pub struct Ticket {
    hold: Arc<Hold>,
    instance: InstanceId,
    place: Arc<AtomicUsize>,
    bytes: usize,
    since: Instant,
    reason: ReleaseReason,
}

/// Adds unless that would go over `limit`.
fn take(count: &AtomicUsize, amount: usize, limit: usize) -> bool {
    let add = |held: usize| held.checked_add(amount).filter(|held| *held <= limit);
    count
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, add)
        .is_ok()
}

// === impl Hold ===

impl Hold {
    /// With the limits of `[wake]`.
    pub fn new(config: &WakeConfig, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            per_instance: config.max_held_per_instance,
            in_all: config.max_held,
            bytes: config.max_held_bytes,
            places: DashMap::new(),
            held: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
            metrics,
        })
    }

    /// A place for a request whose head has this many bytes.
    pub fn admit(
        self: &Arc<Self>,
        instance: &InstanceId,
        bytes: usize,
    ) -> Result<Ticket, AdmitError> {
        let place = Arc::clone(self.places.entry(instance.clone()).or_default().value());
        let taken = if !take(&place, 1, self.per_instance) {
            Err((AdmitError::InstanceQueue, ShedReason::InstanceQueue))
        } else if !take(&self.held, 1, self.in_all) {
            place.fetch_sub(1, Ordering::AcqRel);
            Err((AdmitError::TotalQueue, ShedReason::TotalQueue))
        } else if !take(&self.held_bytes, bytes, self.bytes) {
            place.fetch_sub(1, Ordering::AcqRel);
            self.held.fetch_sub(1, Ordering::AcqRel);
            Err((AdmitError::Bytes, ShedReason::Bytes))
        } else {
            Ok(())
        };
        if let Err((error, reason)) = taken {
            self.forget_if_empty(instance);
            self.metrics.count_shed(reason);
            return Err(error);
        }
        self.metrics.held_requests.increment(1.0);
        Ok(Ticket {
            hold: Arc::clone(self),
            instance: instance.clone(),
            place,
            bytes,
            since: Instant::now(),
            reason: ReleaseReason::Left,
        })
    }

    /// Drops an instance's count when nobody waits. One that another request has in hand stays: its
    /// owner comes by here, too.
    fn forget_if_empty(&self, instance: &InstanceId) {
        self.places.remove_if(instance, |_, place| {
            Arc::strong_count(place) <= 2 && place.load(Ordering::Acquire) == 0
        });
    }

    /// Requests that wait now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({} held)", self.held())
    }
}

// === impl Ticket ===

impl Ticket {
    /// The wait is over, this way.
    pub fn release(mut self, reason: ReleaseReason) {
        self.reason = reason;
    }

    /// Since when it waits.
    pub fn since(&self) -> Instant {
        self.since
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.hold.held_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.hold.held.fetch_sub(1, Ordering::AcqRel);
        self.place.fetch_sub(1, Ordering::AcqRel);
        self.hold.forget_if_empty(&self.instance);
        self.hold.metrics.held_requests.decrement(1.0);
        self.hold
            .metrics
            .count_hold(self.reason, self.since.elapsed());
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({})", self.instance)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hold(per_instance: usize, in_all: usize, bytes: usize) -> Arc<Hold> {
        let config = WakeConfig {
            max_held_per_instance: per_instance,
            max_held: in_all,
            max_held_bytes: bytes,
            ..WakeConfig::default()
        };
        Hold::new(&config, Arc::new(Metrics::new()))
    }

    fn id(name: &str) -> InstanceId {
        InstanceId::parse(name).unwrap()
    }

    #[test]
    fn each_bound_is_kept_and_named() {
        let hold = hold(2, 3, 100);
        let _a = (
            hold.admit(&id("a"), 10).unwrap(),
            hold.admit(&id("a"), 10).unwrap(),
        );
        assert_eq!(
            hold.admit(&id("a"), 1).unwrap_err(),
            AdmitError::InstanceQueue
        );
        assert_eq!(hold.admit(&id("b"), 81).unwrap_err(), AdmitError::Bytes);
        let b = hold.admit(&id("b"), 80).unwrap();
        assert_eq!(hold.admit(&id("c"), 0).unwrap_err(), AdmitError::TotalQueue);
        drop(b);
        hold.admit(&id("c"), 0)
            .unwrap()
            .release(ReleaseReason::Ready);
    }

    #[test]
    fn zero_sheds_everything() {
        assert!(hold(0, 10, 10).admit(&id("a"), 0).is_err());
        assert!(hold(10, 0, 10).admit(&id("a"), 0).is_err());
        assert!(hold(10, 10, 0).admit(&id("a"), 1).is_err());
    }

    proptest! {
        #[test]
        fn places_are_conserved(steps in prop::collection::vec((0_usize..3, any::<bool>()), 0..80)) {
            let hold = hold(4, 8, 1000);
            let mut tickets = Vec::new();
            for (which, enter) in steps {
                if enter {
                    tickets.extend(hold.admit(&id(&which.to_string()), 5));
                } else if !tickets.is_empty() {
                    drop(tickets.remove(which % tickets.len()));
                }
                prop_assert_eq!(hold.held(), tickets.len());
                prop_assert!(tickets.len() <= 8);
            }
            drop(tickets);
            prop_assert_eq!(hold.held(), 0);
            prop_assert!(hold.places.is_empty());
        }
    }
}
