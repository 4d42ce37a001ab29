//! The lease: how long an instance cannot have gone to sleep by itself.
//!
//! Guarantees: [`Endpoint::is_leased`] is a few atomic loads; it says yes only while a connection of
//! ours is open, or before the last close (or a hold) + `idle_timeout` - margin, and, with no
//! connection open, only if the instance was confirmed within the verify interval. That bound is
//! also what keeps an address that another instance has taken over from receiving requests.
//!
//! An endpoint is one *epoch*: one uninterrupted stretch of being awake at one address. Its
//! connections never outlive it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::names::InstanceId;

/// What the instance's policy means for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The policy's idle timeout; `None` when it never sleeps by itself.
    pub idle_timeout: Option<Duration>,
    /// Whether our connections count for it (an ignore list may leave them out).
    pub counts: bool,
}

/// One epoch of one instance. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint(Arc<Epoch>);

struct Epoch {
    instance: InstanceId,
    number: u64,
    ip: IpAddr,
    verify_interval: Duration,
    /// Times below are nanoseconds since this, so that zero is "never".
    base: Instant,
    terms: ArcSwap<LeaseTerms>,
    /// Ports that answered.
    ports: ArcSwap<Vec<u16>>,
    open: AtomicUsize,
    /// When a lease term began last: a close, a hold, a restore.
    begun: AtomicU64,
    /// Only a hold begins a term when our connections do not count.
    held: AtomicU64,
    verified: AtomicU64,
    verifying: AtomicBool,
    retired: CancellationToken,
    severed: CancellationToken,
}

/// An open connection to an endpoint; while it exists, the instance cannot go to sleep by itself.
#[must_use]
pub struct OpenConnection(Endpoint);

// === impl LeaseTerms ===

impl LeaseTerms {
    /// How much earlier than the server we take a lease to end: a second or a tenth, and half of a
    /// very short one.
    pub fn margin(idle_timeout: Duration) -> Duration {
        (idle_timeout / 10)
            .max(Duration::from_secs(1))
            .min(idle_timeout / 2)
    }
}

// === impl Endpoint ===

impl Endpoint {
    pub(super) fn new(
        instance: InstanceId,
        number: u64,
        ip: IpAddr,
        terms: LeaseTerms,
        verify_interval: Duration,
        now: Instant,
    ) -> Self {
        let second = Duration::from_secs(1);
        Self(Arc::new(Epoch {
            instance,
            number,
            ip,
            verify_interval,
            base: now.checked_sub(second).unwrap_or(now),
            terms: ArcSwap::from_pointee(terms),
            ports: ArcSwap::default(),
            open: AtomicUsize::new(0),
            begun: AtomicU64::new(0),
            held: AtomicU64::new(0),
            verified: AtomicU64::new(1),
            verifying: AtomicBool::new(false),
            retired: CancellationToken::new(),
            severed: CancellationToken::new(),
        }))
    }

    /// Whose epoch this is.
    pub fn instance(&self) -> &InstanceId {
        &self.0.instance
    }

    /// Unique in this process.
    pub fn epoch(&self) -> u64 {
        self.0.number
    }

    /// Where the instance is.
    pub fn ip(&self) -> IpAddr {
        self.0.ip
    }

    /// Where one of its ports is.
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.0.ip, port)
    }

    /// Its policy's idle timeout.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.0.terms.load().idle_timeout
    }

    /// Cancelled when the epoch's idle connections must not be used again.
    pub fn retired(&self) -> &CancellationToken {
        &self.0.retired
    }

    /// Cancelled when the instance is known to be asleep or gone: its connections are dead.
    pub fn severed(&self) -> &CancellationToken {
        &self.0.severed
    }

    /// Counts a connection until the guard is dropped.
    pub fn open_connection(&self) -> OpenConnection {
        self.0.open.fetch_add(1, Ordering::AcqRel);
        OpenConnection(self.clone())
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.0.open.load(Ordering::Acquire)
    }

    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.0.base).as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether the instance cannot have gone to sleep by itself, nor to somebody else.
    pub fn is_leased(&self, now: Instant) -> bool {
        let terms = self.0.terms.load();
        if terms.counts && self.open_connections() > 0 {
            return true;
        }
        let now = self.nanos(now);
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        let verified = self.0.verified.load(Ordering::Acquire);
        if now >= verified.saturating_add(nanos(self.0.verify_interval)) {
            return false;
        }
        let Some(idle) = terms.idle_timeout else {
            return true;
        };
        let (begun, held) = (
            self.0.begun.load(Ordering::Acquire),
            self.0.held.load(Ordering::Acquire),
        );
        let term = if terms.counts { begun.max(held) } else { held };
        term > 0 && now < term.saturating_add(nanos(idle.saturating_sub(LeaseTerms::margin(idle))))
    }

    /// Whether the lease has not been confirmed for the verify interval. Says so to one caller
    /// until the confirmation.
    pub fn wants_verification(&self, now: Instant) -> bool {
        let age = self
            .nanos(now)
            .saturating_sub(self.0.verified.load(Ordering::Acquire));
        u128::from(age) >= self.0.verify_interval.as_nanos()
            && !self.0.verifying.swap(true, Ordering::AcqRel)
    }

    /// Whether `port` has answered in this epoch.
    pub fn is_ready(&self, port: u16) -> bool {
        self.0.ports.load().contains(&port)
    }

    pub(super) fn mark_ready(&self, port: u16) {
        if !self.is_ready(port) {
            let mut ports = self.0.ports.load().to_vec();
            ports.push(port);
            self.0.ports.store(Arc::new(ports));
        }
    }

    /// The control plane confirmed it, in answer to a question asked at `asked`.
    pub(super) fn verify(&self, asked: Instant, terms: LeaseTerms) {
        if **self.0.terms.load() != terms {
            self.0.terms.store(Arc::new(terms));
        }
        self.0.verified.store(self.nanos(asked), Ordering::Release);
        self.0.verifying.store(false, Ordering::Release);
    }

    /// A verification failed without a verdict: ask again at the next use.
    pub(super) fn unverify(&self) {
        self.0.verifying.store(false, Ordering::Release);
    }

    /// The idle countdown began anew not before `at`.
    pub(super) fn begin_term(&self, at: Instant) {
        self.0.begun.fetch_max(self.nanos(at), Ordering::AcqRel);
    }

    /// A hold was placed not before `at`. The last one counts, not the longest.
    pub(super) fn set_hold(&self, at: Option<Instant>) {
        self.0
            .held
            .store(at.map_or(0, |at| self.nanos(at)), Ordering::Release);
    }

    pub(super) fn counts(&self) -> bool {
        self.0.terms.load().counts
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({} epoch {})", self.0.instance, self.0.number)
    }
}

// === impl OpenConnection ===

impl Drop for OpenConnection {
    fn drop(&mut self) {
        // The close is noted before the connection stops counting, so that no moment lies between.
        self.0.begin_term(Instant::now());
        self.0.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenConnection({:?})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    fn endpoint(counts: bool, idle_timeout: Option<Duration>) -> Endpoint {
        let terms = LeaseTerms {
            idle_timeout,
            counts,
        };
        let id = InstanceId::parse("a").unwrap();
        let endpoint = Endpoint::new(
            id,
            1,
            IpAddr::from([127, 0, 0, 1]),
            terms,
            Duration::from_secs(30),
            Instant::now(),
        );
        endpoint.verify(Instant::now(), terms);
        endpoint
    }

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_lasts_from_the_last_close_to_the_idle_timeout_less_its_margin() {
        let endpoint = endpoint(true, Some(IDLE));
        assert!(
            !endpoint.is_leased(Instant::now()),
            "nothing has begun a term"
        );
        let connection = endpoint.open_connection();
        pass(20).await;
        assert!(endpoint.is_leased(Instant::now()), "a connection is open");
        drop(connection);
        pass(8).await;
        assert!(endpoint.is_leased(Instant::now()));
        pass(1).await;
        assert!(
            !endpoint.is_leased(Instant::now()),
            "9 s = 10 s - 1 s have passed"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn connections_that_the_policy_ignores_make_no_lease_and_a_hold_does() {
        let endpoint = endpoint(false, Some(IDLE));
        let _connection = endpoint.open_connection();
        assert!(!endpoint.is_leased(Instant::now()));
        endpoint.set_hold(Some(Instant::now()));
        assert!(endpoint.is_leased(Instant::now()));
        endpoint.set_hold(None);
        assert!(!endpoint.is_leased(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_connection_a_lease_ends_with_its_verification() {
        let endpoint = endpoint(true, None);
        pass(29).await;
        assert!(endpoint.is_leased(Instant::now()));
        pass(1).await;
        assert!(!endpoint.is_leased(Instant::now()));
        assert!(endpoint.wants_verification(Instant::now()));
        assert!(
            !endpoint.wants_verification(Instant::now()),
            "one caller is enough"
        );
    }

    #[test]
    fn the_margin_is_a_second_or_a_tenth_and_half_of_a_short_timeout() {
        for (idle, margin) in [(500, 250), (1_000, 500), (5_000, 1_000), (60_000, 6_000)] {
            let margin_of = LeaseTerms::margin(Duration::from_millis(idle));
            assert_eq!(margin_of, Duration::from_millis(margin));
        }
    }
}
