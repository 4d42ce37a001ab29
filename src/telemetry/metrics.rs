//! Every metric, by name, with its help text and labels.
//!
//! Guarantees: a [`Metrics`] is its own registry (two gateways in one process do not mix), every
//! series is bounded by the enums below, and counting on the warm path is one atomic addition.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

const REQUESTS: &str = "wakegate_requests_total";
const REQUEST_DURATION: &str = "wakegate_request_duration_seconds";
const WAKES: &str = "wakegate_wakes_total";
const WAKE_DURATION: &str = "wakegate_wake_duration_seconds";
const RESTORE_CALLS: &str = "wakegate_restore_calls_total";
const HELD_REQUESTS: &str = "wakegate_held_requests";
const HOLD_DURATION: &str = "wakegate_hold_duration_seconds";
const SHED: &str = "wakegate_shed_total";
const UPSTREAM_CONNECTIONS: &str = "wakegate_upstream_connections";
const UPSTREAM_RETRIES: &str = "wakegate_upstream_retries_total";
const DOWNSTREAM_CONNECTIONS: &str = "wakegate_downstream_connections";
const REFUSED_CONNECTIONS: &str = "wakegate_refused_connections_total";
const RAW_CONNECTIONS: &str = "wakegate_raw_connections_total";
const CONTROLPLANE_REQUESTS: &str = "wakegate_controlplane_requests_total";
const WAKE_REFUSALS: &str = "wakegate_wake_refusals_total";
const THRASH: &str = "wakegate_wake_thrash_total";
const ACCESS_LINES_DROPPED: &str = "wakegate_access_lines_dropped_total";

const METADATA: Metadata<'static> = Metadata::new("wakegate", Level::INFO, None);
/// Seconds, from a warm loopback request to a cold boot.
const BUCKETS: &[f64] = &[
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// Whether and how a request met a wake; the values of `x-wakegate-wake`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeKind {
    /// No route or refused before the instance mattered.
    None,
    /// The instance was awake.
    Warm,
    /// This request began the wake.
    Cold,
    /// Another request had begun it.
    Joined,
}

/// How a wake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeOutcome {
    /// The instance had to be restored or started, and answers.
    Woken,
    /// It turned out to be awake: the lease was renewed.
    Renewed,
    /// It could not be woken.
    Failed,
    /// It was not ready before the deadline.
    TimedOut,
}

/// Why a request was refused instead of held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedReason {
    /// The instance's queue is full.
    InstanceQueue,
    /// The route's queue is full.
    RouteQueue,
    /// The gateway's queue is full.
    TotalQueue,
    /// The held heads' bytes are at their limit.
    Bytes,
    /// The breaker is open.
    Breaker,
}

/// How a held request's wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseReason {
    /// Its instance became ready.
    Ready,
    /// The wake failed, or the deadline passed.
    Refused,
    /// The client left.
    Left,
}

impl WakeKind {
    const ALL: [Self; 4] = [Self::None, Self::Warm, Self::Cold, Self::Joined];

    /// The label's value, and the header's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::Joined => "joined",
        }
    }
}

impl WakeOutcome {
    /// The label's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Woken => "woken",
            Self::Renewed => "renewed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }
}

impl ShedReason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::InstanceQueue => "instance_queue",
            Self::RouteQueue => "route_queue",
            Self::TotalQueue => "total_queue",
            Self::Bytes => "bytes",
            Self::Breaker => "breaker",
        }
    }
}

impl ReleaseReason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Refused => "refused",
            Self::Left => "left",
        }
    }
}

/// All the gateway's metrics.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// By wake kind and status code; filled as codes occur.
    requests: [Box<[OnceLock<Counter>]>; 4],
    request_duration: Histogram,
    /// Requests waiting for a wake.
    pub held_requests: Gauge,
    /// Restore calls made to control planes.
    pub restore_calls: Counter,
    /// Open connections to instances.
    pub upstream_connections: Gauge,
    /// Requests sent to an instance a second time.
    pub upstream_retries: Counter,
    /// Open connections from clients.
    pub downstream_connections: Gauge,
    /// Connections from clients that had as many as they may have.
    pub refused_connections: Counter,
    /// Instances woken too often in a minute.
    pub thrash: Counter,
    access_lines_dropped: Counter,
}

// === impl Metrics ===

impl Metrics {
    /// A fresh registry with every metric described.
    pub fn new() -> Self {
        let builder = ["_seconds"]
            .iter()
            .fold(PrometheusBuilder::new(), |builder, suffix| {
                let matcher = Matcher::Suffix((*suffix).to_owned());
                // The only error is an empty list of buckets.
                builder
                    .set_buckets_for_metric(matcher, BUCKETS)
                    .unwrap_or_else(|_| PrometheusBuilder::new())
            });
        let recorder = builder.build_recorder();
        for (name, help) in [
            (
                REQUESTS,
                "Responses by status code and by how the request met a wake",
            ),
            (WAKES, "Finished wakes by outcome"),
            (RESTORE_CALLS, "Restore calls made to control planes"),
            (SHED, "Requests refused instead of held, by reason"),
            (
                UPSTREAM_RETRIES,
                "Requests sent to an instance a second time",
            ),
            (
                REFUSED_CONNECTIONS,
                "Connections from clients that had as many as they may have",
            ),
            (
                RAW_CONNECTIONS,
                "Connections passed on as they are, by kind and by how they began",
            ),
            (
                CONTROLPLANE_REQUESTS,
                "Calls to control planes by operation and status code",
            ),
            (
                WAKE_REFUSALS,
                "Requests that were not allowed to wake their instance, by rule",
            ),
            (
                THRASH,
                "Times that an instance was woken so often in a minute that it counts as thrash",
            ),
            (
                ACCESS_LINES_DROPPED,
                "Access lines lost because their reader was too slow",
            ),
        ] {
            recorder.describe_counter(KeyName::from(name), None, help.into());
        }
        for (name, help) in [
            (
                HELD_REQUESTS,
                "Requests waiting, for a wake or for their turn",
            ),
            (UPSTREAM_CONNECTIONS, "Open connections to instances"),
            (DOWNSTREAM_CONNECTIONS, "Open connections from clients"),
        ] {
            recorder.describe_gauge(KeyName::from(name), None, help.into());
        }
        for (name, help) in [
            (
                REQUEST_DURATION,
                "From a request's head to its response's last byte",
            ),
            (
                WAKE_DURATION,
                "From a wake's first request to the instance being ready or given up",
            ),
            (
                HOLD_DURATION,
                "How long requests were held, by how the wait ended",
            ),
        ] {
            recorder.describe_histogram(KeyName::from(name), Some(Unit::Seconds), help.into());
        }
        let counter = |name| recorder.register_counter(&Key::from_name(name), &METADATA);
        let gauge = |name| {
            let gauge = recorder.register_gauge(&Key::from_name(name), &METADATA);
            gauge.set(0.0);
            gauge
        };
        Self {
            requests: std::array::from_fn(|_| (0..500).map(|_| OnceLock::new()).collect()),
            request_duration: recorder
                .register_histogram(&Key::from_name(REQUEST_DURATION), &METADATA),
            held_requests: gauge(HELD_REQUESTS),
            restore_calls: counter(RESTORE_CALLS),
            upstream_connections: gauge(UPSTREAM_CONNECTIONS),
            upstream_retries: counter(UPSTREAM_RETRIES),
            downstream_connections: gauge(DOWNSTREAM_CONNECTIONS),
            refused_connections: counter(REFUSED_CONNECTIONS),
            thrash: counter(THRASH),
            access_lines_dropped: counter(ACCESS_LINES_DROPPED),
            handle: recorder.handle(),
            recorder,
        }
    }

    fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder
            .register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.recorder
            .register_histogram(&Key::from_parts(name, labels), &METADATA)
    }

    /// Counts a response. `code` is the status sent, 499 when the client left before one was.
    pub fn count_request(&self, code: u16, wake: WakeKind, took: Duration) {
        self.request_duration.record(took.as_secs_f64());
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
            self.counter(REQUESTS, labels)
        })
        .increment(1);
    }

    /// Counts a finished wake.
    pub fn count_wake(&self, outcome: WakeOutcome, took: Duration) {
        let labels = vec![Label::new("outcome", outcome.as_str())];
        self.counter(WAKES, labels.clone()).increment(1);
        self.histogram(WAKE_DURATION, labels)
            .record(took.as_secs_f64());
    }

    /// Counts a connection that was passed on as it was, or an error's code.
    pub fn count_raw_connection(&self, kind: &'static str, outcome: &'static str) {
        let labels = vec![Label::new("kind", kind), Label::new("outcome", outcome)];
        self.counter(RAW_CONNECTIONS, labels).increment(1);
    }

    /// Counts a request that was refused instead of held.
    pub fn count_shed(&self, reason: ShedReason) {
        self.counter(SHED, vec![Label::new("reason", reason.as_str())])
            .increment(1);
    }

    /// Counts a request that was not allowed to wake its instance.
    pub fn count_refusal(&self, rule: &'static str) {
        self.counter(WAKE_REFUSALS, vec![Label::new("rule", rule)])
            .increment(1);
    }

    /// Counts the end of one request's wait.
    pub fn count_hold(&self, reason: ReleaseReason, took: Duration) {
        let labels = vec![Label::new("outcome", reason.as_str())];
        self.histogram(HOLD_DURATION, labels)
            .record(took.as_secs_f64());
    }

    /// Counts a call to a control plane. `code` is the status, or why there was none.
    pub fn count_controlplane_request(&self, op: &'static str, code: String) {
        let labels = vec![Label::new("op", op), Label::new("code", code)];
        self.counter(CONTROLPLANE_REQUESTS, labels).increment(1);
    }

    /// The registry in Prometheus' text format.
    pub fn render(&self, access_lines_dropped: u64) -> String {
        self.access_lines_dropped.absolute(access_lines_dropped);
        self.handle.render()
    }

    /// Folds histogram samples into their buckets. Without a call every few seconds, samples of a
    /// gateway that nobody scrapes pile up.
    pub fn upkeep(&self) {
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
    use super::*;

    #[test]
    fn two_registries_do_not_mix_and_names_are_the_documented_ones() {
        let (one, two) = (Metrics::new(), Metrics::new());
        one.count_request(200, WakeKind::Cold, Duration::from_millis(3));
        one.count_wake(WakeOutcome::Woken, Duration::from_millis(3));
        one.count_hold(ReleaseReason::Ready, Duration::from_millis(3));
        one.count_shed(ShedReason::TotalQueue);
        one.count_controlplane_request("restore", "200".to_owned());
        one.restore_calls.increment(1);
        let text = one.render(2);
        for line in [
            "wakegate_requests_total{code=\"200\",wake=\"cold\"} 1",
            "wakegate_wakes_total{outcome=\"woken\"} 1",
            "wakegate_restore_calls_total 1",
            "wakegate_held_requests 0",
            "wakegate_upstream_connections 0",
            "wakegate_controlplane_requests_total{op=\"restore\",code=\"200\"} 1",
            "wakegate_access_lines_dropped_total 2",
            "wakegate_request_duration_seconds_bucket{le=\"0.005\"} 1",
            "wakegate_wake_duration_seconds_count{outcome=\"woken\"} 1",
            "wakegate_hold_duration_seconds_count{outcome=\"ready\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!two.render(0).contains("wakegate_restore_calls_total 1"));
    }
}
