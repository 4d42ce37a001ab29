//! The state directory: what the control plane must not forget, on disk.
//!
//! Guarantees: a kill at any moment leaves a record old or new, never half of one, and a thing
//! whole or not there; a save never brings back what was removed; files are readable by their owner
//! only, since they hold environment values; a record that cannot be read is put aside with its
//! folder and named, not deleted; one directory has one control plane at a time.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::draft::{Draft, RECORD};
use super::replaced::{self, MEMORY, settle_memory};
use crate::atomic::{
    DISCARDED, UNFINISHED, absent_is_fine, beside, has_prefix, make_folder, remove_folder,
    remove_unfinished, replace,
};
use crate::id::new_token;

/// The record of a thing that is being removed: whoever finds it finishes that.
const DELETED: &str = "record.deleted";
/// The beginning of the names of folders whose record cannot be read.
const ASIDE: &str = ".broken-";

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot use the state directory {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "the state directory {} is in use by another control plane; give another one with `--state-dir`",
        .0.display()
    )]
    Locked(PathBuf),
}

/// A state directory.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    #[allow(dead_code, reason = "it is held")]
    lock: Lock,
}

/// A file that is locked (flock(2)) while a control plane runs.
#[derive(Debug)]
struct Lock(File);

/// The kinds of records, each of which has a folder.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Instance,
    Ingress,
    Snapshot,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Instance, Self::Ingress, Self::Snapshot];

    const fn folder(self) -> &'static str {
        match self {
            Self::Instance => "instances",
            Self::Ingress => "ingresses",
            Self::Snapshot => "snapshots",
        }
    }
}

// === impl Lock ===

impl Lock {
    /// The lock of a file, unless another process has it.
    fn try_acquire(path: &Path) -> io::Result<Option<Self>> {
        let nofollow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true);
        let file = options.mode(0o600).custom_flags(nofollow).open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Lock {
    /// Closing alone is not enough: a child between fork and exec has the file open, too.
    fn drop(&mut self) {
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "the state directory stays locked until its file is closed");
        }
    }
}

// === impl Store ===

impl Store {
    /// Opens or makes the directory and locks it.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io {
            path: root.to_owned(),
            source,
        };
        for kind in Kind::ALL {
            make_folder(&root.join(kind.folder())).map_err(failed)?;
        }
        let root = root.canonicalize().map_err(failed)?;
        warn_of_others(&root).map_err(failed)?;
        let lock = Lock::try_acquire(&root.join("lock")).map_err(failed)?;
        let lock = lock.ok_or_else(|| StoreError::Locked(root.clone()))?;
        let store = Self { root, lock };
        store.recover().map_err(failed)?;
        Ok(store)
    }

    /// Undoes or finishes what a killed control plane has begun, but for what has processes.
    fn recover(&self) -> io::Result<()> {
        remove_unfinished(&self.root)?;
        for kind in Kind::ALL {
            let all = self.all(kind);
            remove_unfinished(&all)?;
            for folder in folders(&all)? {
                settle_memory(&folder)?;
                remove_unfinished(&folder)?;
                let memory = folder.join(MEMORY);
                if memory.is_dir() {
                    remove_unfinished(&memory)?;
                }
            }
        }
        Ok(())
    }

    /// The folder of a thing; it is there if the thing is.
    pub(crate) fn folder(&self, kind: Kind, id: &str) -> PathBuf {
        self.root.join(kind.folder()).join(id)
    }

    /// Begins a thing that nobody sees yet.
    pub(crate) fn draft(&self, kind: Kind, id: &str) -> io::Result<Draft> {
        let place = self.folder(kind, id);
        Draft::new(beside(&place, UNFINISHED), place)
    }

    /// Makes a thing that is nothing but its record.
    pub(crate) fn create<T: Serialize>(&self, kind: Kind, id: &str, value: &T) -> io::Result<()> {
        self.draft(kind, id)?.publish(value)
    }

    /// Replaces the record of a thing that is there.
    pub(crate) fn save<T: Serialize>(&self, kind: Kind, id: &str, value: &T) -> io::Result<()> {
        let path = self.folder(kind, id).join(RECORD);
        replace(&path, &serde_json::to_vec_pretty(value)?)
    }

    /// The place of a memory that is to replace that of an instance; it is empty.
    pub(crate) fn draft_memory(&self, id: &str) -> io::Result<PathBuf> {
        replaced::draft_memory(&self.folder(Kind::Instance, id))
    }

    /// Replaces an instance's memory by its draft, together with the record: both or neither. What
    /// was stays on disk until [`Self::forget_replaced`].
    pub(crate) fn replace_memory<T: Serialize>(&self, id: &str, record: &T) -> io::Result<()> {
        replaced::replace_memory(&self.folder(Kind::Instance, id), record)
    }

    /// Takes an instance's memory, if it has one, out of its place, and saves the record of one
    /// that has none. What was stays on disk until [`Self::forget_replaced`].
    pub(crate) fn set_memory_aside<T: Serialize>(&self, id: &str, record: &T) -> io::Result<()> {
        replaced::set_memory_aside(&self.folder(Kind::Instance, id), record)
    }

    /// Takes either of them back. It takes no room.
    pub(crate) fn undo_replacement(&self, id: &str) -> io::Result<()> {
        replaced::undo_replacement(&self.folder(Kind::Instance, id))
    }

    /// Removes what an instance was before its memory was replaced.
    pub(crate) fn forget_replaced(&self, id: &str) {
        replaced::forget_replaced(&self.folder(Kind::Instance, id));
    }

    /// The folder of the memory of an instance or a snapshot.
    pub(crate) fn memory(&self, kind: Kind, id: &str) -> PathBuf {
        self.folder(kind, id).join(MEMORY)
    }

    /// Notes that the thing is to be removed: after a kill, that is done at the next start.
    pub(crate) fn begin_removal(&self, kind: Kind, id: &str) -> io::Result<()> {
        let folder = self.folder(kind, id);
        fs::rename(folder.join(RECORD), folder.join(DELETED))
    }

    /// Takes back [`Self::begin_removal`].
    pub(crate) fn cancel_removal(&self, kind: Kind, id: &str) -> io::Result<()> {
        let folder = self.folder(kind, id);
        fs::rename(folder.join(DELETED), folder.join(RECORD))
    }

    /// Forgets the thing, at once and as a whole, and removes its folder.
    pub(crate) fn remove(&self, kind: Kind, id: &str) -> io::Result<()> {
        let folder = self.folder(kind, id);
        let discarded = beside(&folder, DISCARDED);
        absent_is_fine(fs::rename(&folder, &discarded))?;
        if let Err(error) = remove_folder(&discarded) {
            // It is in nobody's list, and goes at the next start.
            tracing::warn!(folder = %discarded.display(), %error, "cannot remove a folder");
        }
        Ok(())
    }

    /// Removes the folders of things that were being removed when their control plane was killed,
    /// and those without a record. Whatever ran in them has ended. What cannot be removed is
    /// nobody's, and said to be there.
    pub(crate) fn remove_discarded(&self, kind: Kind) -> io::Result<()> {
        for folder in folders(&self.all(kind))? {
            let is_aside = has_prefix(&folder, ASIDE);
            let removed = if has_prefix(&folder, DISCARDED) || has_prefix(&folder, UNFINISHED) {
                remove_folder(&folder)
            } else if !is_aside && !may_be_there(&folder.join(RECORD)) {
                let discarded = beside(&folder, DISCARDED);
                fs::rename(&folder, &discarded).and_then(|()| remove_folder(&discarded))
            } else {
                continue;
            };
            if let Err(error) = removed {
                let folder = folder.display();
                tracing::warn!(%folder, %error, "cannot remove what an earlier control plane left");
            }
        }
        Ok(())
    }

    /// Reads every record of a kind; those that cannot be read are put aside with their folders.
    pub(crate) fn load<T: DeserializeOwned>(&self, kind: Kind) -> io::Result<Vec<T>> {
        let mut all = Vec::new();
        for folder in folders(&self.all(kind))? {
            if [ASIDE, DISCARDED, UNFINISHED]
                .iter()
                .any(|prefix| has_prefix(&folder, prefix))
            {
                continue;
            }
            let read = match fs::read(folder.join(RECORD)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => Err(error),
                Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            };
            match read {
                Ok(value) => all.push(value),
                Err(error) => {
                    let aside = beside(&folder, ASIDE);
                    tracing::warn!(
                        record = %folder.join(RECORD).display(), %error, aside = %aside.display(),
                        "a record cannot be read: its folder is put aside, and what runs there ends"
                    );
                    // Where it cannot be put aside, it stays, and is nobody's all the same.
                    if let Err(error) = fs::rename(&folder, &aside) {
                        tracing::error!(folder = %folder.display(), %error, "it stays in its place");
                    }
                }
            }
        }
        Ok(all)
    }

    /// The token for development, which is made once.
    pub(crate) fn token(&self) -> io::Result<String> {
        let path = self.root.join("token");
        match fs::read_to_string(&path) {
            Ok(token) if !token.trim().is_empty() => Ok(token.trim().to_owned()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let which = format!("its file `token` cannot be read: {error}");
                Err(io::Error::new(error.kind(), which))
            }
            _ => {
                let token = new_token().map_err(io::Error::other)?;
                replace(&path, format!("{token}\n").as_bytes())?;
                Ok(token)
            }
        }
    }

    /// The folder that has all records of a kind.
    pub(crate) fn all(&self, kind: Kind) -> PathBuf {
        self.root.join(kind.folder())
    }

    /// The state directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A file or folder of the control plane's own.
    pub(crate) fn own(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The file that keeps the token.
    pub(crate) fn token_path(&self) -> PathBuf {
        self.root.join("token")
    }
}

/// Says so when others than its owner can put files into the directory.
fn warn_of_others(root: &Path) -> io::Result<()> {
    let info = fs::metadata(root)?;
    let is_ours = info.uid() == rustix::process::geteuid().as_raw();
    if info.mode() & 0o022 != 0 || !is_ours {
        tracing::warn!(
            directory = %root.display(), mode = format!("{:o}", info.mode() & 0o777),
            "others can change the state directory; `chmod go-w` it, or take another one"
        );
    }
    Ok(())
}

/// Whether a file is there, or cannot be seen.
fn may_be_there(path: &Path) -> bool {
    let missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
    !fs::symlink_metadata(path).is_err_and(missing)
}

/// The folders in a folder.
fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.push(entry.path());
        }
    }
    Ok(all)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What is in a folder, by name.
    pub(in crate::store) fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_has_one_control_plane_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        assert!(matches!(
            Store::open(dir.path()),
            Err(StoreError::Locked(_))
        ));
        drop(first);
        Store::open(dir.path()).unwrap();
    }

    #[test]
    fn a_record_that_cannot_be_read_is_put_aside_with_its_folder_and_the_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for id in ["good", "half", "folder"] {
            store.create(Kind::Instance, id, &"fine").unwrap();
        }
        let all = store.all(Kind::Instance);
        fs::write(all.join("half").join(RECORD), b"{\"half\":").unwrap();
        fs::remove_file(all.join("folder").join(RECORD)).unwrap();
        fs::create_dir(all.join("folder").join(RECORD)).unwrap();
        for _ in 0..2 {
            assert_eq!(store.load::<String>(Kind::Instance).unwrap(), ["fine"]);
            store.remove_discarded(Kind::Instance).unwrap();
            assert_eq!(names(&all), [".broken-folder", ".broken-half", "good"]);
        }
        assert!(all.join(".broken-half").join(RECORD).exists());
    }

    #[test]
    fn a_save_does_not_bring_back_what_was_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.create(Kind::Instance, "a", &1).unwrap();
        store.save(Kind::Instance, "a", &2).unwrap();
        store.remove(Kind::Instance, "a").unwrap();
        store.remove(Kind::Instance, "a").unwrap();
        store.save(Kind::Instance, "a", &3).unwrap_err();
        assert!(names(&store.all(Kind::Instance)).is_empty());
    }

    #[test]
    fn a_directory_is_free_after_its_control_plane_though_a_child_that_is_being_started_has_its_lock()
     {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        Store::open(dir.path()).unwrap_err();
        // What fork(2) gives to a child until it has called execve(2).
        let _copy = store.lock.0.try_clone().unwrap();
        drop(store);
        Store::open(dir.path()).unwrap();
    }

    #[test]
    fn what_was_begun_and_not_finished_is_gone_after_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let draft = store.draft(Kind::Snapshot, "half").unwrap();
        fs::write(draft.folder().join("memory"), b"half").unwrap();
        std::mem::forget(draft);
        drop(store.draft(Kind::Snapshot, "given up").unwrap());
        for id in ["whole", "dying", "dead"] {
            store.create(Kind::Snapshot, id, &id).unwrap();
        }
        store.begin_removal(Kind::Snapshot, "dying").unwrap();
        let all = store.all(Kind::Snapshot);
        fs::rename(all.join("dead"), all.join(".trash-dead")).unwrap();
        fs::write(all.join("whole").join(".tmp-record.json"), b"half").unwrap();
        fs::write(dir.path().join(".tmp-token"), b"half").unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.load::<String>(Kind::Snapshot).unwrap(), ["whole"]);
        store.remove_discarded(Kind::Snapshot).unwrap();
        assert_eq!(names(&all), ["whole"]);
        assert_eq!(names(&all.join("whole")), [RECORD]);
        assert!(!dir.path().join(".tmp-token").exists());
    }

    #[test]
    fn a_removal_can_be_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.create(Kind::Instance, "a", &"a").unwrap();
        store.begin_removal(Kind::Instance, "a").unwrap();
        assert!(store.load::<String>(Kind::Instance).unwrap().is_empty());
        store.cancel_removal(Kind::Instance, "a").unwrap();
        assert_eq!(store.load::<String>(Kind::Instance).unwrap(), ["a"]);
    }

    #[test]
    fn what_cannot_be_put_aside_keeps_nobody_from_starting_and_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for id in ["good", "half"] {
            store.create(Kind::Instance, id, &"fine").unwrap();
        }
        let all = store.all(Kind::Instance);
        fs::write(all.join("half").join(RECORD), b"{\"half\":").unwrap();
        // From an earlier time.
        fs::create_dir_all(all.join(".broken-half").join("work")).unwrap();
        assert_eq!(store.load::<String>(Kind::Instance).unwrap(), ["fine"]);
        store.remove_discarded(Kind::Instance).unwrap();
        assert_eq!(names(&all), [".broken-half", "good", "half"]);
    }

    #[test]
    fn what_cannot_be_removed_keeps_nobody_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.create(Kind::Instance, "good", &"fine").unwrap();
        let trash = store.all(Kind::Instance).join(".trash-owned-by-another");
        let draft = store.all(Kind::Instance).join(".tmp-owned-by-another");
        let stays = |flag: &str| {
            let mut attribute = std::process::Command::new("chattr");
            let done = attribute.arg(flag).args([&trash, &draft]).output();
            done.is_ok_and(|output| output.status.success())
        };
        for folder in [&trash, &draft] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join(RECORD), b"\"half\"").unwrap();
        }
        if !stays("+i") {
            println!("SKIPPED: nothing here stays although it is removed");
            return;
        }
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        let listed = store.load::<String>(Kind::Instance);
        let removed = store.remove_discarded(Kind::Instance);
        assert!(stays("-i"), "so that the test's folder can be removed");
        removed.unwrap();
        assert_eq!(listed.unwrap(), ["fine"]);
    }

    #[test]
    fn the_token_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.token().unwrap(), store.token().unwrap());
        let mode = fs::metadata(store.token_path())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
