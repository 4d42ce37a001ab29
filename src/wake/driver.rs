//! The task that owns one instance's wakes: it carries out what the machine decides.
//!
//! Guarantees: requests only ask ([`Instance::ready`]) and may leave at any time; whoever waits is
//! answered in the order of asking, the first with the probe's own connection; a call to the control
//! plane that has begun is never dropped before its answer, not even when the gateway drains.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::error::{WakeError, WakeStage};
use super::lease::{Endpoint, OpenConnection};
use super::machine::{Effect, Event, Fault, Limits, Machine, Seen};
use super::probe::probe;
use super::questions::{ask, fault, see, settle};
use crate::config::{RouteWakeConfig, WakeConfig};
use crate::hypeman::ControlPlane;
use crate::hypeman::wire::Instance as Answer;
use crate::names::InstanceId;
use crate::telemetry::{Metrics, ShedReason, WakeKind, WakeOutcome};

/// Questions that may wait for the task at once; who asks beyond that waits to ask.
const QUESTIONS: usize = 1024;
/// How long a request waits for its suspicion to be taken note of.
const SUSPICION: Duration = Duration::from_secs(1);

static EPOCHS: AtomicU64 = AtomicU64::new(1);

/// An instance is ready for a request.
#[derive(Debug)]
pub struct Ready {
    /// Where.
    pub endpoint: Endpoint,
    /// Whether it had to be woken, and by whom.
    pub kind: WakeKind,
    /// The probe's connection, for the first of those who waited.
    pub connection: Option<(TcpStream, OpenConnection)>,
}

/// A wake has ended; for whoever shows it to a person.
#[derive(Debug, Clone)]
pub struct WakeReport {
    /// Whose.
    pub instance: InstanceId,
    /// How.
    pub outcome: WakeOutcome,
    /// How long it took, from the first request.
    pub took: Duration,
}

/// One instance, by id, as requests see it.
#[derive(Debug)]
pub struct Instance {
    id: InstanceId,
    awake: ArcSwapOption<Endpoint>,
    questions: mpsc::Sender<Question>,
    stage: ArcSwapOption<WakeStage>,
    /// The control plane no longer has it.
    forgotten: AtomicBool,
}

#[derive(Debug)]
enum Question {
    Ready {
        port: u16,
        deadline: Instant,
        start_stopped: bool,
        reply: oneshot::Sender<Result<Ready, WakeError>>,
    },
    Verify,
    Suspect(u64),
}

// === impl Instance ===

impl Instance {
    /// Its full id.
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Acquire)
    }

    /// The warm path: the endpoint, if the lease is in force and the port has answered. No call, no
    /// lock.
    pub fn warm(&self, port: u16) -> Option<Endpoint> {
        let endpoint = self.awake.load();
        let endpoint: &Endpoint = endpoint.as_ref()?;
        let now = Instant::now();
        if !endpoint.is_ready(port) || !endpoint.is_leased(now) {
            return None;
        }
        if endpoint.wants_verification(now) && self.questions.try_send(Question::Verify).is_err() {
            endpoint.unverify();
        }
        Some(endpoint.clone())
    }

    /// Asks the task, and waits until the instance is ready, is refused, or `timeout` has passed.
    /// Cancel safe: leaving cancels nothing but this wait.
    pub async fn ready(&self, port: u16, rules: &RouteWakeConfig) -> Result<Ready, WakeError> {
        let deadline = Instant::now() + rules.timeout;
        let (reply, answer) = oneshot::channel();
        let start_stopped = rules.start_stopped;
        let asked = async {
            let question = Question::Ready {
                port,
                deadline,
                start_stopped,
                reply,
            };
            self.questions
                .send(question)
                .await
                .map_err(|_| WakeError::Draining)?;
            answer.await.unwrap_or(Err(WakeError::Draining))
        };
        match timeout_at(deadline, asked).await {
            Ok(result) => result,
            Err(_) => {
                let stage = self
                    .stage
                    .load()
                    .as_deref()
                    .copied()
                    .unwrap_or(WakeStage::Asking);
                if stage == WakeStage::NoCapacity {
                    return Err(WakeError::NoCapacity);
                }
                Err(WakeError::TimedOut(stage))
            }
        }
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

struct Waiter {
    port: u16,
    reply: oneshot::Sender<Result<Ready, WakeError>>,
    first: bool,
}

enum Done {
    Event(Event),
    Probed(Option<(TcpStream, OpenConnection)>),
    Held(u64, Instant, bool),
}

/// The task's own state.
struct Driver<P> {
    instance: Arc<Instance>,
    plane: Arc<P>,
    config: WakeConfig,
    metrics: Arc<Metrics>,
    reports: broadcast::Sender<WakeReport>,
    machine: Machine,
    waiters: VecDeque<Waiter>,
    operations: FuturesUnordered<BoxFuture<'static, Done>>,
    endpoint: Option<Endpoint>,
    found: Option<(TcpStream, OpenConnection)>,
    began: Option<Instant>,
    /// The server is too old for `hold`.
    hold_missing: Arc<AtomicBool>,
    /// When to renew the hold of an instance whose policy ignores our connections.
    renew_at: Option<Instant>,
}

/// Makes the instance and the future of its task, which the caller puts on its tracker.
pub(super) fn instance<P: ControlPlane>(
    first: &Answer,
    id: InstanceId,
    plane: Arc<P>,
    config: &WakeConfig,
    metrics: Arc<Metrics>,
    reports: broadcast::Sender<WakeReport>,
    stop: CancellationToken,
) -> (Arc<Instance>, impl Future<Output = ()> + Send + 'static) {
    let first_seen = see(&id, first, Instant::now()).ok();
    let (questions, asked) = mpsc::channel(QUESTIONS);
    let instance = Arc::new(Instance {
        id,
        awake: ArcSwapOption::empty(),
        questions,
        stage: ArcSwapOption::empty(),
        forgotten: AtomicBool::new(false),
    });
    let limits = Limits {
        breaker_failures: config.breaker_failures,
        breaker_max_delay: config.breaker_max_delay,
    };
    let driver = Driver {
        instance: Arc::clone(&instance),
        plane,
        config: config.clone(),
        metrics,
        reports,
        machine: Machine::new(limits, first_seen),
        waiters: VecDeque::new(),
        operations: FuturesUnordered::new(),
        endpoint: None,
        found: None,
        began: None,
        hold_missing: Arc::default(),
        renew_at: None,
    };
    (instance, driver.run(asked, stop))
}

// === impl Driver ===

impl<P: ControlPlane> Driver<P> {
    /// Until the gateway stops; then until the operation in flight has its answer.
    async fn run(mut self, mut questions: mpsc::Receiver<Question>, stop: CancellationToken) {
        loop {
            let renew_at = self.renew_at;
            let renewal = async {
                match renew_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // Every branch is cancel safe: a receive, a stream's next, a sleep, a token.
            tokio::select! {
                question = questions.recv() => match question {
                    Some(question) => self.question(question),
                    None => return,
                },
                Some(done) = self.operations.next() => self.done(done),
                () = renewal => self.renew(),
                () = stop.cancelled() => break,
            }
            self.publish_stage();
        }
        questions.close();
        while self.operations.next().await.is_some() {}
    }

    fn question(&mut self, question: Question) {
        let event = match question {
            Question::Ready {
                port,
                deadline,
                start_stopped,
                reply,
            } => {
                if reply.is_closed() {
                    return;
                }
                let first = self.waiters.is_empty();
                let live = self
                    .endpoint
                    .as_ref()
                    .filter(|e| !e.retired().is_cancelled());
                let leased = live.is_some_and(|e| e.is_leased(Instant::now()));
                let ready = live.filter(|e| leased && e.is_ready(port));
                if let Some(endpoint) = ready {
                    // Another request's wake ended between this one's look and its question.
                    let endpoint = endpoint.clone();
                    let ready = Ready {
                        endpoint,
                        kind: WakeKind::Joined,
                        connection: None,
                    };
                    let _left = reply.send(Ok(ready));
                    return;
                }
                self.waiters.push_back(Waiter { port, reply, first });
                if first {
                    self.began = Some(Instant::now());
                }
                Event::Wanted {
                    port,
                    deadline,
                    start_stopped,
                    leased,
                }
            }
            Question::Verify => Event::Verify,
            Question::Suspect(epoch) => Event::Suspect { epoch },
        };
        self.step(event);
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Event(event) => self.step(event),
            Done::Probed(connection) => {
                let open = connection.is_some();
                self.found = connection;
                self.step(Event::Probed { open });
                // Nobody took it: its epoch ended, or its waiters left.
                self.found = None;
            }
            Done::Held(epoch, asked_at, held) => {
                if let Some(endpoint) = self.endpoint.as_ref().filter(|e| e.epoch() == epoch) {
                    endpoint.set_hold(held.then_some(asked_at));
                }
            }
        }
    }

    fn step(&mut self, event: Event) {
        let verifying = matches!(event, Event::Answered(Err(_)));
        for effect in self.machine.on(Instant::now(), event) {
            self.carry_out(effect);
        }
        if let (true, Some(endpoint)) = (verifying, &self.endpoint) {
            endpoint.unverify();
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let (plane, id) = (Arc::clone(&self.plane), self.instance.id.clone());
        let now = Instant::now();
        match effect {
            Effect::Ask => {
                let missing = Arc::clone(&self.hold_missing);
                self.begin(async move { ask(&*plane, &id, &missing).await });
            }
            Effect::Restore => self.begin(async move {
                plane
                    .restore(&id)
                    .await
                    .map_or_else(|e| Err(fault(&e)), |answer| see(&id, &answer, now))
            }),
            Effect::Start => self.begin(async move {
                plane
                    .start(&id)
                    .await
                    .map_or_else(|e| Err(fault(&e)), |answer| see(&id, &answer, now))
            }),
            Effect::Settle { until } => {
                self.begin(async move { settle(&*plane, &id, until).await });
            }
            Effect::Probe { port, until } => {
                let Some(endpoint) = self.endpoint.clone() else {
                    self.operations.push(async { Done::Probed(None) }.boxed());
                    return;
                };
                self.operations.push(
                    async move {
                        let found = probe(endpoint.address(port), until).await;
                        Done::Probed(found.map(|stream| (stream, endpoint.open_connection())))
                    }
                    .boxed(),
                );
            }
            Effect::Pause(pause) => {
                let jittered = pause.mul_f64(0.75 + fastrand::f64() / 4.0);
                let paused = sleep(jittered).map(|()| Done::Event(Event::PauseOver));
                self.operations.push(paused.boxed());
            }
            Effect::Hold => self.hold(),
            Effect::Publish { seen, fresh } => self.publish(&seen, fresh),
            Effect::Grant { port, woken } => self.grant(port, woken),
            Effect::Retire => self.retire(),
            Effect::Sever => {
                if let Some(endpoint) = self.endpoint.take() {
                    endpoint.severed().cancel();
                }
            }
            Effect::Refuse(error) => self.refuse(&error),
            Effect::Forget => self.instance.forgotten.store(true, Ordering::Release),
        }
    }

    fn begin<F>(&mut self, operation: F)
    where
        F: Future<Output = Result<Seen, Fault>> + Send + 'static,
    {
        let answered = operation.map(|answer| Done::Event(Event::Answered(answer)));
        self.operations.push(answered.boxed());
    }

    fn hold(&mut self) {
        let (plane, id) = (Arc::clone(&self.plane), self.instance.id.clone());
        let Some(epoch) = self.endpoint.as_ref().map(Endpoint::epoch) else {
            return;
        };
        let asked_at = Instant::now();
        self.operations.push(
            async move {
                let held = plane
                    .hold(&id)
                    .await
                    .is_ok_and(|status| status.hold_until.is_some());
                Done::Held(epoch, asked_at, held)
            }
            .boxed(),
        );
    }

    fn renew(&mut self) {
        self.renew_at = None;
        let Some(endpoint) = self.endpoint.clone() else {
            return;
        };
        let Some(idle) = endpoint.idle_timeout().filter(|_| !endpoint.counts()) else {
            return;
        };
        if endpoint.open_connections() > 0 {
            self.hold();
        }
        self.renew_at = Some(Instant::now() + idle / 3);
    }

    fn publish(&mut self, seen: &Seen, fresh: bool) {
        let Some(ip) = seen.ip else { return };
        let same = self
            .endpoint
            .take()
            .filter(|e| !fresh && e.ip() == ip && !e.retired().is_cancelled());
        let endpoint = same.unwrap_or_else(|| {
            if let Some(old) = self.instance.awake.swap(None) {
                old.retired().cancel();
                if fresh || old.ip() != ip {
                    old.severed().cancel();
                }
            }
            let number = EPOCHS.fetch_add(1, Ordering::Relaxed);
            let verify = self.config.verify_interval;
            Endpoint::new(
                self.instance.id.clone(),
                number,
                ip,
                seen.terms,
                verify,
                Instant::now(),
            )
        });
        endpoint.verify(seen.asked_at, seen.terms);
        if fresh {
            // A restore gives its caller one whole idle timeout (contract B.5).
            endpoint.begin_term(seen.asked_at);
        }
        if seen.held {
            endpoint.set_hold(Some(seen.asked_at));
        }
        if !seen.terms.counts && self.renew_at.is_none() {
            tracing::warn!(instance = %self.instance.id,
                "the auto-standby policy ignores the gateway's connections; renewing holds instead");
            self.renew_at = seen
                .terms
                .idle_timeout
                .map(|idle| Instant::now() + idle / 3);
        }
        self.machine.published(endpoint.epoch());
        self.instance.awake.store(Some(Arc::new(endpoint.clone())));
        self.endpoint = Some(endpoint);
    }

    fn retire(&mut self) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.retired().cancel();
        }
        if let Some(endpoint) = self.instance.awake.swap(None) {
            endpoint.retired().cancel();
        }
    }

    fn grant(&mut self, port: u16, woken: bool) {
        let Some(endpoint) = self.endpoint.clone() else {
            return;
        };
        endpoint.mark_ready(port);
        self.finish(if woken {
            WakeOutcome::Woken
        } else {
            WakeOutcome::Renewed
        });
        for waiter in std::mem::take(&mut self.waiters) {
            if waiter.port != port {
                self.waiters.push_back(waiter);
                continue;
            }
            let kind = match (woken, waiter.first) {
                (false, _) => WakeKind::Warm,
                (true, true) => WakeKind::Cold,
                (true, false) => WakeKind::Joined,
            };
            let connection = self.found.take();
            let ready = Ready {
                endpoint: endpoint.clone(),
                kind,
                connection,
            };
            // One who has left gives the connection back for the next.
            if let Err(Ok(unheard)) = waiter.reply.send(Ok(ready)) {
                self.found = unheard.connection;
            }
        }
    }

    fn refuse(&mut self, error: &WakeError) {
        if matches!(error, WakeError::BreakerOpen(_)) {
            self.began = None;
            self.waiters
                .iter()
                .for_each(|_| self.metrics.count_shed(ShedReason::Breaker));
        } else {
            self.finish(match error {
                WakeError::TimedOut(_) => WakeOutcome::TimedOut,
                WakeError::NotFound
                | WakeError::Ambiguous
                | WakeError::Stopped
                | WakeError::Unusable
                | WakeError::NoCapacity
                | WakeError::BreakerOpen(_)
                | WakeError::ControlPlaneDown
                | WakeError::Unauthorized
                | WakeError::Failed
                | WakeError::Draining => WakeOutcome::Failed,
            });
        }
        if *error == WakeError::Unauthorized {
            tracing::error!(instance = %self.instance.id, "the control plane refuses the API key");
        }
        for waiter in self.waiters.drain(..) {
            let _left = waiter.reply.send(Err(error.clone()));
        }
    }

    /// Accounts for the attempt that has just ended, if somebody had asked for it.
    fn finish(&mut self, outcome: WakeOutcome) {
        let Some(began) = self.began.take() else {
            return;
        };
        let took = began.elapsed();
        self.metrics.count_wake(outcome, took);
        // Without a listener there is nobody to tell.
        let _unheard = self.reports.send(WakeReport {
            instance: self.instance.id.clone(),
            outcome,
            took,
        });
        let (id, waiting) = (&self.instance.id, self.waiters.len());
        let (outcome, ms) = (outcome.as_str(), took.as_secs_f64() * 1e3);
        tracing::info!(instance = %id, outcome, waiting, ms, "wake");
    }

    fn publish_stage(&self) {
        let stage = self.machine.stage();
        if self.instance.stage.load().as_deref().copied() != stage {
            self.instance.stage.store(stage.map(Arc::new));
        }
    }
}
