//! Policies, which have the same shape in requests and answers.
//!
//! Guarantees: a policy that was read can be changed and sent; members that this version does not
//! know go with it.

use std::time::Duration;

use ipnet::IpNet;

use super::members::Members;
use super::object::{Writer, member, object, request};
use super::open_enum::{CompressionAlgorithm, HealthCheckKind, RestartMode};
use crate::duration::GoDuration;

/// When an idle instance is put to sleep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AutoStandbyPolicy {
    /// Whether the policy is on. A server drops the other fields of a policy that is off.
    pub enabled: bool,
    /// The time without a connection after which the instance is put to sleep; see
    /// [`Self::idle`]. An enabled policy needs it.
    pub idle_timeout: Option<GoDuration>,
    /// The ports of the instance whose connections do not count as activity.
    pub ignore_destination_ports: Vec<u16>,
    /// The networks from which connections do not count as activity.
    pub ignore_source_cidrs: Vec<IpNet>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(AutoStandbyPolicy {
    always enabled;
    optional idle_timeout;
    each ignore_destination_ports, ignore_source_cidrs;
});

/// How long an instance may be idle before it is put to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// It is never put to sleep: there is no policy, or it is off.
    Never,
    /// It is put to sleep after this time without a connection.
    After(Duration),
    /// It is put to sleep after a time that is not known: the policy is on, or what says whether it
    /// is cannot be read, and the time is absent, not positive, or no duration.
    Unreadable,
}

/// Whether there are connections that do not count as activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignores {
    /// Every connection counts.
    Nothing,
    /// Connections to some ports, or from some networks, do not count. An entry that cannot be read
    /// is one of these.
    Something,
}

/// How a snapshot's memory is compressed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compression {
    /// Whether the memory is compressed.
    pub enabled: bool,
    /// The algorithm, zstd by default.
    pub algorithm: Option<CompressionAlgorithm>,
    /// The level: 1-19 for zstd, 0-9 for lz4.
    pub level: Option<i32>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(Compression {
    required enabled;
    optional algorithm, level;
});

/// What happens to an instance's standby snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotPolicy {
    /// The compression of the memory.
    pub compression: Option<Compression>,
    /// The time between the standby and its compression.
    pub standby_compression_delay: Option<GoDuration>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(SnapshotPolicy {
    optional compression, standby_compression_delay;
});

/// How a server checks an instance's health.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthCheck {
    /// The kind of check. A server infers it when exactly one of `http`, `tcp` and `exec` is set.
    pub kind: Option<HealthCheckKind>,
    /// The time between two checks, 10 s by default.
    pub interval: Option<GoDuration>,
    /// The time that one check may take, 2 s by default.
    pub timeout: Option<GoDuration>,
    /// The time after a boot or restore in which failures do not count, 30 s by default.
    pub start_period: Option<GoDuration>,
    /// The failures in a row that make an instance unhealthy, 3 by default.
    pub failure_threshold: Option<u32>,
    /// The successes in a row that make an instance healthy, 1 by default.
    pub success_threshold: Option<u32>,
    /// A check by an HTTP request.
    pub http: Option<HttpCheck>,
    /// A check by a TCP connection.
    pub tcp: Option<TcpCheck>,
    /// A check by a command in the guest.
    pub exec: Option<ExecCheck>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(HealthCheck {
    optional kind as "type", interval, timeout, start_period, failure_threshold,
        success_threshold, http, tcp, exec;
});

/// A health check by an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpCheck {
    /// The port in the guest.
    pub port: u16,
    /// The path, `/` by default.
    pub path: Option<String>,
    /// The scheme, `http` (the default) or `https`.
    pub scheme: Option<String>,
    /// The status of a healthy answer, 200 by default.
    pub expected_status: Option<u16>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(HttpCheck {
    required port;
    optional path, scheme, expected_status;
});

/// A health check by a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TcpCheck {
    /// The port in the guest.
    pub port: u16,
    /// The members that this version does not know.
    pub other: Members,
}

object!(TcpCheck {
    required port;
});

/// A health check by a command in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecCheck {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The working directory.
    pub working_dir: Option<String>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(ExecCheck {
    required command;
    optional working_dir;
});

/// What happens when an instance's program ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestartPolicy {
    /// When the program is started again, never by default.
    pub policy: Option<RestartMode>,
    /// The time between two attempts, 5 s by default.
    pub backoff: Option<GoDuration>,
    /// The largest number of attempts; 0, the default, is no limit.
    pub max_attempts: Option<u32>,
    /// The time of running after which attempts count from zero again, 10 m by default.
    pub stable_after: Option<GoDuration>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(RestartPolicy {
    optional policy, backoff, max_attempts, stable_after;
});

// === impl AutoStandbyPolicy ===

impl AutoStandbyPolicy {
    /// Whether the policy may be on: it is, or it does not say so in a way that can be read.
    fn may_be_on(&self) -> bool {
        self.enabled || self.other.has_unreadable("enabled")
    }

    /// How long the instance may be idle before it is put to sleep.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use hypeman::wire::{AutoStandbyPolicy, Idle};
    ///
    /// let idle = |text| serde_json::from_str(text).map(|policy: AutoStandbyPolicy| policy.idle());
    /// let five = Idle::After(Duration::from_secs(300));
    /// assert_eq!(idle(r#"{"enabled":true,"idle_timeout":"5m0s"}"#)?, five);
    /// assert_eq!(idle(r#"{"enabled":true,"idle_timeout":"1d"}"#)?, Idle::Unreadable);
    /// assert_eq!(idle(r#"{"enabled":false}"#)?, Idle::Never);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn idle(&self) -> Idle {
        if !self.may_be_on() {
            return Idle::Never;
        }
        match self.idle_timeout.and_then(GoDuration::to_std) {
            Some(timeout) if self.enabled && !timeout.is_zero() => Idle::After(timeout),
            Some(_) | None => Idle::Unreadable,
        }
    }

    /// Whether there are connections that do not count as activity; never while the policy is off.
    pub fn ignores(&self) -> Ignores {
        let reads_something =
            !self.ignore_destination_ports.is_empty() || !self.ignore_source_cidrs.is_empty();
        let unreadable = ["ignore_destination_ports", "ignore_source_cidrs"];
        let has_more = || {
            unreadable
                .iter()
                .any(|name| self.other.has_unreadable(name))
        };
        match self.may_be_on() && (reads_something || has_more()) {
            true => Ignores::Something,
            false => Ignores::Nothing,
        }
    }
}
