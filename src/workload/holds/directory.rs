//! What others do to the directory of the holds.
//!
//! Guarantees: what another gateway has changed is taken; while the directory cannot be read, what was
//! read last stands; one that was taken away is made anew. Files that hold nothing any more go.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::Ordering;

use super::{Holds, Owned, SWEEP, lock};
use crate::workload::hold_dir::{DirLock, HoldDir, is_damage, trouble};
use crate::workload::task::Owner;

impl Holds {
    /// Takes what other gateways have changed in the directory, and takes away files that hold
    /// nothing any more. Those who change something wait for one file at most.
    pub fn refresh(&self) {
        let Some(dir) = &self.dir else { return };
        match self.take_changes(dir) {
            Ok(()) => self.is_told.store(false, Ordering::Relaxed),
            Err(error) => {
                if !self.is_told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error,
                        "the directory of holds cannot be read; what was read before stands");
                }
            }
        }
        self.tell();
    }

    fn take_changes(&self, dir: &HoldDir) -> io::Result<()> {
        let now = self.now();
        let (look, mut failed) = (dir.look()?, None);
        for file in &look.changed {
            let _turn = lock(&self.writing);
            match dir.read_changed(file, now.time) {
                Ok(stored) => {
                    if let Some(owner) = stored.owner().filter(|one| dir.path(one) == file.path) {
                        let before = lock(&self.owned).get(&owner).cloned();
                        self.store(&owner, self.live(&stored, before.as_ref(), now));
                    }
                }
                Err(error) if is_damage(&error) => {
                    if file.is_new {
                        tracing::warn!(trouble = %trouble(&file.path, &error), "holds are lost");
                    }
                }
                // It has gone since; what is in memory goes below, or the next time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failed = Some(error),
            }
        }
        let owners: Vec<Owner> = lock(&self.owned).keys().cloned().collect();
        let mut known = HashSet::new();
        for owner in owners {
            let path = dir.path(&owner);
            if !look.files.contains(&path) {
                let _turn = lock(&self.writing);
                // One that was placed since the look has a file now.
                if matches!(dir.read(&owner), Ok(None)) {
                    dir.check()?;
                    self.store(&owner, Owned::none(""));
                }
            }
            known.insert(path);
        }
        let mut swept_at = lock(&self.swept_at);
        if swept_at.is_none_or(|at| now.at >= at + SWEEP) {
            *swept_at = Some(now.at);
            for path in look.files.difference(&known) {
                let _turn = lock(&self.writing);
                // Whatever keeps it from going is tried again.
                let _stays = dir.remove_if_over(path, now.time);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The directory's lock. A directory that was taken away is made anew, with what is in memory.
    pub(super) fn lock_dir(&self, dir: &HoldDir) -> io::Result<DirLock> {
        match dir.lock() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            locked => return locked,
        }
        dir.make()?;
        let locked = dir.lock()?;
        let all = lock(&self.owned).clone();
        for (owner, owned) in &all {
            dir.write(owner, &owned.stored(owner))?;
        }
        tracing::warn!("the directory of holds was taken away, and is made anew");
        Ok(locked)
    }
}
