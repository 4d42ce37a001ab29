//! Rates, per client and in all, on tokio's clock so that tests can pause it.
//!
//! Guarantees: the whole count may come at once, then one each share of the time (GCRA, by the
//! `governor` crate); a refusal says how long to wait; quiet clients are forgotten by upkeep; their
//! number is bounded, also when somebody sends from every network that a provider has.

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

/// Beyond so many clients the next ones are counted by their provider's network, and beyond twice
/// as many together.
pub(super) const MOST_CLIENTS: usize = 1 << 16;

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

    /// The network that a client is counted by at the moment.
    pub(super) fn counted_as(&self, client: ClientNetwork) -> ClientNetwork {
        match self.0.len() {
            clients if clients < MOST_CLIENTS => client,
            clients if clients < 2 * MOST_CLIENTS => client.widened(),
            _ => ClientNetwork::ALL,
        }
    }

    /// Takes one for a client, or says how long to wait for it.
    pub(super) fn take(&self, client: ClientNetwork) -> Result<(), Duration> {
        self.take_as(self.counted_as(client))
    }

    /// Takes one for what [`Self::counted_as`] said, or says how long to wait for it.
    pub(super) fn take_as(&self, network: ClientNetwork) -> Result<(), Duration> {
        let taken = self.0.check_key(&network);
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};
    use std::num::NonZeroU32;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sweep_through_a_providers_networks_is_bounded_and_costs_others_nothing() {
        let rate = Rate {
            count: NonZeroU32::MIN,
            per: Duration::from_secs(3600),
        };
        let clients = ClientRate::new(rate).unwrap();
        let sweep = |number: u128| {
            let network = 0x2001_0db8_u128 << 96 | number << 72;
            ClientNetwork::from(IpAddr::V6(Ipv6Addr::from(network)))
        };
        for number in 0..(MOST_CLIENTS as u128) {
            assert!(clients.take(sweep(number)).is_ok());
        }
        // From here on the provider is one client.
        assert!(clients.take(sweep(MOST_CLIENTS as u128)).is_ok());
        for number in 1..1000 {
            let refused = clients.take(sweep(MOST_CLIENTS as u128 + number));
            assert!(refused.is_err());
        }
        let other = ClientNetwork::from(IpAddr::from([192, 0, 2, 1]));
        assert!(clients.take(other).is_ok());
        assert_eq!(clients.0.len(), MOST_CLIENTS + 2);
        // Another share of the time later than it is as good as new.
        tokio::time::advance(2 * rate.per).await;
        clients.upkeep();
        assert_eq!(clients.0.len(), 0, "quiet clients are forgotten");
    }
}
