//! Files and folders that are whole or not there.
//!
//! Guarantees: what is written here appears in its place by a rename, so that a kill at any moment
//! leaves the old one or the new one; what is not whole yet has a name that begins with
//! [`UNFINISHED`], and what is being removed one that begins with [`DISCARDED`], by which it is
//! found when nobody finishes the work. Nothing here follows a link that another has put in the
//! way.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// The beginning of the names of files and folders that are not whole yet.
pub(crate) const UNFINISHED: &str = ".tmp-";
/// The beginning of the names of folders that are being removed.
pub(crate) const DISCARDED: &str = ".trash-";
/// The beginning of the names of folders that make room for others, and come back if those do not.
pub(crate) const FORMER: &str = ".former-";

/// The name beside a file or folder, with this at its beginning.
pub(crate) fn beside(path: &Path, prefix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default();
    let mut new = std::ffi::OsString::from(prefix);
    new.push(name);
    path.with_file_name(new)
}

/// Makes a folder for its owner's eyes only, and the folders above it.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path)
}

/// Replaces a file of a folder that is there, readable by its owner only.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = beside(path, UNFINISHED);
    let replaced = create(&new)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        // What cannot be removed now goes at the next start.
        let _left_behind = fs::remove_file(&new);
    }
    replaced
}

/// Makes a file that was not there; one that a killed control plane has left goes first.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create_new(true).write(true).mode(0o600);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            options.open(path)
        }
        result => result,
    }
}

/// Removes a folder, if it is there.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_dir_all(path))
}

/// What was not there need not be removed.
pub(crate) fn absent_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the files and folders in a folder that never became whole. Those that cannot be removed
/// are said to be there, and are nobody's.
pub(crate) fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if !has_prefix(&path, UNFINISHED) {
            continue;
        }
        let removed = match entry.file_type()?.is_dir() {
            true => remove_folder(&path),
            false => absent_is_fine(fs::remove_file(&path)),
        };
        if let Err(error) = removed {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot remove what never became whole");
        }
    }
    Ok(())
}

/// Whether a file's name begins so.
pub(crate) fn has_prefix(path: &Path, prefix: &str) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(prefix.as_bytes())
}

/// Waits until a file, or the names in a folder, are on the disk.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Waits until everything in a folder is on the disk.
pub(crate) fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_all(&entry.path())?;
        } else if kind.is_file() {
            sync(&entry.path())?;
        }
    }
    sync(folder)
}

/// Puts the folder `new` in the place of `old`, which may not be there, and removes that one.
pub(crate) fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        Err(Errno::NOENT) => fs::rename(new, old),
        // Not on this file system: in two steps, the first of which is undone at the next start
        // when there is no second.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            let former = beside(old, FORMER);
            fs::rename(old, &former)?;
            let placed = fs::rename(new, old);
            if placed.is_err() {
                fs::rename(&former, old)?;
            }
            placed
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_way_of_a_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, victim) = (dir.path().join("token"), dir.path().join("victim"));
        fs::write(&victim, b"mine").unwrap();
        std::os::unix::fs::symlink(&victim, beside(&file, UNFINISHED)).unwrap();
        replace(&file, b"secret").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
        assert_eq!(fs::read(&file).unwrap(), b"secret");
        assert!(!fs::symlink_metadata(&file).unwrap().is_symlink());
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("record");
        fs::create_dir_all(file.join("in the way")).unwrap();
        replace(&file, b"new").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let gone = dir.path().join("nowhere").join("record");
        replace(&gone, b"new").unwrap_err();
        assert!(!gone.parent().unwrap().exists(), "it makes no folder");
    }

    #[test]
    fn a_folder_is_exchanged_for_another_or_takes_an_empty_place() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        for content in ["one", "two"] {
            fs::create_dir(&new).unwrap();
            fs::write(new.join("content"), content).unwrap();
            exchange(&new, &old).unwrap();
            assert_eq!(fs::read_to_string(old.join("content")).unwrap(), content);
            remove_folder(&new).unwrap();
        }
    }
}
