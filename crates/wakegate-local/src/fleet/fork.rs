//! Copies of instances.
//!
//! Guarantees: a copy has its own id, name and address; its source goes on as it was.

use std::path::PathBuf;
use std::sync::Arc;

use super::lifecycle::{gone, invalid_state};
use super::registry::Fleet;
use crate::driver::DriverError;
use crate::error::Error;
use crate::id::new_id;
use crate::state::State;
use crate::store::{Instance, Kind, Spec};

impl Fleet {
    /// Makes a copy with its own id, name and address; with the source's memory, where the driver
    /// can.
    pub(crate) async fn fork(
        self: &Arc<Self>,
        source: &Instance,
        name: String,
        from_running: bool,
        target: Option<State>,
    ) -> Result<Arc<Instance>, Error> {
        let guard = source.lock.write().await;
        gone(source)?;
        let state = source.state();
        match state {
            State::Running if from_running => {}
            State::Stopped | State::Standby => {}
            State::Running => {
                let text = "source is running, set from_running";
                return Err(Error::conflict("invalid_state", text));
            }
            State::Created
            | State::Initializing
            | State::Paused
            | State::Shutdown
            | State::Unknown => return Err(invalid_state("fork", state, "")),
        }
        let target = target.unwrap_or(state);
        let with_memory = state != State::Stopped && target != State::Stopped;
        if with_memory && !self.driver.keeps_memory() {
            let text = "the process driver cannot copy memory: fork a Stopped instance, or set target_state to Stopped";
            return Err(Error::not_supported(text));
        }
        if state == State::Stopped && target == State::Standby {
            let text = "a Stopped instance has no memory to be in Standby with";
            return Err(Error::invalid("invalid_request", text));
        }
        let spec = source.record().spec.clone();
        let copy = self.create_copy(&spec, name).await?;
        let copy_guard = copy.lock.write().await;
        self.enter(&copy, State::Stopped, "forked");
        if with_memory {
            let exported = self.export_memory(source, &copy).await;
            drop(guard);
            let memory = exported?;
            let imported = self.import_memory(&copy, &memory, None).await;
            // The copy has its own now.
            let _left_behind = std::fs::remove_dir_all(&memory);
            imported?;
        }
        self.reach(&copy, target).await?;
        drop(copy_guard);
        Ok(copy)
    }

    /// Copies the source's memory into the copy's folder.
    async fn export_memory(&self, source: &Instance, copy: &Instance) -> Result<PathBuf, Error> {
        let failed = |error: DriverError| {
            self.note(source, &format!("fork failed: {error}"));
            Error::internal("failed to fork instance")
        };
        let folder = self.store.folder(Kind::Instance, &copy.id);
        let memory = folder
            .map_err(DriverError::Files)
            .map_err(failed)?
            .join("fork");
        self.driver
            .export(&source.id, &memory)
            .await
            .map_err(failed)?;
        Ok(memory)
    }

    /// Makes a new instance with the specification of another; a copy does not expire (contract
    /// B.1).
    pub(crate) async fn create_copy(
        &self,
        spec: &Spec,
        name: String,
    ) -> Result<Arc<Instance>, Error> {
        let id = new_id()?;
        let spec = Spec {
            id,
            name,
            created_at: self.clock.now(),
            expires_at: None,
            schedule: None,
            ..spec.clone()
        };
        let created = self.create(spec).await;
        created.map_err(|error| match error.code() {
            // A fork's conflict is a 409, a creation's a 400 (contract A.11).
            "name_conflict" => Error::conflict("name_conflict", "instance name already in use"),
            _ => error,
        })
    }
}
