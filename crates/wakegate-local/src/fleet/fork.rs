//! Copies of instances.
//!
//! Guarantees: a copy has its own id, name and address; its source goes on as it was; a copy that
//! could not be made, or not be brought to the state that was asked for, is not there.

use std::path::Path;
use std::sync::Arc;

use super::lifecycle::{invalid_state, port, refusal};
use super::memory::sleeps;
use super::names::TakenName;
use super::registry::Fleet;
use crate::driver::DriverError;
use crate::error::Error;
use crate::id::new_id;
use crate::state::State;
use crate::store::{Instance, Kind, MEMORY, Record, Spec};

const FAILED: &str = "failed to fork instance";

/// What the memory of a copy is taken from.
pub(super) enum Origin<'a> {
    Instance(&'a Instance),
    /// The folder of a snapshot's memory.
    Memory(&'a Path),
}

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
        let guard = source.lock_living().await?;
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
        let spec = self.spec_of_copy(&source.record().spec, name)?;
        let name = self.take_copys_name(&spec)?;
        if with_memory && !self.driver.keeps_memory() {
            let text = "the process driver cannot copy memory: fork a Stopped instance, or set target_state to Stopped";
            return Err(Error::not_supported(text));
        }
        if state == State::Stopped && target == State::Standby {
            let text = "a Stopped instance has no memory to be in Standby with";
            return Err(Error::invalid("invalid_request", text));
        }
        let origin = with_memory.then_some(Origin::Instance(source));
        let copy = self.make_copy(spec, origin).await?;
        name.keep();
        drop(guard);
        self.bring_copy(copy, target).await
    }

    /// The specification of a copy; a copy does not expire (contract B.1).
    pub(super) fn spec_of_copy(&self, spec: &Spec, name: String) -> Result<Spec, Error> {
        Ok(Spec {
            id: new_id()?,
            name,
            created_at: self.clock.now(),
            expires_at: None,
            schedule: None,
            ..spec.clone()
        })
    }

    /// A fork's conflict is a 409, a creation's a 400 (contract A.11).
    pub(super) fn take_copys_name(&self, spec: &Spec) -> Result<TakenName<'_>, Error> {
        let taken = self.names.take(&spec.name, &spec.id);
        taken.ok_or_else(|| Error::conflict("name_conflict", "instance name already in use"))
    }

    /// Makes the files of a copy, which nobody sees until they are whole.
    pub(super) async fn make_copy(
        &self,
        spec: Spec,
        origin: Option<Origin<'_>>,
    ) -> Result<Arc<Instance>, Error> {
        let id = spec.id.clone();
        let failed = |error: std::io::Error| {
            tracing::error!(instance = id, %error, "cannot make a copy");
            Error::disk(FAILED, &error)
        };
        let draft = self.store.draft(Kind::Instance, &id).map_err(failed)?;
        let memory = draft.folder().join(MEMORY);
        let now = self.clock.now();
        let mut record = Record::new(spec, now);
        record.enter(State::Stopped, now);
        let copied = match &origin {
            None => Ok(()),
            Some(Origin::Instance(source)) => self.driver.export(&source.id, &memory).await,
            Some(Origin::Memory(from)) => self.driver.copy(from, &memory).await,
        };
        if let (Err(error), Some(Origin::Instance(source))) = (&copied, &origin) {
            self.note(source, &format!("fork failed: {error}"));
            self.fails(source, source.state(), error, "broke while it was copied");
        }
        let refused = |error: DriverError| {
            tracing::error!(instance = id, %error, "cannot copy a memory");
            refusal(FAILED, &error)
        };
        copied.map_err(refused)?;
        if origin.is_some() {
            let prepared = self.driver.prepare(&memory, None, port(&record.spec));
            sleeps(&mut record, &prepared.map_err(refused)?);
            record.enter(State::Standby, now);
        }
        draft.publish(&record).map_err(failed)?;
        Ok(Arc::new(Instance::new(record)))
    }

    /// Makes a copy known and brings it to its target.
    pub(super) async fn bring_copy(
        self: &Arc<Self>,
        copy: Arc<Instance>,
        target: State,
    ) -> Result<Arc<Instance>, Error> {
        let brought = {
            // Nobody else has it yet.
            let _guard = copy.lock_living().await?;
            self.admit(&copy);
            self.note(&copy, "forked");
            self.tell(&copy, "forked");
            let asleep = match copy.state() == State::Standby {
                true => self.put_asleep(&copy, FAILED),
                false => Ok(()),
            };
            match asleep {
                Ok(()) => self.reach(&copy, target).await,
                Err(error) => Err(error),
            }
        };
        match brought {
            Ok(()) => Ok(copy),
            Err(error) => {
                // Nobody asked for half of it.
                self.delete_instance(&copy, false).await?;
                match matches!(error, Error::NoRoom(_)) {
                    true => Err(error),
                    false => Err(Error::internal(FAILED)),
                }
            }
        }
    }
}
