//! Putting instances to sleep under their tunnels.
//!
//! Guarantees: an instance is put to sleep only where its control plane says that nobody else is connected
//! to it and that no hold stands, and where neither its hook nor its workload's holds want it awake. Between
//! that look and the sleep somebody else may come: the control plane has no call that does both.

use std::sync::{Arc, Weak};

use futures_util::future::{BoxFuture, FutureExt as _};
use hypeman::wire::{AutoStandbyState, AutoStandbyStatus};
use jiff::Timestamp;

use super::handle::Running;
use crate::names::PlaneIndex;
use crate::proxy::{Sleeper, Slept};
use crate::wake::{Endpoint, Instance};
use crate::workload::{Rested, Sleep};

/// Why a status does not apply to an instance that sleeps, or has stopped.
const NOT_RUNNING: &str = "instance_not_running";

/// Puts instances to sleep whose tunnels are all quiet.
#[derive(Debug)]
pub(super) struct InstanceSleeper(Weak<Running>);

// === impl InstanceSleeper ===

impl InstanceSleeper {
    pub(super) fn of(running: &Arc<Running>) -> Self {
        // The gateway is a part of what this leads to.
        Self(Arc::downgrade(running))
    }
}

impl Sleeper for InstanceSleeper {
    fn put_to_sleep<'a>(
        &'a self,
        plane: PlaneIndex,
        instance: &'a Arc<Instance>,
        epoch: &'a Endpoint,
    ) -> BoxFuture<'a, Slept> {
        async move {
            match self.0.upgrade() {
                Some(running) => running.put_to_sleep(plane, instance, epoch).await,
                None => Slept::Failed,
            }
        }
        .boxed()
    }
}

/// What a control plane's word means for an instance that is to be put to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// Nobody but the gateway is connected to it.
    Free,
    /// Somebody needs it, or it is not known that nobody does.
    Needed,
    /// It does not run.
    Rests,
}

/// Judges a status, where so many of the gateway's connections are certainly counted in it. Where it says
/// that connections are not counted, its number is none, or an old one.
pub fn judge(status: &AutoStandbyStatus, counted: usize, now: Timestamp) -> Judged {
    match status.status {
        AutoStandbyState::Active
        | AutoStandbyState::IdleCountdown
        | AutoStandbyState::ReadyForStandby => {}
        AutoStandbyState::Ineligible if status.reason == NOT_RUNNING => return Judged::Rests,
        AutoStandbyState::Unsupported
        | AutoStandbyState::Disabled
        | AutoStandbyState::Ineligible
        | AutoStandbyState::StandbyRequested
        | AutoStandbyState::Error
        | AutoStandbyState::Other(_) => return Judged::Needed,
    }
    let others = status.active_inbound_connections > counted as u64;
    let is_held = status.hold_until.is_some_and(|until| until > now);
    match others || is_held {
        true => Judged::Needed,
        false => Judged::Free,
    }
}

// === impl Running ===

impl Running {
    async fn put_to_sleep(
        &self,
        index: PlaneIndex,
        instance: &Arc<Instance>,
        epoch: &Endpoint,
    ) -> Slept {
        let Some(plane) = self.planes.get(usize::from(index.0)) else {
            return Slept::Failed;
        };
        let (id, seen) = (instance.id(), epoch.look_at_quiet());
        let has_ended = epoch.cut().is_cancelled();
        let status = match plane.client.auto_standby_status(&id.to_ref()).await {
            Ok(status) => status,
            Err(error) => {
                tracing::debug!(instance = %id, %error, "not asked about its connections");
                return Slept::Failed;
            }
        };
        let ours = seen.tunnels;
        let judged = judge(&status, seen.counted, Timestamp::now());
        match judged {
            Judged::Free => {}
            Judged::Rests if has_ended => {
                // The call that seemed to fail has put it to sleep after all.
                self.note_parked(index, instance, ours);
                return Slept::Asleep;
            }
            Judged::Needed | Judged::Rests => {
                if judged == Judged::Rests {
                    // Somebody else has put it to sleep.
                    instance.doubt();
                }
                tracing::debug!(instance = %id, connections = status.active_inbound_connections, ours,
                    status = %status.status, hold = status.hold_until.is_some(), "somebody else may need it");
                return Slept::Refused(None);
            }
        }
        let sleep = Sleep::new(&self.holds, &self.owner(index, id.clone()), true);
        let (epoch, asked) = (epoch.clone(), Arc::clone(instance));
        let may = move || match has_ended {
            // Nothing has come meanwhile, and nothing goes to it any more.
            false => epoch.begin_rest(seen),
            // Nobody has brought it back meanwhile.
            true => asked.endpoint().is_none(),
        };
        match self.rest_if(index, instance, sleep, may).await {
            Rested::Asleep => {
                self.note_parked(index, instance, ours);
                Slept::Asleep
            }
            Rested::Refused(pause) => Slept::Refused(pause),
            Rested::Busy | Rested::Held => Slept::Refused(None),
            Rested::Later(error) | Rested::Failed(error) => {
                tracing::info!(instance = %id, %error, "not put to sleep, though its tunnels are quiet");
                Slept::Failed
            }
        }
    }

    fn note_parked(&self, plane: PlaneIndex, instance: &Instance, tunnels: usize) {
        let id = instance.id();
        tracing::info!(instance = %id, tunnels, "asleep, with its tunnels parked");
        let ledger = self.gateway.parts().wakes.ledger();
        ledger.note_parked((plane, id), &instance.name(), tunnels);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(word: &str, reason: &str, connections: u64, held: Option<&str>) -> AutoStandbyStatus {
        let mut status = json!({
            "supported": true, "configured": true, "enabled": true, "eligible": true,
            "status": word, "reason": reason, "active_inbound_connections": connections,
            "tracking_mode": "conntrack_events_v4_tcp",
        });
        if let Some(until) = held {
            status["hold_until"] = until.into();
        }
        serde_json::from_value(status).unwrap()
    }

    fn judged(status: &AutoStandbyStatus, counted: usize) -> Judged {
        judge(status, counted, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn nobody_is_put_to_sleep_where_connections_cannot_be_counted() {
        for (word, reason) in [
            ("error", "observer_error"),
            ("unsupported", "unsupported_platform"),
            ("disabled", "policy_disabled"),
            ("ineligible", "missing_ip"),
            ("standby_requested", "ready_for_standby"),
            ("something_new", "unheard_of"),
        ] {
            let status = status(word, reason, 0, None);
            assert_eq!(judged(&status, 5), Judged::Needed, "{word}");
        }
        let stopped = status("ineligible", "instance_not_running", 0, None);
        assert_eq!(judged(&stopped, 0), Judged::Rests);
    }

    #[test]
    fn one_connection_more_than_the_gateways_own_or_a_hold_keeps_it_awake() {
        let active = |count| status("active", "active_inbound_connections", count, None);
        assert_eq!(judged(&active(2), 2), Judged::Free);
        assert_eq!(judged(&active(3), 2), Judged::Needed);
        // Where the policy leaves the gateway's out, any is somebody else's.
        assert_eq!(judged(&active(1), 0), Judged::Needed);
        let held = |until| status("idle_countdown", "idle_timeout_not_elapsed", 0, Some(until));
        assert_eq!(judged(&held("2026-01-01T00:01:00Z"), 2), Judged::Needed);
        assert_eq!(judged(&held("2025-12-31T23:59:00Z"), 2), Judged::Free);
    }
}
