//! Health checks: what is accepted, and what a row of results makes of an instance (contract A.8,
//! B.6), as values without IO.
//!
//! Guarantees: a kept check is complete, with every default written out; failures in the start
//! period make nobody unhealthy; a start or a restore begins a new start period.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use hypeman::GoDuration;

use crate::error::Error;
use crate::scalars::are_words;
use crate::state::State;

const SECOND: i64 = 1_000_000_000;
/// The longest error that is shown.
const LONGEST_ERROR: usize = 512;

/// A health check as a caller sends it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HealthCheckRequest {
    r#type: Option<String>,
    interval: Option<String>,
    timeout: Option<String>,
    start_period: Option<String>,
    failure_threshold: Option<i64>,
    success_threshold: Option<i64>,
    http: Option<HttpRequest>,
    tcp: Option<TcpRequest>,
    exec: Option<ExecCheck>,
}

#[derive(Debug, Clone, Deserialize)]
struct HttpRequest {
    port: i64,
    path: Option<String>,
    scheme: Option<String>,
    expected_status: Option<i64>,
}

#[derive(Debug, Clone, Deserialize)]
struct TcpRequest {
    port: i64,
}

/// A health check as it is kept and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HealthCheck {
    r#type: String,
    pub(crate) interval: GoDuration,
    pub(crate) timeout: GoDuration,
    start_period: GoDuration,
    failure_threshold: u32,
    success_threshold: u32,
    #[serde(flatten)]
    pub(crate) probe: Probe,
}

/// What a check does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Probe {
    /// It sends an HTTP request.
    Http(HttpCheck),
    /// It opens a connection.
    Tcp(TcpCheck),
    /// It runs a command beside the program.
    Exec(ExecCheck),
}

/// It sends an HTTP request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HttpCheck {
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) scheme: String,
    pub(crate) expected_status: u16,
}

/// It opens a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TcpCheck {
    pub(crate) port: u16,
}

/// A command that is to end with 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExecCheck {
    pub(crate) command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) working_dir: Option<String>,
}

/// The results so far (seed: `health_status`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Health {
    consecutive_successes: u64,
    consecutive_failures: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_checked_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_success_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    #[serde(skip)]
    verdict: Verdict,
    /// The beginning of the start period.
    #[serde(skip)]
    since: Option<Timestamp>,
    /// Whether a check is under way.
    #[serde(skip)]
    pub(crate) checking: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Verdict {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

/// The ways into an instance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    /// Whether it has a network.
    pub(crate) network: bool,
    /// Whether commands can be run beside its program.
    pub(crate) agent: bool,
}

fn nanos(name: &str, text: Option<&String>, default: i64) -> Result<i64, Error> {
    let bad = || invalid(&format!("{name} is not a duration"));
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(default);
    };
    text.parse::<GoDuration>()
        .map(GoDuration::nanos)
        .map_err(|_| bad())
}

fn invalid(text: &str) -> Error {
    Error::invalid("invalid_health_check", format!("health_check.{text}"))
}

fn port(number: i64) -> Result<u16, Error> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    port.ok_or_else(|| invalid("port must be 1 to 65535"))
}

// === impl HealthCheck ===

impl HealthCheck {
    /// `None` is "no check", which `type: none` asks for.
    pub(crate) fn accept(
        request: HealthCheckRequest,
        access: Access,
    ) -> Result<Option<Self>, Error> {
        let HealthCheckRequest {
            r#type,
            interval,
            timeout,
            start_period,
            failure_threshold,
            success_threshold,
            http,
            tcp,
            exec,
        } = request;
        let sections = [
            ("http", http.is_some()),
            ("tcp", tcp.is_some()),
            ("exec", exec.is_some()),
        ];
        let mut names = sections.iter().filter(|(_, is_given)| *is_given);
        let only = match (names.next(), names.next()) {
            (None, _) => None,
            (Some((name, _)), None) => Some(*name),
            (Some(_), Some(_)) => {
                return Err(invalid("only one of http, tcp and exec may be given"));
            }
        };
        let kind = r#type.filter(|text| !text.is_empty());
        let kind = match (kind.as_deref(), only) {
            (Some("none"), _) => return Ok(None),
            (None, None) => return Err(invalid("type is required")),
            (Some(kind), Some(only)) if kind != only => {
                return Err(invalid(&format!("{only} does not go with type {kind}")));
            }
            (Some(kind), _) => kind.to_owned(),
            (None, Some(only)) => only.to_owned(),
        };
        let probe = match (kind.as_str(), http, tcp, exec) {
            ("http", Some(http), ..) => Probe::Http(accept_http(http)?),
            ("tcp", _, Some(tcp), _) => Probe::Tcp(TcpCheck {
                port: port(tcp.port)?,
            }),
            ("exec", _, _, Some(exec)) => {
                if exec.command.first().is_none_or(String::is_empty) {
                    return Err(invalid("exec.command is required"));
                }
                if !are_words(exec.command.iter().chain(&exec.working_dir)) {
                    let text = "exec.command and exec.working_dir must not contain a NUL";
                    return Err(invalid(text));
                }
                Probe::Exec(exec)
            }
            ("http" | "tcp" | "exec", ..) => {
                return Err(invalid(&format!("{kind} is required with type {kind}")));
            }
            _ => return Err(invalid("type must be none, http, tcp or exec")),
        };
        let (way, is_there) = match &probe {
            Probe::Http(_) | Probe::Tcp(_) => ("a network", access.network),
            Probe::Exec(_) => ("the guest agent, which is skipped", access.agent),
        };
        if !is_there {
            return Err(invalid(&format!("type {kind} needs {way}")));
        }
        let interval = nanos("interval", interval.as_ref(), 10 * SECOND)?;
        let timeout = nanos("timeout", timeout.as_ref(), 2 * SECOND)?;
        let start_period = nanos("start_period", start_period.as_ref(), 30 * SECOND)?;
        if interval <= 0 || timeout <= 0 || timeout > interval || start_period < 0 {
            let text = "interval and timeout must be positive, timeout at most interval, \
                        start_period not negative";
            return Err(invalid(text));
        }
        let threshold = |name: &str, number: Option<i64>, default: u32| {
            let number = number.map_or(Some(default), |number| u32::try_from(number).ok());
            let number = number.filter(|number| *number >= 1);
            number.ok_or_else(|| invalid(&format!("{name} must be at least 1")))
        };
        Ok(Some(Self {
            r#type: kind,
            interval: GoDuration::from_nanos(interval),
            timeout: GoDuration::from_nanos(timeout),
            start_period: GoDuration::from_nanos(start_period),
            failure_threshold: threshold("failure_threshold", failure_threshold, 3)?,
            success_threshold: threshold("success_threshold", success_threshold, 1)?,
            probe,
        }))
    }
}

fn accept_http(request: HttpRequest) -> Result<HttpCheck, Error> {
    let path = request.path.filter(|path| !path.is_empty());
    let path = path.unwrap_or_else(|| "/".to_owned());
    let scheme = request.scheme.filter(|scheme| !scheme.is_empty());
    let scheme = scheme.unwrap_or_else(|| "http".to_owned());
    if !path.starts_with('/') || !matches!(scheme.as_str(), "http" | "https") {
        return Err(invalid(
            "http.path must begin with /, http.scheme be http or https",
        ));
    }
    let status = u16::try_from(request.expected_status.unwrap_or(200)).ok();
    let status = status.filter(|status| (100..=599).contains(status));
    Ok(HttpCheck {
        port: port(request.port)?,
        path,
        scheme,
        expected_status: status
            .ok_or_else(|| invalid("http.expected_status must be 100 to 599"))?,
    })
}

// === impl Health ===

impl Health {
    /// Begins anew: the instance was started or restored.
    pub(crate) fn restart(&mut self, now: Timestamp) {
        *self = Self {
            since: Some(now),
            ..Self::default()
        };
    }

    /// Whether the next check is due.
    pub(crate) fn is_due(&self, check: &HealthCheck, now: Timestamp) -> bool {
        let pause = SignedDuration::from_nanos(check.interval.nanos());
        // The first one comes at once, so that a good instance is soon known to be.
        !self.checking
            && self
                .last_checked_at
                .is_none_or(|last| now.duration_since(last) >= pause)
    }

    /// Takes a result in, and says whether it has just made the instance unhealthy.
    pub(crate) fn observe(
        &mut self,
        check: &HealthCheck,
        result: Result<(), String>,
        now: Timestamp,
    ) -> bool {
        self.checking = false;
        self.last_checked_at = Some(now);
        match result {
            Ok(()) => {
                self.consecutive_successes += 1;
                self.consecutive_failures = 0;
                self.last_success_at = Some(now);
                self.last_error = None;
                if self.consecutive_successes >= u64::from(check.success_threshold) {
                    self.verdict = Verdict::Healthy;
                }
                false
            }
            Err(error) => {
                self.consecutive_successes = 0;
                self.consecutive_failures += 1;
                self.last_failure_at = Some(now);
                self.last_error = Some(error.chars().take(LONGEST_ERROR).collect());
                let period = SignedDuration::from_nanos(check.start_period.nanos());
                let early = self.verdict == Verdict::Starting
                    && self
                        .since
                        .is_some_and(|since| now.duration_since(since) < period);
                let enough = self.consecutive_failures >= u64::from(check.failure_threshold);
                let is_newly_unhealthy = enough && !early && self.verdict != Verdict::Unhealthy;
                if is_newly_unhealthy {
                    self.verdict = Verdict::Unhealthy;
                }
                is_newly_unhealthy
            }
        }
    }

    /// The status in one word; health is apart from state.
    pub(crate) fn status(&self, check: Option<&HealthCheck>, state: State) -> &'static str {
        match (check, state) {
            (None, _) => "disabled",
            (_, State::Initializing) => "starting",
            (_, State::Running) => match self.verdict {
                Verdict::Starting => "starting",
                Verdict::Healthy => "healthy",
                Verdict::Unhealthy => "unhealthy",
            },
            _ => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn accept(check: Value) -> Result<Option<HealthCheck>, Error> {
        let everything = Access {
            network: true,
            agent: true,
        };
        HealthCheck::accept(serde_json::from_value(check).unwrap(), everything)
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_check_is_kept_with_its_defaults() {
        let check = accept(json!({ "http": { "port": 80 } })).unwrap().unwrap();
        let kept = serde_json::to_value(&check).unwrap();
        assert_eq!(
            kept,
            json!({
                "type": "http", "interval": "10s", "timeout": "2s", "start_period": "30s",
                "failure_threshold": 3, "success_threshold": 1,
                "http": { "port": 80, "path": "/", "scheme": "http", "expected_status": 200 },
            })
        );
        assert_eq!(serde_json::from_value::<HealthCheck>(kept).unwrap(), check);
        assert_eq!(accept(json!({ "type": "none" })).unwrap(), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            json!({}),
            json!({ "type": "ping" }),
            json!({ "type": "http" }),
            json!({ "type": "tcp", "http": { "port": 80 } }),
            json!({ "tcp": { "port": 80 }, "http": { "port": 80 } }),
            json!({ "tcp": { "port": 0 } }),
            json!({ "tcp": { "port": 80 }, "interval": "1s", "timeout": "2s" }),
            json!({ "tcp": { "port": 80 }, "interval": "0s" }),
            json!({ "tcp": { "port": 80 }, "failure_threshold": 0 }),
            json!({ "exec": { "command": [] } }),
            json!({ "exec": { "command": ["true\0"] } }),
            json!({ "exec": { "command": ["true"], "working_dir": "/\0" } }),
            json!({ "http": { "port": 80, "scheme": "gopher" } }),
        ] {
            assert!(accept(bad.clone()).is_err(), "{bad}");
        }
        let (tcp, exec) = (json!({ "port": 80 }), json!({ "command": ["true"] }));
        for (check, network, agent) in [
            (json!({ "tcp": tcp }), false, true),
            (json!({ "http": tcp }), false, true),
            (json!({ "exec": exec }), true, false),
        ] {
            let request = serde_json::from_value(check.clone()).unwrap();
            let refused = HealthCheck::accept(request, Access { network, agent });
            assert_eq!(
                refused.unwrap_err().code(),
                "invalid_health_check",
                "{check}"
            );
        }
    }

    #[test]
    fn failures_in_the_start_period_make_nobody_unhealthy() {
        let check = json!({ "tcp": { "port": 80 }, "start_period": "10s", "failure_threshold": 2 });
        let check = accept(check).unwrap().unwrap();
        let (mut health, failure) = (Health::default(), || Err("refused".to_owned()));
        health.restart(at(0));
        for second in 0..9 {
            assert!(!health.observe(&check, failure(), at(second)));
            assert_eq!(health.status(Some(&check), State::Running), "starting");
        }
        assert!(health.observe(&check, failure(), at(11)), "now it counts");
        assert_eq!(health.status(Some(&check), State::Running), "unhealthy");
        assert!(
            !health.observe(&check, failure(), at(12)),
            "it is told once"
        );
        assert_eq!(health.status(Some(&check), State::Standby), "unknown");
        assert!(!health.observe(&check, Ok(()), at(13)));
        assert_eq!(health.status(Some(&check), State::Running), "healthy");
        assert!(!health.observe(&check, failure(), at(14)), "one is not two");
        assert!(
            health.observe(&check, failure(), at(15)),
            "no start period any more"
        );
        health.restart(at(20));
        assert_eq!(health.status(Some(&check), State::Running), "starting");
    }
}
