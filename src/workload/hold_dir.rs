//! Holds in files, for a restart and for other gateways on the same directory.
//!
//! Guarantees: an instance has a file of its own, which is written whole; whoever changes it has the
//! directory's lock, which the kernel takes back from a process that dies, and which is waited for for
//! seconds; a file that is damaged is told once, and is nobody's reason not to start. A directory that
//! cannot be read is not an empty one; nor is one without its lock, which is not the one that it was.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jiff::{SignedDuration, Timestamp};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
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
/// A damaged file that is older than this holds nothing any more, whatever was in it.
const LEFT_DAMAGED: SignedDuration = SignedDuration::from_hours(24 * 8);
/// The rights of a directory by which others can write to it.
const OTHERS_WRITE: u32 = 0o022;
/// How often the lock is tried, and the time between two tries.
const LOCK_TRIES: u32 = 300;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A directory of holds.
#[derive(Debug)]
pub(super) struct HoldDir {
    dir: PathBuf,
    /// How the files stood when they were read last, and when that was.
    seen: Mutex<HashMap<PathBuf, (FileStamp, Timestamp)>>,
}

/// What a look at the directory has found.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) files: HashSet<PathBuf>,
    /// Those that are not as they were when they were read last.
    pub(super) changed: Vec<Changed>,
}

#[derive(Debug)]
pub(super) struct Changed {
    pub(super) path: PathBuf,
    stamp: FileStamp,
    /// Whether it has not been read since it changed.
    pub(super) is_new: bool,
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
    /// When it was placed; older files do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) placed: Option<Timestamp>,
}

// === impl HoldDir ===

impl HoldDir {
    /// Opens it; it is made if there is none.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let found = Self::at(dir);
        found.make()?;
        can_create(dir)?;
        found.sweep();
        Ok(found)
    }

    /// What would keep it from being opened, and what is wrong with its files, without a trace.
    pub(super) fn rehearse(dir: &Path) -> io::Result<Vec<String>> {
        can_create(dir)?;
        let files = match Self::at(dir).files() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashSet::new(),
            files => files?,
        };
        let wrong = files.iter().filter_map(|path| {
            let error = read(path).err()?;
            Some(trouble(path, &error))
        });
        Ok(wrong.collect())
    }

    /// Whether others than its owner may write to it.
    pub(super) fn is_open_to_others(dir: &Path) -> bool {
        let mode = fs::metadata(dir).map_or(0, |metadata| metadata.permissions().mode());
        mode & OTHERS_WRITE != 0
    }

    fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            seen: Mutex::default(),
        }
    }

    /// Makes it, and its lock.
    pub(super) fn make(&self) -> io::Result<()> {
        private_files::make_dir(&self.dir)?;
        private_files::open(&self.dir.join(LOCK)).map(drop)
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<PathBuf, (FileStamp, Timestamp)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn path(&self, owner: &Owner) -> PathBuf {
        let text = format!("{}\0{}", owner.hypeman, owner.id);
        let name = BASE64.encode(digest(&SHA256, text.as_bytes()));
        self.dir.join(name).with_extension(ENDING)
    }

    fn files(&self) -> io::Result<HashSet<PathBuf>> {
        let mut files = HashSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == ENDING) {
                files.insert(path);
            }
        }
        Ok(files)
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

    /// Whether it is the directory that it was.
    pub(super) fn check(&self) -> io::Result<()> {
        fs::metadata(self.dir.join(LOCK)).map(drop)
    }

    /// Waits until no other gateway changes anything, for a few seconds. There is nothing to lock
    /// (`NotFound`) where the directory has been taken away.
    pub(super) fn lock(&self) -> io::Result<DirLock> {
        let file = fs::OpenOptions::new()
            .write(true)
            .open(self.dir.join(LOCK))?;
        for _ in 0..LOCK_TRIES {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(DirLock(file)),
                Err(Errno::WOULDBLOCK | Errno::INTR) => pause(),
                Err(error) => return Err(error.into()),
            }
        }
        let text = "another process has kept the directory's lock for seconds";
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
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
    pub(super) fn write(&self, owner: &Owner, stored: &Stored) -> io::Result<()> {
        let path = self.path(owner);
        self.seen().remove(&path);
        if stored.holds.is_empty() {
            return private_files::remove(&path);
        }
        let text = serde_json::to_vec(stored)?;
        private_files::write(&path, &text)
    }

    /// What could not be written to its end is as it was before, as far as that can be.
    pub(super) fn put_back(&self, owner: &Owner, before: Option<&Stored>) {
        let _stays = match before {
            Some(before) => self.write(owner, before),
            None => private_files::remove(&self.path(owner)),
        };
    }

    /// Looks at the files, without reading them.
    pub(super) fn look(&self) -> io::Result<Look> {
        self.check()?;
        let (files, mut changed) = (self.files()?, Vec::new());
        let mut seen = self.seen();
        seen.retain(|path, _| files.contains(path));
        for path in &files {
            let Ok(stamp) = FileStamp::of(path) else {
                continue;
            };
            let before = seen.get(path);
            if before.is_some_and(|(seen, at)| *seen == stamp && seen.is_settled(*at)) {
                continue;
            }
            changed.push(Changed {
                path: path.clone(),
                is_new: before.is_none_or(|(seen, _)| *seen != stamp),
                stamp,
            });
        }
        Ok(Look { files, changed })
    }

    /// Reads a file that has changed. It is read again until it could be read, or is damaged.
    pub(super) fn read_changed(&self, file: &Changed, now: Timestamp) -> io::Result<Stored> {
        let found = read(&file.path);
        if found.is_ok() || found.as_ref().is_err_and(is_damage) {
            let stamp = (file.stamp.clone(), now);
            self.seen().insert(file.path.clone(), stamp);
        }
        found
    }

    /// Removes a file in which nothing is open any more, or that has been damaged for days.
    pub(super) fn remove_if_over(&self, path: &Path, now: Timestamp) -> io::Result<bool> {
        if !is_over(path, now)? {
            return Ok(false);
        }
        let _locked = self.lock()?;
        // Somebody may have written it anew.
        if !is_over(path, now)? {
            return Ok(false);
        }
        fs::remove_file(path)?;
        self.seen().remove(path);
        Ok(true)
    }
}

fn is_over(path: &Path, now: Timestamp) -> io::Result<bool> {
    match read(path) {
        Ok(stored) => Ok(stored.holds.iter().all(|hold| hold.until <= now)),
        Err(error) if is_damage(&error) => {
            let modified = Timestamp::try_from(fs::metadata(path)?.modified()?);
            let age = modified.map(|at| Timestamp::now().duration_since(at));
            Ok(age.is_ok_and(|age| age > LEFT_DAMAGED))
        }
        Err(error) => Err(error),
    }
}

/// Whether an error is that of what is in a file, not that of reading it.
pub(super) fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

#[allow(clippy::disallowed_methods, reason = "on a thread that may block")]
fn pause() {
    thread::sleep(LOCK_PAUSE);
}

fn read(path: &Path) -> io::Result<Stored> {
    let damage = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let stored: Stored = serde_json::from_slice(&fs::read(path)?).map_err(damage)?;
    match stored.version {
        VERSION => Ok(stored),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "another version of wakegate has written it",
        )),
    }
}

pub(super) fn trouble(path: &Path, error: &io::Error) -> String {
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
