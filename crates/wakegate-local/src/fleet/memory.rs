//! Memory that is put in place for an instance, and the way from there to the state that was asked
//! for.
//!
//! Guarantees: the caller holds the instance's lock; an instance whose memory is in place is
//! asleep.

use std::sync::Arc;

use super::lifecycle::refusal;
use super::registry::Fleet;
use crate::driver::Handle;
use crate::error::Error;
use crate::state::State;
use crate::store::{Instance, Record};

/// Changes a record to that of an instance which sleeps with a memory of this handle.
pub(super) fn sleeps(record: &mut Record, handle: &Handle) {
    record.ip = handle.address;
    record.handle = Some(handle.clone());
    record.stopped_at = None;
    record.exit_code = None;
    record.exit_message = None;
    record.countdown.clear();
}

impl Fleet {
    /// Makes an instance one of the driver's that sleeps with the memory in its folder.
    pub(super) fn put_asleep(&self, instance: &Instance, operation: &str) -> Result<(), Error> {
        if let Err(error) = self.driver.put_asleep(&instance.id) {
            self.note(instance, &format!("{operation}: {error}"));
            let mut record = instance.record();
            record.exit_message = Some(error.to_string());
            record.ends(self.clock.now());
            drop(record);
            self.enter(instance, State::Stopped, "its memory cannot be used");
            return Err(refusal(operation, &error));
        }
        if let Some(traffic) = self.driver.traffic(&instance.id) {
            let policy = instance.record().spec.policy.clone();
            traffic.policy.store(policy.map(Arc::new));
        }
        Ok(())
    }

    /// Brings an instance from Standby or Stopped to its target. The caller holds its lock.
    pub(super) async fn reach(&self, instance: &Instance, target: State) -> Result<(), Error> {
        match (instance.state(), target) {
            (State::Standby, State::Running) => self.wake_up(instance).await,
            (State::Stopped, State::Running) => self.boot(instance).await,
            (State::Standby, State::Standby) | (State::Stopped, State::Stopped) => Ok(()),
            (State::Standby, State::Stopped) => {
                self.end_program(instance, "its memory is dropped").await;
                Ok(())
            }
            (state, target) => {
                let text = format!("cannot go from {state} to {target}");
                Err(Error::conflict("invalid_state", text))
            }
        }
    }
}
