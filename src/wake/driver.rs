//! The task that owns one instance's wakes: it carries out what the machine decides.
//!
//! Guarantees: requests only ask and may leave at any time; whoever waits is answered in the order
//! of asking, the first with the probe's own connection; a restore or start that has begun is never
//! dropped before its answer, not even when the gateway drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::dialer::Dialer;
use super::error::{WakeError, WakeStage};
use super::instance::{Breaker, Command, Instance, Ready, WakeRequest};
use super::lease::{Endpoint, EpochInit, OpenConnection};
use super::machine::{Effect, Event, Fault, Machine, Observation, PAUSES, WakeLimits};
use super::plane_calls::{ask, classify, observe, overtake, proves_hold, settle};
use super::plane_handle::PlaneHandle;
use super::probe::{ReadinessCheck, probe};
use super::record::{Reporter, WakeLog};
use super::slots::{Claim, WakeSlot};
use super::target::Target;
use super::waiters::Waiters;
use crate::config::{ReadyWhen, WakeConfig};
use crate::names::ClientNetwork;
use crate::telemetry::{ShedReason, WakeKind, WakeOutcome};
use hypeman::ControlPlane;
use hypeman::InstanceId;
use hypeman::wire::Instance as Answer;

/// How long after a wake its hold is placed.
const FIRST_HOLD: Duration = Duration::from_millis(50);

static EPOCHS: AtomicU64 = AtomicU64::new(1);

#[derive(Clone, Copy)]
enum Verb {
    Restore,
    Start,
}

enum Done<S> {
    Event(Event),
    Slot(Verb, Option<WakeSlot>),
    Verb(Result<Observation, Fault>),
    Probed(Option<(S, OpenConnection)>),
    Held(u64, Instant, bool),
}

/// What every instance's task shares.
pub(super) struct Common<P, R> {
    pub(super) plane: Arc<PlaneHandle<P>>,
    pub(super) dialer: Arc<R>,
    pub(super) config: Arc<WakeConfig>,
    pub(super) wake_log: WakeLog,
    pub(super) stop: CancellationToken,
}

/// The task's own state.
struct Driver<P, R: Dialer> {
    instance: Arc<Instance<R::Stream>>,
    common: Common<P, R>,
    machine: Machine,
    reporter: Reporter,
    waiters: Waiters<R::Stream>,
    operations: FuturesUnordered<BoxFuture<'static, Done<R::Stream>>>,
    endpoint: Option<Endpoint>,
    found: Option<(R::Stream, OpenConnection)>,
    /// What the last request asks of the probe.
    check: ReadinessCheck,
    /// It waits for a slot.
    queued: bool,
    /// A restore or start is in flight.
    calling: bool,
    /// When to renew a hold, and until when the application wants to stay awake.
    renew_at: Option<Instant>,
    /// The next renewal is the hold after a wake.
    first_hold: bool,
    keep_until: Option<Instant>,
    /// When to look for silent connections.
    look_at: Option<Instant>,
}

/// Makes the instance and the future of its task, which the caller puts on its tracker.
pub(super) fn instance<P: ControlPlane, R: Dialer>(
    first: &Answer,
    id: InstanceId,
    common: Common<P, R>,
) -> (
    Arc<Instance<R::Stream>>,
    impl Future<Output = ()> + Send + 'static,
) {
    let first_seen = observe(&id, first, Instant::now()).ok();
    let (instance, commands) = Instance::new(id, &first.name);
    let limits = WakeLimits {
        breaker_failures: common.config.breaker_failures,
        breaker_max_delay: common.config.breaker_max_delay,
        verify_interval: common.config.verify_interval,
    };
    let driver = Driver {
        instance: Arc::clone(&instance),
        machine: Machine::new(limits, first_seen),
        reporter: Reporter::new(instance.id().clone(), common.wake_log.clone()),
        waiters: Waiters::none(),
        operations: FuturesUnordered::new(),
        endpoint: None,
        found: None,
        check: ReadinessCheck::default(),
        queued: false,
        calling: false,
        renew_at: None,
        first_hold: false,
        keep_until: None,
        look_at: None,
        common,
    };
    (instance, driver.run(commands))
}

async fn at(time: Option<Instant>) {
    match time {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

// === impl Common ===

impl<P, R> Clone for Common<P, R> {
    fn clone(&self) -> Self {
        Self {
            plane: Arc::clone(&self.plane),
            dialer: Arc::clone(&self.dialer),
            config: Arc::clone(&self.config),
            wake_log: self.wake_log.clone(),
            stop: self.stop.clone(),
        }
    }
}

// === impl Driver ===

impl<P: ControlPlane, R: Dialer> Driver<P, R> {
    /// Until the gateway stops; then until a restore in flight has its answer.
    async fn run(mut self, mut commands: mpsc::Receiver<Command<R::Stream>>) {
        let stop = self.common.stop.clone();
        loop {
            let (renew_at, look_at) = (self.renew_at, self.look_at);
            // Every branch is cancel safe: a token, a stream's next, a receive, a sleep. The order
            // makes a seeded test repeatable; none can starve the others, since each operation and
            // command is answered once.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = self.operations.next() => self.done(done),
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                () = at(renew_at) => self.renew(),
                () = at(look_at) => self.look_for_stalls(),
            }
            self.publish_progress();
        }
        commands.close();
        while self.calling {
            match self.operations.next().await {
                Some(Done::Verb(_)) | None => break,
                Some(_) => {}
            }
        }
    }

    fn command(&mut self, command: Command<R::Stream>) {
        match command {
            Command::Wake(request) => self.request_wake(*request),
            Command::Verify => self.step(Event::Verify),
            Command::Suspect(epoch) => self.step(Event::Suspect { epoch }),
            Command::ResetBreaker => {
                self.machine.reset_breaker();
                self.publish_breaker();
            }
            Command::Keep(until) => {
                self.keep_until = self.keep_until.max(Some(until));
                self.renew();
            }
        }
    }

    fn request_wake(&mut self, request: WakeRequest<R::Stream>) {
        let (target, now) = (request.target, Instant::now());
        let left = |reply: &oneshot::Sender<_>| reply.is_closed();
        if request.reply.as_ref().is_some_and(left) {
            return;
        }
        let live = self
            .endpoint
            .as_ref()
            .filter(|e| !e.draining().is_cancelled());
        let leased = live.is_some_and(|e| e.is_leased(now));
        if let Some(endpoint) = live.filter(|e| leased && e.is_ready(target)) {
            // Another request's wake ended between this one's look and its command.
            let ready = Ready {
                endpoint: endpoint.clone(),
                kind: WakeKind::Joined,
                connection: None,
            };
            if let Some(reply) = request.reply {
                let _left = reply.send(Ok(ready));
            }
            return;
        }
        let first = self.reporter.requester().is_none();
        self.reporter.begin(request.requester, now);
        if let Some(reply) = request.reply {
            self.waiters.push(target, reply, first);
        }
        self.check = ReadinessCheck {
            health: Some(request.rules.health_path),
            warmup: request.rules.warmup,
        };
        self.step(Event::WakeRequested {
            target,
            deadline: request.deadline,
            start_stopped: request.rules.start_stopped,
            leased,
        });
    }

    fn done(&mut self, done: Done<R::Stream>) {
        match done {
            Done::Event(event) => self.step(event),
            Done::Slot(verb, slot) => {
                self.queued = false;
                match slot {
                    Some(slot) => self.call(verb, slot),
                    None => self.step(Event::Answered(Err(Fault::NoSlot))),
                }
            }
            Done::Verb(answer) => {
                self.calling = false;
                self.step(Event::Answered(answer));
            }
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
        let no_verdict = matches!(event, Event::Answered(Err(_)));
        for effect in self.machine.on(Instant::now(), event) {
            self.carry_out(effect);
        }
        if let (true, Some(endpoint)) = (no_verdict, &self.endpoint) {
            endpoint.no_verdict();
        }
        self.publish_breaker();
    }

    fn publish_breaker(&mut self) {
        let breaker = self.machine.breaker();
        let breaker = breaker.map(|(failures, until)| Breaker { failures, until });
        let before = self.instance.breaker.load().as_deref().copied();
        if breaker != before {
            if breaker.is_some() {
                self.common.wake_log.metrics.breaker_openings.increment(1);
            }
            self.instance.breaker.store(breaker.map(Arc::new));
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let (plane, id) = (Arc::clone(&self.common.plane), self.instance.id().clone());
        match effect {
            Effect::Ask => self.begin(async move { ask(&plane, &id).await }),
            Effect::Restore { until } => self.queue(Verb::Restore, until),
            Effect::Start { until } => self.queue(Verb::Start, until),
            Effect::Settle { until } => self.begin(async move { settle(&plane, &id, until).await }),
            Effect::Probe {
                target,
                http,
                until,
            } => self.probe(target, http, until),
            Effect::Pause(pause) => {
                let jittered = PAUSES.jittered(pause, fastrand::f64());
                let paused = sleep(jittered).map(|()| Done::Event(Event::PauseOver));
                self.operations.push(paused.boxed());
            }
            // Its call must not compete with the first request for the host; the restore itself
            // gives a whole idle timeout (contract B.5).
            Effect::Hold => {
                let idle = self.endpoint.as_ref().and_then(Endpoint::idle_timeout);
                let pause = idle.map_or(FIRST_HOLD, |idle| (idle / 10).min(FIRST_HOLD));
                let at = Instant::now() + pause;
                self.renew_at = Some(self.renew_at.map_or(at, |planned| planned.min(at)));
                self.first_hold = true;
            }
            Effect::Publish { seen, fresh } => self.publish(&seen, fresh),
            Effect::Grant { target, woken } => self.grant(target, woken),
            Effect::Retire => self.retire(),
            Effect::Sever => {
                self.keep_until = None;
                if let Some(endpoint) = self.endpoint.take() {
                    endpoint.cut().cancel();
                }
            }
            Effect::Refuse(error) => self.refuse(&error),
            Effect::Forget => self.instance.forget(),
        }
    }

    fn begin<F>(&mut self, operation: F)
    where
        F: Future<Output = Result<Observation, Fault>> + Send + 'static,
    {
        let answered = operation.map(|answer| Done::Event(Event::Answered(answer)));
        self.operations.push(answered.boxed());
    }

    /// Waits for the control plane's turn for this instance.
    fn queue(&mut self, verb: Verb, until: Instant) {
        let requester = self.reporter.requester();
        let claim = Claim {
            route: requester.map_or_else(|| "".into(), |requester| Arc::clone(&requester.route)),
            client: ClientNetwork::from(
                requester.map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |requester| {
                    requester.client
                }),
            ),
            since: requester.map_or_else(Instant::now, |requester| requester.since),
        };
        self.queued = true;
        let (plane, stop) = (Arc::clone(&self.common.plane), self.common.stop.clone());
        let counted = self.common.wake_log.metrics.queued();
        self.operations.push(
            async move {
                let _counted = counted;
                let slot = stop.run_until_cancelled(plane.slot(claim, until)).await;
                Done::Slot(verb, slot.flatten())
            }
            .boxed(),
        );
    }

    fn call(&mut self, verb: Verb, slot: WakeSlot) {
        let (plane, id) = (Arc::clone(&self.common.plane), self.instance.id().clone());
        let asked_at = Instant::now();
        self.calling = true;
        let counted = self.common.wake_log.metrics.restoring();
        self.operations.push(
            async move {
                let _counted = counted;
                let called = async {
                    let answer = match verb {
                        Verb::Restore => plane.restore(&id).await,
                        Verb::Start => plane.start(&id).await,
                    };
                    observe(&id, &answer.map_err(|error| classify(&error))?, asked_at)
                };
                // A call that is lost on its way is dropped; one that runs never is.
                let seen = tokio::select! {
                    biased;
                    seen = called => seen,
                    seen = overtake(&plane, &id), if matches!(verb, Verb::Restore) => seen,
                };
                drop(slot);
                Done::Verb(seen)
            }
            .boxed(),
        );
    }

    fn probe(&mut self, target: Target, http: bool, until: Instant) {
        let Some(endpoint) = self.endpoint.clone() else {
            self.operations.push(async { Done::Probed(None) }.boxed());
            return;
        };
        let mut check = self.check.clone();
        if !http || target.when != ReadyWhen::Health {
            check.health = None;
        }
        if endpoint.woken_since(Instant::now()).is_none() || endpoint.is_warmed_up() {
            check.warmup = None;
        }
        let dialer = Arc::clone(&self.common.dialer);
        self.operations.push(
            async move {
                // Counted from before the handshake, which the server counts, too.
                let open = endpoint.open_connection();
                let found = probe(&*dialer, endpoint.address(target.port), &check, until).await;
                Done::Probed(found.map(|stream| (stream, open)))
            }
            .boxed(),
        );
    }

    fn hold(&mut self) {
        let (plane, id) = (Arc::clone(&self.common.plane), self.instance.id().clone());
        let Some(epoch) = self.endpoint.as_ref().map(Endpoint::epoch) else {
            return;
        };
        let asked_at = Instant::now();
        self.operations.push(
            async move {
                let held = plane.hold(&id).await;
                let held = matches!(held, Some(Ok(status)) if proves_hold(&status));
                Done::Held(epoch, asked_at, held)
            }
            .boxed(),
        );
    }

    /// Holds again what our connections do not keep awake, or what its application wants awake.
    fn renew(&mut self) {
        self.renew_at = None;
        let now = Instant::now();
        self.keep_until = self.keep_until.filter(|until| *until > now);
        let Some(endpoint) = self.endpoint.clone() else {
            return;
        };
        let Some(idle) = endpoint.idle_timeout() else {
            return;
        };
        let kept = self.keep_until.is_some();
        if std::mem::take(&mut self.first_hold)
            || kept
            || !endpoint.counts() && endpoint.open_connections() > 0
        {
            self.hold();
        }
        if kept || !endpoint.counts() {
            self.renew_at = Some(now + idle / 3);
        }
    }

    /// Asks about an instance whose connections have been silent for long: a lost RST, a standby by
    /// hand, a vanished host look just like an idle peer.
    fn look_for_stalls(&mut self) {
        let (now, limit) = (Instant::now(), self.common.config.stall_timeout);
        self.look_at = self.endpoint.is_some().then(|| now + limit / 2);
        if self
            .endpoint
            .as_ref()
            .is_some_and(|endpoint| endpoint.is_stalled(now, limit))
        {
            self.step(Event::Verify);
        }
    }

    fn publish(&mut self, seen: &Observation, fresh: bool) {
        let Some(ip) = seen.ip else { return };
        self.instance.set_name(&seen.name);
        let now = Instant::now();
        let same = self
            .endpoint
            .take()
            .filter(|e| !fresh && e.ip() == ip && !e.draining().is_cancelled());
        let endpoint = same.unwrap_or_else(|| {
            if let Some(old) = self.instance.awake.swap(None) {
                old.draining().cancel();
                if fresh || old.ip() != ip {
                    old.cut().cancel();
                }
            }
            let init = EpochInit {
                instance: self.instance.id().clone(),
                number: EPOCHS.fetch_add(1, Ordering::Relaxed),
                ip,
                terms: seen.terms,
                losses: self.common.plane.losses(),
                fresh,
            };
            Endpoint::new(init, self.common.config.verify_interval, now)
        });
        endpoint.verify(seen.asked_at, seen.terms);
        if fresh {
            // A restore gives its caller one whole idle timeout (contract B.5).
            endpoint.begin_term(seen.asked_at);
        }
        if seen.held {
            endpoint.set_hold(Some(seen.asked_at));
        }
        let kept = self.keep_until.is_some();
        if (kept || !seen.terms.counts) && self.renew_at.is_none() {
            if !kept {
                tracing::warn!(instance = %self.instance.id(), "the auto-standby policy ignores the \
                    gateway's connections; renewing holds instead");
            }
            self.renew_at = seen.terms.idle_timeout.map(|idle| now + idle / 3);
        }
        self.machine.published(endpoint.epoch());
        self.instance.awake.store(Some(Arc::new(endpoint.clone())));
        self.endpoint = Some(endpoint);
        let limit = self.common.config.stall_timeout;
        self.look_at.get_or_insert(now + limit / 2);
    }

    fn retire(&mut self) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.draining().cancel();
        }
        if let Some(endpoint) = self.instance.awake.swap(None) {
            endpoint.draining().cancel();
        }
    }

    fn grant(&mut self, target: Target, woken: bool) {
        let Some(endpoint) = self.endpoint.clone() else {
            return;
        };
        endpoint.mark_ready(target);
        if self.check.warmup.is_some() {
            endpoint.mark_warmed_up();
        }
        let outcome = match woken {
            true => WakeOutcome::Woken,
            false => WakeOutcome::Renewed,
        };
        if let (Some(took), true) = (self.finish(outcome), woken) {
            let times = self.instance.times.load().with(took);
            self.instance.times.store(Arc::new(times));
        }
        self.waiters
            .grant(target, woken, &endpoint, &mut self.found);
    }

    fn refuse(&mut self, error: &WakeError) {
        if matches!(error, WakeError::BreakerOpen(_)) {
            self.reporter.abandon();
            for _ in 0..self.waiters.len() {
                self.common.wake_log.metrics.count_shed(ShedReason::Breaker);
            }
        } else {
            self.finish(match error {
                WakeError::TimedOut(_) => WakeOutcome::TimedOut,
                WakeError::NotFound
                | WakeError::Ambiguous
                | WakeError::Stopped
                | WakeError::Unusable
                | WakeError::NoCapacity
                | WakeError::NoSlot
                | WakeError::Transitioning
                | WakeError::TooSlow(_)
                | WakeError::BreakerOpen(_)
                | WakeError::ControlPlaneDown
                | WakeError::Unauthorized
                | WakeError::Failed
                | WakeError::Draining => WakeOutcome::Failed,
            });
        }
        if *error == WakeError::Unauthorized {
            tracing::error!(instance = %self.instance.id(), "the control plane refuses the API key");
        }
        self.waiters.refuse(error);
    }

    /// Accounts for the attempt that has just ended, if somebody had asked for it.
    fn finish(&mut self, outcome: WakeOutcome) -> Option<Duration> {
        let waiting = self.waiters.len();
        self.reporter.finish(outcome, waiting, Instant::now())
    }

    fn publish_progress(&mut self) {
        let stage = self.machine.stage().map(|stage| {
            let calling = matches!(stage, WakeStage::Restoring | WakeStage::Starting);
            if self.queued && calling {
                WakeStage::Queued
            } else {
                stage
            }
        });
        let progress = stage.and_then(|stage| self.reporter.stage(stage, Instant::now()));
        if self.instance.progress() != progress {
            self.instance.progress.store(progress.map(Arc::new));
        }
    }
}
