//! Files that are the gateway's own.
//!
//! Guarantees: a file is there whole or not at all, also after a crash of the machine; directories
//! are 0700 and files 0600, or 0644 where they are for others to read, whatever the umask; a lock
//! ends when it is dropped, also where a program that is just being started has a copy of its file.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FlockOperation, accessat, flock};
use rustix::io::Errno;

/// The ending of files that are being written.
pub const DRAFT: &str = "new";

/// A file that one process at a time has locked (flock(2)), until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock(fs::File);

// === impl Lock ===

impl Lock {
    /// The lock of a file, which is made where there is none; waits until nobody else has it.
    pub fn acquire(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        flock(&file, FlockOperation::LockExclusive)?;
        Ok(Self(file))
    }

    /// The same, unless somebody else has it.
    pub fn try_acquire(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
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
            tracing::warn!(%error, "a lock cannot be let go of before its file is closed");
        }
    }
}

// === files and folders ===

/// Whether files can be created in a directory, which may itself have to be created.
pub fn can_create(dir: &Path) -> io::Result<()> {
    for (depth, folder) in dir.ancestors().enumerate() {
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        match fs::metadata(folder) {
            Ok(found) if found.is_dir() => {
                let access = Access::WRITE_OK | Access::EXEC_OK;
                // As the user who would do it, not as the one who started the program.
                return Ok(accessat(CWD, folder, access, AtFlags::EACCESS)?);
            }
            Ok(_) if depth == 0 => return Err(Errno::EXIST.into()),
            Ok(_) => return Err(Errno::NOTDIR.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::NOENT.into())
}

/// Makes a directory, and those above it, where there is none.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
}

/// Opens a file to be written, and makes it where there is none.
pub fn open(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Writes a file whole, or not at all. Of two that write the same one at once, one wins.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with_mode(&fresh_draft(path), path, &[bytes], 0o600)
}

/// The same for what others may read.
pub fn write_public(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with_mode(&fresh_draft(path), path, &[bytes], 0o644)
}

fn fresh_draft(path: &Path) -> PathBuf {
    path.with_extension(format!("{:x}.{DRAFT}", fastrand::u64(..)))
}

/// The same by a draft of this name, for a file so large that no more than one draft is to be left by
/// whoever is killed meanwhile.
pub fn write_by(draft: &Path, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    write_with_mode(draft, path, parts, 0o600)
}

fn write_with_mode(draft: &Path, path: &Path, parts: &[&[u8]], mode: u32) -> io::Result<()> {
    let written = (|| {
        let mut file = open(draft)?;
        file.set_len(0)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        if mode != 0o600 {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        file.sync_all()?;
        fs::rename(draft, path)?;
        sync_folder(path)
    })();
    if written.is_err() {
        // It may not even have been made.
        let _gone = fs::remove_file(draft);
    }
    written
}

/// Removes a file, if it is there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// What has been renamed or removed in a file's folder stays so.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_owner_though_a_child_that_is_being_started_has_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::acquire(&path).unwrap();
        assert!(Lock::try_acquire(&path).unwrap().is_none());
        // What fork(2) gives to a child until it has called execve(2).
        let _copy = held.0.try_clone().unwrap();
        drop(held);
        assert!(Lock::try_acquire(&path).unwrap().is_some());
    }

    #[test]
    fn a_file_is_its_owners_alone_and_takes_the_place_of_the_one_before_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        can_create(&folder).unwrap();
        make_dir(&folder).unwrap();
        let path = folder.join("x.json");
        for text in ["longer than the next", "short"] {
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&path)), (0o700, 0o600));
        write_public(&path, b"for all").unwrap();
        assert_eq!(mode(&path), 0o644);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no draft stays");
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
        fs::write(&path, "x").unwrap();
        assert!(can_create(&path).is_err() && can_create(&path.join("c")).is_err());
    }
}
