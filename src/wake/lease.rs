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
//! An endpoint is one *epoch*: one uninterrupted stretch of being awake at one address. It owns what
//! is open on it ([`Endpoint::belongings`], [`Endpoint::cut`]): nothing outlives it. It is live or
//! cut, and an instance has one live epoch at most.
//!
//! A hold is in the server's memory only, so a lease that rests on one ends when the control plane
//! was out of reach meanwhile.

mod quiet;
mod terms;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::quiet::QuietLook;
pub use self::terms::LeaseTerms;
use self::terms::{Terms, nanos};
use super::belongings::Belongings;
use super::parking::Parking;
use super::target::Target;
use crate::backoff::Backoff;
use crate::instance_tls::TlsHop;
use hypeman::InstanceId;

/// While a control plane cannot tell, a lease's confirmation is asked for this seldom.
const ASK_AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// As many ports are remembered to have answered.
const MOST_READY: usize = 64;

/// One epoch of one instance. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint(Arc<Handle>);

/// What all handles of an epoch share. Its connections share only the epoch, so that a belonging
/// may hold some of them without holding its owner.
struct Handle {
    epoch: Arc<Epoch>,
    belongings: Belongings,
}

struct Epoch {
    instance: InstanceId,
    number: u64,
    ip: IpAddr,
    /// In nanoseconds, as the times below.
    verify_interval: u64,
    began: Instant,
    /// Times below are nanoseconds since this, so that zero is "never".
    base: Instant,
    terms: Terms,
    /// Targets that answered.
    ready: ArcSwap<Vec<Target>>,
    open: AtomicUsize,
    /// Tunnels that have had no payload for a while, and may be parked: they are not among the open ones.
    quiet: AtomicUsize,
    /// Whether the gateway is about to put the instance to sleep.
    ending: AtomicBool,
    /// When the last payload went either way, as far as it was on what is not open any more.
    payload: AtomicU64,
    parking: Arc<Parking>,
    /// Each open connection's last byte, for the stall watchdog.
    last_activity: Mutex<Slab<Arc<AtomicU64>>>,
    /// Tells the instance's task that a connection is open, once until it looks.
    opened: Arc<Notify>,
    watched: AtomicBool,
    /// How often the control plane was out of reach so far, and how often when the hold was placed.
    losses: Arc<AtomicU64>,
    held_losses: AtomicU64,
    /// Whether it was restored or started by us when this epoch began.
    fresh: bool,
    warmed_up: AtomicBool,
    resumed: AtomicBool,
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
    /// It is about to be put to sleep: who is not counted yet does not enter any more.
    resting: AtomicBool,
    cut: CancellationToken,
}

/// An open connection to an endpoint; while it exists, the instance cannot go to sleep by itself.
#[must_use]
pub struct OpenConnection {
    epoch: Arc<Epoch>,
    last_byte: Arc<AtomicU64>,
    /// Its place among the open connections.
    place: usize,
    /// `u64::MAX` until then.
    established_at: u64,
    /// Whether it is a quiet tunnel's.
    is_quiet: bool,
    /// Whether what goes over it is the gateway's own.
    is_own: bool,
}

/// What an epoch begins with.
pub(super) struct EpochInit {
    pub(super) instance: InstanceId,
    pub(super) number: u64,
    pub(super) ip: IpAddr,
    pub(super) terms: LeaseTerms,
    pub(super) losses: Arc<AtomicU64>,
    pub(super) opened: Arc<Notify>,
    pub(super) parking: Arc<Parking>,
    pub(super) fresh: bool,
    /// The control plane was asked at this time for what it began with.
    pub(super) asked_at: Instant,
}

// === impl Endpoint ===

impl Endpoint {
    pub(super) fn new(init: EpochInit, verify_interval: Duration, now: Instant) -> Self {
        let second = Duration::from_secs(1);
        let base = init.asked_at.min(now);
        let held_losses = AtomicU64::new(init.losses.load(Ordering::Acquire));
        let epoch = Arc::new(Epoch {
            instance: init.instance,
            number: init.number,
            ip: init.ip,
            verify_interval: nanos(verify_interval),
            began: now,
            base: base.checked_sub(second).unwrap_or(base),
            terms: Terms::of(init.terms),
            ready: ArcSwap::default(),
            open: AtomicUsize::new(0),
            quiet: AtomicUsize::new(0),
            ending: AtomicBool::new(false),
            payload: AtomicU64::new(0),
            parking: init.parking,
            last_activity: Mutex::default(),
            opened: init.opened,
            watched: AtomicBool::new(false),
            losses: init.losses,
            held_losses,
            fresh: init.fresh,
            warmed_up: AtomicBool::new(false),
            resumed: AtomicBool::new(false),
            idle_since: AtomicU64::new(0),
            held: AtomicU64::new(0),
            verified: AtomicU64::new(1),
            heard: AtomicU64::new(0),
            verifying: AtomicBool::new(false),
            ask_after: AtomicU64::new(0),
            resting: AtomicBool::new(false),
            cut: CancellationToken::new(),
        });
        Self(Arc::new(Handle {
            epoch,
            belongings: Belongings::default(),
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
        self.0.terms.get().idle_timeout
    }

    /// Cancelled when the epoch is over, as the instance is known to be asleep, gone, at another
    /// address or woken anew: its connections are dead.
    pub fn cut(&self) -> &CancellationToken {
        &self.0.cut
    }

    /// What other rooms keep with this epoch. It goes with the epoch's last handle, and must not
    /// hold one.
    pub fn belongings(&self) -> &Belongings {
        &self.0.belongings
    }

    /// Whether a wake of ours began this epoch, and how long ago.
    pub fn woken_since(&self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.0.began);
        self.0.fresh.then_some(since)
    }

    /// Whether it is about to be put to sleep. Whoever asks this after being counted, and hears no, is
    /// seen by whoever looks at the counts after `set_resting`.
    pub fn is_resting(&self) -> bool {
        self.0.resting.load(Ordering::SeqCst)
    }

    pub(super) fn set_resting(&self, is_resting: bool) {
        self.0.resting.store(is_resting, Ordering::SeqCst);
    }

    pub(super) fn is_warmed_up(&self) -> bool {
        self.0.warmed_up.load(Ordering::Acquire)
    }

    /// Whether the workload has been told of the wake.
    pub(super) fn is_resumed(&self) -> bool {
        self.0.resumed.load(Ordering::Acquire)
    }

    pub(super) fn mark_resumed(&self) {
        self.0.resumed.store(true, Ordering::Release);
    }

    pub(super) fn mark_warmed_up(&self) {
        self.0.warmed_up.store(true, Ordering::Release);
    }

    /// Counts a connection until the guard is dropped.
    pub fn open_connection(&self) -> OpenConnection {
        // Sequentially consistent with `unwatch`: one of the two sees the other.
        self.0.open.fetch_add(1, Ordering::SeqCst);
        let last_byte = Arc::new(AtomicU64::new(self.nanos(Instant::now())));
        let place = self.0.activity().insert(Arc::clone(&last_byte));
        // A look first: whoever is watched already costs no write.
        if !self.0.watched.load(Ordering::SeqCst) && !self.0.watched.swap(true, Ordering::SeqCst) {
            self.0.opened.notify_one();
        }
        OpenConnection {
            epoch: Arc::clone(&self.0.epoch),
            last_byte,
            place,
            established_at: u64::MAX,
            is_quiet: false,
            is_own: false,
        }
    }

    /// Nobody watches the open connections from now on; whether there are some after all.
    pub(super) fn unwatch(&self) -> bool {
        self.0.watched.store(false, Ordering::SeqCst);
        self.0.open.load(Ordering::SeqCst) > 0 && !self.0.watched.swap(true, Ordering::SeqCst)
    }

    /// Whether a connection is open without a byte either way for `limit`, and the instance was not
    /// confirmed meanwhile.
    pub(super) fn is_stalled(&self, now: Instant, limit: Duration) -> bool {
        let before = self.nanos(now).saturating_sub(nanos(limit));
        if self.0.verified.load(Ordering::Acquire) >= before {
            return false;
        }
        let activity = self.0.activity();
        let mut silent = activity.iter();
        silent.any(|(_, last_byte)| last_byte.load(Ordering::Relaxed) < before)
    }

    /// When it was of use last: a byte came, or a connection was closed.
    pub(super) fn last_use(&self) -> Instant {
        let heard = self.0.heard.load(Ordering::Acquire);
        let last = heard.max(self.0.idle_since.load(Ordering::Acquire));
        self.0.base + Duration::from_nanos(last)
    }

    /// Whether the control plane confirmed it within this time.
    pub(super) fn is_verified_within(&self, now: Instant, limit: Duration) -> bool {
        let verified = self.0.verified.load(Ordering::Acquire);
        self.nanos(now) < verified.saturating_add(nanos(limit))
    }

    /// Whether the control plane, which could not tell lately, may be asked again.
    pub(super) fn may_ask(&self, now: Instant) -> bool {
        self.nanos(now) >= self.0.ask_after.load(Ordering::Acquire)
    }

    /// A list that was asked for at `asked_at` shows it Running at its address.
    pub(super) fn confirm(&self, asked_at: Instant) {
        let asked_at = self.nanos(asked_at);
        self.0.verified.fetch_max(asked_at, Ordering::AcqRel);
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.0.open.load(Ordering::Acquire)
    }

    /// A time as the epoch counts it.
    pub(super) fn nanos(&self, at: Instant) -> u64 {
        self.0.nanos(at)
    }

    /// Whether the instance cannot have gone to sleep by itself, nor to somebody else.
    pub fn is_leased(&self, now: Instant) -> bool {
        self.is_leased_at(self.nanos(now))
    }

    /// The same at a time of [`Self::nanos`].
    pub(super) fn is_leased_at(&self, now: u64) -> bool {
        self.is_confirmed_at(now) && self.is_in_term(now)
    }

    /// Whether the instance was awake by the last word about it, and cannot have gone to sleep by
    /// itself since, however long ago that was.
    pub fn is_awake_by_last_word(&self, now: Instant) -> bool {
        !self.0.cut.is_cancelled() && self.is_in_term(self.nanos(now))
    }

    /// Whether bytes came from the instance, or the control plane confirmed it, within `limit`.
    pub fn is_heard_within(&self, now: Instant, limit: Duration) -> bool {
        !self.0.cut.is_cancelled() && self.confirmed_within(self.nanos(now), nanos(limit))
    }

    fn is_in_term(&self, now: u64) -> bool {
        let terms = self.0.terms.get();
        if terms.counts && self.open_connections() > 0 {
            return true;
        }
        let Some(idle) = terms.idle_timeout else {
            return true;
        };
        let (idle_since, held) = (self.0.idle_since.load(Ordering::Acquire), self.0.held());
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
        self.confirmed_within(now, self.0.verify_interval)
    }

    fn confirmed_within(&self, now: u64, limit: u64) -> bool {
        let (verified, heard) = (&self.0.verified, &self.0.heard);
        let confirmed = verified
            .load(Ordering::Acquire)
            .max(heard.load(Ordering::Acquire));
        now < confirmed.saturating_add(limit)
    }

    /// Whether the lease has not been confirmed for the verify interval. Says so to one caller
    /// until the confirmation.
    pub fn wants_verification(&self, now: Instant) -> bool {
        self.wants_verification_at(self.nanos(now))
    }

    /// The same at a time of [`Self::nanos`].
    pub(super) fn wants_verification_at(&self, now: u64) -> bool {
        let age = now.saturating_sub(self.0.verified.load(Ordering::Acquire));
        age >= self.0.verify_interval
            && now >= self.0.ask_after.load(Ordering::Acquire)
            && !self.0.verifying.swap(true, Ordering::AcqRel)
    }

    /// Whether `target` has answered in this epoch.
    pub fn is_ready(&self, target: &Target) -> bool {
        self.0.ready.load().contains(target)
    }

    /// The first of its ports that has answered in this epoch.
    pub fn first_ready_port(&self) -> Option<u16> {
        let ready = self.0.ready.load();
        ready
            .iter()
            .map(|target| target.port)
            .find(|port| *port != 0)
    }

    /// The TLS that one of its ports has answered in this epoch.
    pub fn tls_of(&self, port: u16) -> Option<TlsHop> {
        let ready = self.0.ready.load();
        let mut of_port = ready.iter().filter(|target| target.port == port);
        of_port.find_map(|target| target.tls().cloned())
    }

    pub(super) fn mark_ready(&self, target: &Target) {
        if !self.is_ready(target) {
            let mut ready = self.0.ready.load().to_vec();
            if ready.len() >= MOST_READY {
                // The next request for it looks again.
                ready.remove(0);
            }
            ready.push(target.clone());
            self.0.ready.store(Arc::new(ready));
        }
    }

    /// A port does not answer any more: the next request for it looks again.
    pub(super) fn mark_unready(&self, port: u16) {
        let mut ready = self.0.ready.load().to_vec();
        ready.retain(|target| target.port != port);
        self.0.ready.store(Arc::new(ready));
    }

    /// The control plane confirmed it, in answer to a question asked at `asked_at`.
    pub(super) fn verify(&self, asked_at: Instant, terms: LeaseTerms) {
        self.0.terms.set(terms);
        self.confirm(asked_at);
        self.0.ask_after.store(0, Ordering::Release);
        self.0.verifying.store(false, Ordering::Release);
    }

    /// A verification found no way to ask: once more at the next use, after this while.
    pub(super) fn unverify(&self, pause: Duration) {
        let after = self.nanos(Instant::now() + pause);
        self.0.ask_after.store(after, Ordering::Release);
        self.0.verifying.store(false, Ordering::Release);
    }

    /// The control plane gave no verdict, `times` in a row: it is asked again, more and more seldom.
    pub(super) fn no_verdict(&self, times: u32) {
        self.unverify(ASK_AGAIN.nth(times));
    }

    /// The idle countdown began anew not before `at`.
    pub(super) fn begin_term(&self, at: Instant) {
        self.0.begin_term(at);
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
        self.0.terms.get().counts
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({} epoch {})", self.0.instance, self.0.number)
    }
}

// === impl Handle ===

impl Deref for Handle {
    type Target = Epoch;

    fn deref(&self) -> &Epoch {
        &self.epoch
    }
}

// === impl Epoch ===

impl Epoch {
    fn nanos(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.base))
    }

    fn activity(&self) -> MutexGuard<'_, Slab<Arc<AtomicU64>>> {
        let activity = self.last_activity.lock();
        activity.unwrap_or_else(PoisonError::into_inner)
    }

    /// When a hold was placed that the server cannot have forgotten since.
    fn held(&self) -> u64 {
        let losses = self.losses.load(Ordering::Acquire);
        match self.held_losses.load(Ordering::Acquire) == losses {
            true => self.held.load(Ordering::Acquire),
            false => 0,
        }
    }

    fn begin_term(&self, at: Instant) {
        self.idle_since.fetch_max(self.nanos(at), Ordering::AcqRel);
    }

    /// What was open is not any more; its last payload went then.
    fn close(&self, payload: u64) {
        self.payload.fetch_max(payload, Ordering::SeqCst);
        // The close is noted before the connection stops counting, so that no moment lies between.
        self.begin_term(Instant::now());
        self.open.fetch_sub(1, Ordering::SeqCst);
        if self.quiet.load(Ordering::SeqCst) > 0 {
            self.parking.change();
        }
    }
}

// === impl OpenConnection ===

impl OpenConnection {
    /// The handshake is over.
    pub fn established(&mut self) {
        self.established_at = self.epoch.nanos(Instant::now());
    }

    /// A byte goes to the instance `now`.
    pub fn sent(&self, now: Instant) {
        let now = self.epoch.nanos(now);
        self.last_byte.store(now, Ordering::Relaxed);
    }

    /// A byte has come `now`. If the control plane has confirmed the instance since the connection
    /// was made, it came from the instance, which therefore still has its address.
    pub fn heard(&self, now: Instant) {
        let now = self.epoch.nanos(now);
        self.last_byte.store(now, Ordering::Relaxed);
        let epoch = &self.epoch;
        let confirms = self.established_at <= epoch.verified.load(Ordering::Acquire);
        // A look first: another connection may have heard of it in the same moment.
        if confirms && epoch.heard.load(Ordering::Relaxed) < now {
            epoch.heard.fetch_max(now, Ordering::AcqRel);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let epoch = &self.epoch;
        if self.is_quiet {
            epoch.begin_term(Instant::now());
            epoch.quiet.fetch_sub(1, Ordering::SeqCst);
            epoch.parking.change();
            return;
        }
        epoch.activity().remove(self.place);
        epoch.close(match self.is_own {
            true => 0,
            false => self.last_byte.load(Ordering::Relaxed),
        });
    }
}

impl fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Epoch {
            instance, number, ..
        } = &*self.epoch;
        write!(f, "OpenConnection({instance} epoch {number})")
    }
}
