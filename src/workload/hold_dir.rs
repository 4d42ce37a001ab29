//! Holds in files, for a restart and for other gateways on the same directory.
//!
//! Guarantees: an instance has a file of its own, which is written whole; whoever changes it has the
//! directory's lock, which the kernel takes back from a process that dies; a file that cannot be
//! read is told once, and is nobody's reason not to start.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jiff::{SignedDuration, Timestamp};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::task::Owner;
use crate::file_stamp::FileStamp;
use crate::private_files::{self, DRAFT, can_create};
use hypeman::InstanceId;

const LOCK: &str = "lock";
const ENDING: &str = "json";
const VERSION: u32 = 1;
/// A draft that is older than this is nobody's any more.
const LEFT_BEHIND: SignedDuration = SignedDuration::from_hours(1);

/// A directory of holds.
#[derive(Debug)]
pub(super) struct HoldDir {
    dir: PathBuf,
    /// How the files stood when they were read last, and when that was.
    seen: BTreeMap<PathBuf, (FileStamp, Timestamp)>,
}

/// The directory's lock, until it is dropped.
#[derive(Debug)]
pub(super) struct DirLock(#[allow(dead_code, reason = "the lock ends with it")] fs::File);

/// An instance's holds, as its file has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stored {
    version: u32,
    pub(super) hypeman: String,
    pub(super) instance: String,
    pub(super) name: String,
    pub(super) holds: Vec<StoredHold>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredHold {
    pub(super) task: String,
    pub(super) until: Timestamp,
}

// === impl HoldDir ===

impl HoldDir {
    /// Opens it; it is made if there is none.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        private_files::make_dir(dir)?;
        can_create(dir)?;
        let found = Self::at(dir);
        found.sweep();
        Ok(found)
    }

    /// What would keep it from being opened, and what is wrong with its files, without a trace.
    pub(super) fn rehearse(dir: &Path) -> io::Result<Vec<String>> {
        can_create(dir)?;
        let files = Self::at(dir).files();
        let wrong = files.iter().filter_map(|path| {
            let error = read(path).err()?;
            Some(trouble(path, &error))
        });
        Ok(wrong.collect())
    }

    fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            seen: BTreeMap::new(),
        }
    }

    fn path(&self, owner: &Owner) -> PathBuf {
        let text = format!("{}\0{}", owner.hypeman, owner.id);
        let name = BASE64.encode(digest(&SHA256, text.as_bytes()));
        self.dir.join(name).with_extension(ENDING)
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths
            .filter(|path| path.extension().is_some_and(|end| end == ENDING))
            .collect()
    }

    /// Takes away what a gateway that was killed has not finished.
    fn sweep(&self) {
        let now = Timestamp::now();
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in entries {
            let path = entry.path();
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let modified = modified.ok().and_then(|at| Timestamp::try_from(at).ok());
            let is_old = modified.is_some_and(|at| now.duration_since(at) > LEFT_BEHIND);
            let is_draft = path.extension().is_some_and(|end| end == DRAFT);
            if is_draft && is_old {
                // Whatever keeps it from going costs a little room.
                let _gone = fs::remove_file(path);
            }
        }
    }

    /// Waits until no other gateway changes anything.
    pub(super) fn lock(&self) -> io::Result<DirLock> {
        let file = private_files::open(&self.dir.join(LOCK))?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(DirLock(file))
    }

    /// An instance's holds; `None` where it has no file.
    pub(super) fn read(&self, owner: &Owner) -> io::Result<Option<Stored>> {
        match read(&self.path(owner)) {
            Ok(stored) if stored.is_of(owner) => Ok(Some(stored)),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An instance's holds are these now; without any there is no file.
    pub(super) fn write(&mut self, owner: &Owner, stored: &Stored) -> io::Result<()> {
        let path = self.path(owner);
        self.seen.remove(&path);
        if stored.holds.is_empty() {
            return private_files::remove(&path);
        }
        let text = serde_json::to_vec(stored)?;
        private_files::write(&path, &text)
    }

    /// The instances whose files are not as they were when they were read last, with what is in
    /// them, and those that have a file.
    pub(super) fn changed(&mut self, now: Timestamp) -> (Vec<Stored>, Vec<PathBuf>) {
        let (files, mut changed) = (self.files(), Vec::new());
        self.seen.retain(|path, _| files.contains(path));
        for path in &files {
            let Ok(stamp) = FileStamp::of(path) else {
                continue;
            };
            let before = self.seen.get(path);
            if before.is_some_and(|(seen, at)| *seen == stamp && seen.is_settled(*at)) {
                continue;
            }
            let is_new = before.is_none_or(|(seen, _)| *seen != stamp);
            match read(path) {
                Ok(stored) => changed.push(stored),
                Err(error) if is_new => {
                    tracing::warn!(trouble = %trouble(path, &error), "holds are lost");
                }
                Err(_) => {}
            }
            self.seen.insert(path.clone(), (stamp, now));
        }
        (changed, files)
    }

    /// Whether an instance's file is among these.
    pub(super) fn has(&self, files: &[PathBuf], owner: &Owner) -> bool {
        files.contains(&self.path(owner))
    }
}

fn read(path: &Path) -> io::Result<Stored> {
    let stored: Stored = serde_json::from_slice(&fs::read(path)?)?;
    match stored.version {
        VERSION => Ok(stored),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "another version of wakegate has written it",
        )),
    }
}

fn trouble(path: &Path, error: &io::Error) -> String {
    format!("{} cannot be read: {error}", path.display())
}

// === impl Stored ===

impl Stored {
    pub(super) fn new(owner: &Owner, name: &str, holds: Vec<StoredHold>) -> Self {
        Self {
            version: VERSION,
            hypeman: owner.hypeman.to_string(),
            instance: owner.id.to_string(),
            name: name.to_owned(),
            holds,
        }
    }

    fn is_of(&self, owner: &Owner) -> bool {
        *self.hypeman == *owner.hypeman && self.instance == owner.id.as_str()
    }

    /// Whose it is.
    pub(super) fn owner(&self) -> Option<Owner> {
        Some(Owner {
            hypeman: self.hypeman.as_str().into(),
            id: InstanceId::parse(&self.instance).ok()?,
        })
    }
}
