//! Restart policies: what is accepted, and when an ended program is started again (contract A.8,
//! B.6), as values without IO.
//!
//! Guarantees: a manual stop ends the matter; attempts are counted until the program has run for
//! `stable_after`.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use hypeman::GoDuration;

use crate::error::Error;

const SECOND: i64 = 1_000_000_000;

/// A restart policy as a caller sends it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RestartRequest {
    policy: Option<String>,
    backoff: Option<String>,
    max_attempts: Option<i64>,
    stable_after: Option<String>,
}

/// A restart policy as it is kept and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestartPolicy {
    policy: Trigger,
    backoff: GoDuration,
    max_attempts: u32,
    stable_after: GoDuration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Trigger {
    Always,
    OnFailure,
}

/// What the policy did (seed: `restart_status`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restarts {
    #[serde(default)]
    attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_attempt_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocked_reason: Option<Blocked>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_reason: Option<Reason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Blocked {
    ManualStop,
    MaxAttemptsExceeded,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reason {
    HealthCheckFailed,
}

fn invalid(text: &str) -> Error {
    Error::invalid("invalid_restart_policy", format!("restart_policy.{text}"))
}

// === impl RestartPolicy ===

impl RestartPolicy {
    /// `None` is "never".
    pub(crate) fn accept(request: &RestartRequest) -> Result<Option<Self>, Error> {
        let duration = |name: &str, text: &Option<String>, default: i64| {
            let text = text.as_ref().filter(|text| !text.is_empty());
            let parsed = text.map(|text| text.parse::<GoDuration>()).transpose();
            let nanos = parsed.map(|parsed| parsed.map_or(default, GoDuration::nanos));
            let nanos = nanos.ok().filter(|nanos| *nanos >= 0);
            nanos
                .map(GoDuration::from_nanos)
                .ok_or_else(|| invalid(&format!("{name} must be a duration that is not negative")))
        };
        let most = u32::try_from(request.max_attempts.unwrap_or(0));
        let complete = |policy| {
            Ok(Some(Self {
                policy,
                backoff: duration("backoff", &request.backoff, 5 * SECOND)?,
                max_attempts: most.map_err(|_| invalid("max_attempts must be 0 to 4294967295"))?,
                stable_after: duration("stable_after", &request.stable_after, 600 * SECOND)?,
            }))
        };
        match request.policy.as_deref() {
            None | Some("" | "never") => Ok(None),
            Some("always") => complete(Trigger::Always),
            Some("on_failure") => complete(Trigger::OnFailure),
            Some(_) => Err(invalid("policy must be never, always or on_failure")),
        }
    }
}

// === impl Restarts ===

impl Restarts {
    /// Plans a restart after the program has ended by itself, with this code if one is known.
    pub(crate) fn ended(
        &mut self,
        policy: Option<&RestartPolicy>,
        code: Option<i32>,
        now: Timestamp,
    ) {
        self.last_reason = None;
        self.plan(
            policy.filter(|policy| policy.policy == Trigger::Always || code != Some(0)),
            now,
        );
    }

    /// Plans a restart after health checks failed and the program was stopped for that.
    pub(crate) fn unhealthy(&mut self, policy: &RestartPolicy, now: Timestamp) {
        self.last_reason = Some(Reason::HealthCheckFailed);
        self.plan(Some(policy), now);
    }

    fn plan(&mut self, policy: Option<&RestartPolicy>, now: Timestamp) {
        let Some(policy) = policy else {
            self.next_attempt_at = None;
            return;
        };
        if policy.max_attempts > 0 && self.attempts >= policy.max_attempts {
            self.blocked_reason = Some(Blocked::MaxAttemptsExceeded);
            self.next_attempt_at = None;
        } else {
            let pause = SignedDuration::from_nanos(policy.backoff.nanos());
            self.next_attempt_at = now.checked_add(pause).ok();
        }
    }

    /// Plans nothing any more: somebody stopped the program.
    pub(crate) fn stopped_by_hand(&mut self) {
        self.next_attempt_at = None;
        self.blocked_reason = Some(Blocked::ManualStop);
    }

    /// Begins anew: somebody started the program, or gave it another policy.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether another attempt is to come, now or later.
    pub(crate) fn is_pending(&self) -> bool {
        self.next_attempt_at.is_some()
    }

    /// Whether the program is to be started now.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.next_attempt_at.is_some_and(|at| at <= now)
    }

    /// Counts an attempt: the program is being started.
    pub(crate) fn attempt(&mut self, now: Timestamp) {
        self.attempts = self.attempts.saturating_add(1);
        self.last_attempt_at = Some(now);
        self.next_attempt_at = None;
    }

    /// Forgets earlier attempts when the program has run for long enough, and says whether it has.
    pub(crate) fn settle(
        &mut self,
        policy: &RestartPolicy,
        since: Timestamp,
        now: Timestamp,
    ) -> bool {
        let stable = SignedDuration::from_nanos(policy.stable_after.nanos());
        let settled = self.attempts > 0 && now.duration_since(since) >= stable;
        if settled {
            self.attempts = 0;
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn accept(policy: Value) -> Result<Option<RestartPolicy>, Error> {
        RestartPolicy::accept(&serde_json::from_value(policy).unwrap())
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_policy_is_kept_with_its_defaults_and_never_is_none() {
        let policy = accept(json!({ "policy": "always" })).unwrap().unwrap();
        assert_eq!(
            serde_json::to_value(&policy).unwrap(),
            json!({ "policy": "always", "backoff": "5s", "max_attempts": 0, "stable_after": "10m0s" })
        );
        assert_eq!(accept(json!({})).unwrap(), None);
        assert_eq!(
            accept(json!({ "policy": "never", "backoff": "1s" })).unwrap(),
            None
        );
        for bad in [
            json!({ "policy": "sometimes" }),
            json!({ "policy": "always", "backoff": "-1s" }),
            json!({ "policy": "always", "max_attempts": -1 }),
            json!({ "policy": "on_failure", "stable_after": "soon" }),
        ] {
            assert!(accept(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_failures_are_restarted_when_the_policy_says_so() {
        let policy = accept(json!({ "policy": "on_failure", "backoff": "2s" })).unwrap();
        let mut restarts = Restarts::default();
        restarts.ended(policy.as_ref(), Some(0), at(0));
        assert!(!restarts.is_due(at(100)));
        for code in [Some(7), Some(137), None] {
            restarts.ended(policy.as_ref(), code, at(0));
            assert!(
                !restarts.is_due(at(1)) && restarts.is_due(at(2)),
                "{code:?}"
            );
        }
        restarts.ended(None, Some(7), at(0));
        assert!(!restarts.is_due(at(100)), "without a policy");
    }

    #[test]
    fn attempts_end_at_their_limit_and_are_forgotten_after_a_stable_run() {
        let policy =
            json!({ "policy": "always", "backoff": "0s", "max_attempts": 2, "stable_after": "1m" });
        let policy = accept(policy).unwrap().unwrap();
        let mut restarts = Restarts::default();
        for second in [0, 1] {
            restarts.ended(Some(&policy), Some(0), at(second));
            assert!(restarts.is_due(at(second)));
            restarts.attempt(at(second));
            assert!(!restarts.is_due(at(second)), "it has begun");
        }
        let mut stable = restarts.clone();
        restarts.ended(Some(&policy), Some(0), at(2));
        assert!(!restarts.is_due(at(1000)));
        assert_eq!(restarts.blocked_reason, Some(Blocked::MaxAttemptsExceeded));
        assert!(!stable.settle(&policy, at(1), at(60)));
        assert!(stable.settle(&policy, at(1), at(61)));
        stable.ended(Some(&policy), Some(0), at(62));
        assert!(stable.is_due(at(62)));
        stable.stopped_by_hand();
        assert!(!stable.is_due(at(1000)));
    }
}
