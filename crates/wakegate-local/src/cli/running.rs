//! The control plane that runs with a state directory, for commands of the same person.
//!
//! Guarantees: its token goes to nobody but the process that keeps the directory: what was left by
//! one that has ended is not used.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::file::default_state_dir;

/// The file that says where the API is, and whose it is.
const FILE: &str = "api";

/// A control plane that runs.
#[derive(Clone)]
pub struct RunningPlane {
    /// The base URL of its API.
    pub url: String,
    /// The bearer token, unless it lets everybody in.
    pub token: Option<String>,
}

impl std::fmt::Debug for RunningPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunningPlane({})", self.url)
    }
}

/// What says where a control plane's API is while it runs.
#[derive(Debug)]
pub(super) struct Announcement(PathBuf);

// === impl Announcement ===

impl Announcement {
    /// Writes it into the state directory of this process' control plane.
    pub(super) fn write(dir: &Path, address: SocketAddr) -> io::Result<Self> {
        let path = dir.join(FILE);
        let beside = dir.join(format!(".tmp-{FILE}"));
        // One that an earlier control plane left is no longer true.
        for old in [&path, &beside] {
            match fs::remove_file(old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        let text = format!("http://{address}\n{}\n", std::process::id());
        io::Write::write_all(&mut file, text.as_bytes())?;
        fs::rename(&beside, &path)?;
        Ok(Self(path))
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // What stays names a process that has ended.
        let _left_behind = fs::remove_file(&self.0);
    }
}

/// The control plane that runs with this state directory, or with the usual one; `None` when there
/// is none.
pub fn running_plane(state_dir: Option<&Path>) -> Result<Option<RunningPlane>, Failure> {
    let dir = state_dir.map_or_else(default_state_dir, |dir| Ok(dir.to_owned()))?;
    let Ok(text) = fs::read_to_string(dir.join(FILE)) else {
        return Ok(None);
    };
    let mut lines = text.lines();
    let (Some(url), Some(pid)) = (lines.next(), lines.next()) else {
        return Ok(None);
    };
    let owner = |path: PathBuf| fs::metadata(path).map(|file| file.uid());
    let keeper = owner(Path::new("/proc").join(pid));
    if keeper.ok() != owner(dir.join(FILE)).ok() {
        return Ok(None);
    }
    let token = match fs::read_to_string(dir.join("token")) {
        Ok(token) => Some(token.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            return Err(Failure::failed(format_args!(
                "cannot read the token: {error}"
            )));
        }
    };
    let url = url.to_owned();
    Ok(Some(RunningPlane { url, token }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_plane_is_found_while_it_runs_and_what_it_left_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let find = || running_plane(Some(dir.path())).unwrap();
        assert!(find().is_none());
        fs::write(dir.path().join("token"), "secret\n").unwrap();
        let address = ([127, 0, 0, 1], 4973).into();
        let announcement = Announcement::write(dir.path(), address).unwrap();
        let found = find().unwrap();
        assert_eq!(found.url, "http://127.0.0.1:4973");
        assert_eq!(found.token.as_deref(), Some("secret"));
        assert!(!format!("{found:?}").contains("secret"));
        let left = fs::read_to_string(dir.path().join(FILE)).unwrap();
        drop(announcement);
        assert!(find().is_none());
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let ours = std::process::id().to_string();
        let left = left.replace(&ours, &ended.id().to_string());
        fs::write(dir.path().join(FILE), left).unwrap();
        assert!(find().is_none(), "its process has ended");
        Announcement::write(dir.path(), address).unwrap();
    }
}
