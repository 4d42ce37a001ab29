//! The lease: how long an instance cannot have gone to sleep by itself.
//!
//! Guarantees: [`Endpoint::is_leased`] is a few atomic loads; it says yes only while a connection
//! of ours is open, or before the last close (or a hold) + `idle_timeout` - margin; and only if
//! within the verify interval either the control plane confirmed the instance or bytes came from
//! it. That bound is also what keeps an address that another instance has taken over from receiving
//! requests: an open connection alone proves nothing, since a VM that is deleted sends no FIN and
//! no RST; and bytes prove something only on a connection that was there when the control plane
//! last confirmed the instance: a newer one may lead to somebody else.
//!
//! An endpoint is one *epoch*: one uninterrupted stretch of being awake at one address. Its
//! connections never outlive it.
//!
//! A hold is in the server's memory only, so a lease that rests on one ends when the control plane
//! was out of reach meanwhile.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::target::Target;
use hypeman::InstanceId;

/// While a control plane does not answer, a lease's confirmation is asked for this seldom.
const ASK_AGAIN: Duration = Duration::from_secs(1);

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
    /// Targets that answered.
    ready: ArcSwap<Vec<Target>>,
    open: AtomicUsize,
    /// Each open connection's last byte, for the stall watchdog.
    last_activity: Mutex<Vec<Weak<AtomicU64>>>,
    /// How often the control plane was out of reach so far, and how often when the hold was placed.
    losses: Arc<AtomicU64>,
    held_losses: AtomicU64,
    /// Whether it was restored or started by us when this epoch began.
    fresh: bool,
    warmed_up: AtomicBool,
    /// When a lease term began last: a close, a hold, a restore.
    idle_since: AtomicU64,
    /// Only a hold begins a term when our connections do not count.
    held: AtomicU64,
    verified: AtomicU64,
    /// When a connection last brought bytes.
    heard: AtomicU64,
    verifying: AtomicBool,
    /// No confirmation is asked for before this.
    ask_after: AtomicU64,
    draining: CancellationToken,
    cut: CancellationToken,
}

/// An open connection to an endpoint; while it exists, the instance cannot go to sleep by itself.
#[must_use]
pub struct OpenConnection {
    endpoint: Endpoint,
    last_byte: Arc<AtomicU64>,
    /// `u64::MAX` until then.
    established_at: u64,
}

/// What an epoch begins with.
pub(super) struct EpochInit {
    pub(super) instance: InstanceId,
    pub(super) number: u64,
    pub(super) ip: IpAddr,
    pub(super) terms: LeaseTerms,
    pub(super) losses: Arc<AtomicU64>,
    pub(super) fresh: bool,
}

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
    pub(super) fn new(init: EpochInit, verify_interval: Duration, now: Instant) -> Self {
        let second = Duration::from_secs(1);
        let held_losses = AtomicU64::new(init.losses.load(Ordering::Acquire));
        Self(Arc::new(Epoch {
            instance: init.instance,
            number: init.number,
            ip: init.ip,
            verify_interval,
            base: now.checked_sub(second).unwrap_or(now),
            terms: ArcSwap::from_pointee(init.terms),
            ready: ArcSwap::default(),
            open: AtomicUsize::new(0),
            last_activity: Mutex::default(),
            losses: init.losses,
            held_losses,
            fresh: init.fresh,
            warmed_up: AtomicBool::new(false),
            idle_since: AtomicU64::new(0),
            held: AtomicU64::new(0),
            verified: AtomicU64::new(1),
            heard: AtomicU64::new(0),
            verifying: AtomicBool::new(false),
            ask_after: AtomicU64::new(0),
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
        }))
    }

    /// The instance whose epoch this is.
    pub fn instance(&self) -> &InstanceId {
        &self.0.instance
    }

    /// The number of this epoch, unique in this process.
    pub fn epoch(&self) -> u64 {
        self.0.number
    }

    /// The address of the instance.
    pub fn ip(&self) -> IpAddr {
        self.0.ip
    }

    /// The address of one of its ports.
    pub fn address(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.0.ip, port)
    }

    /// The idle timeout of its policy.
    pub fn idle_timeout(&self) -> Option<Duration> {
        self.0.terms.load().idle_timeout
    }

    /// Cancelled when the epoch's idle connections must not be used again.
    pub fn draining(&self) -> &CancellationToken {
        &self.0.draining
    }

    /// Cancelled when the instance is known to be asleep or gone: its connections are dead.
    pub fn cut(&self) -> &CancellationToken {
        &self.0.cut
    }

    /// Whether a wake of ours began this epoch, and how long ago.
    pub fn woken_since(&self, now: Instant) -> Option<Duration> {
        let second = Duration::from_secs(1);
        self.0
            .fresh
            .then(|| now.saturating_duration_since(self.0.base + second))
    }

    pub(super) fn is_warmed_up(&self) -> bool {
        self.0.warmed_up.load(Ordering::Acquire)
    }

    pub(super) fn mark_warmed_up(&self) {
        self.0.warmed_up.store(true, Ordering::Release);
    }

    /// Counts a connection until the guard is dropped.
    pub fn open_connection(&self) -> OpenConnection {
        self.0.open.fetch_add(1, Ordering::AcqRel);
        let last_byte = Arc::new(AtomicU64::new(self.nanos(Instant::now())));
        let mut last_activity = self
            .0
            .last_activity
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last_activity.retain(|last_byte| last_byte.strong_count() > 0);
        last_activity.push(Arc::downgrade(&last_byte));
        drop(last_activity);
        OpenConnection {
            endpoint: self.clone(),
            last_byte,
            established_at: u64::MAX,
        }
    }

    /// Whether a connection is open without a byte either way for `limit`, and the instance was not
    /// confirmed meanwhile.
    pub(super) fn is_stalled(&self, now: Instant, limit: Duration) -> bool {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        let before = self.nanos(now).saturating_sub(limit);
        let last_activity = self
            .0
            .last_activity
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let silent = last_activity
            .iter()
            .filter_map(Weak::upgrade)
            .any(|last_byte| last_byte.load(Ordering::Relaxed) < before);
        silent && self.0.verified.load(Ordering::Acquire) < before
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
        let now = self.nanos(now);
        let nanos = |d: Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        if !self.is_confirmed_at(now) {
            return false;
        }
        if terms.counts && self.open_connections() > 0 {
            return true;
        }
        let Some(idle) = terms.idle_timeout else {
            return true;
        };
        let (idle_since, held) = (self.0.idle_since.load(Ordering::Acquire), self.held());
        let term = if terms.counts {
            idle_since.max(held)
        } else {
            held
        };
        term > 0 && now < term.saturating_add(nanos(idle.saturating_sub(LeaseTerms::margin(idle))))
    }

    /// Whether the control plane confirmed the instance, or bytes came from it, so lately that its
    /// address may be used.
    pub fn is_confirmed(&self, now: Instant) -> bool {
        self.is_confirmed_at(self.nanos(now))
    }

    fn is_confirmed_at(&self, now: u64) -> bool {
        let (verified, heard) = (&self.0.verified, &self.0.heard);
        let confirmed = verified
            .load(Ordering::Acquire)
            .max(heard.load(Ordering::Acquire));
        let interval = u64::try_from(self.0.verify_interval.as_nanos()).unwrap_or(u64::MAX);
        now < confirmed.saturating_add(interval)
    }

    /// When a hold was placed that the server cannot have forgotten since.
    fn held(&self) -> u64 {
        let losses = self.0.losses.load(Ordering::Acquire);
        match self.0.held_losses.load(Ordering::Acquire) == losses {
            true => self.0.held.load(Ordering::Acquire),
            false => 0,
        }
    }

    /// Whether the lease has not been confirmed for the verify interval. Says so to one caller
    /// until the confirmation.
    pub fn wants_verification(&self, now: Instant) -> bool {
        let now = self.nanos(now);
        let age = now.saturating_sub(self.0.verified.load(Ordering::Acquire));
        u128::from(age) >= self.0.verify_interval.as_nanos()
            && now >= self.0.ask_after.load(Ordering::Acquire)
            && !self.0.verifying.swap(true, Ordering::AcqRel)
    }

    /// Whether `target` has answered in this epoch.
    pub fn is_ready(&self, target: Target) -> bool {
        self.0.ready.load().contains(&target)
    }

    pub(super) fn mark_ready(&self, target: Target) {
        if !self.is_ready(target) {
            let mut ready = self.0.ready.load().to_vec();
            ready.push(target);
            self.0.ready.store(Arc::new(ready));
        }
    }

    /// The control plane confirmed it, in answer to a question asked at `asked_at`.
    pub(super) fn verify(&self, asked_at: Instant, terms: LeaseTerms) {
        if **self.0.terms.load() != terms {
            self.0.terms.store(Arc::new(terms));
        }
        self.0
            .verified
            .store(self.nanos(asked_at), Ordering::Release);
        self.0.verifying.store(false, Ordering::Release);
    }

    /// A verification found no way to ask: once more at the next use, after this while.
    pub(super) fn unverify(&self, pause: Duration) {
        let after = self.nanos(Instant::now() + pause);
        self.0.ask_after.store(after, Ordering::Release);
        self.0.verifying.store(false, Ordering::Release);
    }

    /// The control plane gave no verdict.
    pub(super) fn no_verdict(&self) {
        self.unverify(ASK_AGAIN);
    }

    /// The idle countdown began anew not before `at`.
    pub(super) fn begin_term(&self, at: Instant) {
        self.0
            .idle_since
            .fetch_max(self.nanos(at), Ordering::AcqRel);
    }

    /// A hold was placed not before `at`. The last one counts, not the longest.
    pub(super) fn set_hold(&self, at: Option<Instant>) {
        let losses = self.0.losses.load(Ordering::Acquire);
        self.0.held_losses.store(losses, Ordering::Release);
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

impl OpenConnection {
    /// The handshake is over.
    pub fn established(&mut self) {
        self.established_at = self.endpoint.nanos(Instant::now());
    }

    /// A byte goes to the instance `now`.
    pub fn sent(&self, now: Instant) {
        let now = self.endpoint.nanos(now);
        self.last_byte.store(now, Ordering::Relaxed);
    }

    /// A byte has come `now`. If the control plane has confirmed the instance since the connection
    /// was made, it came from the instance, which therefore still has its address.
    pub fn heard(&self, now: Instant) {
        let now = self.endpoint.nanos(now);
        self.last_byte.store(now, Ordering::Relaxed);
        let epoch = &self.endpoint.0;
        let confirms = self.established_at <= epoch.verified.load(Ordering::Acquire);
        // A look first: another connection may have heard of it in the same moment.
        if confirms && epoch.heard.load(Ordering::Relaxed) < now {
            epoch.heard.fetch_max(now, Ordering::AcqRel);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        // The close is noted before the connection stops counting, so that no moment lies between.
        self.endpoint.begin_term(Instant::now());
        self.endpoint.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenConnection({:?})", self.endpoint)
    }
}

#[cfg(test)]
mod tests;
