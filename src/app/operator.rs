//! The gateway as its operator sees and handles it.
//!
//! Guarantees: looking changes nothing and asks no control plane; an operator's wake goes through
//! the same engine as a request's, so both at once are one restore.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

use super::handle::{AppHandle, Running};
use super::plane::{ObservedPlane, condition_of};
use super::standby::wants_to_go_on;
use crate::admin::{
    BreakerView, CertificateView, Done, FailureView, HoldView, InstanceCounts, InstanceDetail,
    InstanceView, LeaseView, Operator, PlaneView, Problem, ProgressView, RouteSource, RouteView,
    StatusView, Which,
};
use crate::config::{Config, Protocol, RouteConfig, RouteWakeConfig, TlsSource, redacted};
use crate::listener::ca_file;
use crate::names::PlaneIndex;
use crate::proxy::{ProxyError, error_response};
use crate::router::OTHER_PORTS;
use crate::telemetry::{FleetReadings, InstanceCondition, Readings, WakeKind};
use crate::wake::{
    HookOutcome, Instance, LedgerEntry, Requester, Suspicion, Target, WakeError, WakeStage,
};
use hypeman::Error as ControlPlaneError;
use hypeman::wire::InstanceState;
use hypeman::{GoDuration, InstanceId, InstanceRef};

/// How long an operator's standby waits until the engine has noticed.
const DOUBT: Duration = Duration::from_secs(1);
/// How long control planes are waited for once a later one has the instance that is meant.
const IN_ORDER: Duration = Duration::from_secs(1);

/// Whether a wake is more than a question about the lease.
fn is_waking(stage: WakeStage) -> bool {
    match stage {
        WakeStage::Queued
        | WakeStage::Restoring
        | WakeStage::Starting
        | WakeStage::Initializing
        | WakeStage::NotListening
        | WakeStage::Unhealthy
        | WakeStage::NoCapacity => true,
        WakeStage::Asking => false,
    }
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Milliseconds from one time of the wall clock's to another; the clock may have been set back
/// meanwhile.
fn ms_between(from: jiff::Timestamp, to: jiff::Timestamp) -> f64 {
    (to.as_millisecond() - from.as_millisecond()).max(0) as f64
}

/// The files of the CAs that make certificates here, each once.
fn own_cas(config: &Config) -> Vec<String> {
    let of_listeners = config.listener.iter();
    let of_listeners = of_listeners.filter_map(|listener| listener.tls.as_ref());
    let mut files = Vec::new();
    for tls in of_listeners.chain(&config.ingress.tls) {
        if let TlsSource::Internal { internal } = &tls.source {
            files.push(ca_file(internal).display().to_string());
        }
    }
    files.sort_unstable();
    files.dedup();
    files
}

/// An engine's refusal, with the status and code that a request would get.
fn refused(error: WakeError) -> Problem {
    let description = error_response::describe(&ProxyError::from(error));
    Problem::new(description.status, description.code, description.detail)
}

fn failed(error: &ControlPlaneError) -> Problem {
    let status = match error.status() {
        Some(404) => StatusCode::NOT_FOUND,
        Some(409) => StatusCode::CONFLICT,
        Some(_) => StatusCode::BAD_GATEWAY,
        None => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, "control_plane", error.to_string())
}

// === impl Running ===

impl Running {
    pub(super) fn plane_name(&self, plane: PlaneIndex) -> String {
        let name = self.planes.get(usize::from(plane.0));
        name.map(|plane| plane.name.clone()).unwrap_or_default()
    }

    /// Calls `visit` for every instance that a list or the engine knows, with its name, its control
    /// plane, what the engine has of it, and its state in the list.
    fn for_each_instance(
        &self,
        mut visit: impl FnMut(&InstanceId, &str, PlaneIndex, Option<&Instance>, Option<&InstanceState>),
    ) {
        let wakes = &self.gateway.parts().wakes;
        let mut engines: HashMap<InstanceId, _> = HashMap::new();
        for (plane, instance) in wakes.all() {
            engines.insert(instance.id().clone(), (plane, instance));
        }
        for (plane, observer) in (0..).map(PlaneIndex).zip(&self.planes) {
            for (id, seen) in observer.last.load().listing.instances() {
                let engine = engines.remove(id).map(|(_, instance)| instance);
                visit(id, &seen.name, plane, engine.as_deref(), Some(&seen.state));
            }
        }
        for (id, (plane, instance)) in engines {
            visit(&id, &instance.name(), plane, Some(&instance), None);
        }
    }

    /// Everything that is known of every instance, by name.
    fn census(&self) -> Vec<InstanceView> {
        let (busy, now) = (self.gateway.parts().hold.census(), Instant::now());
        let mut views = Vec::new();
        self.for_each_instance(|id, name, plane, engine, observed| {
            let (held, inflight) = busy.get(id).copied().unwrap_or_default();
            let view = InstanceView {
                id: id.to_string(),
                name: name.to_owned(),
                hypeman: self.plane_name(plane),
                state: condition(engine, observed.map(condition_of), now),
                observed: observed.map(ToString::to_string),
                lease: None,
                wake: None,
                held,
                inflight,
                usual_wake_ms: None,
                breaker: None,
                last_failure: None,
            };
            views.push(with_engine(view, engine, now));
        });
        views.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        views
    }

    /// How many instances are in which state: what each scrape asks for, and so without a view of
    /// each.
    fn counts(&self) -> InstanceCounts {
        let (mut counts, now) = (InstanceCounts::default(), Instant::now());
        self.for_each_instance(|_, _, _, engine, observed| {
            counts.add(condition(engine, observed.map(condition_of), now));
        });
        counts
    }

    /// The instance that an operator means, as the engine has it.
    async fn find(&self, which: &Which) -> Result<(PlaneIndex, Arc<Instance>), Problem> {
        let unknown =
            |detail: String| Problem::new(StatusCode::NOT_FOUND, "instance_not_found", detail);
        let name = InstanceRef::parse(&which.name).map_err(|error| unknown(error.to_string()))?;
        let patience = self.wake_rules().timeout;
        if self.planes.is_empty() {
            return Err(unknown("There is no control plane.".to_owned()));
        }
        let is_meant = |plane: &ObservedPlane| {
            let named = which.hypeman.as_ref();
            named.is_none_or(|name| *name == plane.name)
        };
        let planes = (0..).map(PlaneIndex).zip(&self.planes);
        let mut planes: Vec<_> = planes.filter(|(_, plane)| is_meant(plane)).collect();
        if planes.is_empty() {
            return Err(unknown("There is no such control plane.".to_owned()));
        }
        // Whoever comes after the first whose last list has it is asked only if that was wrong.
        let listed = planes
            .iter()
            .position(|(_, plane)| plane.lists(name.as_str()));
        let rest = planes.split_off(listed.map_or(planes.len(), |at| at + 1));
        let mut why = WakeError::NotFound;
        for part in [planes, rest] {
            let indices: Vec<_> = part.into_iter().map(|(index, _)| index).collect();
            match self.first_of(&indices, &name, patience).await {
                Ok(found) => return Ok(found),
                Err(WakeError::NotFound) => {}
                Err(error) => why = error,
            }
        }
        Err(refused(why))
    }

    /// The first of these control planes that has an instance. All are asked side by side; those before one
    /// that has it have [`IN_ORDER`] more to say whether they do.
    async fn first_of(
        &self,
        planes: &[PlaneIndex],
        name: &InstanceRef,
        patience: Duration,
    ) -> Result<(PlaneIndex, Arc<Instance>), WakeError> {
        let wakes = &self.gateway.parts().wakes;
        let find = |index: PlaneIndex| async move {
            let nobody = Ipv4Addr::UNSPECIFIED.into();
            (index, wakes.find(index, name, patience, nobody).await)
        };
        let mut silent = planes.to_vec();
        let mut asked: FuturesUnordered<_> = planes.iter().copied().map(find).collect();
        let (mut best, mut why) = (None::<(PlaneIndex, Arc<Instance>)>, WakeError::NotFound);
        let mut due = None;
        loop {
            let answer = match due {
                Some(due) => timeout_at(due, asked.next()).await.ok().flatten(),
                None => asked.next().await,
            };
            let Some((index, answer)) = answer else {
                return best.ok_or(why);
            };
            silent.retain(|other| *other != index);
            match answer {
                Ok(found) => {
                    if best.as_ref().is_none_or(|(before, _)| index < *before) {
                        best = Some((index, found));
                    }
                    due.get_or_insert_with(|| Instant::now() + IN_ORDER);
                }
                // One that could not say leaves it open.
                Err(error) if error != WakeError::NotFound => why = error,
                Err(_) => {}
            }
            if let Some(found) = best.take_if(|(index, _)| silent.iter().all(|other| other > index))
            {
                return Ok(found);
            }
        }
    }

    fn wake_rules(&self) -> RouteWakeConfig {
        let config = self.config.lock();
        let config = config.unwrap_or_else(std::sync::PoisonError::into_inner);
        RouteWakeConfig::of(&config.wake)
    }
}

fn with_engine(view: InstanceView, engine: Option<&Instance>, now: Instant) -> InstanceView {
    let Some(engine) = engine else { return view };
    let lease = engine.endpoint().map(|endpoint| LeaseView {
        in_force: endpoint.is_leased(now),
        address: endpoint.ip().to_string(),
        idle_timeout: endpoint
            .idle_timeout()
            .map(|idle| GoDuration::from(idle).to_string()),
        connections: endpoint.open_connections(),
    });
    let wake = engine.progress().map(|progress| ProgressView {
        stage: progress.stage.as_str(),
        since_ms: ms(now.saturating_duration_since(progress.began)),
    });
    let breaker = engine.breaker().map(|breaker| BreakerView {
        failures: breaker.failures,
        retry_after_ms: ms(breaker.until.saturating_duration_since(now)),
    });
    let last_failure = engine.last_failure().map(|failure| FailureView {
        time: failure.at,
        ago_ms: ms_between(failure.at, jiff::Timestamp::now()),
        code: failure.code,
        phase: failure.stage.as_str(),
        control_plane: failure.answer.as_deref().cloned(),
        reason: failure.reason.as_deref().map(str::to_owned),
    });
    InstanceView {
        lease,
        wake,
        breaker,
        last_failure,
        usual_wake_ms: engine.times().usual().map(ms),
        ..view
    }
}

/// What is known of an instance: the engine's own knowledge is newer than what was observed.
fn condition(
    engine: Option<&Instance>,
    observed: Option<InstanceCondition>,
    now: Instant,
) -> InstanceCondition {
    let Some(engine) = engine else {
        return observed.unwrap_or(InstanceCondition::Asleep);
    };
    if engine.breaker().is_some() {
        return InstanceCondition::Failing;
    }
    let leased = engine
        .endpoint()
        .is_some_and(|endpoint| endpoint.is_leased(now));
    match engine.progress() {
        _ if leased => InstanceCondition::Awake,
        Some(progress) if is_waking(progress.stage) => InstanceCondition::Waking,
        _ => observed.unwrap_or(InstanceCondition::Asleep),
    }
}

fn route_view(route: &RouteConfig, source: RouteSource) -> RouteView {
    RouteView {
        host: route.host().to_owned(),
        path: route.path().to_owned(),
        instance: route.instance.to_string(),
        port: route.port,
        hypeman: route.hypeman.clone(),
        protocol: match route.forwarding.protocol {
            Protocol::H1 => "h1",
            Protocol::H2c => "h2c",
            Protocol::Https => "https",
            Protocol::H2 => "h2",
        },
        source,
        listen_port: route.listen_port.filter(|port| *port != OTHER_PORTS),
        wake_timeout: GoDuration::from(route.wake.timeout).to_string(),
    }
}

impl Operator for AppHandle {
    fn status(&self) -> StatusView {
        let (running, config) = (&*self.0, self.config());
        let parts = running.gateway.parts();
        let planes = running.planes.iter().map(|plane| {
            let seen = plane.last.load();
            PlaneView {
                name: plane.name.clone(),
                url: plane.url.clone(),
                up: seen.up,
                error: seen.error.clone(),
            }
        });
        let addresses = running.sockets.addresses();
        StatusView {
            version: env!("CARGO_PKG_VERSION"),
            started: running.started.0,
            uptime_seconds: ms(running.started.1.elapsed()).round() / 1e3,
            draining: running.drain.draining().is_cancelled(),
            listeners: addresses.iter().map(ToString::to_string).collect(),
            ca: own_cas(&config),
            routes: config.route.len() + self.declared_routes().len(),
            instances: running.counts(),
            held: parts.hold.held(),
            inflight: parts.hold.inside(),
            served: parts.metrics.served(),
            hypeman: planes.collect(),
        }
    }

    fn routes(&self, filter: &str, limit: usize) -> Vec<RouteView> {
        let (config, declared) = (self.config(), self.declared_routes());
        let file = config.route.iter().map(|route| (route, RouteSource::File));
        let ingress = declared.iter().map(|route| (route, RouteSource::Ingress));
        file.chain(ingress)
            .map(|(route, source)| route_view(route, source))
            .filter(|route| route.host.contains(filter) || route.instance.contains(filter))
            .take(limit)
            .collect()
    }

    fn instances(&self) -> Vec<InstanceView> {
        self.0.census()
    }

    fn instance(&self, which: &Which) -> Option<InstanceDetail> {
        let name = which.name.as_str();
        let here = |one: &InstanceView| {
            which
                .hypeman
                .as_ref()
                .is_none_or(|plane| *plane == one.hypeman)
        };
        let mut all = self.0.census();
        all.retain(here);
        // What is not whole would be another's as well.
        let found = all
            .iter()
            .position(|one| one.id == name || one.name == name);
        let instance = all.swap_remove(found?);
        let mut wakes = self.wakes(None);
        wakes.retain(|wake| wake.instance == instance.id);
        let mut holds = self.holds();
        holds.retain(|hold| hold.instance == instance.id && hold.hypeman == instance.hypeman);
        Some(InstanceDetail {
            instance,
            wakes,
            holds,
        })
    }

    fn certificates(&self) -> Vec<CertificateView> {
        let states = self.0.acme.iter().flat_map(|acme| acme.states());
        let views = states.map(|state| CertificateView {
            name: state.name,
            not_after: state.not_after,
            next_attempt: state.next_attempt,
            error: state.error,
        });
        views.collect()
    }

    fn wakes(&self, after: Option<&str>) -> Vec<LedgerEntry> {
        let ledger = self.0.gateway.parts().wakes.ledger();
        match after {
            Some(id) => ledger.entries_after(id),
            None => ledger.entries(),
        }
    }

    fn holds(&self) -> Vec<HoldView> {
        let all = self.0.holds.all().into_iter();
        let views = all.map(|hold| HoldView {
            instance: hold.owner.id.to_string(),
            name: hold.name.to_string(),
            hypeman: hold.owner.hypeman.to_string(),
            task: hold.task.to_string(),
            until: hold.until,
            left_ms: ms_between(jiff::Timestamp::now(), hold.until),
        });
        views.collect()
    }

    fn served(&self) -> u64 {
        self.0.gateway.parts().metrics.served()
    }

    fn readings(&self) -> Readings {
        let parts = self.0.gateway.parts();
        Readings {
            instances: self.0.counts().by_condition(),
            inflight: parts.hold.inside(),
            upstream_idle: parts.upstream.idle(),
            buffered: self.0.sockets.shared.buffers.used(),
            memory_refusals: self.0.sockets.shared.buffers.refused(),
            draining: self.0.drain.draining().is_cancelled(),
            access_lines_dropped: parts.access.dropped(),
            fleet: self.0.fleet.get().map(|fleet| {
                let counts = fleet.directory.counts();
                let age = fleet.directory.age();
                FleetReadings {
                    revision: counts.revision,
                    age: age.unwrap_or_else(|| self.0.started.1.elapsed()),
                    members: counts.alive,
                    held: counts.held,
                    unlisted: counts.unlisted,
                    claimed_twice: counts.claimed_twice,
                    problems: counts.problems,
                }
            }),
        }
    }

    fn is_ready(&self) -> bool {
        let fleet = self.0.fleet.get();
        fleet.is_none_or(|fleet| fleet.directory.is_known())
    }

    fn fleet(&self) -> Option<Value> {
        let fleet = self.0.fleet.get()?;
        serde_json::to_value(fleet.directory.status()).ok()
    }

    fn config(&self) -> Value {
        redacted(&AppHandle::config(self))
    }

    fn wake(&self, which: Which) -> BoxFuture<'_, Result<Done, Problem>> {
        async move {
            let (_, instance) = self.0.find(&which).await?;
            let (rules, began) = (self.0.wake_rules(), Instant::now());
            let requester = Requester {
                route: "admin".into(),
                client: which.client,
                user_agent: None,
                since: began,
                unparked_by: None,
                trace: None,
            };
            let outcome = match instance.is_certainly_awake() {
                true => "awake",
                false => {
                    // Somebody may have put it to sleep: the control plane is asked.
                    if let Some(endpoint) = &instance.endpoint() {
                        let port = Target::AWAKE.port;
                        instance
                            .suspect(endpoint, Suspicion::NotConnected(port))
                            .await;
                    }
                    let ready =
                        instance.ready_again(Target::AWAKE, &rules, rules.timeout, requester);
                    match ready.await.map_err(refused)?.kind {
                        WakeKind::Cold | WakeKind::Joined | WakeKind::Boot => "woken",
                        WakeKind::Warm | WakeKind::None => "awake",
                    }
                }
            };
            Ok(done(&instance, outcome, began))
        }
        .boxed()
    }

    fn standby(&self, which: Which, force: bool) -> BoxFuture<'_, Result<Done, Problem>> {
        async move {
            let (plane, instance) = self.0.find(&which).await?;
            let began = Instant::now();
            if let HookOutcome::Refused(pause) = self.0.before_standby(plane, &instance).await
                && !force
            {
                return Err(wants_to_go_on(pause));
            }
            let Some(plane) = self.0.planes.get(usize::from(plane.0)) else {
                return Err(refused(WakeError::NotFound));
            };
            let id = instance.id().to_ref();
            let answer = plane.client.standby_instance(&id, None).await;
            answer.map_err(|error| failed(&error))?;
            if let Some(endpoint) = instance.endpoint() {
                // At the latest when the control plane has said so itself.
                instance.doubt();
                let _busy = timeout(DOUBT, endpoint.cut().cancelled()).await;
            }
            let (id, at) = (
                instance.id().as_str(),
                jiff::Timestamp::now().as_millisecond(),
            );
            let condition = InstanceCondition::Asleep;
            let timeline = &self.0.timeline;
            timeline.note(id, &instance.name(), &plane.name, condition, at);
            Ok(done(&instance, "asleep", began))
        }
        .boxed()
    }

    fn reset_breaker(&self, which: Which) -> BoxFuture<'_, Result<Done, Problem>> {
        async move {
            let (_, instance) = self.0.find(&which).await?;
            let began = Instant::now();
            instance.reset_breaker().await;
            Ok(done(&instance, "breaker_reset", began))
        }
        .boxed()
    }

    fn reload(&self) -> BoxFuture<'_, Result<(), Problem>> {
        async move {
            let handle = self.clone();
            // A large file takes a while; requests do not wait for it.
            let reloaded = spawn_blocking(move || handle.reload_from_source()).await;
            let problem = match reloaded {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(problem)) => problem,
                Err(error) => error.to_string(),
            };
            let status = StatusCode::CONFLICT;
            Err(Problem::new(status, "not_reloaded", problem))
        }
        .boxed()
    }

    fn drain(&self) {
        tracing::info!("asked to drain through the API");
        self.0.asked_to_drain.cancel();
    }
}

fn done(instance: &Instance, outcome: &'static str, began: Instant) -> Done {
    Done {
        id: instance.id().to_string(),
        name: instance.name().to_string(),
        outcome,
        took_ms: ms(began.elapsed()),
    }
}
