//! A thing in the making: its folder before anybody can see it.
//!
//! Guarantees: nothing of it is listed, now or after a restart, until it is published; one that is
//! not published leaves nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::atomic::{DISCARDED, beside, make_folder, remove_folder, replace, sync, sync_all};

/// The file that has a thing's record.
pub(super) const RECORD: &str = "record.json";

/// A folder that is not in its place yet.
#[derive(Debug)]
pub(crate) struct Draft {
    folder: PathBuf,
    place: PathBuf,
    is_published: bool,
}

// === impl Draft ===

impl Draft {
    pub(super) fn new(folder: PathBuf, place: PathBuf) -> io::Result<Self> {
        remove_folder(&folder)?;
        make_folder(&folder)?;
        Ok(Self {
            folder,
            place,
            is_published: false,
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds the record and puts the folder in its place.
    pub(crate) fn publish<T: Serialize>(mut self, record: &T) -> io::Result<()> {
        replace(
            &self.folder.join(RECORD),
            &serde_json::to_vec_pretty(record)?,
        )?;
        fs::rename(&self.folder, &self.place)?;
        self.is_published = true;
        Ok(())
    }

    /// Does what [`Self::publish`] does; it outlives a loss of power from then on.
    pub(crate) fn publish_for_good<T: Serialize>(self, record: &T) -> io::Result<()> {
        sync_all(&self.folder)?;
        let place = self.place.clone();
        self.publish(record)?;
        let parent = place.parent().unwrap_or(&place);
        let on_disk = sync(&place.join(RECORD)).and_then(|()| sync(&place).and(sync(parent)));
        if let Err(error) = on_disk {
            // It is there, and may be half after a loss of power. As a whole: a kill in the middle
            // leaves no record without its memory.
            let discarded = beside(&place, DISCARDED);
            fs::rename(&place, &discarded)?;
            remove_folder(&discarded)?;
            return Err(error);
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.is_published {
            return;
        }
        if let Err(error) = remove_folder(&self.folder) {
            // It goes at the next start.
            tracing::warn!(folder = %self.folder.display(), %error, "cannot remove what was begun");
        }
    }
}
