//! Holds and sleeps of one instance.
//!
//! Guarantees: while a sleep goes on no hold is placed; one that is placed before it begins keeps it
//! from beginning, also where another gateway on the directory was told.

use super::{HoldError, Holds, Owned, lock};
use crate::workload::hold_dir::is_damage;
use crate::workload::task::Owner;

impl Holds {
    /// Whether an instance may be put to sleep, by the directory, too. Blocks while a file is read.
    pub(in crate::workload) fn prepare_sleep(
        &self,
        owner: &Owner,
        number: u64,
    ) -> Result<bool, HoldError> {
        let _turn = lock(&self.writing);
        if let Some(dir) = &self.dir {
            let _locked = self.lock_dir(dir)?;
            match dir.read(owner) {
                Ok(Some(stored)) => {
                    let before = lock(&self.owned).get(owner).cloned();
                    self.store(owner, self.live(&stored, before.as_ref(), self.now()));
                }
                Ok(None) => self.store(owner, Owned::none("")),
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut sleeping = lock(&self.sleeping);
        let is_free = self.until(owner).is_none() && !sleeping.contains_key(owner);
        if is_free {
            sleeping.insert(owner.clone(), (number, false));
        }
        Ok(is_free)
    }

    /// The sleep that was prepared begins, unless a hold has been placed since.
    pub(in crate::workload) fn begin_sleep(&self, owner: &Owner, number: u64) -> bool {
        let mut sleeping = lock(&self.sleeping);
        match sleeping.get_mut(owner) {
            Some((by, has_begun)) if *by == number && self.until(owner).is_none() => {
                *has_begun = true;
                true
            }
            _ => false,
        }
    }

    pub(in crate::workload) fn end_sleep(&self, owner: &Owner, number: u64) {
        let mut sleeping = lock(&self.sleeping);
        if sleeping.get(owner).is_some_and(|(by, _)| *by == number) {
            sleeping.remove(owner);
        }
    }

    /// A hold is placed: a sleep that has not begun does not.
    pub(super) fn keep_from_sleep(&self, owner: &Owner) -> Result<(), HoldError> {
        let mut sleeping = lock(&self.sleeping);
        match sleeping.get(owner) {
            Some((_, true)) => Err(HoldError::Resting),
            _ => {
                sleeping.remove(owner);
                Ok(())
            }
        }
    }
}
