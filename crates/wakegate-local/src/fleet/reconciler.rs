//! The loop that looks after instances: idle ones fall asleep, unhealthy or ended ones are started
//! again, expired ones are deleted, and snapshots are made, each when it is due.
//!
//! Guarantees: one look at a time; nothing in it waits for an instance, so that one that hangs
//! holds no other up; what is due is looked at again, under the instance's own lock, before it is
//! done.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use hypeman::GoDuration;

use super::registry::Fleet;
use crate::policy::countdown::is_eligible;
use crate::state::State;
use crate::store::{Instance, Record};

/// The pauses between two looks, while there is something to look at.
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(250);
/// The pause while there is nothing.
const IDLE: Duration = Duration::from_millis(500);

/// What a look at all instances has found.
enum Found {
    /// All of them sleep or have ended, and nothing is due soon.
    Nothing,
    /// Instances that are to be looked at again, and the shortest idle timeout among those that
    /// count down.
    Somebody { shortest: Option<Duration> },
}

/// Reconciles every instance with its policies, for ever.
pub(super) async fn run(fleet: &Arc<Fleet>) {
    loop {
        let pause = match fleet.reconcile() {
            Found::Nothing => IDLE,
            Found::Somebody { shortest } => {
                let pause = shortest.map_or(LONGEST, |idle| idle / 20);
                pause.clamp(SHORTEST, LONGEST)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Whether a look at an instance can find something to do; for thousands that sleep it cannot.
fn needs_a_look(record: &Record, now: Timestamp) -> bool {
    let schedule = record.spec.schedule.as_ref();
    record.state == State::Running
        || is_eligible(record.spec.policy.as_ref(), record.circumstances())
        || record.spec.expires_at.is_some_and(|at| at <= now)
        || record.restarts.is_pending()
        || schedule.is_some_and(|schedule| schedule.is_due(now))
}

impl Fleet {
    /// Looks at each instance once.
    fn reconcile(self: &Arc<Self>) -> Found {
        let now = self.clock.now();
        let mut table = None;
        let mut shortest: Option<Duration> = None;
        // In no order: with thousands of them, an order costs more than the look.
        let all = self.instances.iter();
        let all: Vec<_> = all
            .filter(|instance| needs_a_look(&instance.record(), now))
            .map(|instance| Arc::clone(instance.value()))
            .collect();
        if all.is_empty() {
            return Found::Nothing;
        }
        for instance in all {
            self.run_due(&instance, now);
            self.check_health(&instance, now);
            let Some(policy) = Self::eligible_policy(&instance) else {
                continue;
            };
            if table.is_none() {
                table = self.driver.connections().ok();
            }
            let Some(table) = &table else {
                instance.record().countdown.lose_sight();
                continue;
            };
            let due = self.observe(&instance, table, now);
            let idle = policy.idle_timeout.and_then(GoDuration::to_std);
            shortest = shortest.into_iter().chain(idle).min();
            if due {
                instance.record().countdown.requested = true;
                let (fleet, standbys) = (Arc::clone(self), Arc::clone(&self.standbys));
                self.begin_verb(async move {
                    let _permit = standbys.acquire_owned().await;
                    fleet.standby_if_still_idle(&instance).await;
                });
            }
        }
        Found::Somebody { shortest }
    }

    /// Deletes what has expired, starts again what has ended, makes the snapshots that are due.
    fn run_due(self: &Arc<Self>, instance: &Arc<Instance>, now: Timestamp) {
        let (expired, restart, scheduled) = {
            let mut record = instance.record();
            let (since, state) = (record.phase_since, record.state);
            if let (State::Running, Some(policy)) = (state, record.spec.restart_policy.clone()) {
                record.restarts.settle(&policy, since, now);
            }
            let schedule = record.spec.schedule.as_ref();
            (
                record.spec.expires_at.is_some_and(|at| at <= now),
                state == State::Stopped && record.restarts.is_due(now),
                schedule.is_some_and(|schedule| schedule.is_due(now)),
            )
        };
        if !(expired || restart || scheduled) || !instance.attend() {
            return;
        }
        let (fleet, instance) = (Arc::clone(self), Arc::clone(instance));
        self.begin_verb(async move {
            if expired {
                // Nobody waits for it.
                let _told_in_its_log = fleet.delete_instance(&instance, true).await;
            } else {
                if restart {
                    fleet.start_again(&instance).await;
                }
                if scheduled {
                    fleet.run_schedule(&instance).await;
                }
            }
            instance.attended();
        });
    }

    async fn start_again(&self, instance: &Instance) {
        let Ok(_guard) = instance.lock_living().await else {
            return;
        };
        let now = self.clock.now();
        {
            let mut record = instance.record();
            if record.state != State::Stopped || !record.restarts.is_due(now) {
                return;
            }
            record.restarts.attempt(now);
        }
        self.note(instance, "starting again, as its restart policy says");
        if self.boot(instance).await.is_err() {
            {
                let mut record = instance.record();
                let policy = record.spec.restart_policy.clone();
                let now = self.clock.now();
                record.restarts.ended(policy.as_ref(), None, now);
            }
            self.save(instance);
        }
    }
}
