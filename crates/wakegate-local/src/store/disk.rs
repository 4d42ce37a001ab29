//! The state directory: what the control plane must not forget, on disk.
//!
//! Guarantees: a file is written beside its place and renamed into it, so that a kill at any moment
//! leaves the old or the new one, never half of one; files are readable by their owner only, since
//! they hold environment values; a file that cannot be read is put aside and named, not deleted;
//! one directory has one control plane at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::new_token;

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
    /// The file that is locked while this control plane runs.
    _lock: File,
}

/// The kinds of records, each of which has a folder.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Instance,
    Ingress,
    Snapshot,
}

impl Kind {
    const fn folder(self) -> &'static str {
        match self {
            Self::Instance => "instances",
            Self::Ingress => "ingresses",
            Self::Snapshot => "snapshots",
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
        for kind in [Kind::Instance, Kind::Ingress, Kind::Snapshot] {
            make_dir(&root.join(kind.folder())).map_err(failed)?;
        }
        let root = root.canonicalize().map_err(failed)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(root.join("lock"))
            .map_err(failed)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| StoreError::Locked(root.clone()))?;
        Ok(Self { root, _lock: lock })
    }

    /// A folder of the thing's own, made when it is not there.
    pub(crate) fn folder(&self, kind: Kind, id: &str) -> io::Result<PathBuf> {
        let folder = self.root.join(kind.folder()).join(id);
        make_dir(&folder)?;
        Ok(folder)
    }

    pub(crate) fn save<T: Serialize>(&self, kind: Kind, id: &str, value: &T) -> io::Result<()> {
        let folder = self.folder(kind, id)?;
        replace(
            &folder.join("record.json"),
            &serde_json::to_vec_pretty(value)?,
        )
    }

    /// Forgets the thing and its folder.
    pub(crate) fn remove(&self, kind: Kind, id: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.root.join(kind.folder()).join(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads every record of a kind that can be read.
    pub(crate) fn load<T: DeserializeOwned>(&self, kind: Kind) -> io::Result<Vec<T>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.root.join(kind.folder()))? {
            let path = entry?.path().join("record.json");
            let Ok(bytes) = fs::read(&path) else { continue };
            match serde_json::from_slice(&bytes) {
                Ok(value) => all.push(value),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "put aside a record that cannot be read");
                    fs::rename(&path, path.with_extension("broken"))?;
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
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
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

    /// A file or folder of the control plane's own.
    pub(crate) fn own(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The file that keeps the token.
    pub(crate) fn token_path(&self) -> PathBuf {
        self.root.join("token")
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Writes beside and renames. No fsync: instances are processes, so a crash of the machine ends
/// them anyway, and a crash of ours does not lose what the kernel already has.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_broken_record_is_put_aside_and_the_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.save(Kind::Instance, "good", &"fine").unwrap();
        let broken = store.folder(Kind::Instance, "bad").unwrap();
        fs::write(broken.join("record.json"), b"{\"half\":").unwrap();
        assert_eq!(store.load::<String>(Kind::Instance).unwrap(), ["fine"]);
        assert!(broken.join("record.broken").exists());
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
