//! A file whose changes are noticed.
//!
//! Guarantees: what is compared is its content, so that a replaced file, a swapped symbolic link (a
//! Kubernetes `ConfigMap`) and an edited one are the same; one that is still being written is left
//! alone until two looks find it the same.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

const PAUSE: Duration = Duration::from_secs(1);

/// The file, as it was when somebody last acted on it.
pub(super) struct Watched {
    path: Option<PathBuf>,
    last: Option<Vec<u8>>,
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
        self.path.as_ref().and_then(|path| std::fs::read(path).ok())
    }

    /// From now on the file as it is counts as seen.
    pub(super) fn look(&mut self) {
        self.last = self.read();
    }

    /// Ends when the file has another content than the last one. Never, when it is gone.
    pub(super) async fn changed(&self) {
        let mut before = None;
        loop {
            sleep(PAUSE).await;
            let now = self.read();
            if now.is_some() && now != self.last && now == before {
                return;
            }
            before = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_noticed_when_it_has_settled_and_a_missing_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wakegate.toml");
        std::fs::write(&path, "one").unwrap();
        let mut watched = Watched::new(Some(path.clone()));
        let quiet = timeout(Duration::from_secs(60), watched.changed());
        assert!(quiet.await.is_err(), "nothing has changed");
        std::fs::remove_file(&path).unwrap();
        let quiet = timeout(Duration::from_secs(60), watched.changed());
        assert!(quiet.await.is_err(), "it may come back");
        std::fs::write(&path, "two").unwrap();
        watched.changed().await;
        watched.look();
        let quiet = timeout(Duration::from_secs(60), watched.changed());
        assert!(quiet.await.is_err());
    }
}
