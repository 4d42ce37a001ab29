//! Where what the store keeps lies: in a folder, or in a fleet's directory.
//!
//! Guarantees: a value is there whole or not at all; in a folder, directories are 0700 and files 0600,
//! whatever the umask; a lock is one holder's, and ends with it.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::future::{BoxFuture, FutureExt as _, ready};
use jiff::{SignedDuration, Timestamp};

use crate::file_stamp::FileStamp;
use crate::fleet::VaultLock;
use crate::fleet::vault::Version;
use crate::private_files::{self, DRAFT, Lock};

pub(super) const CERTIFICATES: &str = "certificates/";
pub(super) const CHALLENGES: &str = "challenges/";
pub(super) const LOCKS: &str = "locks/";
pub(super) const FAILURES: &str = "failures/";

/// What is older than this is nobody's order any more.
pub(super) const LEFT_BEHIND: SignedDuration = SignedDuration::from_hours(1);
/// Room on the disk that an order makes sure of before it begins: a key and a long chain.
const ROOM: usize = 16 * 1024;
/// What failed so long ago, and was not tried again, is no name's of ours any more; what expired so long
/// ago is no use to anybody.
pub(super) const FORGOTTEN: SignedDuration = SignedDuration::from_hours(30 * 24);

/// How a value stands, so that it need not be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stamp {
    /// A file.
    File(FileStamp),
    /// A value of a fleet's directory.
    Shared(Version),
}

/// The right to order a name, until it is dropped.
#[derive(Debug)]
pub(super) enum NameLock {
    /// Held for its end alone.
    File(#[allow(dead_code, reason = "it ends when it is dropped")] Lock),
    Shared(VaultLock),
}

/// Room on the disk, until it is dropped.
#[derive(Debug)]
pub(super) struct Room(Option<PathBuf>);

/// A challenge that is answered until it is dropped, or the lock with which it was set.
#[derive(Debug)]
pub(super) struct OpenChallenge(pub(super) Vec<PathBuf>);

/// What writing comes to.
pub(super) type Done<'s, T> = BoxFuture<'s, io::Result<T>>;

/// Where values lie by their names, which are relative paths.
pub(super) trait Shelf: fmt::Debug + Send + Sync {
    /// What people call a value's place; of all of it, where the name is empty.
    fn place(&self, name: &str) -> String;

    /// How a value stands.
    fn stamp(&self, name: &str) -> io::Result<Stamp>;

    /// A value. One that others may well read is an error of the kind `PermissionDenied`.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Writes a value. What may be otherwise in a while is an error of the kind `NotConnected`.
    fn write<'s>(&'s self, name: &'s str, bytes: &'s [u8]) -> Done<'s, ()>;

    /// Takes a value away, if it is there.
    fn remove<'s>(&'s self, name: &'s str) -> Done<'s, ()>;

    /// Has a challenge answered by everybody, with all of these names and one text.
    fn set_challenge<'s>(
        &'s self,
        lock: &'s NameLock,
        names: [String; 2],
        text: &'s str,
    ) -> Done<'s, OpenChallenge>;

    /// A lock, unless another has it.
    fn try_lock<'s>(&'s self, name: &'s str) -> Done<'s, Option<NameLock>>;

    /// Makes sure that there will be room for a certificate.
    fn make_room(&self, name: &str) -> io::Result<Room>;

    /// Takes away what nobody wants any more.
    fn sweep(&self) -> BoxFuture<'_, ()>;
}

// === impl Stamp ===

impl Stamp {
    /// Whether the value could not change once more without a trace.
    pub(super) fn is_settled(&self, now: Timestamp) -> bool {
        match self {
            Self::File(stamp) => stamp.is_settled(now),
            Self::Shared(_) => true,
        }
    }
}

// === impl Room ===

impl Room {
    /// Where a disk is not what is full.
    pub(super) fn elsewhere() -> Self {
        Self(None)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // It may be gone with the directory.
            let _gone = fs::remove_file(path);
        }
    }
}

impl Drop for OpenChallenge {
    fn drop(&mut self) {
        for path in &self.0 {
            // It may be gone with the directory.
            let _gone = fs::remove_file(path);
        }
    }
}

/// A folder, which gateways may share.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

// === impl Folder ===

impl Folder {
    pub(super) fn at(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// Makes what there is not yet of it.
    pub(super) fn make(&self) -> io::Result<()> {
        private_files::make_dir(&self.0)?;
        private_files::can_create(&self.0)?;
        [CERTIFICATES, CHALLENGES, LOCKS, FAILURES]
            .iter()
            .try_for_each(|inner| private_files::make_dir(&self.0.join(inner)))
    }

    fn done<'s, T: Send + 's>(result: io::Result<T>) -> Done<'s, T> {
        ready(result).boxed()
    }

    fn sweep_now(&self) {
        let now = Timestamp::now();
        let is_old = |entry: &fs::DirEntry, age: SignedDuration| {
            let modified = entry.metadata().and_then(|found| found.modified());
            let modified = modified.ok().and_then(|at| Timestamp::try_from(at).ok());
            modified.is_some_and(|at| now.duration_since(at) > age)
        };
        for folder in [
            self.0.clone(),
            self.0.join(CERTIFICATES),
            self.0.join(CHALLENGES),
            self.0.join(FAILURES),
        ] {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let is_draft = path.extension().is_some_and(|ending| ending == DRAFT);
                let age = match folder.ends_with(FAILURES) && !is_draft {
                    true => FORGOTTEN,
                    false => LEFT_BEHIND,
                };
                let is_certificate = !is_draft && !folder.ends_with(CHALLENGES) && age != FORGOTTEN;
                if !is_certificate && path.is_file() && is_old(&entry, age) {
                    // Another gateway may have been quicker.
                    let _gone = fs::remove_file(path);
                }
            }
        }
    }
}

impl Shelf for Folder {
    fn place(&self, name: &str) -> String {
        match name {
            "" => self.0.display().to_string(),
            name => self.0.join(name).display().to_string(),
        }
    }

    fn stamp(&self, name: &str) -> io::Result<Stamp> {
        FileStamp::of(&self.0.join(name)).map(Stamp::File)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }

    fn write<'s>(&'s self, name: &'s str, bytes: &'s [u8]) -> Done<'s, ()> {
        Self::done(private_files::write(&self.0.join(name), bytes))
    }

    fn remove<'s>(&'s self, name: &'s str) -> Done<'s, ()> {
        Self::done(private_files::remove(&self.0.join(name)))
    }

    fn set_challenge<'s>(
        &'s self,
        _lock: &'s NameLock,
        names: [String; 2],
        text: &'s str,
    ) -> Done<'s, OpenChallenge> {
        let paths = names.iter().map(|name| self.0.join(name)).collect();
        let challenge = OpenChallenge(paths);
        let mut paths = challenge.0.iter();
        let written = paths.try_for_each(|path| private_files::write(path, text.as_bytes()));
        Self::done(written.map(|()| challenge))
    }

    fn try_lock<'s>(&'s self, name: &'s str) -> Done<'s, Option<NameLock>> {
        let lock = Lock::try_acquire(&self.0.join(LOCKS).join(name));
        Self::done(lock.map(|lock| lock.map(NameLock::File)))
    }

    fn make_room(&self, name: &str) -> io::Result<Room> {
        let folder = self.0.join(CERTIFICATES);
        let path = folder.join(format!("{name}.room.{DRAFT}"));
        let draft = folder.join(format!("{name}.room-draft.{DRAFT}"));
        let room = Room(Some(path.clone()));
        private_files::write_by(&draft, &path, &[&[0; ROOM]])?;
        Ok(room)
    }

    fn sweep(&self) -> BoxFuture<'_, ()> {
        self.sweep_now();
        ready(()).boxed()
    }
}
