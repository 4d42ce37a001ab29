//! The countdown until an idle instance is put to sleep (contract B.5), as a value without IO.
//!
//! Guarantees: time is an argument; a connection stops the countdown, its end begins it anew; time
//! in which the policy did not apply, or nobody could count, is not idle time; a hold moves the
//! deadline and cancels a standby that has not begun. The status' words and their order of
//! precedence are the contract's.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use hypeman::GoDuration;

use super::auto_standby::Policy;
use crate::state::State;

/// Where an instance stands in its countdown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Countdown {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) idle_since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_activity: Option<Timestamp>,
    /// The end of a hold; in memory only, so that a restart of the server forgets it.
    #[serde(skip)]
    pub(crate) hold_until: Option<Timestamp>,
    /// Whether a standby is queued or executing.
    #[serde(skip)]
    pub(crate) requested: bool,
    /// The number of connections that counted at the last look.
    #[serde(skip)]
    pub(crate) active: u64,
    /// Whether its connections could not be counted at the last look.
    #[serde(skip)]
    unseen: bool,
}

/// What decides whether the policy applies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Circumstances {
    pub(crate) state: State,
    pub(crate) network_enabled: bool,
    pub(crate) has_ip: bool,
}

/// The status as the API shows it (seed: `AutoStandbyStatus`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StatusView {
    supported: bool,
    configured: bool,
    enabled: bool,
    eligible: bool,
    pub(crate) status: &'static str,
    pub(crate) reason: &'static str,
    active_inbound_connections: u64,
    tracking_mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_timeout: Option<GoDuration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_inbound_activity_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_standby_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    countdown_remaining: Option<GoDuration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold_until: Option<Timestamp>,
}

fn idle_timeout(policy: &Policy) -> SignedDuration {
    SignedDuration::from_nanos(policy.idle_timeout.map_or(0, GoDuration::nanos))
}

impl Circumstances {
    /// The reason why the policy does not apply; `None` when it does.
    fn ineligible(self) -> Option<&'static str> {
        if self.state != State::Running {
            Some("instance_not_running")
        } else if !self.network_enabled {
            Some("network_disabled")
        } else if !self.has_ip {
            Some("missing_ip")
        } else {
            None
        }
    }
}

/// Whether a policy is on and applies.
pub(crate) fn is_eligible(policy: Option<&Policy>, now: Circumstances) -> bool {
    policy.is_some_and(|policy| policy.enabled) && now.ineligible().is_none()
}

// === impl Countdown ===

impl Countdown {
    /// Begins anew after a start or a restore: the caller has one whole idle timeout to connect.
    pub(crate) fn restart(&mut self, now: Timestamp) {
        *self = Self {
            idle_since: Some(now),
            last_activity: self.last_activity,
            ..Self::default()
        };
    }

    /// Stops the countdown of an instance that is no longer eligible.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            last_activity: self.last_activity,
            ..Self::default()
        };
    }

    /// Takes another policy: the countdown of one that was off begins now.
    pub(crate) fn adopt(&mut self, before: Option<&Policy>, policy: &Policy, now: Timestamp) {
        let was_on = before.is_some_and(|before| before.enabled);
        match (was_on, policy.enabled) {
            (_, false) => self.clear(),
            (false, true) => self.restart(now),
            (true, true) => {}
        }
    }

    /// Takes a look at the connections in. `last_event` is when one was last opened or closed,
    /// which may have happened between two looks.
    pub(crate) fn observe(&mut self, now: Timestamp, active: u64, last_event: Option<Timestamp>) {
        let was_busy = self.active > 0;
        self.active = active;
        self.unseen = false;
        if active > 0 {
            self.idle_since = None;
            self.requested = false;
            self.last_activity = Some(now);
            return;
        }
        // Before a look that saw nobody there may have been anybody; only what has ended since
        // the last one says when it became idle.
        let is_news = |event: &Timestamp| match self.idle_since {
            Some(since) => *event > since,
            None => was_busy,
        };
        if let Some(event) = last_event.filter(is_news) {
            self.idle_since = Some(event.min(now));
            self.last_activity = Some(event.min(now));
            self.requested = false;
        } else if self.idle_since.is_none() {
            self.idle_since = Some(now);
        }
    }

    /// Notes that connections cannot be counted: the instance counts as busy, and its countdown
    /// begins anew when they can (contract B.5).
    pub(crate) fn lose_sight(&mut self) {
        self.active = 0;
        self.unseen = true;
        self.idle_since = None;
        self.requested = false;
    }

    /// The end of the countdown, if there is one.
    pub(crate) fn deadline(&self, policy: &Policy) -> Option<Timestamp> {
        let idle = self.idle_since?.checked_add(idle_timeout(policy)).ok()?;
        Some(self.hold_until.map_or(idle, |hold| hold.max(idle)))
    }

    /// Puts standby off until one idle timeout from now, whatever was held before.
    pub(crate) fn hold(&mut self, now: Timestamp, policy: &Policy) {
        self.hold_until = now.checked_add(idle_timeout(policy)).ok();
        self.requested = false;
    }

    /// The status by the contract's table; the first row that fits wins.
    pub(crate) fn status(
        &self,
        policy: Option<&Policy>,
        at: Circumstances,
        now: Timestamp,
    ) -> StatusView {
        let enabled = policy.filter(|policy| policy.enabled);
        let deadline = enabled.and_then(|policy| self.deadline(policy));
        let hold_until = self.hold_until.filter(|until| *until > now);
        let (status, reason) = match (policy, enabled, at.ineligible()) {
            (None, _, _) => ("disabled", "policy_missing"),
            (Some(_), None, _) => ("disabled", "policy_disabled"),
            (_, _, Some(reason)) => ("ineligible", reason),
            _ if self.requested => ("standby_requested", "ready_for_standby"),
            _ if self.unseen => ("error", "observer_error"),
            _ if self.active > 0 => ("active", "active_inbound_connections"),
            _ if deadline.is_some_and(|at| at <= now) => ("ready_for_standby", "ready_for_standby"),
            _ => ("idle_countdown", "idle_timeout_not_elapsed"),
        };
        let counting = matches!(status, "idle_countdown" | "ready_for_standby");
        let remaining = deadline
            .filter(|_| counting)
            .map(|at| at.duration_since(now));
        let remaining = remaining.map(|left| left.max(SignedDuration::ZERO));
        StatusView {
            supported: true,
            configured: policy.is_some(),
            enabled: enabled.is_some(),
            eligible: is_eligible(policy, at),
            status,
            reason,
            active_inbound_connections: self.active,
            tracking_mode: "conntrack_events_v4_tcp",
            idle_timeout: enabled.and_then(|policy| policy.idle_timeout),
            idle_since: self
                .idle_since
                .filter(|_| counting || status == "standby_requested"),
            last_inbound_activity_at: self.last_activity,
            next_standby_at: deadline.filter(|_| counting),
            countdown_remaining: remaining
                .and_then(|left| i64::try_from(left.as_nanos()).ok())
                .map(GoDuration::from_nanos),
            hold_until: hold_until.filter(|_| is_eligible(policy, at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn policy() -> Policy {
        let idle = Some(GoDuration::from_nanos(10_000_000_000));
        Policy {
            enabled: true,
            idle_timeout: idle,
            ..Policy::default()
        }
    }

    const RUNNING: Circumstances = Circumstances {
        state: State::Running,
        network_enabled: true,
        has_ip: true,
    };

    #[test]
    fn a_connection_stops_the_countdown_and_its_end_begins_it_anew() {
        let mut countdown = Countdown::default();
        countdown.restart(at(0));
        assert_eq!(countdown.deadline(&policy()), Some(at(10)));
        countdown.observe(at(5), 1, None);
        assert_eq!(countdown.deadline(&policy()), None);
        countdown.observe(at(7), 0, Some(at(6)));
        assert_eq!(countdown.deadline(&policy()), Some(at(16)));
    }

    #[test]
    fn a_connection_between_two_looks_is_not_missed() {
        let mut countdown = Countdown::default();
        countdown.restart(at(0));
        countdown.requested = true;
        countdown.observe(at(9), 0, Some(at(8)));
        assert_eq!(countdown.deadline(&policy()), Some(at(18)));
        assert!(!countdown.requested);
    }

    #[test]
    fn a_hold_replaces_the_last_one_and_cancels_a_queued_standby() {
        let mut countdown = Countdown::default();
        countdown.restart(at(0));
        countdown.requested = true;
        countdown.hold(at(9), &policy());
        assert_eq!(countdown.deadline(&policy()), Some(at(19)));
        assert!(!countdown.requested);
        let short = GoDuration::from_nanos(1_000_000_000);
        countdown.hold(
            at(9),
            &Policy {
                idle_timeout: Some(short),
                ..policy()
            },
        );
        assert_eq!(countdown.deadline(&policy()), Some(at(10)));
    }

    #[test]
    fn what_cannot_be_seen_counts_as_busy_and_the_countdown_begins_anew() {
        let mut countdown = Countdown::default();
        countdown.restart(at(0));
        countdown.lose_sight();
        assert_eq!(countdown.deadline(&policy()), None);
        countdown.observe(at(30), 0, None);
        assert_eq!(countdown.deadline(&policy()), Some(at(40)));
        let status = countdown.status(Some(&policy()), RUNNING, at(31));
        assert_eq!(status.status, "idle_countdown");
    }

    #[test]
    fn what_ended_before_nobody_could_count_is_not_when_it_became_idle() {
        let mut countdown = Countdown::default();
        countdown.restart(at(0));
        countdown.lose_sight();
        countdown.observe(at(30), 0, Some(at(2)));
        assert_eq!(countdown.deadline(&policy()), Some(at(40)));
        countdown.observe(at(31), 1, None);
        countdown.observe(at(33), 0, Some(at(32)));
        assert_eq!(countdown.deadline(&policy()), Some(at(42)));
    }

    #[test]
    fn the_countdown_of_a_policy_that_was_off_begins_when_it_is_put_on() {
        let (on, off) = (policy(), Policy::default());
        for before in [None, Some(&off)] {
            let mut countdown = Countdown::default();
            countdown.restart(at(0));
            countdown.adopt(before, &on, at(100));
            countdown.observe(at(101), 0, Some(at(50)));
            assert_eq!(countdown.deadline(&on), Some(at(110)), "{before:?}");
        }
        let mut countdown = Countdown::default();
        countdown.restart(at(0));
        countdown.hold(at(1), &on);
        countdown.adopt(Some(&on), &off, at(2));
        assert_eq!(countdown, Countdown::default());
        let mut countdown = Countdown::default();
        countdown.restart(at(0));
        countdown.adopt(Some(&on), &on, at(5));
        assert_eq!(countdown.deadline(&on), Some(at(10)), "it goes on");
    }

    #[test]
    fn the_status_follows_the_contracts_precedence() {
        let off = Policy::default();
        let stopped = Circumstances {
            state: State::Stopped,
            ..RUNNING
        };
        let no_network = Circumstances {
            network_enabled: false,
            ..RUNNING
        };
        let no_ip = Circumstances {
            has_ip: false,
            ..RUNNING
        };
        let mut idle = Countdown::default();
        idle.restart(at(0));
        let busy = Countdown {
            active: 2,
            ..Countdown::default()
        };
        let queued = Countdown {
            requested: true,
            ..idle.clone()
        };
        let mut blind = Countdown::default();
        blind.restart(at(0));
        blind.lose_sight();
        let on = policy();
        for (countdown, policy, circumstances, now, expected) in [
            (&idle, None, RUNNING, at(1), ("disabled", "policy_missing")),
            (
                &idle,
                Some(&off),
                stopped,
                at(1),
                ("disabled", "policy_disabled"),
            ),
            (
                &idle,
                Some(&on),
                stopped,
                at(1),
                ("ineligible", "instance_not_running"),
            ),
            (
                &idle,
                Some(&on),
                no_network,
                at(1),
                ("ineligible", "network_disabled"),
            ),
            (&idle, Some(&on), no_ip, at(1), ("ineligible", "missing_ip")),
            (
                &queued,
                Some(&on),
                RUNNING,
                at(1),
                ("standby_requested", "ready_for_standby"),
            ),
            (
                &blind,
                Some(&on),
                RUNNING,
                at(11),
                ("error", "observer_error"),
            ),
            (
                &busy,
                Some(&on),
                RUNNING,
                at(1),
                ("active", "active_inbound_connections"),
            ),
            (
                &idle,
                Some(&on),
                RUNNING,
                at(1),
                ("idle_countdown", "idle_timeout_not_elapsed"),
            ),
            (
                &idle,
                Some(&on),
                RUNNING,
                at(11),
                ("ready_for_standby", "ready_for_standby"),
            ),
        ] {
            let status = countdown.status(policy, circumstances, now);
            assert_eq!((status.status, status.reason), expected);
            let is_idle = !matches!(expected.0, "disabled" | "ineligible" | "error" | "active");
            assert_eq!(status.idle_since.is_some(), is_idle, "{expected:?}");
            let is_counting = is_idle && expected.0 != "standby_requested";
            assert_eq!(
                status.next_standby_at.is_some(),
                is_counting,
                "{expected:?}"
            );
        }
    }
}
