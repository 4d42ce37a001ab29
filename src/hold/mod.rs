//! Who may wait for a wake.
//!
//! Guarantees: held requests are bounded per instance, per route and in total, by number and by
//! bytes; a limit of 0 sheds everything; a [`Ticket`] gives its place back when it is dropped,
//! however that happens; who goes when is the [`Gate`]'s. This room never calls the control plane.
//! The request's body is not read while it waits: a held request costs its head.

mod admission_counter;
mod gate;
#[cfg(test)]
mod gate_tests;
mod sync;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tokio::time::Instant;

use crate::config::WakeConfig;
use crate::telemetry::{Metrics, ReleaseReason, ShedReason};
use hypeman::InstanceId;

pub use gate::{Gate, NotItsTurn, Permit, Slot};

/// There is no place for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// The instance's queue is full.
    #[error("too many requests wait for this instance")]
    InstanceQueue,
    /// The route's queue is full.
    #[error("too many requests wait for this route's instances")]
    RouteQueue,
    /// The route's `max_inflight` is 0.
    #[error("the route takes no requests")]
    Closed,
    /// It was not the request's turn within its time.
    #[error("the instance was busy with other requests for too long")]
    NotItsTurn,
    /// The gateway's queue is full.
    #[error("too many requests wait for instances")]
    TotalQueue,
    /// The held heads are at their limit of bytes.
    #[error("the requests that wait for instances are too large together")]
    Bytes,
}

/// Counts who waits.
pub struct Hold {
    limits: ArcSwap<HoldLimits>,
    counts: DashMap<Quota, Arc<AtomicUsize>>,
    gates: DashMap<(InstanceId, u16), Arc<Gate>>,
    ramp_step: Duration,
    held: AtomicUsize,
    held_bytes: AtomicUsize,
    metrics: Arc<Metrics>,
}

/// How many may wait.
#[derive(Debug)]
struct HoldLimits {
    per_instance: usize,
    in_all: usize,
    bytes: usize,
}

/// The quota that a request takes a part of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Quota {
    Instance(InstanceId),
    Route(Arc<str>),
}

/// One request's place among those that wait.
#[must_use]
pub struct Ticket {
    hold: Arc<Hold>,
    quotas: [(Quota, Arc<AtomicUsize>); 2],
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

// === impl HoldLimits ===

impl HoldLimits {
    fn of(config: &WakeConfig) -> Self {
        Self {
            per_instance: config.max_held_per_instance,
            in_all: config.max_held,
            bytes: config.max_held_bytes,
        }
    }
}

// === impl Hold ===

impl Hold {
    /// With the limits of `[wake]`.
    pub fn new(config: &WakeConfig, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            limits: ArcSwap::from_pointee(HoldLimits::of(config)),
            counts: DashMap::new(),
            gates: DashMap::new(),
            ramp_step: config.ramp_step,
            held: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
            metrics,
        })
    }

    /// The limits of `[wake]` have changed; who waits already goes on waiting.
    pub fn change(&self, config: &WakeConfig) {
        self.limits.store(Arc::new(HoldLimits::of(config)));
    }

    /// A place for a request of `route`, of which `in_route` may wait, whose head has this many
    /// bytes.
    pub fn admit(
        self: &Arc<Self>,
        instance: &InstanceId,
        route: &Arc<str>,
        in_route: usize,
        bytes: usize,
    ) -> Result<Ticket, AdmitError> {
        let quota = |quota: Quota| {
            let count = Arc::clone(self.counts.entry(quota.clone()).or_default().value());
            (quota, count)
        };
        let quotas = [
            quota(Quota::Instance(instance.clone())),
            quota(Quota::Route(Arc::clone(route))),
        ];
        let [(_, at_instance), (_, at_route)] = &quotas;
        let limits = self.limits.load();
        let bounds = [
            (
                &**at_instance,
                1,
                limits.per_instance,
                AdmitError::InstanceQueue,
            ),
            (&**at_route, 1, in_route, AdmitError::RouteQueue),
            (&self.held, 1, limits.in_all, AdmitError::TotalQueue),
            (&self.held_bytes, bytes, limits.bytes, AdmitError::Bytes),
        ];
        for (index, (count, amount, limit, error)) in bounds.iter().enumerate() {
            if take(count, *amount, *limit) {
                continue;
            }
            for (count, amount, ..) in bounds.iter().take(index) {
                count.fetch_sub(*amount, Ordering::AcqRel);
            }
            self.forget_if_empty(&quotas);
            self.metrics.count_shed(match error {
                AdmitError::InstanceQueue => ShedReason::InstanceQueue,
                AdmitError::RouteQueue => ShedReason::RouteQueue,
                AdmitError::Bytes => ShedReason::Bytes,
                AdmitError::TotalQueue | AdmitError::Closed | AdmitError::NotItsTurn => {
                    ShedReason::TotalQueue
                }
            });
            return Err(*error);
        }
        self.metrics.held_requests.increment(1.0);
        Ok(Ticket {
            hold: Arc::clone(self),
            quotas,
            bytes,
            since: Instant::now(),
            reason: ReleaseReason::Left,
        })
    }

    /// The gate of an instance's port.
    pub fn gate(&self, instance: &InstanceId, port: u16) -> Arc<Gate> {
        let key = (instance.clone(), port);
        if let Some(gate) = self.gates.get(&key) {
            return Arc::clone(gate.value());
        }
        let gate = self.gates.entry(key);
        Arc::clone(gate.or_insert_with(|| Gate::new(self.ramp_step)).value())
    }

    /// Drops the gates that nobody uses, so that instances that come and go leave nothing.
    pub fn upkeep(&self) {
        self.gates
            .retain(|_, gate| Arc::strong_count(gate) > 1 || !gate.is_idle());
    }

    /// Drops the counts of quotas that nobody uses. One that another request has in hand stays:
    /// its owner comes by here, too.
    fn forget_if_empty(&self, quotas: &[(Quota, Arc<AtomicUsize>); 2]) {
        for (quota, _) in quotas {
            self.counts.remove_if(quota, |_, count| {
                Arc::strong_count(count) <= 2 && count.load(Ordering::Acquire) == 0
            });
        }
    }

    /// Requests that wait for, and that are at, each instance that has some.
    pub fn census(&self) -> HashMap<InstanceId, (usize, usize)> {
        let mut census: HashMap<InstanceId, (usize, usize)> = HashMap::new();
        for count in &self.counts {
            if let Quota::Instance(id) = count.key() {
                census.entry(id.clone()).or_default().0 += count.load(Ordering::Acquire);
            }
        }
        for gate in &self.gates {
            let inside = gate.inside();
            if inside > 0 {
                census.entry(gate.key().0.clone()).or_default().1 += inside;
            }
        }
        census
    }

    /// Requests at instances now.
    pub fn inside(&self) -> usize {
        self.gates.iter().map(|gate| gate.inside()).sum()
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

    /// The time from which it waits.
    pub fn since(&self) -> Instant {
        self.since
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.hold.held_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.hold.held.fetch_sub(1, Ordering::AcqRel);
        for (_, count) in &self.quotas {
            count.fetch_sub(1, Ordering::AcqRel);
        }
        self.hold.forget_if_empty(&self.quotas);
        self.hold.metrics.held_requests.decrement(1.0);
        self.hold
            .metrics
            .count_hold(self.reason, self.since.elapsed());
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ticket({:?})", self.quotas)
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

    fn admit(hold: &Arc<Hold>, id: &InstanceId, bytes: usize) -> Result<Ticket, AdmitError> {
        hold.admit(id, &"r".into(), 1000, bytes)
    }

    #[test]
    fn one_route_cannot_take_the_places_of_another() {
        let hold = hold(10, 10, 100);
        let enter = |route: &str, id: &InstanceId| hold.admit(id, &route.into(), 2, 0);
        let _crowd = (
            enter("crowd", &id("a")).unwrap(),
            enter("crowd", &id("b")).unwrap(),
        );
        assert_eq!(
            enter("crowd", &id("c")).unwrap_err(),
            AdmitError::RouteQueue
        );
        assert!(enter("quiet", &id("c")).is_ok());
        assert_eq!(
            hold.admit(&id("c"), &"shut".into(), 0, 0).unwrap_err(),
            AdmitError::RouteQueue
        );
    }

    #[test]
    fn each_bound_is_kept_and_named() {
        let hold = hold(2, 3, 100);
        let _a = (
            admit(&hold, &id("a"), 10).unwrap(),
            admit(&hold, &id("a"), 10).unwrap(),
        );
        assert_eq!(
            admit(&hold, &id("a"), 1).unwrap_err(),
            AdmitError::InstanceQueue
        );
        assert_eq!(admit(&hold, &id("b"), 81).unwrap_err(), AdmitError::Bytes);
        let b = admit(&hold, &id("b"), 80).unwrap();
        assert_eq!(
            admit(&hold, &id("c"), 0).unwrap_err(),
            AdmitError::TotalQueue
        );
        drop(b);
        admit(&hold, &id("c"), 0)
            .unwrap()
            .release(ReleaseReason::Ready);
    }

    #[test]
    fn zero_sheds_everything() {
        assert!(admit(&hold(0, 10, 10), &id("a"), 0).is_err());
        assert!(admit(&hold(10, 0, 10), &id("a"), 0).is_err());
        assert!(admit(&hold(10, 10, 0), &id("a"), 1).is_err());
    }

    proptest! {
        #[test]
        fn places_are_conserved(steps in prop::collection::vec((0_usize..3, any::<bool>()), 0..80)) {
            let hold = hold(4, 8, 1000);
            let mut tickets = Vec::new();
            for (which, enter) in steps {
                if enter {
                    tickets.extend(admit(&hold, &id(&which.to_string()), 5));
                } else if !tickets.is_empty() {
                    drop(tickets.remove(which % tickets.len()));
                }
                prop_assert_eq!(hold.held(), tickets.len());
                prop_assert!(tickets.len() <= 8);
            }
            drop(tickets);
            prop_assert_eq!(hold.held(), 0);
            prop_assert!(hold.counts.is_empty());
        }
    }
}
