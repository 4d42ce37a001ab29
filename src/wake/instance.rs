//! One instance, as requests see it.
//!
//! Guarantees: [`Instance::warm`] is a few atomic loads; everything else asks the instance's task
//! and may be left at any time without cancelling anything; a question is never answered by what
//! was true before it was asked.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{WakeError, WakeStage};
use super::lease::{Endpoint, OpenConnection};
use super::machine::Target;
use super::wake_times::WakeTimes;
use crate::config::RouteWakeConfig;
use crate::telemetry::{TraceParent, WakeKind};
use hypeman::{InstanceId, InstanceRef};

/// Questions that may wait for the task at once; who asks beyond that waits to ask.
const QUESTIONS: usize = 1024;
/// How long a request waits for its suspicion to be taken note of.
const SUSPICION: Duration = Duration::from_secs(1);

/// An instance is ready for a request.
#[derive(Debug)]
pub struct Ready<S = TcpStream> {
    /// Where.
    pub endpoint: Endpoint,
    /// Whether it had to be woken, and by whom.
    pub kind: WakeKind,
    /// The probe's connection, for the first of those who waited.
    pub connection: Option<(S, OpenConnection)>,
}

/// Who asks for an instance, for the ledger and for fairness.
#[derive(Debug, Clone)]
pub struct Requester {
    /// The route, as configured.
    pub route: Arc<str>,
    /// The client.
    pub client: IpAddr,
    /// What the client says it is.
    pub user_agent: Option<Arc<str>>,
    /// Since when it waits.
    pub since: Instant,
    /// Where the wake's spans go, when its request is traced.
    pub trace: Option<TraceParent>,
}

/// Recent wakes failed; nothing is tried before this has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// Failed wakes in a row.
    pub failures: u32,
    /// When one may try again.
    pub until: Instant,
}

/// How far a wake is, for whoever watches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Where it is.
    pub stage: WakeStage,
    /// When the wake began.
    pub began: Instant,
}

/// One instance, by id.
#[derive(Debug)]
pub struct Instance<S = TcpStream> {
    id: InstanceId,
    /// As the control plane last said.
    name: ArcSwap<Arc<str>>,
    pub(super) awake: ArcSwapOption<Endpoint>,
    questions: mpsc::Sender<Question<S>>,
    pub(super) progress: ArcSwapOption<Progress>,
    pub(super) times: ArcSwap<WakeTimes>,
    pub(super) breaker: ArcSwapOption<Breaker>,
    /// The control plane no longer has it.
    forgotten: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Wanted<S> {
    pub(super) target: Target,
    pub(super) deadline: Instant,
    pub(super) rules: RouteWakeConfig,
    pub(super) asker: Requester,
    /// `None` when nobody waits: the instance is wanted for later.
    pub(super) reply: Option<oneshot::Sender<Result<Ready<S>, WakeError>>>,
}

#[derive(Debug)]
pub(super) enum Question<S> {
    Wanted(Box<Wanted<S>>),
    Verify,
    Suspect(u64),
    /// Keep it awake until then.
    Keep(Instant),
    /// Forget that recent wakes failed.
    ResetBreaker,
}

// === impl Instance ===

impl<S> Instance<S> {
    pub(super) fn new(id: InstanceId, name: &str) -> (Arc<Self>, mpsc::Receiver<Question<S>>) {
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let instance = Self {
            id,
            name: ArcSwap::from_pointee(name.into()),
            awake: ArcSwapOption::empty(),
            questions,
            progress: ArcSwapOption::empty(),
            times: ArcSwap::default(),
            breaker: ArcSwapOption::empty(),
            forgotten: AtomicBool::new(false),
        };
        (Arc::new(instance), asked)
    }

    /// Its full id.
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// Its name, as the control plane last said.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.name.load())
    }

    /// Where it is, or was when it was last awake.
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
        let _gone = self.questions.send(Question::ResetBreaker).await;
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
        if endpoint.wants_verification(now) && self.questions.try_send(Question::Verify).is_err() {
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
        asker: Requester,
    ) -> Result<Ready<S>, WakeError> {
        let patience = patience.min(rules.timeout);
        if let Some(longer) = self.takes_longer_than(patience) {
            self.prewarm(target, rules, asker);
            return Err(WakeError::TooSlow(longer));
        }
        let deadline = Instant::now() + patience;
        let (reply, answer) = oneshot::channel();
        let wanted = Wanted {
            target,
            deadline,
            rules: rules.clone(),
            asker,
            reply: Some(reply),
        };
        let asked = async {
            self.questions
                .send(Question::Wanted(Box::new(wanted)))
                .await
                .map_err(|_| WakeError::Draining)?;
            answer.await.unwrap_or(Err(WakeError::Draining))
        };
        match timeout_at(deadline, asked).await {
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
    pub fn prewarm(&self, target: Target, rules: &RouteWakeConfig, asker: Requester) {
        let wanted = Wanted {
            target,
            deadline: Instant::now() + rules.timeout,
            rules: rules.clone(),
            asker,
            reply: None,
        };
        let _busy = self.questions.try_send(Question::Wanted(Box::new(wanted)));
    }

    /// Keeps it from going to sleep by itself until `until`, by holds.
    pub fn keep_awake(&self, until: Instant) {
        let _busy = self.questions.try_send(Question::Keep(until));
    }

    /// A connection of this epoch failed as a sleeping instance's would. Returns when the epoch is
    /// no longer handed out.
    pub async fn suspect(&self, endpoint: &Endpoint) {
        // At the latest when the task has read it; when the task is gone, everything is refused.
        let told = self
            .questions
            .send(Question::Suspect(endpoint.epoch()))
            .await
            .is_ok();
        if told {
            // A task that is this busy retires it later; the request's next try finds that out.
            let _busy = timeout(SUSPICION, endpoint.retired().cancelled()).await;
        }
    }
}
