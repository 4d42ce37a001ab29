//! Memory that is put in place for an instance, and the way from there to the state that was asked
//! for.
//!
//! Guarantees: the caller holds the instance's lock; an instance whose memory is in place is
//! asleep.

use std::path::Path;
use std::sync::Arc;

use super::lifecycle::port;
use super::registry::Fleet;
use crate::driver::{DriverError, Handle};
use crate::error::Error;
use crate::state::State;
use crate::store::Instance;

impl Fleet {
    /// Makes a Stopped instance one that sleeps with this memory, at its own address or that of its
    /// `former` handle.
    pub(crate) async fn import_memory(
        &self,
        instance: &Instance,
        memory: &Path,
        former: Option<&Handle>,
    ) -> Result<(), Error> {
        let guest_port = port(&instance.record().spec);
        let imported = self
            .driver
            .import(&instance.id, memory, former, guest_port)
            .await;
        let handle = imported.map_err(|error: DriverError| {
            self.note(
                instance,
                &format!("its memory could not be put in place: {error}"),
            );
            Error::internal("failed to restore snapshot")
        })?;
        if let Some(traffic) = self.driver.traffic(&instance.id) {
            traffic
                .policy
                .store(instance.record().spec.policy.clone().map(Arc::new));
        }
        {
            let mut record = instance.record();
            record.ip = handle.address;
            record.handle = Some(handle);
            record.stopped_at = None;
            record.exit_code = None;
            record.exit_message = None;
        }
        self.enter(instance, State::Standby, "its memory is in place");
        Ok(())
    }

    /// Brings an instance from Standby or Stopped to its target. The caller holds its lock.
    pub(crate) async fn reach(&self, instance: &Instance, target: State) -> Result<(), Error> {
        match (instance.state(), target) {
            (State::Standby, State::Running) => self.wake_up(instance).await,
            (State::Stopped, State::Running) => self.boot(instance).await,
            _ => Ok(()),
        }
    }
}
