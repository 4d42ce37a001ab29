//! What the gateway says about itself: metrics, diagnostics, access lines.
//!
//! Guarantees: every metric name and label value is spelled here and nowhere else, labels have a
//! fixed set of values (never a host name, path or instance), and nothing here blocks a request: a
//! log that cannot keep up loses lines and counts them.

mod access_log;
mod diagnostics;
mod metrics;

pub use access_log::{AccessLine, AccessSink};
pub use diagnostics::{DiagnosticsError, init_diagnostics};
pub use metrics::{Metrics, ReleaseReason, ShedReason, WakeKind, WakeOutcome};
