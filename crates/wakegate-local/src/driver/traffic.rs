//! The bytes and the connections of one instance's address.
//!
//! Guarantees: a connection counts from the moment when it is accepted until both of its halves are
//! over, by the source and the port that it came to; counting needs no table of the kernel's.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;

use crate::clock::Clock;
use crate::policy::auto_standby::Policy;

/// The bytes, the connections and the events of an address.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    /// The time when a connection that counts was last opened or closed, in µs; 0 is never.
    last_event: AtomicI64,
    /// The number of open connections, by their source and the port that they came to.
    open: Mutex<HashMap<(Ipv4Addr, u16), u64>>,
    /// The policy that says which connections count.
    pub(crate) policy: ArcSwapOption<Policy>,
}

/// One connection, which counts while this lives.
#[derive(Debug)]
pub(super) struct CountedConnection {
    traffic: Arc<Traffic>,
    clock: Clock,
    source: Ipv4Addr,
    port: u16,
}

// === impl Traffic ===

impl Traffic {
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn last_event(&self) -> Option<Timestamp> {
        match self.last_event.load(Ordering::Relaxed) {
            0 => None,
            micros => Timestamp::from_microsecond(micros).ok(),
        }
    }

    /// The number of connections that are open through this address and that `counts` holds for.
    pub(crate) fn active(&self, counts: impl Fn(Ipv4Addr, u16) -> bool) -> u64 {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = open
            .iter()
            .filter(|((source, port), _)| counts(*source, *port));
        counted.map(|(_, number)| number).sum()
    }

    /// Takes over what another counter has counted.
    pub(in crate::driver) fn replace(&self, received: u64, sent: u64) {
        self.received.store(received, Ordering::Relaxed);
        self.sent.store(sent, Ordering::Relaxed);
    }

    fn note(&self, source: Ipv4Addr, port: u16, now: Timestamp) {
        let counts = self
            .policy
            .load()
            .as_ref()
            .is_none_or(|policy| policy.counts(source, port));
        if counts {
            self.last_event
                .store(now.as_microsecond(), Ordering::Relaxed);
        }
    }
}

// === impl CountedConnection ===

impl CountedConnection {
    pub(super) fn new(traffic: &Arc<Traffic>, clock: &Clock, source: Ipv4Addr, port: u16) -> Self {
        traffic.note(source, port, clock.now());
        let mut open = traffic.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open.entry((source, port)).or_default() += 1;
        drop(open);
        Self {
            traffic: Arc::clone(traffic),
            clock: clock.clone(),
            source,
            port,
        }
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let Self {
            traffic,
            clock,
            source,
            port,
        } = self;
        // Noted first: whoever sees no connection must see when the last one ended.
        traffic.note(*source, *port, clock.now());
        let mut open = traffic.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = open.get_mut(&(*source, *port)) {
            *number -= 1;
            if *number == 0 {
                open.remove(&(*source, *port));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_counts_while_it_lives_and_by_what_the_policy_says() {
        let (traffic, clock) = (Arc::<Traffic>::default(), Clock::system());
        let near = Ipv4Addr::LOCALHOST;
        let far = Ipv4Addr::new(192, 0, 2, 1);
        let first = CountedConnection::new(&traffic, &clock, near, 8080);
        let second = CountedConnection::new(&traffic, &clock, near, 8080);
        let third = CountedConnection::new(&traffic, &clock, far, 9000);
        assert_eq!(traffic.active(|_, _| true), 3);
        assert_eq!(traffic.active(|source, _| source == far), 1);
        assert_eq!(traffic.active(|_, port| port != 8080), 1);
        drop(first);
        assert_eq!(traffic.active(|_, _| true), 2);
        let before = traffic.last_event().unwrap();
        drop((second, third));
        assert_eq!(traffic.active(|_, _| true), 0);
        assert!(traffic.last_event().unwrap() >= before);
        assert!(traffic.open.lock().unwrap().is_empty(), "nothing is left");
    }
}
