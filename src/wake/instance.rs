//! One instance, as requests see it.
//!
//! Guarantees: [`Instance::warm`] is a few atomic loads; everything else asks the instance's task
//! and may be left at any time without cancelling anything; a question is never answered by what
//! was true before it was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{WakeError, WakeStage};
use super::lease::{Endpoint, OpenConnection};
use super::record::{Progress, Requester, WakeTimes};
use super::target::Target;
use crate::config::RouteWakeConfig;
use crate::telemetry::WakeKind;
use hypeman::{InstanceId, InstanceRef};

/// Commands that may wait for the task at once; who sends one beyond that waits to send it.
const COMMANDS: usize = 1024;
/// How long a request waits for its suspicion to be taken note of.
const SUSPICION: Duration = Duration::from_secs(1);

/// An instance is ready for a request.
#[derive(Debug)]
pub struct Ready<S = TcpStream> {
    /// The epoch that it is in.
    pub endpoint: Endpoint,
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
pub struct Instance<S = TcpStream> {
    id: InstanceId,
    /// As the control plane last said.
    name: ArcSwap<Arc<str>>,
    pub(super) awake: ArcSwapOption<Endpoint>,
    commands: mpsc::Sender<Command<S>>,
    pub(super) progress: ArcSwapOption<Progress>,
    pub(super) times: ArcSwap<WakeTimes>,
    pub(super) breaker: ArcSwapOption<Breaker>,
    /// The control plane no longer has it.
    forgotten: AtomicBool,
}

#[derive(Debug)]
pub(super) struct WakeRequest<S> {
    pub(super) target: Target,
    pub(super) deadline: Instant,
    pub(super) rules: RouteWakeConfig,
    pub(super) requester: Requester,
    /// `None` when nobody waits: the instance is woken for later.
    pub(super) reply: Option<oneshot::Sender<Result<Ready<S>, WakeError>>>,
}

#[derive(Debug)]
pub(super) enum Command<S> {
    Wake(Box<WakeRequest<S>>),
    Verify,
    Suspect(u64),
    /// Keep it awake until then.
    Keep(Instant),
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
            forgotten: AtomicBool::new(false),
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

    /// Whether it is still there, and this name, id or id prefix means it.
    pub fn is_meant_by(&self, name: &InstanceRef) -> bool {
        !self.is_forgotten() && self.is_called(name.as_str())
    }

    /// Whether this name, id or id prefix still means this instance.
    pub(super) fn is_called(&self, name: &str) -> bool {
        ***self.name.load() == *name || self.id.as_str().starts_with(name)
    }

    pub(super) fn set_name(&self, name: &Arc<str>) {
        if **self.name.load() != *name {
            self.name.store(Arc::new(Arc::clone(name)));
        }
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }

    pub(super) fn forget(&self) {
        self.forgotten.store(true, Ordering::Release);
    }

    /// The warm path: the endpoint, if the lease is in force and the target has answered. No call,
    /// no lock.
    pub fn warm(&self, target: Target) -> Option<Endpoint> {
        self.warm_at(target, Instant::now())
    }

    /// The same, at the time that it is `now`.
    pub fn warm_at(&self, target: Target, now: Instant) -> Option<Endpoint> {
        let endpoint = self.awake.load();
        let endpoint: &Endpoint = endpoint.as_ref()?;
        if !endpoint.is_ready(target) || !endpoint.is_leased(now) {
            return None;
        }
        if endpoint.wants_verification(now) && self.commands.try_send(Command::Verify).is_err() {
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
    pub async fn ready(
        &self,
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
        let deadline = Instant::now() + patience;
        let (reply, answer) = oneshot::channel();
        let request = WakeRequest {
            target,
            deadline,
            rules: rules.clone(),
            requester,
            reply: Some(reply),
        };
        let reply = async {
            self.commands
                .send(Command::Wake(Box::new(request)))
                .await
                .map_err(|_| WakeError::Draining)?;
            answer.await.unwrap_or(Err(WakeError::Draining))
        };
        match timeout_at(deadline, reply).await {
            Ok(result) => result,
            Err(_) => match self.progress().map(|progress| progress.stage) {
                Some(WakeStage::NoCapacity) => Err(WakeError::NoCapacity),
                Some(WakeStage::Queued) => Err(WakeError::NoSlot),
                stage => Err(WakeError::TimedOut(stage.unwrap_or(WakeStage::Asking))),
            },
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
            reply: None,
        };
        let _busy = self.commands.try_send(Command::Wake(Box::new(request)));
    }

    /// Keeps it from going to sleep by itself until `until`, by holds.
    pub fn keep_awake(&self, until: Instant) {
        let _busy = self.commands.try_send(Command::Keep(until));
    }

    /// A connection of this epoch failed as a sleeping instance's would. Returns when the epoch is
    /// no longer handed out.
    pub async fn suspect(&self, endpoint: &Endpoint) {
        // At the latest when the task has read it; when the task is gone, everything is refused.
        let accepted = self
            .commands
            .send(Command::Suspect(endpoint.epoch()))
            .await
            .is_ok();
        if accepted {
            // A task that is this busy retires it later; the request's next try finds that out.
            let _busy = timeout(SUSPICION, endpoint.draining().cancelled()).await;
        }
    }
}
