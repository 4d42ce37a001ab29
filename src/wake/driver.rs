//! The task that owns one instance: it carries out what the machine decides.
//!
//! Guarantees: requests only ask and may leave at any time; whoever waits is answered in the order
//! of asking, the first with the probe's own connection; a restore or start that has begun is never
//! dropped before its answer, not even when the gateway drains. An instance that sleeps costs no
//! timer: a look for stalls and a renewal of holds are planned only while something is open or kept
//! (`upkeep`). When the directory lets go of the instance, the task ends.

mod operations;
mod report;
mod state;
mod upkeep;
mod workload;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

pub(super) use self::state::Common;
use self::state::{Done, Driver, Upkeep, Verb};
use super::dialer::Dialer;
use super::error::{WakeError, WakeStage};
use super::evidence::{Evidence, Observation, Rest, Seen, address_of, asleep_since};
use super::instance::{Command, Instance, Ready, Suspicion, WakeRequest};
use super::lease::{Endpoint, EpochInit};
use super::machine::{Effect, Event, Machine, WakeLimits};
use super::probe::Probed;
use super::record::Reporter;
use super::rest::RestError;
use super::target::Target;
use super::waiters::Waiters;
use crate::telemetry::{WakeKind, WakeOutcome};
use hypeman::wire::Instance as Description;
use hypeman::{ControlPlane, InstanceId};

/// A confirmation that was asked for while something else went on is asked for again after this.
const BUSY: Duration = Duration::from_millis(250);
/// While the control plane has just confirmed an instance, a broken connection is no reason to ask
/// it again.
const FRESH: Duration = Duration::from_secs(1);

static EPOCHS: AtomicU64 = AtomicU64::new(1);

/// Makes the instance and the future of its task, which the caller puts on its tracker.
pub(super) fn instance<P: ControlPlane, R: Dialer>(
    described: &Description,
    id: InstanceId,
    common: Common<P, R>,
) -> (
    Arc<Instance<R::Stream>>,
    impl Future<Output = ()> + Send + 'static,
) {
    let now = Instant::now();
    let first_seen = Evidence::of(&id, described, now);
    let (instance, commands) = Instance::new(id, &described.name);
    let limits = WakeLimits {
        breaker_failures: common.config.breaker_failures,
        breaker_max_delay: common.config.breaker_max_delay,
        verify_interval: common.config.verify_interval,
    };
    let driver = Driver {
        instance: Arc::clone(&instance),
        machine: Machine::new(limits, Some(first_seen)),
        reporter: Reporter::new(instance.id().clone(), common.wake_log.clone()),
        waiters: Waiters::none(),
        operations: FuturesUnordered::new(),
        endpoint: None,
        found: None,
        refused: None,
        warmup: None,
        resumed: None,
        tells: false,
        asleep_since: asleep_since(described),
        slept: None,
        deadline: now,
        claims: Vec::new(),
        claimants: None,
        verb: None,
        calling: false,
        resting: false,
        rests: 0,
        counted: false,
        warmed_up: false,
        claimed: Vec::new(),
        queues: 0,
        upkeep: Upkeep::default(),
        opened: Arc::default(),
        doubts: 0,
        trouble: None,
        stage: WakeStage::Asking,
        ip: address_of(described).ok(),
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

// === impl Driver ===

impl<P: ControlPlane, R: Dialer> Driver<P, R> {
    /// Until the gateway stops or the directory lets go of the instance; then until a restore in
    /// flight has its answer.
    async fn run(mut self, mut commands: mpsc::Receiver<Command<R::Stream>>) {
        let (stop, end) = (self.common.stop.clone(), self.instance.end().clone());
        let opened = Arc::clone(&self.opened);
        loop {
            let (renew_at, look_at) = (self.upkeep.renew_at, self.upkeep.look_at);
            // Every branch is cancel safe: a token, a stream's next, a receive, a notification, a
            // sleep. The order makes a seeded test repeatable; none can starve the others, since
            // each operation and command is answered once.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = end.cancelled() => break,
                Some(done) = self.operations.next() => self.done(done),
                command = commands.recv(), if !self.resting => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                () = opened.notified() => self.arm(),
                () = at(renew_at) => self.renew(),
                () = at(look_at) => self.look_for_stalls(),
            }
            self.publish_progress();
        }
        // Whoever waits or has asked is told by the end of the channel.
        drop(commands);
        self.waiters = Waiters::none();
        if end.is_cancelled() {
            self.cut();
        }
        while self.calling || self.rests > 0 {
            match self.operations.next().await {
                Some(Done::Verb(_, rest)) => {
                    self.calling = false;
                    if let Some(rest) = rest {
                        self.wait_for_rest(rest);
                    }
                }
                Some(Done::Rest) => self.rests -= 1,
                Some(Done::Rested(..)) => self.calling = false,
                Some(_) => {}
                None => break,
            }
        }
    }

    fn command(&mut self, command: Command<R::Stream>) {
        match command {
            Command::Wake(request) => self.request_wake(*request),
            Command::Verify => self.verify(),
            Command::Suspect(epoch, suspicion) => self.suspect(epoch, suspicion),
            Command::ResetBreaker => {
                self.machine.reset_breaker();
                self.publish_breaker();
            }
            Command::Keep(until) => self.keep(until),
            Command::Held => self.held_by_workload(),
            Command::Rest(request) => self.rest(request),
        }
    }

    fn verify(&mut self) {
        let is_busy = self.machine.stage().is_some();
        // Somebody else may have woken it, whose workload wants it to stay so.
        self.step(match self.instance.is_held(Instant::now()) {
            true => Event::Look,
            false => Event::Verify,
        });
        if is_busy && let Some(endpoint) = &self.endpoint {
            // What is going on may not ask: the next use does.
            endpoint.unverify(BUSY);
        }
    }

    fn suspect(&mut self, epoch: u64, suspicion: Suspicion) {
        let now = Instant::now();
        let endpoint = self.endpoint.as_ref().filter(|e| e.epoch() == epoch);
        let is_fresh = endpoint.is_some_and(|e| e.is_verified_within(now, FRESH));
        if suspicion != Suspicion::Broken || !is_fresh {
            self.step(Event::Suspect { epoch });
        }
    }

    fn request_wake(&mut self, request: WakeRequest<R::Stream>) {
        let (target, now) = (request.target, Instant::now());
        self.instance.ask_for(now);
        let left = |reply: &oneshot::Sender<_>| reply.is_closed();
        if request.reply.as_ref().is_some_and(left) {
            return;
        }
        if let Some(ready) = self.ready_already(&target, now, request.kind) {
            if let Some(reply) = request.reply {
                let _left = reply.send(Ok(ready));
            }
            return;
        }
        if self.is_refused(target.port) {
            if let Some(reply) = request.reply {
                let _left = reply.send(Err(WakeError::AddressRefused));
            }
            return;
        }
        let first = self.machine.is_unasked();
        self.counted &= !first;
        self.reporter.begin(request.requester.clone(), now);
        if first {
            (self.trouble, self.deadline) = (None, request.deadline);
            self.claims.clear();
        }
        self.deadline = self.deadline.max(request.deadline);
        self.join(&request.requester);
        if let Some(reply) = request.reply {
            self.waiters.push(
                target.clone(),
                reply,
                request.requester,
                (first, !request.rules.require_memory),
            );
        }
        if first {
            self.warmup = None;
            self.resumed = None;
        }
        // Of all that wait, the first that wants one.
        self.warmup = self.warmup.take().or(request.rules.warmup);
        let hooks = request.rules.hooks;
        let resumed = hooks.resumed.map(|path| (path, hooks.timeout));
        self.resumed = self.resumed.take().or(resumed);
        let leased = self.endpoint.as_ref().is_some_and(|e| e.is_leased(now));
        self.step(Event::WakeRequested {
            target,
            deadline: request.deadline,
            start_stopped: request.rules.start_stopped,
            may_boot: !request.rules.require_memory,
            leased,
        });
    }

    /// Another request's wake ended between this one's look and its command.
    fn ready_already(
        &self,
        target: &Target,
        now: Instant,
        kind: WakeKind,
    ) -> Option<Ready<R::Stream>> {
        let endpoint = self.endpoint.as_ref()?;
        let is_ready =
            !self.machine.is_doubted() && endpoint.is_leased(now) && endpoint.is_ready(target);
        is_ready.then(|| Ready {
            endpoint: endpoint.clone(),
            confirmed_at: now,
            kind,
            connection: None,
        })
    }

    /// Whether the instance's port is a listener of this gateway.
    fn is_refused(&self, port: u16) -> bool {
        self.ip.is_some_and(|ip| {
            let address = SocketAddr::new(ip, port);
            port != 0 && self.common.own.include(address)
        })
    }

    fn done(&mut self, done: Done<R::Stream>) {
        match done {
            Done::Event(event) => self.step(event),
            Done::Seen(seen) => self.seen(seen),
            Done::Slot(claimed, slot) => self.slot(claimed, slot),
            Done::Verb(seen, rest) => {
                self.calling = false;
                if let Some(rest) = rest {
                    self.wait_for_rest(rest);
                }
                self.seen(seen);
            }
            Done::Rest => self.rests -= 1,
            Done::Probed(target, probed) => {
                // A port that refuses is open: whoever comes later finds out by itself.
                let open = !matches!(probed, Probed::Closed);
                match probed {
                    Probed::Open(connection) => self.found = Some(connection),
                    Probed::Refused(reason) => self.refused = Some((target, reason)),
                    Probed::OtherProtocol | Probed::Closed => {}
                }
                self.step(Event::Probed { open });
                // Nobody took it: its epoch ended, or its waiters left.
                (self.found, self.refused) = (None, None);
                if self.machine.is_doubted() {
                    // A connection failed while nobody asked.
                    self.step(Event::Verify);
                }
            }
            Done::Held(epoch, asked_at, seen) => self.held(epoch, asked_at, seen),
            Done::Rested(answer, reply) => {
                self.rested(answer.is_ok());
                let _left = reply.send(answer.map_err(RestError::ControlPlane));
            }
        }
    }

    /// The control plane, or somebody before it, has answered.
    fn seen(&mut self, seen: Seen) {
        if let Some((name, asked_at)) = &seen.name {
            self.instance.set_name(name, *asked_at);
        }
        self.asleep_since = seen.asleep_since.or(self.asleep_since);
        match &seen.evidence {
            Evidence::Awake(_) => self.trouble = None,
            // However often it is asleep meanwhile.
            Evidence::Asleep(Rest::Standby | Rest::WithoutMemory) => {}
            Evidence::Asleep(_) | Evidence::Gone | Evidence::Unsure(_) => {
                let stage = self.machine.stage().unwrap_or(self.stage);
                self.trouble = Some((stage, seen.answer));
            }
        }
        self.doubts = match seen.evidence {
            Evidence::Unsure(_) => self.doubts.saturating_add(1),
            Evidence::Awake(_) | Evidence::Asleep(_) | Evidence::Gone => 0,
        };
        self.claimants = None;
        let retry_after = seen.retry_after;
        self.step(Event::Answered {
            evidence: seen.evidence,
            retry_after,
        });
        if self.doubts > 0
            && let Some(endpoint) = &self.endpoint
        {
            endpoint.no_verdict(self.doubts - 1);
            if let Some(pause) = retry_after {
                endpoint.unverify(pause);
            }
        }
    }

    fn step(&mut self, event: Event) {
        if let Some(stage) = self.machine.stage() {
            self.stage = stage;
        }
        for effect in self.machine.on(Instant::now(), event) {
            self.carry_out(effect);
        }
        self.publish_breaker();
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Ask => self.ask(),
            Effect::Restore { until } => self.queue(Verb::Restore, until),
            Effect::Start { until } => self.queue(Verb::Start, until),
            Effect::Settle { until } => self.settle(until),
            Effect::Probe {
                target,
                http,
                until,
            } => self.probe(&target, http, until),
            Effect::Pause(pause) => self.pause(pause),
            Effect::Hold => self.hold_soon(),
            Effect::Publish { seen, fresh } => self.publish(&seen, fresh),
            Effect::Grant {
                target,
                woken,
                booted,
            } => self.grant(&target, woken, booted),
            Effect::Cut => self.cut(),
            Effect::Refuse(error) => self.refuse(&error),
            Effect::Forget => {
                self.instance.forget();
                let key = (self.common.index, self.instance.id().clone());
                self.common.expiry.note_gone(key);
            }
        }
    }

    fn publish(&mut self, seen: &Observation, fresh: bool) {
        let ip = seen.ip;
        let now = Instant::now();
        self.ip = Some(ip);
        let same = self.endpoint.take_if(|e| !fresh && e.ip() == ip);
        let endpoint = same.unwrap_or_else(|| {
            if let Some(old) = self.endpoint.take() {
                old.cut().cancel();
            }
            if !seen.terms.counts {
                let (id, name) = (self.instance.id(), self.instance.name());
                tracing::warn!(instance = %id, name = %name, "the auto-standby policy ignores the \
                    gateway's connections; renewing holds instead");
            }
            let init = EpochInit {
                instance: self.instance.id().clone(),
                number: EPOCHS.fetch_add(1, Ordering::Relaxed),
                ip,
                terms: seen.terms,
                losses: self.common.plane.losses(),
                opened: Arc::clone(&self.opened),
                parking: Arc::clone(self.instance.parking()),
                fresh,
                asked_at: seen.asked_at,
            };
            Endpoint::new(init, self.common.config.verify_interval, now)
        });
        endpoint.verify(seen.asked_at, seen.terms);
        if fresh {
            let since = self.asleep_since.take();
            let slept = since.map(|since| jiff::Timestamp::now().duration_since(since));
            self.slept = slept.and_then(|slept| slept.try_into().ok());
            // A restore gives its caller one whole idle timeout (contract B.5).
            endpoint.begin_term(seen.asked_at);
        }
        if seen.held {
            endpoint.set_hold(Some(seen.asked_at));
            self.upkeep.note_hold(seen.asked_at);
        }
        self.machine.published(endpoint.epoch());
        self.instance.awake.store(Some(Arc::new(endpoint.clone())));
        self.instance.parking().began(endpoint.epoch());
        self.endpoint = Some(endpoint);
        self.arm();
    }

    /// The epoch is over: whatever is open on it ends.
    fn cut(&mut self) {
        self.upkeep = self.upkeep.ended();
        self.instance.cut();
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.cut().cancel();
        }
    }

    fn grant(&mut self, target: &Target, woken: bool, booted: bool) {
        let Some(endpoint) = self.endpoint.clone() else {
            return;
        };
        endpoint.mark_ready(target);
        if let Some((target, reason)) = self.refused.take() {
            self.warmed_up = false;
            self.refuse_tls(&target, &reason);
            if !self.waiters.want(&target) {
                return;
            }
            // Others want it by other names, by which it may well be accepted.
        }
        if std::mem::take(&mut self.warmed_up) {
            endpoint.mark_warmed_up();
        }
        if std::mem::take(&mut self.tells) {
            endpoint.mark_resumed();
        }
        // What others wait for beyond it is no second wake.
        let is_wake = woken && !std::mem::replace(&mut self.counted, true);
        let outcome = match (is_wake, booted) {
            (true, true) => WakeOutcome::Booted,
            (true, false) => WakeOutcome::Woken,
            (false, _) => WakeOutcome::Renewed,
        };
        let took = self.finish(outcome, None);
        if outcome == WakeOutcome::Booted {
            self.common.wake_log.metrics.boots.increment(1);
        }
        // What a boot takes says nothing of a restore.
        if let (Some(took), WakeOutcome::Woken) = (took, outcome) {
            let times = self.instance.times.load().with(took);
            self.instance.times.store(Arc::new(times));
        }
        self.instance.last_failure.store(None);
        self.waiters
            .grant(target, (woken, booted), &endpoint, &mut self.found);
        self.begin_next();
    }

    /// Somebody waits for more, such as another port: that is a wake of its own.
    pub(super) fn begin_next(&mut self) {
        if let Some(requester) = self.waiters.oldest().cloned() {
            self.reporter.begin(requester, Instant::now());
        }
    }
}
