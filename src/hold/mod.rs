//! Who may wait for a wake.
//!
//! Guarantees: held requests are bounded per instance, per route and in total, by number and by
//! bytes, and of each bound a client has a share ([`ClientShare`] has the rule), so that one client
//! leaves something for others; a limit of 0 sheds everything; a [`Ticket`] gives its place back
//! when it is dropped, however that happens; who goes when is the [`Gate`]'s. This room never calls
//! the control plane. The request's body is not read while it waits: a held request costs its head.

mod admission_counter;
mod client_counts;
mod fair_count;
mod gate;
#[cfg(test)]
mod gate_tests;
mod instance_queues;
mod sync;
#[cfg(test)]
mod tests;
mod turn_order;
#[cfg(test)]
mod turn_order_tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tokio::time::Instant;

use crate::config::{ClientShare, RouteKey, WakeConfig};
use crate::names::ClientNetwork;
use crate::telemetry::{Metrics, ReleaseReason, ShedReason};
use hypeman::InstanceId;

use client_counts::Bound;
use fair_count::{FairCount, Shortage, Taken};
use instance_queues::Registry;

pub use gate::{Gate, NotItsTurn, Permit, Slot};
pub use instance_queues::InstanceQueues;

/// There is no place for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// The instance's queue is full.
    #[error("too many requests wait for this instance")]
    InstanceQueue,
    /// The route's queue is full.
    #[error("too many requests wait for this route's instances")]
    RouteQueue,
    /// The gateway's queue is full.
    #[error("too many requests wait for instances")]
    TotalQueue,
    /// The held heads are at their limit of bytes.
    #[error("the requests that wait for instances are too large together")]
    Bytes,
    /// The client has its share of a queue.
    #[error("too many of the client's requests wait for instances")]
    QueueShare,
    /// The route's `max_inflight` is 0.
    #[error("the route takes no requests")]
    Closed,
    /// It was not the request's turn within its time.
    #[error("the instance was busy with other requests for too long")]
    NotItsTurn,
    /// The client had its share of the instance for all of the request's time.
    #[error("the client's other requests took its share of the instance for too long")]
    InstanceShare,
}

/// Counts who waits.
pub struct Hold {
    limits: ArcSwap<HoldLimits>,
    routes: DashMap<RouteKey, Arc<FairCount>>,
    registry: Arc<Registry>,
    ramp_step: Duration,
    held: FairCount,
    held_bytes: FairCount,
    metrics: Arc<Metrics>,
}

/// How many may wait.
#[derive(Debug)]
struct HoldLimits {
    per_instance: usize,
    in_all: usize,
    bytes: usize,
}

/// A request that is to wait.
#[derive(Debug, Clone, Copy)]
pub struct HeldRequest<'a> {
    /// Its route.
    pub route: &'a RouteKey,
    /// How many requests of the route may wait.
    pub in_route: usize,
    /// The client's share of the instance's and of the route's places.
    pub share: ClientShare,
    /// Its client.
    pub client: ClientNetwork,
    /// The size of its head.
    pub bytes: usize,
}

/// One request's place among those that wait.
#[must_use]
pub struct Ticket {
    places: Places,
    since: Instant,
    reason: ReleaseReason,
}

/// What one request has taken of each bound.
struct Places {
    hold: Arc<Hold>,
    queues: InstanceQueues,
    route: RouteKey,
    of_route: Arc<FairCount>,
    taken: [Option<Taken>; 4],
}

// === impl AdmitError ===

impl AdmitError {
    /// What it is counted as among what is shed.
    fn shed_reason(self) -> ShedReason {
        match self {
            Self::InstanceQueue => ShedReason::InstanceQueue,
            Self::RouteQueue => ShedReason::RouteQueue,
            Self::Bytes => ShedReason::Bytes,
            Self::QueueShare | Self::InstanceShare => ShedReason::ClientShare,
            Self::TotalQueue | Self::Closed | Self::NotItsTurn => ShedReason::TotalQueue,
        }
    }
}

impl From<NotItsTurn> for AdmitError {
    fn from(refusal: NotItsTurn) -> Self {
        match refusal {
            NotItsTurn::Busy => Self::NotItsTurn,
            NotItsTurn::OverShare => Self::InstanceShare,
        }
    }
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
            routes: DashMap::new(),
            registry: Arc::default(),
            ramp_step: config.ramp_step,
            held: FairCount::default(),
            held_bytes: FairCount::default(),
            metrics,
        })
    }

    /// The limits of `[wake]` have changed; who waits already goes on waiting.
    pub fn change(&self, config: &WakeConfig) {
        self.limits.store(Arc::new(HoldLimits::of(config)));
    }

    /// New queues before an instance, for who owns all of the instance's.
    pub fn new_queues(&self, instance: &InstanceId) -> InstanceQueues {
        InstanceQueues::new(instance.clone(), self.ramp_step, &self.registry)
    }

    /// The count of a route's places. The map is free again when this returns.
    fn count_of(&self, route: &RouteKey) -> Arc<FairCount> {
        Arc::clone(self.routes.entry(route.clone()).or_default().value())
    }

    /// A place in an instance's queue for a request.
    pub fn admit(
        self: &Arc<Self>,
        queues: &InstanceQueues,
        request: &HeldRequest<'_>,
    ) -> Result<Ticket, AdmitError> {
        let HeldRequest { share, bytes, .. } = *request;
        let of_route = self.count_of(request.route);
        let mut places = Places {
            hold: Arc::clone(self),
            queues: queues.clone(),
            route: request.route.clone(),
            of_route: Arc::clone(&of_route),
            taken: [None; 4],
        };
        let limits = self.limits.load();
        let half = ClientShare::Half;
        let bounds = [
            (1, limits.per_instance, share, AdmitError::InstanceQueue),
            (1, request.in_route, share, AdmitError::RouteQueue),
            (1, limits.in_all, half, AdmitError::TotalQueue),
            (bytes, limits.bytes, half, AdmitError::Bytes),
        ];
        let counts = [queues.held_count(), &of_route, &self.held, &self.held_bytes];
        for ((taken, count), (amount, limit, share, full)) in
            places.taken.iter_mut().zip(counts).zip(bounds)
        {
            match count.take(request.client, amount, Bound { limit, share }) {
                Ok(part) => *taken = Some(part),
                // What was taken so far goes back with its places.
                Err(shortage) => {
                    let error = match shortage {
                        Shortage::Full => full,
                        Shortage::OverShare => AdmitError::QueueShare,
                    };
                    self.metrics.count_shed(error.shed_reason());
                    return Err(error);
                }
            }
        }
        self.metrics.held_requests.increment(1.0);
        Ok(Ticket {
            places,
            since: Instant::now(),
            reason: ReleaseReason::Left,
        })
    }

    /// Requests that wait for, and that are at, each instance that has some.
    pub fn census(&self) -> HashMap<InstanceId, (usize, usize)> {
        let mut census: HashMap<InstanceId, (usize, usize)> = HashMap::new();
        for queues in self.registry.all() {
            let (held, inside) = (queues.held(), queues.inside());
            if held > 0 || inside > 0 {
                let entry = census.entry(queues.instance().clone()).or_default();
                *entry = (entry.0 + held, entry.1 + inside);
            }
        }
        census
    }

    /// Requests at instances now.
    pub fn inside(&self) -> usize {
        let all = self.registry.all();
        all.iter().map(InstanceQueues::inside).sum()
    }

    /// Requests that wait now.
    pub fn held(&self) -> usize {
        self.held.taken()
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({} held)", self.held())
    }
}

// === impl Places ===

impl Drop for Places {
    fn drop(&mut self) {
        let counts = [
            self.queues.held_count(),
            &self.of_route,
            &self.hold.held,
            &self.hold.held_bytes,
        ];
        for (taken, count) in self.taken.iter_mut().zip(counts) {
            if let Some(taken) = taken.take() {
                count.give_back(taken);
            }
        }
        // A count that another request has in hand stays: its owner comes by here, too.
        self.hold.routes.remove_if(&self.route, |_, count| {
            Arc::strong_count(count) <= 2 && count.taken() == 0
        });
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
        let metrics = &self.places.hold.metrics;
        metrics.held_requests.decrement(1.0);
        metrics.count_hold(self.reason, self.since.elapsed());
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (instance, route) = (self.places.queues.instance(), &self.places.route);
        write!(f, "Ticket({instance:?} by {route})")
    }
}
