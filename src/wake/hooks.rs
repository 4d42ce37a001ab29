//! Hooks: requests that the gateway makes to a workload itself.
//!
//! Guarantees: a hook that hangs costs its timeout and nothing else; each call is counted; what a
//! hook answers fails no request.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::dialer::Dialer;
use crate::instance_tls::TlsHop;
use crate::telemetry::Metrics;

/// How long the instance has slept, in milliseconds.
const SLEPT: &str = "x-wakegate-slept-ms";
/// The time of day, since a guest's clock has stood still.
const TIME: &str = "x-wakegate-time";

/// A hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// The instance has been woken, after so long if that is known.
    Resumed(Option<Duration>),
    /// The gateway is about to put it to sleep.
    BeforeStandby,
}

/// What the workload has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookOutcome {
    /// It has taken note.
    Ok,
    /// It wants to go on, for this long if it says so.
    Refused(Option<Duration>),
    /// It could not be reached, or failed.
    Failed,
    /// It did not answer in time.
    TimedOut,
}

/// Calls a hook, over TLS or in clear.
pub async fn call_hook<R: Dialer>(
    dialer: &R,
    (address, path, tls): (SocketAddr, &str, Option<&TlsHop>),
    hook: Hook,
    limit: Duration,
    metrics: &Metrics,
) -> HookOutcome {
    let mut fields = vec![(TIME, format!("{:.3}", jiff::Timestamp::now()))];
    if let Hook::Resumed(Some(slept)) = hook {
        fields.push((SLEPT, slept.as_millis().to_string()));
    }
    let outcome = match timeout(limit, dialer.post(address, path, tls, &fields)).await {
        Ok(Ok(answered)) => match answered.status {
            200..=299 => HookOutcome::Ok,
            409 => HookOutcome::Refused(answered.retry_after),
            _ => HookOutcome::Failed,
        },
        Ok(Err(_)) => HookOutcome::Failed,
        Err(_) => HookOutcome::TimedOut,
    };
    metrics.count_hook(hook.as_str(), outcome.as_str());
    outcome
}

// === impl Hook ===

impl Hook {
    /// The metric's label.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Resumed(_) => "resumed",
            Self::BeforeStandby => "before_standby",
        }
    }
}

// === impl HookOutcome ===

impl HookOutcome {
    /// The metric's label.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused(_) => "refused",
            Self::Failed => "failed",
            Self::TimedOut => "timeout",
        }
    }
}
