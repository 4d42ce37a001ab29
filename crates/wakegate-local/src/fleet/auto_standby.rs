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

    /// Whether a standby that was requested is still due, by a look at what has happened meanwhile.
    fn is_still_idle(&self, instance: &Instance) -> bool {
        let policy = Self::eligible_policy(instance);
        let (Some(policy), Ok(table)) = (policy, self.driver.connections()) else {
            return false;
        };
        let now = self.clock.now();
        self.observe(instance, &table, now);
        let record = instance.record();
        let deadline = record.countdown.deadline(&policy);
        record.countdown.requested && deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Ends a countdown: looks again under the instance's lock, and cannot be called back
    /// once it has the instance's lock.
    pub(crate) async fn standby_if_still_idle(&self, instance: &Instance) {
        let Ok(_guard) = instance.lock_living().await else {
            return;
        };
        let idle = self.is_still_idle(instance);
        instance.record().countdown.requested = idle;
        if idle && self.put_to_sleep(instance, "idle").await.is_err() {
            instance.record().countdown.restart(self.clock.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use serde_json::json;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;
    use tokio::time::{sleep, timeout};
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::clock::Clock;
    use crate::driver::{Driver, ProcessDriver, SESSION_OF_TESTS};
    use crate::faults::FaultBox;
    use crate::state::State;
    use crate::store::{Spec, Store};

    const HOUR: Duration = Duration::from_secs(3600);
    const PATIENCE: Duration = Duration::from_secs(30);
    const LOOK: Duration = Duration::from_millis(5);

    /// A fleet that nobody looks after, so that the test alone says when.
    async fn fleet(clock: &Clock, store: Store) -> Arc<Fleet> {
        let (events, heard) = mpsc::channel(64);
        let (tasks, root) = (TaskTracker::new(), store.root().to_owned());
        let launcher = "/bin/sh".into();
        let driver = ProcessDriver::new(clock.clone(), events, tasks.clone(), launcher, root);
        let stopped = CancellationToken::new();
        stopped.cancel();
        let (driver, faults) = (Driver::Process(driver), FaultBox::default());
        Fleet::load(clock.clone(), store, driver, heard, tasks, faults, stopped)
            .await
            .unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_that_came_and_went_while_a_standby_waited_begins_the_countdown_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("session"), SESSION_OF_TESTS).unwrap();
        let clock = Clock::adjustable();
        let store = Store::open(&dir.path().join("state")).unwrap();
        let fleet = fleet(&clock, store).await;
        let spec: Spec = serde_json::from_value(json!({
            "id": "one", "name": "one", "image": "local/exec", "created_at": clock.now(),
            "env": { "PWD": dir.path() }, "tags": {}, "cmd": ["sleep", "600"],
            "size": 1 << 28, "overlay_size": 1, "vcpus": 1, "network_enabled": true,
            "policy": { "enabled": true, "idle_timeout": "10s" },
        }))
        .unwrap();
        let instance = fleet.create(spec).await.unwrap();
        assert_eq!(instance.state(), State::Running);
        let public = instance.record().ip.unwrap();
        let [_, _, x, y] = public.octets();
        let program = TcpListener::bind((Ipv4Addr::new(127, 78, x, y), 0))
            .await
            .unwrap();
        let port = program.local_addr().unwrap().port();

        let late = || {
            clock.advance(HOUR);
            instance.record().countdown.requested = true;
        };
        late();
        let traffic = fleet.driver.traffic("one").unwrap();
        let come_and_go = async {
            while TcpStream::connect((public, port)).await.is_err() {
                sleep(LOOK).await;
            }
            drop(program.accept().await.unwrap());
            while traffic.last_event().is_none() || traffic.active(|_, _| true) > 0 {
                sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, come_and_go).await.unwrap();
        fleet.standby_if_still_idle(&instance).await;
        assert_eq!(
            instance.state(),
            State::Running,
            "somebody has just been there"
        );
        assert!(!instance.record().countdown.requested);

        late();
        fleet.standby_if_still_idle(&instance).await;
        assert_eq!(instance.state(), State::Standby);
        fleet.delete_instance(&instance, false).await.unwrap();
    }
}
