//! Rates, per client and in all, on tokio's clock so that tests can pause it.
//!
//! Guarantees: the whole count may come at once, then one each share of the time (GCRA, by the
//! `governor` crate); a refusal says how long to wait; quiet clients are forgotten by upkeep.

use std::fmt;
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::DashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use crate::config::Rate;
use crate::names::ClientNetwork;

type Keyed = DashMapStateStore<ClientNetwork>;
type Limiter<K, S> = RateLimiter<K, S, TokioClock, NoOpMiddleware<Moment>>;

/// A rate for each client.
pub(super) struct ClientRate(Limiter<ClientNetwork, Keyed>);

/// One rate for all.
pub(super) struct TotalRate(Limiter<NotKeyed, InMemoryState>);

#[derive(Debug, Clone, Copy)]
struct TokioClock(Instant);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(Nanos);

// === impl TokioClock ===

impl Clock for TokioClock {
    type Instant = Moment;

    fn now(&self) -> Moment {
        Moment(Nanos::from(self.0.elapsed()))
    }
}

impl Reference for Moment {
    fn duration_since(&self, earlier: Self) -> Nanos {
        self.0.duration_since(earlier.0)
    }

    fn saturating_sub(&self, duration: Nanos) -> Self {
        Self(self.0.saturating_sub(duration))
    }
}

impl std::ops::Add<Nanos> for Moment {
    type Output = Self;

    fn add(self, other: Nanos) -> Self {
        Self(self.0 + other)
    }
}

fn quota(rate: Rate) -> Option<Quota> {
    let each = rate.per / rate.count.get();
    Quota::with_period(each).map(|quota| quota.allow_burst(rate.count))
}

// === impl ClientRate ===

impl ClientRate {
    pub(super) fn new(rate: Rate) -> Option<Self> {
        let (store, clock) = (Keyed::default(), TokioClock(Instant::now()));
        Some(Self(RateLimiter::new(quota(rate)?, store, clock)))
    }

    /// Takes one, or says how long to wait for it.
    pub(super) fn take(&self, client: ClientNetwork) -> Result<(), Duration> {
        let taken = self.0.check_key(&client);
        taken.map_err(|not_until| not_until.wait_time_from(self.0.clock().now()))
    }

    pub(super) fn upkeep(&self) {
        self.0.retain_recent();
    }
}

impl fmt::Debug for ClientRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientRate({} clients)", self.0.len())
    }
}

// === impl TotalRate ===

impl TotalRate {
    pub(super) fn new(rate: Rate) -> Option<Self> {
        let (state, clock) = (InMemoryState::default(), TokioClock(Instant::now()));
        Some(Self(RateLimiter::new(quota(rate)?, state, clock)))
    }

    /// Takes one, or says how long to wait for it.
    pub(super) fn take(&self) -> Result<(), Duration> {
        let taken = self.0.check();
        taken.map_err(|not_until| not_until.wait_time_from(self.0.clock().now()))
    }
}

impl fmt::Debug for TotalRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TotalRate")
    }
}
