//! What the gateway says about itself: metrics, diagnostics, access lines, traces.
//!
//! Guarantees: every metric name and label value is spelled here and nowhere else, labels have a
//! bounded set of values (routes, listeners and control planes as configured; never a host name,
//! path or instance of a request), and nothing here blocks a request: a log or a collector that
//! cannot keep up loses lines or spans, which are counted.

mod access_log;
mod diagnostics;
mod escape;
mod metrics;
mod panics;
mod traces;
mod user_agent;

pub use access_log::{AccessLine, AccessSink};
pub use diagnostics::{Diagnostics, DiagnosticsError, init_diagnostics};
pub use escape::{is_invisible, visible};
pub use metrics::{
    ConnectOutcome, Counted, DoorOutcome, FleetReadings, HandshakeOutcome, InstanceCondition,
    LeaseCheck, ListenerMetrics, Metrics, OrderOutcome, ParkOutcome, PeerOutcome, Readings,
    ReleaseReason, ReloadOutcome, RouteMetrics, ShedReason, TunnelEnd, TunnelState, UnparkCause,
    UpstreamUse, WakeKind, WakeOutcome, WakePhase, known_code,
};
pub use traces::{Attribute, Trace, TraceParent, Tracer, TracerError, trace_id_of};
pub use user_agent::agent_text;
