//! Idle instances, which are put to sleep.
//!
//! Guarantees: a standby that is due is looked at again under the instance's own lock, and cannot
//! be called back from there on.

use std::sync::Arc;

use jiff::Timestamp;

use super::registry::{Fleet, FleetEvent};
use crate::driver::{Connection, ConnectionTable, Traffic};
use crate::policy::auto_standby::Policy;
use crate::policy::countdown::is_eligible;
use crate::state::State;
use crate::store::Instance;

impl Fleet {
    pub(super) fn eligible_policy(instance: &Instance) -> Option<Policy> {
        let record = instance.record();
        let policy = record.spec.policy.as_ref();
        is_eligible(policy, record.circumstances())
            .then(|| policy.cloned())
            .flatten()
    }

    /// Counts the instance's connections, those through an address of our own and those that the
    /// machine counts; whether a standby is due and not yet requested.
    pub(super) fn observe(
        &self,
        instance: &Instance,
        table: &ConnectionTable,
        now: Timestamp,
    ) -> bool {
        let traffic = self.driver.traffic(&instance.id);
        let mut record = instance.record();
        let (Some(ip), Some(policy)) = (record.ip, record.spec.policy.clone()) else {
            return false;
        };
        let counts = |c: &Connection| policy.counts(c.remote.0, c.local.1);
        let through_us =
            |traffic: &Arc<Traffic>| traffic.active(|from, to| policy.counts(from, to));
        let active = traffic.as_ref().map_or(0, through_us)
            + table.inbound(ip).filter(|c| counts(c)).count() as u64;
        // Looked at after the count: what ended meanwhile is an event.
        let last_event = traffic.and_then(|traffic| traffic.last_event());
        let ended = table.last_ended(ip, counts);
        let ended = ended.and_then(|ago| now.checked_sub(ago).ok());
        let last_event = last_event.max(ended);
        let before = record.countdown.idle_since;
        record.countdown.observe(now, active, last_event);
        if record.countdown.idle_since.is_some() && record.countdown.idle_since != before {
            let (name, state) = (record.spec.name.clone(), record.state);
            // Without a listener there is nobody to tell.
            let _unheard = self.events.send(FleetEvent {
                name,
                state,
                reason: "idle",
            });
        }
        let due = record
            .countdown
            .deadline(&policy)
            .is_some_and(|deadline| deadline <= now);
        due && !record.countdown.requested
    }

    /// Ends a countdown: looks again under the instance's lock, and cannot be called back
    /// once it has the instance's lock.
    pub(crate) async fn standby_if_still_idle(&self, instance: &Instance) {
        let Ok(_guard) = instance.lock_living().await else {
            return;
        };
        let idle = {
            let mut record = instance.record();
            let now = self.clock.now();
            let policy = record.spec.policy.clone().filter(|policy| policy.enabled);
            let due = record.state == State::Running
                && policy.as_ref().is_some_and(|policy| {
                    record.countdown.requested
                        && record
                            .countdown
                            .deadline(policy)
                            .is_some_and(|at| at <= now)
                });
            let quiet = match (self.driver.connections(), record.ip, &policy) {
                (Ok(table), Some(ip), Some(policy)) => {
                    let traffic = self.driver.traffic(&instance.id);
                    let through_us = |t: Arc<Traffic>| t.active(|from, to| policy.counts(from, to));
                    let counts = |c: &Connection| policy.counts(c.remote.0, c.local.1);
                    traffic.map_or(0, through_us) == 0 && !table.inbound(ip).any(counts)
                }
                _ => false,
            };
            if !(due && quiet) {
                record.countdown.requested = false;
            }
            due && quiet
        };
        if idle && self.put_to_sleep(instance, "idle").await.is_err() {
            instance.record().countdown.restart(self.clock.now());
        }
    }
}
