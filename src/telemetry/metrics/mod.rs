//! Every metric, by name, with its help text and labels.
//!
//! Guarantees: a [`Metrics`] is its own registry (two gateways in one process do not mix), every
//! series is bounded by the enums of `labels`, by the words of `codes`, or by
//! [`Metrics::with_max_routes`]; counting on the warm path is a few atomic additions.

mod catalogue;
mod codes;
mod handles;
mod labels;
mod owned;
mod process;
mod registry;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, Label};
use metrics_exporter_prometheus::PrometheusHandle;

use self::catalogue as name;
pub use self::codes::known_code;
pub use self::handles::Counted;
use self::labels::Values as _;
pub use self::labels::{
    ConnectOutcome, DoorOutcome, HandshakeOutcome, InstanceCondition, LeaseCheck, OrderOutcome,
    ParkOutcome, PeerOutcome, ReleaseReason, ReloadOutcome, ShedReason, TunnelEnd, TunnelState,
    UnparkCause, UpstreamUse, WakeKind, WakeOutcome, WakePhase,
};
use self::owned::Owned;
pub use self::owned::{ListenerMetrics, RouteMetrics};
use self::registry::{Family, Registry};

const MAX_ROUTES: usize = 100;

/// What is looked up when somebody asks for the metrics.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// Instances by what is known of them.
    pub instances: Vec<(InstanceCondition, usize)>,
    /// Requests at instances.
    pub inflight: usize,
    /// Idle connections to instances.
    pub upstream_idle: usize,
    /// Bytes of heads and bodies in memory, as far as they count.
    pub buffered: usize,
    /// What was refused so far because of what its client had in memory.
    pub memory_refusals: u64,
    /// Whether the gateway is draining.
    pub draining: bool,
    /// Access lines lost so far.
    pub access_lines_dropped: u64,
    /// The fleet's directory, if there is a fleet.
    pub fleet: Option<FleetReadings>,
}

/// What is known of a fleet's directory.
#[derive(Debug, Clone, Copy, Default)]
pub struct FleetReadings {
    /// The revision that is in force.
    pub revision: i64,
    /// For how long it has not answered; since the start, if it never has.
    pub age: Duration,
    /// Members whose records live.
    pub members: usize,
    /// Routes that are gone and stay in force.
    pub held: usize,
    /// What this node has published, its host's list lacks, and stays.
    pub unlisted: usize,
    /// Names that several hosts claim.
    pub claimed_twice: usize,
    /// Keys that are not in force as they are.
    pub problems: usize,
}

/// All the gateway's metrics.
pub struct Metrics {
    registry: Registry,
    handle: PrometheusHandle,
    /// By wake kind and status code; filled as codes occur.
    requests: [Box<[OnceLock<Counter>]>; 4],
    served: AtomicU64,
    /// Samples of histograms besides those of served requests.
    samples: AtomicU64,
    /// How many there were when they were folded last.
    folded: AtomicU64,
    request_duration: Histogram,
    received_bytes: Counter,
    sent_bytes: Counter,
    owned: Owned,
    leases: Family<LeaseCheck, Counter>,
    wakes: Family<WakeOutcome, Counter>,
    wake_duration: Family<WakeOutcome, Histogram>,
    wake_phases: Family<WakePhase, Histogram>,
    shed: Family<ShedReason, Counter>,
    hold_duration: Family<ReleaseReason, Histogram>,
    upstream_uses: Family<UpstreamUse, Counter>,
    peer_requests: Family<PeerOutcome, Counter>,
    upstream_connects: Family<ConnectOutcome, Counter>,
    handshakes: Family<HandshakeOutcome, Counter>,
    upstream_handshakes: Family<HandshakeOutcome, Counter>,
    orders: Family<OrderOutcome, Counter>,
    door: Family<DoorOutcome, Counter>,
    tunnels: Family<TunnelState, Gauge>,
    tunnel_ends: Family<TunnelEnd, Counter>,
    tunnel_parks: Family<ParkOutcome, Counter>,
    tunnel_unparks: Family<UnparkCause, Counter>,
    handshake_duration: Histogram,
    reloads: Family<ReloadOutcome, Counter>,
    last_reload: Gauge,
    restores_in_flight: Gauge,
    restores_queued: Gauge,
    breakers_open: Gauge,
    inflight_requests: Gauge,
    upstream_idle: Gauge,
    buffered_bytes: Gauge,
    memory_refusals: Counter,
    draining: Gauge,
    /// Requests waiting for a wake.
    pub held_requests: Gauge,
    /// Restore calls made to control planes.
    pub restore_calls: Counter,
    /// Wakes that booted an instance instead of restoring its memory.
    pub boots: Counter,
    /// Failed wakes that left an instance's breaker open.
    pub breaker_openings: Counter,
    /// Holds by which workloads keep their instances awake.
    pub workload_holds: Gauge,
    /// Open connections to instances.
    pub upstream_connections: Gauge,
    /// Requests sent to an instance a second time.
    pub upstream_retries: Counter,
    /// Open connections from clients.
    downstream_connections: Gauge,
    /// Connections from clients that had as many as they may have.
    pub refused_connections: Counter,
    /// Instances woken too often in a minute.
    pub thrash: Counter,
    access_lines_dropped: Counter,
    log_lines_dropped: Counter,
    panics: Counter,
}

/// Counts the calls of control planes' clients.
impl hypeman::Observer for Metrics {
    fn attempt_began(&self, attempt: hypeman::Attempt) {
        if attempt.operation == "restore" && attempt.number == 1 {
            self.restore_calls.increment(1);
        }
    }

    fn attempt_ended(&self, attempt: hypeman::Attempt, outcome: hypeman::Outcome, took: Duration) {
        if outcome == hypeman::Outcome::KeyReplaced {
            // The next attempt counts, with the new key.
            return;
        }
        let success = matches!(outcome, hypeman::Outcome::Success { .. });
        let code = if success {
            "200".to_owned()
        } else {
            outcome.to_string()
        };
        let operation = || Label::new("op", attempt.operation);
        let duration = self
            .registry
            .histogram(name::CONTROLPLANE_DURATION, vec![operation()]);
        duration.record(took.as_secs_f64());
        self.count_sample();
        let labels = vec![operation(), Label::new("code", code)];
        let counter = self.registry.counter(name::CONTROLPLANE_REQUESTS, labels);
        counter.increment(1);
    }
}

// === impl Metrics ===

impl Metrics {
    /// A fresh registry with every metric described.
    pub fn new() -> Self {
        Self::with_max_routes(MAX_ROUTES)
    }

    /// The same; so many routes have series of their own, the others share one.
    pub fn with_max_routes(max_routes: usize) -> Self {
        let registry = Registry(name::recorder());
        let r = &registry;
        let (counter, gauge) = (|name| r.counter(name, vec![]), |name| r.gauge(name, vec![]));
        let version = Label::new("version", env!("CARGO_PKG_VERSION"));
        r.gauge(name::BUILD_INFO, vec![version]).set(1.0);
        codes::register(r);
        Self {
            requests: std::array::from_fn(|_| (0..500).map(|_| OnceLock::new()).collect()),
            served: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            folded: AtomicU64::new(0),
            request_duration: r.histogram(name::REQUEST_DURATION, vec![]),
            received_bytes: counter(name::RECEIVED_BYTES),
            sent_bytes: counter(name::SENT_BYTES),
            owned: Owned::new(max_routes),
            leases: Family::counters(r, name::LEASE_CHECKS),
            wakes: Family::counters(r, name::WAKES),
            wake_duration: Family::histograms(r, name::WAKE_DURATION),
            wake_phases: Family::histograms(r, name::WAKE_PHASE),
            shed: Family::counters(r, name::SHED),
            hold_duration: Family::histograms(r, name::HOLD_DURATION),
            upstream_uses: Family::counters(r, name::UPSTREAM_REQUESTS),
            peer_requests: Family::counters(r, name::PEER_REQUESTS),
            upstream_connects: Family::counters(r, name::UPSTREAM_CONNECTS),
            handshakes: Family::counters(r, name::TLS_HANDSHAKES),
            upstream_handshakes: Family::counters(r, name::UPSTREAM_TLS_HANDSHAKES),
            orders: Family::counters(r, name::ACME_ORDERS),
            door: Family::counters(r, name::WORKLOAD_REQUESTS),
            workload_holds: gauge(name::WORKLOAD_HOLDS),
            tunnels: Family::gauges(r, name::TUNNELS),
            tunnel_ends: Family::counters(r, name::TUNNELS_ENDED),
            tunnel_parks: Family::counters(r, name::TUNNEL_PARKS),
            tunnel_unparks: Family::counters(r, name::TUNNEL_UNPARKS),
            handshake_duration: r.histogram(name::TLS_HANDSHAKE_DURATION, vec![]),
            reloads: Family::counters(r, name::RELOADS),
            last_reload: gauge(name::LAST_RELOAD),
            restores_in_flight: gauge(name::RESTORES_IN_FLIGHT),
            restores_queued: gauge(name::RESTORES_QUEUED),
            breakers_open: gauge(name::BREAKERS_OPEN),
            inflight_requests: gauge(name::INFLIGHT_REQUESTS),
            upstream_idle: gauge(name::UPSTREAM_IDLE),
            buffered_bytes: gauge(name::BUFFERED_BYTES),
            memory_refusals: counter(name::MEMORY_REFUSALS),
            draining: gauge(name::DRAINING),
            held_requests: gauge(name::HELD_REQUESTS),
            restore_calls: counter(name::RESTORE_CALLS),
            boots: counter(name::BOOTS),
            breaker_openings: counter(name::BREAKER_OPENINGS),
            upstream_connections: gauge(name::UPSTREAM_CONNECTIONS),
            upstream_retries: counter(name::UPSTREAM_RETRIES),
            downstream_connections: gauge(name::DOWNSTREAM_CONNECTIONS),
            refused_connections: counter(name::REFUSED_CONNECTIONS),
            thrash: counter(name::THRASH),
            access_lines_dropped: counter(name::ACCESS_LINES_DROPPED),
            log_lines_dropped: counter(name::LOG_LINES_DROPPED),
            panics: counter(name::PANICS),
            handle: registry.0.handle(),
            registry,
        }
    }

    /// Makes these the routes, by their labels; each one's metrics, in the same order. Those beyond
    /// the bound share theirs. The series of routes that are no longer there go.
    pub fn set_routes(&self, labels: &[&Arc<str>]) -> Vec<Arc<RouteMetrics>> {
        self.owned.set_routes(labels)
    }

    /// The metrics of a route that has come; it has series of its own if a place is free.
    pub fn add_route(&self, label: &Arc<str>) -> Arc<RouteMetrics> {
        self.owned.add_route(label)
    }

    /// A route has gone: its series go with the last route of its label.
    pub fn remove_route(&self, label: &str) {
        self.owned.remove_route(label);
    }

    /// A listener's metrics, by its address.
    pub fn listener(&self, address: SocketAddr) -> ListenerMetrics {
        self.owned.listener(address)
    }

    /// When the first certificate of each listener that has one expires, in seconds since 1970.
    pub fn set_certificate_expiries(&self, expiries: BTreeMap<SocketAddr, i64>) {
        self.owned.set_expiries(expiries);
    }

    /// Counts a response. `code` is the status sent, 499 when the client left before one was.
    pub fn count_request(&self, code: u16, wake: WakeKind, took: Duration) {
        self.request_duration.record(took.as_secs_f64());
        self.served.fetch_add(1, Ordering::Relaxed);
        let row = WakeKind::ALL
            .iter()
            .position(|kind| *kind == wake)
            .unwrap_or(0);
        let slot = self
            .requests
            .get(row)
            .and_then(|codes| codes.get(usize::from(code.saturating_sub(100)).min(499)));
        let Some(slot) = slot else { return };
        slot.get_or_init(|| {
            let labels = vec![
                Label::new("code", code.to_string()),
                Label::new("wake", wake.as_str()),
            ];
            self.registry.counter(name::REQUESTS, labels)
        })
        .increment(1);
    }

    /// Counts bodies' bytes.
    pub fn count_bytes(&self, received: u64, sent: u64) {
        if received > 0 {
            self.received_bytes.increment(received);
        }
        if sent > 0 {
            self.sent_bytes.increment(sent);
        }
    }

    /// Requests answered so far.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Counts an answer of the gateway's own by its stable code.
    pub fn count_error(&self, code: &'static str) {
        let labels = vec![Label::new("code", code)];
        self.registry.counter(name::ERRORS, labels).increment(1);
    }

    /// Counts what a request found of its instance's lease.
    pub fn count_lease(&self, check: LeaseCheck) {
        self.leases.count(check);
    }

    /// Counts a finished wake.
    pub fn count_wake(&self, outcome: WakeOutcome, took: Duration) {
        self.wakes.count(outcome);
        self.wake_duration.record(outcome, took.as_secs_f64());
        self.count_sample();
    }

    /// Counts why a wake failed, by the code that its clients got.
    pub fn count_wake_failure(&self, code: &'static str) {
        let labels = vec![Label::new("code", code)];
        let counter = self.registry.counter(name::WAKE_FAILURES, labels);
        counter.increment(1);
    }

    /// Counts a phase of a wake that succeeded.
    pub fn count_wake_phase(&self, phase: WakePhase, took: Duration) {
        self.wake_phases.record(phase, took.as_secs_f64());
        self.count_sample();
    }

    /// A client's connection is open.
    pub fn downstream(&self) -> Counted {
        Counted::new(&self.downstream_connections)
    }

    /// A restore or start is with its control plane.
    pub fn restoring(&self) -> Counted {
        Counted::new(&self.restores_in_flight)
    }

    /// A restore or start waits for its control plane's turn.
    pub fn queued(&self) -> Counted {
        Counted::new(&self.restores_queued)
    }

    /// Counts a connection that was passed on as it was, or an error's code.
    pub fn count_raw_connection(&self, kind: &'static str, outcome: &'static str) {
        let labels = vec![Label::new("kind", kind), Label::new("outcome", outcome)];
        let counter = self.registry.counter(name::RAW_CONNECTIONS, labels);
        counter.increment(1);
    }

    /// A tunnel, or raw connection, is in this state.
    pub fn tunnel(&self, state: TunnelState) -> Counted {
        let gauge = self.tunnels.of(state);
        gauge.map_or_else(Counted::nowhere, Counted::new)
    }

    /// Counts the end of a tunnel or raw connection.
    pub fn count_tunnel_end(&self, by: TunnelEnd) {
        self.tunnel_ends.count(by);
    }

    /// Counts what became of a tunnel that was to be parked, or of its instance.
    pub fn count_park(&self, outcome: ParkOutcome) {
        self.tunnel_parks.count(outcome);
    }

    /// Counts the end of a tunnel's being parked.
    pub fn count_unpark(&self, cause: UnparkCause) {
        self.tunnel_unparks.count(cause);
    }

    /// Counts a call of a workload's hook.
    pub fn count_hook(&self, hook: &'static str, outcome: &'static str) {
        let labels = vec![Label::new("hook", hook), Label::new("outcome", outcome)];
        self.registry.counter(name::HOOKS, labels).increment(1);
    }

    /// Counts a request that was refused instead of held.
    pub fn count_shed(&self, reason: ShedReason) {
        self.shed.count(reason);
    }

    /// Counts a request that was not allowed to wake its instance.
    pub fn count_refusal(&self, rule: &'static str) {
        let labels = vec![Label::new("rule", rule)];
        (self.registry.counter(name::WAKE_REFUSALS, labels)).increment(1);
    }

    /// Counts the end of one request's wait.
    pub fn count_hold(&self, reason: ReleaseReason, took: Duration) {
        self.hold_duration.record(reason, took.as_secs_f64());
        self.count_sample();
    }

    /// Counts what took a request to its instance.
    pub fn count_upstream_use(&self, used: UpstreamUse) {
        self.upstream_uses.count(used);
    }

    /// Counts a request to another member of the fleet.
    pub fn count_peer_request(&self, outcome: PeerOutcome) {
        self.peer_requests.count(outcome);
    }

    /// Counts a connection dialled to an instance.
    pub fn count_connect(&self, outcome: ConnectOutcome) {
        self.upstream_connects.count(outcome);
    }

    /// Counts a TLS handshake with a client.
    pub fn count_handshake(&self, outcome: HandshakeOutcome, took: Duration) {
        self.handshakes.count(outcome);
        self.handshake_duration.record(took.as_secs_f64());
        self.count_sample();
    }

    /// Counts an order of a certificate.
    pub fn count_order(&self, outcome: OrderOutcome) {
        self.orders.count(outcome);
    }

    /// Counts a request at the workloads' door.
    pub fn count_door(&self, outcome: DoorOutcome) {
        self.door.count(outcome);
    }

    /// Counts a TLS handshake with an instance.
    pub fn count_upstream_handshake(&self, outcome: HandshakeOutcome) {
        self.upstream_handshakes.count(outcome);
    }

    /// Whether a control plane, by its configured name, answered when it was last looked at.
    pub fn set_controlplane_up(&self, plane: &str, up: bool) {
        let labels = vec![Label::new("hypeman", plane.to_owned())];
        let gauge = self.registry.gauge(name::CONTROLPLANE_UP, labels);
        gauge.set(f64::from(u8::from(up)));
    }

    /// Counts spans that were sent, or lost on their way.
    pub fn count_spans(&self, sent: bool, spans: u64) {
        let outcome = if sent { "ok" } else { "failed" };
        let labels = vec![Label::new("outcome", outcome)];
        self.registry.counter(name::SPANS, labels).increment(spans);
    }

    /// Counts an attempt to load the configuration again.
    pub fn count_reload(&self, outcome: ReloadOutcome) {
        self.reloads.count(outcome);
        if outcome == ReloadOutcome::Ok {
            self.set_loaded(jiff::Timestamp::now());
        }
    }

    /// The configuration in force was loaded at `at`.
    pub fn set_loaded(&self, at: jiff::Timestamp) {
        self.last_reload.set(at.as_second() as f64);
    }

    /// The registry in Prometheus' text format.
    pub fn render(&self, readings: &Readings) -> String {
        for condition in InstanceCondition::ALL {
            let counts = readings.instances.iter();
            let count = counts
                .filter(|(other, _)| other == condition)
                .map(|(_, n)| n);
            let labels = vec![Label::new("state", condition.as_str())];
            let gauge = self.registry.gauge(name::INSTANCES, labels);
            let count = count.sum::<usize>() as f64;
            gauge.set(count);
            if *condition == InstanceCondition::Failing {
                self.breakers_open.set(count);
            }
        }
        self.inflight_requests.set(readings.inflight as f64);
        self.upstream_idle.set(readings.upstream_idle as f64);
        self.buffered_bytes.set(readings.buffered as f64);
        self.memory_refusals.absolute(readings.memory_refusals);
        self.draining.set(f64::from(u8::from(readings.draining)));
        if let Some(fleet) = readings.fleet {
            for (name, value) in [
                (name::FLEET_REVISION, fleet.revision as f64),
                (name::FLEET_AGE, fleet.age.as_secs_f64()),
                (name::FLEET_MEMBERS, fleet.members as f64),
                (name::FLEET_HELD, fleet.held as f64),
                (name::FLEET_UNLISTED, fleet.unlisted as f64),
                (name::FLEET_TWICE, fleet.claimed_twice as f64),
                (name::FLEET_PROBLEMS, fleet.problems as f64),
            ] {
                self.registry.gauge(name, Vec::new()).set(value);
            }
        }
        (self.access_lines_dropped).absolute(readings.access_lines_dropped);
        self.log_lines_dropped
            .absolute(super::diagnostics::dropped());
        self.panics.absolute(super::panics::count());
        let mut text = self.handle.render();
        self.owned.render(&mut text);
        text + &process::render()
    }

    /// Whether there is anything to fold.
    pub fn has_samples(&self) -> bool {
        self.folded.load(Ordering::Relaxed) != self.sampled()
    }

    fn sampled(&self) -> u64 {
        let requests = self.served.load(Ordering::Relaxed);
        requests.wrapping_add(self.samples.load(Ordering::Relaxed))
    }

    /// A histogram has one more; counted after it was recorded, so that it is folded for sure.
    fn count_sample(&self) {
        self.samples.fetch_add(1, Ordering::Relaxed);
    }

    /// Folds histogram samples into their buckets. Without a call every few seconds, samples of a
    /// gateway that nobody scrapes pile up.
    pub fn upkeep(&self) {
        self.folded.store(self.sampled(), Ordering::Relaxed);
        self.handle.run_upkeep();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use hypeman::Observer as _;

    use super::*;

    #[test]
    fn two_registries_do_not_mix_and_names_are_the_documented_ones() {
        let (one, two) = (Metrics::new(), Metrics::new());
        one.count_request(200, WakeKind::Cold, Duration::from_millis(3));
        one.count_wake(WakeOutcome::Woken, Duration::from_millis(3));
        one.count_hold(ReleaseReason::Ready, Duration::from_millis(3));
        one.count_shed(ShedReason::TotalQueue);
        let attempt = hypeman::Attempt {
            operation: "restore",
            number: 1,
        };
        one.attempt_began(attempt);
        let success = hypeman::Outcome::Success { status: 200 };
        one.attempt_ended(attempt, success, Duration::from_millis(3));
        let readings = Readings {
            access_lines_dropped: 2,
            buffered: 70_000,
            memory_refusals: 3,
            ..Readings::default()
        };
        let text = one.render(&readings);
        for line in [
            "wakegate_requests_total{code=\"200\",wake=\"cold\"} 1",
            "wakegate_wakes_total{outcome=\"woken\"} 1",
            "wakegate_restore_calls_total 1",
            "wakegate_held_requests 0",
            "wakegate_upstream_connections 0",
            "wakegate_controlplane_requests_total{op=\"restore\",code=\"200\"} 1",
            "wakegate_access_lines_dropped_total 2",
            "wakegate_buffered_bytes 70000",
            "wakegate_memory_refusals_total 3",
            "wakegate_request_duration_seconds_bucket{le=\"0.005\"} 1",
            "wakegate_wake_duration_seconds_count{outcome=\"woken\"} 1",
            "wakegate_hold_duration_seconds_count{outcome=\"ready\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(
            !two.render(&Readings::default())
                .contains("wakegate_restore_calls_total 1")
        );
    }
}
