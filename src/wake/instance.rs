//! One instance, as requests see it: the handle that owns all that exists for it.
//!
//! Guarantees: [`Instance::warm`] is a few atomic loads; everything else asks the instance's task
//! and may be left at any time without cancelling anything; a question is never answered by what
//! was true before it was asked; a name means the instance by its exact name or full id only. What
//! other rooms keep for the instance ends with it ([`Instance::belongings`]); once the directory
//! has let go of it, its task has ended and no name means it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::belongings::Belongings;
use super::error::{WakeError, WakeStage};
use super::lease::{Endpoint, OpenConnection};
use super::parking::Parking;
use super::record::{Progress, Requester, WakeFailure, WakeTimes};
use super::rest::{RestError, RestRequest};
use super::target::Target;
use crate::config::RouteWakeConfig;
use crate::instance_tls::InstanceStream;
use crate::telemetry::WakeKind;
use hypeman::{Error as ControlPlaneError, InstanceId, InstanceRef};

/// Commands that may wait for the task at once; who sends one beyond that waits to send it.
const COMMANDS: usize = 1024;
/// An instance that was heard from so lately is certainly awake.
const CERTAINLY: Duration = Duration::from_secs(2);
/// An application that wants to stay awake is heard again when it asks for this much more.
const MORE_HOLD: Duration = Duration::from_secs(1);
/// Milliseconds after which it is looked again whether an instance that its workload holds, and that
/// was not awake, is so.
const LOOK_AGAIN: u64 = 15_000;
/// A request whose client leaves this share of its route's time to a wake is a measure of the wake.
const PATIENT: f64 = 0.9;

/// An instance is ready for a request.
#[derive(Debug)]
pub struct Ready<S = InstanceStream> {
    /// The epoch that it is in.
    pub endpoint: Endpoint,
    /// The time at which it was awake for sure, or the lease says so.
    pub confirmed_at: Instant,
    /// Whether it had to be woken, and by whom.
    pub kind: WakeKind,
    /// The probe's connection, for the first of those who waited.
    pub connection: Option<(S, OpenConnection)>,
}

/// Recent wakes failed; nothing is tried before this has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// Failed wakes in a row.
    pub failures: u32,
    /// The time at which one may try again.
    pub until: Instant,
}

/// One instance, by id.
#[derive(Debug)]
pub struct Instance<S = InstanceStream> {
    id: InstanceId,
    /// As the control plane last said.
    name: ArcSwap<Arc<str>>,
    pub(super) awake: ArcSwapOption<Endpoint>,
    commands: mpsc::Sender<Command<S>>,
    pub(super) progress: ArcSwapOption<Progress>,
    pub(super) times: ArcSwap<WakeTimes>,
    pub(super) breaker: ArcSwapOption<Breaker>,
    /// What is in the way of the wake that is under way.
    pub(super) obstacle: ArcSwapOption<WakeError>,
    pub(super) last_failure: ArcSwapOption<WakeFailure>,
    /// The directory has let go of it.
    forgotten: AtomicBool,
    /// Ends the task.
    end: CancellationToken,
    /// What other rooms keep for it.
    belongings: Belongings,
    /// Times below are milliseconds since this.
    base: Instant,
    /// When the control plane was asked for its name.
    named_at: AtomicU64,
    /// When somebody asked for it last.
    asked_for: AtomicU64,
    /// Its tunnels that may outlive a sleep.
    parking: Arc<Parking>,
    /// Until when its application wants to stay awake.
    kept_until: AtomicU64,
    /// Until when its workload holds it awake, in whatever epoch; 0 when it does not.
    held_until: AtomicU64,
    /// When the task was told of it last.
    told_held: AtomicU64,
}

/// What went wrong with a connection to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// A connection broke, or was closed; another may work.
    Broken,
    /// No connection to this port could be made.
    NotConnected(u16),
}

#[derive(Debug)]
pub(super) struct WakeRequest<S> {
    pub(super) target: Target,
    pub(super) deadline: Instant,
    pub(super) rules: RouteWakeConfig,
    pub(super) requester: Requester,
    /// What it is called if the instance is ready already.
    pub(super) kind: WakeKind,
    /// `None` when nobody waits: the instance is woken for later.
    pub(super) reply: Option<oneshot::Sender<Result<Ready<S>, WakeError>>>,
}

#[derive(Debug)]
pub(super) enum Command<S> {
    Wake(Box<WakeRequest<S>>),
    Verify,
    Suspect(u64, Suspicion),
    /// Keep it awake until then.
    Keep(Instant),
    /// Its workload holds it awake for another time than before, or no more.
    Held,
    /// Put it to sleep, unless somebody asks for it.
    Rest(RestRequest),
    /// Forget that recent wakes failed.
    ResetBreaker,
}

// === impl Instance ===

impl<S> Instance<S> {
    pub(super) fn new(id: InstanceId, name: &str) -> (Arc<Self>, mpsc::Receiver<Command<S>>) {
        let (commands, received) = mpsc::channel(COMMANDS);
        let instance = Self {
            id,
            name: ArcSwap::from_pointee(name.into()),
            awake: ArcSwapOption::empty(),
            commands,
            progress: ArcSwapOption::empty(),
            times: ArcSwap::default(),
            breaker: ArcSwapOption::empty(),
            obstacle: ArcSwapOption::empty(),
            last_failure: ArcSwapOption::empty(),
            forgotten: AtomicBool::new(false),
            end: CancellationToken::new(),
            belongings: Belongings::default(),
            base: Instant::now(),
            named_at: AtomicU64::new(0),
            asked_for: AtomicU64::new(0),
            parking: Arc::default(),
            kept_until: AtomicU64::new(0),
            held_until: AtomicU64::new(0),
            told_held: AtomicU64::new(0),
        };
        (Arc::new(instance), received)
    }

    /// Its full id.
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// Its name, as the control plane last said.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.name.load())
    }

    /// The epoch that it is in, or was in when it was last awake.
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.awake.load().as_deref().cloned()
    }

    /// Whether it is awake beyond doubt: a lease alone does not say so where somebody has put it to
    /// sleep.
    pub fn is_certainly_awake(&self) -> bool {
        let endpoint = self.endpoint();
        endpoint.is_some_and(|endpoint| endpoint.is_heard_within(Instant::now(), CERTAINLY))
    }

    /// Whether a wake is under way, or somebody's request for one is on its way to the task.
    pub fn is_asked_for(&self) -> bool {
        self.progress.load().is_some() || self.commands.capacity() < self.commands.max_capacity()
    }

    /// What keeps the next wake from being tried; `None` when nothing does.
    pub fn breaker(&self) -> Option<Breaker> {
        let breaker = self.breaker.load().as_deref().copied();
        breaker.filter(|breaker| breaker.until > Instant::now())
    }

    /// The next request may wake it, however often that failed.
    pub async fn reset_breaker(&self) {
        // A task that is gone has no breaker.
        let _gone = self.commands.send(Command::ResetBreaker).await;
    }

    /// Why its last wake failed, if no other has succeeded since.
    pub fn last_failure(&self) -> Option<Arc<WakeFailure>> {
        self.last_failure.load_full()
    }

    /// What other rooms keep for it, such as the gates of its ports.
    pub fn belongings(&self) -> &Belongings {
        &self.belongings
    }

    /// Whether this is its exact name or full id, and the directory still has it.
    pub fn is_meant_by(&self, name: &InstanceRef) -> bool {
        !self.is_forgotten()
            && (***self.name.load() == *name.as_str() || self.id.as_str() == name.as_str())
    }

    /// The control plane, asked at `asked_at`, calls it so.
    pub(super) fn set_name(&self, name: &Arc<str>, asked_at: Instant) {
        let asked_at = self.millis(asked_at);
        // A list that was asked for earlier and comes later says nothing new.
        self.named_at.fetch_max(asked_at, Ordering::AcqRel);
        if **self.name.load() != *name {
            self.name.rcu(|current| {
                let is_newest = self.named_at.load(Ordering::Acquire) <= asked_at;
                Arc::new(Arc::clone(if is_newest { name } else { current }))
            });
        }
    }

    /// Whether the directory has let go of it.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }

    /// The directory lets go of it: no name means it any more, and its task ends.
    pub(super) fn forget(&self) {
        self.forgotten.store(true, Ordering::Release);
        self.end.cancel();
    }

    /// Its epoch is over, and with it what its application wanted of that.
    pub(super) fn cut(&self) {
        self.awake.store(None);
        self.kept_until.store(0, Ordering::Relaxed);
    }

    /// Its tunnels that may outlive a sleep.
    pub fn parking(&self) -> &Arc<Parking> {
        &self.parking
    }

    /// Until when its application or its workload wants it to stay awake, if that is not over.
    pub fn kept_until(&self, now: Instant) -> Option<Instant> {
        let kept = Duration::from_millis(self.kept_until.load(Ordering::Relaxed));
        let kept = (!kept.is_zero()).then(|| self.base + kept);
        kept.max(self.held_until()).filter(|until| *until > now)
    }

    /// Cancelled when the directory has let go of it, and its task is to end.
    pub fn end(&self) -> &CancellationToken {
        &self.end
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.base).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// Somebody asks for it now.
    pub(super) fn ask_for(&self, now: Instant) {
        self.asked_for.store(self.millis(now), Ordering::Relaxed);
    }

    /// Since when the gateway has it.
    pub(super) fn since(&self) -> Instant {
        self.base
    }

    /// Since when nobody has asked for it; `None` while something is open to it, held for it or
    /// going on with it.
    pub(super) fn unused_since(&self, now: Instant) -> Option<Instant> {
        let asked_for = Duration::from_millis(self.asked_for.load(Ordering::Relaxed));
        let used_at = self.endpoint().map(|endpoint| endpoint.last_use());
        let since = used_at.max(Some(self.base + asked_for));
        since.filter(|_| self.is_at_rest(now) && self.parking.tunnels() == 0)
    }

    /// Whether nothing is open to it, held for it or going on with it.
    pub(super) fn is_at_rest(&self, now: Instant) -> bool {
        let open = self.endpoint().is_some_and(|e| e.open_connections() > 0);
        let kept = self.kept_until.load(Ordering::Relaxed) > self.millis(now);
        !open && !kept && !self.is_held(now) && self.progress.load().is_none()
    }

    /// The warm path: the endpoint, if the lease is in force and the target has answered. No call,
    /// no lock.
    pub fn warm(&self, target: &Target) -> Option<Endpoint> {
        self.warm_at(target, Instant::now())
    }

    /// The same, at the time that it is `now`.
    pub fn warm_at(&self, target: &Target, now: Instant) -> Option<Endpoint> {
        let endpoint = self.awake.load();
        let endpoint: &Endpoint = endpoint.as_ref()?;
        let now = endpoint.nanos(now);
        if !endpoint.is_ready(target) || !endpoint.is_leased_at(now) || endpoint.is_resting() {
            return None;
        }
        if endpoint.wants_verification_at(now) && self.commands.try_send(Command::Verify).is_err() {
            endpoint.unverify(Duration::ZERO);
        }
        Some(endpoint.clone())
    }

    /// How far its wake is; `None` when nothing is going on.
    pub fn progress(&self) -> Option<Progress> {
        self.progress.load().as_deref().copied()
    }

    /// How long its wakes took lately.
    pub fn times(&self) -> Arc<WakeTimes> {
        self.times.load_full()
    }

    /// Asks the task, and waits until the instance is ready, is refused, or `patience` has passed.
    /// A patience that recent wakes say cannot suffice is refused at once, and the wake begun for
    /// the next request. Cancel safe: leaving cancels nothing but this wait.
    pub fn ready(
        &self,
        target: Target,
        rules: &RouteWakeConfig,
        patience: Duration,
        requester: Requester,
    ) -> impl Future<Output = Result<Ready<S>, WakeError>> {
        self.ready_as(WakeKind::Joined, target, rules, patience, requester)
    }

    /// The same for a request whose connection has failed, after [`Self::suspect`]: it waits for
    /// what the control plane says, and is no wake if the instance is there.
    pub fn ready_again(
        &self,
        target: Target,
        rules: &RouteWakeConfig,
        patience: Duration,
        requester: Requester,
    ) -> impl Future<Output = Result<Ready<S>, WakeError>> {
        self.ready_as(WakeKind::Warm, target, rules, patience, requester)
    }

    async fn ready_as(
        &self,
        kind: WakeKind,
        target: Target,
        rules: &RouteWakeConfig,
        patience: Duration,
        requester: Requester,
    ) -> Result<Ready<S>, WakeError> {
        let patience = patience.min(rules.timeout);
        if let Some(longer) = self.takes_longer_than(patience) {
            self.prewarm(target, rules, requester);
            return Err(WakeError::TooSlow(longer));
        }
        let now = Instant::now();
        let deadline = now + patience;
        let (reply, answer) = oneshot::channel();
        // In a box at once: whoever is held has this future in memory.
        let request = Box::new(WakeRequest {
            target,
            // The wake is the instance's: it has its route's time, however soon a client leaves.
            deadline: match patience >= rules.timeout.mul_f64(PATIENT) {
                true => deadline,
                false => now + rules.timeout,
            },
            rules: rules.clone(),
            requester,
            kind,
            reply: Some(reply),
        });
        let reply = async {
            self.commands
                .send(Command::Wake(request))
                .await
                .map_err(|_| self.why_ended())?;
            answer.await.unwrap_or_else(|_| Err(self.why_ended()))
        };
        match timeout_at(deadline, reply).await {
            Ok(result) => result,
            Err(_) => Err(self.why_late()),
        }
    }

    /// Why its task takes no requests any more.
    fn why_ended(&self) -> WakeError {
        match self.is_forgotten() {
            true => WakeError::Gone,
            false => WakeError::Draining,
        }
    }

    /// What has kept it from being ready in time.
    fn why_late(&self) -> WakeError {
        let stage = self.progress().map(|progress| progress.stage);
        match (stage, self.obstacle.load_full()) {
            (Some(WakeStage::Queued), _) => WakeError::NoSlot,
            (_, Some(obstacle)) => (*obstacle).clone(),
            (stage, None) => WakeError::TimedOut(stage.unwrap_or(WakeStage::Asking)),
        }
    }

    /// What is usually left of the wake, if even the fastest of the recent ones would be too slow.
    fn takes_longer_than(&self, patience: Duration) -> Option<Duration> {
        if self.awake.load().is_some() {
            return None;
        }
        let times = self.times.load();
        let gone = self
            .progress()
            .map_or(Duration::ZERO, |progress| progress.began.elapsed());
        let fastest = times.fastest()?.checked_sub(gone)?;
        (fastest > patience).then(|| times.usual().unwrap_or(fastest).saturating_sub(gone))
    }

    /// Wakes it for later. Never waits; a task that is too busy has requests of its own for it.
    pub fn prewarm(&self, target: Target, rules: &RouteWakeConfig, requester: Requester) {
        let request = WakeRequest {
            target,
            deadline: Instant::now() + rules.timeout,
            rules: rules.clone(),
            requester,
            kind: WakeKind::Joined,
            reply: None,
        };
        let _busy = self.commands.try_send(Command::Wake(Box::new(request)));
    }

    /// Keeps it from going to sleep by itself until `until`, by holds. However often an application
    /// asks for it, little more is done than was asked for before.
    pub fn keep_awake(&self, until: Instant) {
        let until_ms = self.millis(until);
        let more = u64::try_from(MORE_HOLD.as_millis()).unwrap_or(u64::MAX);
        let raise = |kept: u64| (until_ms >= kept.saturating_add(more)).then_some(until_ms);
        let raised = self
            .kept_until
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, raise);
        if raised.is_ok() {
            let _busy = self.commands.try_send(Command::Keep(until));
        }
    }

    /// Its workload holds it awake until then, in whatever epoch, or no more. Said again and again,
    /// it makes the task look now and then whether an instance that slept is awake.
    pub fn hold_awake(&self, until: Option<Instant>) {
        let now = self.millis(Instant::now());
        let until = until.map_or(0, |until| self.millis(until).max(1));
        let before = self.held_until.swap(until, Ordering::AcqRel);
        let told = self.told_held.load(Ordering::Relaxed);
        let is_due = until > 0 && self.awake.load().is_none() && now >= told + LOOK_AGAIN;
        if before == until && !is_due {
            return;
        }
        match self.commands.try_send(Command::Held) {
            Ok(()) => self.told_held.store(now, Ordering::Relaxed),
            // A task that is too busy is told the next time.
            Err(_) => self.held_until.store(before, Ordering::Release),
        }
    }

    /// Until when its workload holds it awake, if it does.
    pub(super) fn held_until(&self) -> Option<Instant> {
        let until = self.held_until.load(Ordering::Acquire);
        (until > 0).then(|| self.base + Duration::from_millis(until))
    }

    /// Whether its workload holds it awake.
    pub fn is_held(&self, now: Instant) -> bool {
        self.held_until().is_some_and(|until| until > now)
    }

    /// Puts it to sleep with the call `standby`, if at that moment no wake is under way and `may`
    /// says so. Whoever asks for it from then on waits, and wakes it. Cancel safe: a call that has
    /// begun goes on.
    pub async fn rest(
        &self,
        may: impl FnOnce() -> bool + Send + 'static,
        standby: impl Future<Output = Result<(), ControlPlaneError>> + Send + 'static,
    ) -> Result<(), RestError> {
        let standby: BoxFuture<'static, _> = standby.boxed();
        let (reply, answer) = oneshot::channel();
        let request = RestRequest {
            may: Box::new(may),
            standby,
            reply,
        };
        let sent = self.commands.send(Command::Rest(request)).await;
        sent.map_err(|_| RestError::Ended)?;
        answer.await.unwrap_or(Err(RestError::Ended))
    }

    /// The control plane is asked whether it is still there, now.
    pub fn doubt(&self) {
        let _busy = self.commands.try_send(Command::Verify);
    }

    /// A connection of this epoch failed. It costs that connection and a question: the others go on.
    pub async fn suspect(&self, endpoint: &Endpoint, suspicion: Suspicion) {
        if let Suspicion::NotConnected(port) = suspicion {
            endpoint.mark_unready(port);
        }
        // When the task is gone, everything is refused.
        let _gone = self
            .commands
            .send(Command::Suspect(endpoint.epoch(), suspicion))
            .await;
    }
}
