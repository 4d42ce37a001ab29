//! The control plane that runs with a state directory, for commands of the same person.
//!
//! Guarantees: its token goes to nobody but the process that keeps the directory, and holds its
//! lock: what was left by one that has ended is not used, whoever has its number by now.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::file::default_state_dir;
use crate::atomic::{absent_is_fine, replace};

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
        // One that an earlier control plane left is no longer true.
        absent_is_fine(fs::remove_file(&path))?;
        let text = format!("http://{address}\n{}\n", std::process::id());
        replace(&path, text.as_bytes())?;
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
    let Ok(pid) = pid.parse() else {
        return Ok(None);
    };
    if !keeps(pid, &dir) {
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

/// Whether this process, of the directory's owner, holds the directory's lock.
fn keeps(pid: u32, dir: &Path) -> bool {
    let info = |path: &Path| fs::metadata(path).ok();
    let process = info(&Path::new("/proc").join(pid.to_string()));
    let (Some(process), Some(lock)) = (process, info(&dir.join("lock"))) else {
        return false;
    };
    let Ok(locks) = fs::read_to_string("/proc/locks") else {
        // Some sandboxes have no such table.
        return process.uid() == lock.uid();
    };
    process.uid() == lock.uid() && locks.lines().any(|line| is_lock_of(line, pid, lock.ino()))
}

/// Whether a line of `/proc/locks` (proc(5)) is the lock of a whole file by this process. The
/// file's device is not compared: some file systems have another one there.
fn is_lock_of(line: &str, pid: u32, inode: u64) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", owner, file, ..] = words.as_slice() else {
        return false;
    };
    let file = file.rsplit(':').next();
    owner.parse::<u32>().is_ok_and(|owner| owner == pid)
        && file.is_some_and(|file| file.parse::<u64>().is_ok_and(|file| file == inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_told_by_its_process_and_its_file() {
        let line = "1: FLOCK  ADVISORY  WRITE 19167 fe:00:10224898 0 EOF";
        assert!(is_lock_of(line, 19167, 10_224_898));
        for (line, pid, inode) in [
            (line, 1916, 10_224_898),
            (line, 19167, 224_898),
            (
                "2: FLOCK  ADVISORY  READ 19167 fe:00:10224898 0 EOF",
                19167,
                10_224_898,
            ),
            (
                "2: -> FLOCK  ADVISORY  WRITE 19167 fe:00:10224898 0 EOF",
                19167,
                10_224_898,
            ),
            (
                "3: POSIX  ADVISORY  WRITE 19167 fe:00:10224898 0 EOF",
                19167,
                10_224_898,
            ),
            ("", 0, 0),
        ] {
            assert!(!is_lock_of(line, pid, inode), "{line}");
        }
    }

    #[test]
    fn a_control_plane_is_found_while_it_runs_and_what_it_left_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let find = || running_plane(Some(dir.path())).unwrap();
        assert!(find().is_none());
        fs::write(dir.path().join("token"), "secret\n").unwrap();
        let address = ([127, 0, 0, 1], 4973).into();
        let announcement = Announcement::write(dir.path(), address).unwrap();
        assert!(find().is_none(), "nobody keeps the directory");
        let lock = fs::File::create(dir.path().join("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
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
