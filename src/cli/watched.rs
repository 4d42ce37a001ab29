//! A file whose changes are noticed.
//!
//! Guarantees: what is compared is its content, so that a replaced file, a swapped symbolic link (a
//! Kubernetes `ConfigMap`) and an edited one are the same; one that is still being written is left
//! alone until two looks find it the same. A file that stays as it is, is looked at every second
//! and read twice a minute.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

const PAUSE: Duration = Duration::from_secs(1);
/// Looks that read the file after its stamp has changed. Within the coarsest tick of a file
/// system's clock (two seconds) another change may leave the stamp as it is.
const UNSETTLED: u32 = 4;
/// Looks after which the file is read whatever its stamp says: some file systems keep none.
const SELDOM: u32 = 30;

/// The file, as it was when somebody last acted on it.
pub(super) struct Watched {
    path: Option<PathBuf>,
    last: Option<Vec<u8>>,
}

/// What tells without reading that a file is another one, or has another content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The looks at one file.
#[derive(Debug, Default)]
struct Looks {
    stamp: Option<Stamp>,
    /// Looks since the stamp changed.
    since_change: u32,
}

// === impl Watched ===

impl Watched {
    /// Watches `path`, or nothing.
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        let mut watched = Self { path, last: None };
        watched.look();
        watched
    }

    fn read(&self) -> Option<Vec<u8>> {
        self.path.as_ref().and_then(|path| fs::read(path).ok())
    }

    /// From now on the file as it is counts as seen.
    pub(super) fn look(&mut self) {
        self.last = self.read();
    }

    /// Ends when the file has another content than the last one. Never, when it is gone.
    pub(super) async fn changed(&self) {
        let (mut before, mut looks) = (None, Looks::default());
        loop {
            sleep(PAUSE).await;
            let stamp = self.path.as_ref().and_then(|path| fs::metadata(path).ok());
            if !looks.must_read(stamp.as_ref().map(Stamp::from)) {
                continue;
            }
            let now = self.read();
            if now.is_some() && now != self.last && now == before {
                return;
            }
            before = now;
        }
    }
}

// === impl Stamp ===

impl From<&fs::Metadata> for Stamp {
    fn from(file: &fs::Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            length: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

// === impl Looks ===

impl Looks {
    /// Whether a file that has this stamp now may have another content than at the last reading.
    fn must_read(&mut self, stamp: Option<Stamp>) -> bool {
        if stamp == self.stamp {
            self.since_change = self.since_change.saturating_add(1);
        } else {
            (self.stamp, self.since_change) = (stamp, 0);
        }
        self.since_change < UNSETTLED || self.since_change.is_multiple_of(SELDOM)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use tokio::time::timeout;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn stamp(path: &Path) -> Option<Stamp> {
        fs::metadata(path).ok().as_ref().map(Stamp::from)
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_noticed_when_it_has_settled_and_a_missing_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wakegate.toml");
        fs::write(&path, "one").unwrap();
        let mut watched = Watched::new(Some(path.clone()));
        let quiet = timeout(MINUTE, watched.changed());
        assert!(quiet.await.is_err(), "nothing has changed");
        fs::remove_file(&path).unwrap();
        let quiet = timeout(MINUTE, watched.changed());
        assert!(quiet.await.is_err(), "it may come back");
        fs::write(&path, "two").unwrap();
        watched.changed().await;
        watched.look();
        let quiet = timeout(MINUTE, watched.changed());
        assert!(quiet.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_way_a_file_gets_its_new_content_is_noticed_within_seconds() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let path = at("wakegate.toml");
        for version in ["a", "b", "c", "d"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("wakegate.toml"), version).unwrap();
        }
        symlink(at("a"), at("current")).unwrap();
        symlink(at("current").join("wakegate.toml"), &path).unwrap();
        let mut watched = Watched::new(Some(path.clone()));
        let swap = |version: &str| {
            symlink(at(version), at("next")).unwrap();
            fs::rename(at("next"), at("current")).unwrap();
        };
        // The file is edited, of the same length and with its old time; another takes its place; a
        // link on the way to it is swapped.
        let edit = || {
            let (old, before) = (fs::metadata(&path).unwrap(), stamp(&path));
            // The test's clock is faster than the file system's.
            while stamp(&path) == before {
                fs::write(&path, "x").unwrap();
                let file = fs::File::options().append(true).open(&path).unwrap();
                file.set_modified(old.modified().unwrap()).unwrap();
            }
        };
        let replace = || fs::rename(at("d").join("wakegate.toml"), at("b/wakegate.toml")).unwrap();
        let ways: [(&str, &dyn Fn()); 4] = [
            ("edited", &edit),
            ("link swapped", &|| swap("b")),
            ("replaced", &replace),
            ("link swapped again", &|| swap("c")),
        ];
        for (what, change) in ways {
            // Long after the last change, when the file is no longer read at each look.
            let quiet = async {
                sleep(Duration::from_secs(10)).await;
                change();
            };
            let noticed = timeout(Duration::from_secs(13), watched.changed());
            let (noticed, ()) = tokio::join!(noticed, quiet);
            assert!(noticed.is_ok(), "{what}");
            watched.look();
        }
    }

    #[test]
    fn a_file_that_stays_as_it_is_is_hardly_ever_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wakegate.toml");
        fs::write(&path, "one").unwrap();
        let mut looks = Looks::default();
        let mut reads = |number: u32| {
            let looks = (0..number).filter(|_| looks.must_read(stamp(&path)));
            u32::try_from(looks.count()).unwrap()
        };
        assert_eq!(reads(UNSETTLED), UNSETTLED);
        assert_eq!(reads(600), 600 / SELDOM);
        fs::write(&path, "two").unwrap();
        assert_eq!(reads(UNSETTLED), UNSETTLED);
        fs::remove_file(&path).unwrap();
        assert_eq!(reads(UNSETTLED), UNSETTLED);
    }
}
