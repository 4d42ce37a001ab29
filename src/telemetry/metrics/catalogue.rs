//! Every metric's name, kind and help text.
//!
//! Guarantees: what is not in [`ALL`] is not served; names follow Prometheus' conventions (a base
//! unit, `_total` for counters), which `promtool check metrics` confirms in a test.

use std::fmt::Write as _;

use metrics::{KeyName, Recorder as _, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

pub(super) const REQUESTS: &str = "wakegate_requests_total";
pub(super) const REQUEST_DURATION: &str = "wakegate_request_duration_seconds";
pub(super) const RECEIVED_BYTES: &str = "wakegate_request_body_bytes_total";
pub(super) const SENT_BYTES: &str = "wakegate_response_body_bytes_total";
pub(super) const ERRORS: &str = "wakegate_errors_total";
pub(super) const ROUTE_REQUESTS: &str = "wakegate_route_requests_total";
pub(super) const ROUTE_REQUEST_DURATION: &str = "wakegate_route_request_duration_seconds";
pub(super) const LEASE_CHECKS: &str = "wakegate_lease_checks_total";
pub(super) const WAKES: &str = "wakegate_wakes_total";
pub(super) const WAKE_FAILURES: &str = "wakegate_wake_failures_total";
pub(super) const WAKE_DURATION: &str = "wakegate_wake_duration_seconds";
pub(super) const WAKE_PHASE: &str = "wakegate_wake_phase_duration_seconds";
pub(super) const RESTORE_CALLS: &str = "wakegate_restore_calls_total";
pub(super) const RESTORES_IN_FLIGHT: &str = "wakegate_restores_in_flight";
pub(super) const RESTORES_QUEUED: &str = "wakegate_restores_queued";
pub(super) const BOOTS: &str = "wakegate_boots_total";
pub(super) const BREAKER_OPENINGS: &str = "wakegate_breaker_openings_total";
pub(super) const BREAKERS_OPEN: &str = "wakegate_breakers_open";
pub(super) const INSTANCES: &str = "wakegate_instances";
pub(super) const HELD_REQUESTS: &str = "wakegate_held_requests";
pub(super) const INFLIGHT_REQUESTS: &str = "wakegate_inflight_requests";
pub(super) const HOLD_DURATION: &str = "wakegate_hold_duration_seconds";
pub(super) const SHED: &str = "wakegate_shed_total";
pub(super) const WAKE_REFUSALS: &str = "wakegate_wake_refusals_total";
pub(super) const THRASH: &str = "wakegate_wake_thrash_total";
pub(super) const UPSTREAM_CONNECTIONS: &str = "wakegate_upstream_connections";
pub(super) const UPSTREAM_IDLE: &str = "wakegate_upstream_idle_connections";
pub(super) const UPSTREAM_CONNECTS: &str = "wakegate_upstream_connects_total";
pub(super) const UPSTREAM_REQUESTS: &str = "wakegate_upstream_requests_total";
pub(super) const PEER_REQUESTS: &str = "wakegate_peer_requests_total";
pub(super) const UPSTREAM_RETRIES: &str = "wakegate_upstream_retries_total";
pub(super) const DOWNSTREAM_CONNECTIONS: &str = "wakegate_downstream_connections";
pub(super) const LISTENER_CONNECTIONS: &str = "wakegate_listener_connections";
pub(super) const LISTENER_ACCEPTED: &str = "wakegate_listener_accepted_total";
pub(super) const REFUSED_CONNECTIONS: &str = "wakegate_refused_connections_total";
pub(super) const BUFFERED_BYTES: &str = "wakegate_buffered_bytes";
pub(super) const MEMORY_REFUSALS: &str = "wakegate_memory_refusals_total";
pub(super) const HOOKS: &str = "wakegate_hooks_total";
pub(super) const WORKLOAD_HOLDS: &str = "wakegate_workload_holds";
pub(super) const WORKLOAD_REQUESTS: &str = "wakegate_workload_requests_total";
pub(super) const RAW_CONNECTIONS: &str = "wakegate_raw_connections_total";
pub(super) const TUNNELS: &str = "wakegate_tunnels";
pub(super) const TUNNELS_ENDED: &str = "wakegate_tunnels_ended_total";
pub(super) const TUNNEL_PARKS: &str = "wakegate_tunnel_parks_total";
pub(super) const TUNNEL_UNPARKS: &str = "wakegate_tunnel_unparks_total";
pub(super) const UPSTREAM_TLS_HANDSHAKES: &str = "wakegate_upstream_tls_handshakes_total";
pub(super) const ACME_ORDERS: &str = "wakegate_acme_orders_total";
pub(super) const TLS_HANDSHAKES: &str = "wakegate_tls_handshakes_total";
pub(super) const TLS_HANDSHAKE_DURATION: &str = "wakegate_tls_handshake_duration_seconds";
pub(super) const TLS_NOT_AFTER: &str = "wakegate_tls_certificate_not_after_timestamp_seconds";
pub(super) const CONTROLPLANE_REQUESTS: &str = "wakegate_controlplane_requests_total";
pub(super) const CONTROLPLANE_DURATION: &str = "wakegate_controlplane_request_duration_seconds";
pub(super) const CONTROLPLANE_UP: &str = "wakegate_controlplane_up";
pub(super) const RELOADS: &str = "wakegate_config_reloads_total";
pub(super) const LAST_RELOAD: &str = "wakegate_config_last_reload_success_timestamp_seconds";
pub(super) const DRAINING: &str = "wakegate_draining";
pub(super) const FLEET_REVISION: &str = "wakegate_fleet_revision";
pub(super) const FLEET_AGE: &str = "wakegate_fleet_age_seconds";
pub(super) const FLEET_MEMBERS: &str = "wakegate_fleet_members";
pub(super) const FLEET_HELD: &str = "wakegate_fleet_routes_held";
pub(super) const FLEET_UNLISTED: &str = "wakegate_fleet_unlisted";
pub(super) const FLEET_TWICE: &str = "wakegate_fleet_names_claimed_twice";
pub(super) const FLEET_PROBLEMS: &str = "wakegate_fleet_problems";
pub(super) const BUILD_INFO: &str = "wakegate_build_info";
pub(super) const SPANS: &str = "wakegate_spans_exported_total";
pub(super) const ACCESS_LINES_DROPPED: &str = "wakegate_access_lines_dropped_total";
pub(super) const LOG_LINES_DROPPED: &str = "wakegate_log_lines_dropped_total";
pub(super) const PANICS: &str = "wakegate_panics_total";

/// Seconds, from a warm loopback request to a cold boot.
pub(super) const BUCKETS: [f64; 16] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// Name, kind, help.
const ALL: &[(&str, Kind, &str)] = &[
    (
        REQUESTS,
        Counter,
        "Responses by status code and by how the request met a wake",
    ),
    (
        REQUEST_DURATION,
        Histogram,
        "From a request's head to its response's last byte",
    ),
    (
        RECEIVED_BYTES,
        Counter,
        "Bytes from clients: bodies, tunnels and raw connections",
    ),
    (
        SENT_BYTES,
        Counter,
        "Bytes to clients: bodies, tunnels and raw connections",
    ),
    (
        ERRORS,
        Counter,
        "Responses that the gateway made itself instead of an instance, by their stable code",
    ),
    (
        ROUTE_REQUESTS,
        Counter,
        "Responses by route and class of status",
    ),
    (
        ROUTE_REQUEST_DURATION,
        Histogram,
        "From a request's head to its response's last byte, by route",
    ),
    (
        LEASE_CHECKS,
        Counter,
        "Requests that found the lease in force (hit), or had to ask or wake (miss)",
    ),
    (WAKES, Counter, "Finished wakes by outcome"),
    (
        WAKE_FAILURES,
        Counter,
        "Wakes that failed or timed out, by the code that their clients got",
    ),
    (
        WAKE_DURATION,
        Histogram,
        "From a wake's first request to the instance being ready or given up",
    ),
    (
        WAKE_PHASE,
        Histogram,
        "How long successful wakes stayed in each phase, and their requests in the last, release",
    ),
    (
        RESTORE_CALLS,
        Counter,
        "Restore calls made to control planes",
    ),
    (
        RESTORES_IN_FLIGHT,
        Gauge,
        "Restores and starts that control planes are busy with",
    ),
    (
        RESTORES_QUEUED,
        Gauge,
        "Restores and starts that wait for their control plane's turn",
    ),
    (
        BOOTS,
        Counter,
        "Wakes that booted an instance instead of restoring its memory",
    ),
    (
        BREAKER_OPENINGS,
        Counter,
        "Times that an instance's breaker opened or stayed open after a failed wake",
    ),
    (BREAKERS_OPEN, Gauge, "Instances whose breaker is open"),
    (
        INSTANCES,
        Gauge,
        "Instances that requests have asked for, by what is known of them",
    ),
    (
        HELD_REQUESTS,
        Gauge,
        "Requests waiting, for a wake or for their turn",
    ),
    (INFLIGHT_REQUESTS, Gauge, "Requests at instances"),
    (
        HOLD_DURATION,
        Histogram,
        "How long requests were held, by how the wait ended",
    ),
    (SHED, Counter, "Requests refused instead of held, by reason"),
    (
        WAKE_REFUSALS,
        Counter,
        "Requests that were not allowed to wake their instance, by rule",
    ),
    (
        THRASH,
        Counter,
        "Times that an instance was woken so often in a minute that it counts as thrash",
    ),
    (UPSTREAM_CONNECTIONS, Gauge, "Open connections to instances"),
    (
        UPSTREAM_IDLE,
        Gauge,
        "Connections to instances that wait in a pool for a request",
    ),
    (
        UPSTREAM_CONNECTS,
        Counter,
        "Connections dialled to instances by outcome",
    ),
    (
        UPSTREAM_REQUESTS,
        Counter,
        "Requests sent to instances by the connection that took them",
    ),
    (
        UPSTREAM_RETRIES,
        Counter,
        "Requests sent to an instance a second time",
    ),
    (
        DOWNSTREAM_CONNECTIONS,
        Gauge,
        "Open connections from clients",
    ),
    (
        LISTENER_CONNECTIONS,
        Gauge,
        "Open connections from clients by listener",
    ),
    (
        LISTENER_ACCEPTED,
        Counter,
        "Connections accepted by listener",
    ),
    (
        REFUSED_CONNECTIONS,
        Counter,
        "Connections from clients that had as many as they may have",
    ),
    (
        BUFFERED_BYTES,
        Gauge,
        "Bytes of heads and bodies in memory that count towards server.max_buffered_bytes",
    ),
    (
        MEMORY_REFUSALS,
        Counter,
        "Requests and streams refused because of what their client had in memory",
    ),
    (
        PEER_REQUESTS,
        Counter,
        "Requests sent to other members of the fleet by how they ended",
    ),
    (
        HOOKS,
        Counter,
        "Calls of workloads' hooks, by hook and by how they ended",
    ),
    (
        WORKLOAD_HOLDS,
        Gauge,
        "Holds by which workloads keep their instances awake",
    ),
    (
        WORKLOAD_REQUESTS,
        Counter,
        "Requests at the workloads' door, by how they ended",
    ),
    (
        RAW_CONNECTIONS,
        Counter,
        "Connections passed on as they are, by kind and by how they began",
    ),
    (TUNNELS, Gauge, "Upgraded and raw connections by state"),
    (
        TUNNEL_PARKS,
        Counter,
        "Tunnels that were parked or had no place, and instances that were put to sleep with theirs",
    ),
    (
        TUNNEL_UNPARKS,
        Counter,
        "Parked tunnels that went on or ended, by the cause",
    ),
    (
        TUNNELS_ENDED,
        Counter,
        "Upgraded and raw connections that have ended, by who ended them",
    ),
    (
        UPSTREAM_TLS_HANDSHAKES,
        Counter,
        "TLS handshakes with instances by outcome",
    ),
    (
        ACME_ORDERS,
        Counter,
        "Orders of certificates by ACME, by outcome",
    ),
    (
        TLS_HANDSHAKES,
        Counter,
        "TLS handshakes with clients by outcome",
    ),
    (
        TLS_HANDSHAKE_DURATION,
        Histogram,
        "How long TLS handshakes with clients took",
    ),
    (
        TLS_NOT_AFTER,
        Gauge,
        "When the first of a listener's certificates expires",
    ),
    (
        CONTROLPLANE_REQUESTS,
        Counter,
        "Calls to control planes by operation and status code",
    ),
    (
        CONTROLPLANE_DURATION,
        Histogram,
        "How long calls to control planes took by operation",
    ),
    (
        CONTROLPLANE_UP,
        Gauge,
        "Whether a control plane answered when it was last asked for its instances",
    ),
    (
        RELOADS,
        Counter,
        "Attempts to load the configuration again by outcome",
    ),
    (
        LAST_RELOAD,
        Gauge,
        "When the configuration in force was loaded",
    ),
    (DRAINING, Gauge, "Whether the gateway is draining"),
    (
        FLEET_REVISION,
        Gauge,
        "The revision of the fleet's directory that is in force",
    ),
    (
        FLEET_AGE,
        Gauge,
        "For how long the fleet's directory has not answered",
    ),
    (
        FLEET_MEMBERS,
        Gauge,
        "Members of the fleet whose records live",
    ),
    (
        FLEET_HELD,
        Gauge,
        "Routes that are gone from the fleet's directory and stay in force until that is accepted",
    ),
    (
        FLEET_UNLISTED,
        Gauge,
        "What this node has published and its host's list lacks, which stays until that is confirmed or accepted",
    ),
    (
        FLEET_TWICE,
        Gauge,
        "Names of instances that several hosts of the fleet claim",
    ),
    (
        FLEET_PROBLEMS,
        Gauge,
        "Keys of the fleet's directory that are not in force as they are",
    ),
    (BUILD_INFO, Gauge, "Which version this is; always 1"),
    (
        SPANS,
        Counter,
        "Spans given to the collector of traces by outcome",
    ),
    (
        ACCESS_LINES_DROPPED,
        Counter,
        "Access lines lost because their reader was too slow",
    ),
    (
        LOG_LINES_DROPPED,
        Counter,
        "Diagnostic lines lost because their reader was too slow",
    ),
    (
        PANICS,
        Counter,
        "Tasks that a fault of the gateway has ended",
    ),
];

/// Begins a metric that is written elsewhere than in the registry, with its help and its type.
pub(super) fn heading(text: &mut String, name: &str) {
    for (_, kind, help) in ALL.iter().filter(|(other, ..)| *other == name) {
        let kind = match kind {
            Counter => "counter",
            Gauge => "gauge",
            Histogram => "histogram",
        };
        // Writing to a String cannot fail.
        let _written = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }
}

/// A registry in which everything is described.
pub(super) fn recorder() -> PrometheusRecorder {
    let matcher = Matcher::Suffix("_seconds".to_owned());
    // The only error is an empty list of buckets.
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(matcher, &BUCKETS)
        .unwrap_or_else(|_| PrometheusBuilder::new());
    let recorder = builder.build_recorder();
    for (name, kind, help) in ALL {
        let (name, help) = (KeyName::from(*name), (*help).into());
        match kind {
            Counter => recorder.describe_counter(name, None, help),
            Gauge => recorder.describe_gauge(name, None, help),
            Histogram => recorder.describe_histogram(name, Some(Unit::Seconds), help),
        }
    }
    recorder
}
