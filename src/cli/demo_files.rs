//! The demo's folder, and who looks after it.
//!
//! Guarantees: the folder and every process that was started for it end with their owner, also when
//! that is killed: a guard of the same program waits for the end of a pipe that only the owner
//! holds. Who merely looks around in the folder is left alone.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

const PREFIX: &str = "wakegate-demo-";
/// The variable by which the control plane marks what it starts (docs/reference/local.md).
const MARK: &[u8] = b"WAKEGATE_LOCAL_FOLDER=";
/// A killed process is gone within milliseconds; what is not after so many looks stays.
const LOOKS: usize = 1000;

/// A folder that goes away with its owner.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    guard: Child,
}

// === impl Scratch ===

impl Scratch {
    pub(super) fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("{PREFIX}{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&path)?;
        let guard = Command::new(std::env::current_exe()?)
            .arg("demo-guard")
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for the demo.
            .process_group(0)
            .spawn();
        let guard = guard.inspect_err(|_| {
            // Without its guard there is no folder.
            let _left_behind = std::fs::remove_dir(&path);
        })?;
        Ok(Self { path, guard })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Its end of the pipe closes, and it does what is left to do.
        drop(self.guard.stdin.take());
        let _reaped = self.guard.wait();
    }
}

/// Waits for the end of standard input; then ends what runs in the folder, and removes it.
pub(super) fn guard(folder: &Path) {
    let is_ours = folder.file_name().and_then(|name| name.to_str());
    if !is_ours.is_some_and(|name| name.starts_with(PREFIX)) {
        return;
    }
    // Nobody writes; an error is an end, too.
    let _end = std::io::stdin().read_to_end(&mut Vec::new());
    for _ in 0..LOOKS {
        let running = started_for(folder);
        if running.is_empty() {
            break;
        }
        for pid in running {
            // It may have ended by itself.
            let _gone = kill_process(pid, Signal::KILL);
        }
        std::thread::yield_now();
    }
    // Nothing to be done about what cannot be removed from a temporary directory.
    let _left_behind = std::fs::remove_dir_all(folder);
}

/// The processes that were started for the folder or for one below it.
fn started_for(folder: &Path) -> Vec<Pid> {
    let Ok(folder) = folder.canonicalize() else {
        return Vec::new();
    };
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_marked = |pid: &i32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        let mark = variables.find_map(|variable| variable.strip_prefix(MARK));
        mark.is_some_and(|place| Path::new(OsStr::from_bytes(place)).starts_with(&folder))
    };
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_marked)
        .filter_map(Pid::from_raw)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_around_in_the_folder_is_not_what_was_started_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap();
        let start = |mark: Option<&Path>| {
            let mut command = Command::new("sleep");
            command.arg("600").current_dir(&folder);
            command.envs(mark.map(|mark| ("WAKEGATE_LOCAL_FOLDER", mark)));
            command.spawn().unwrap()
        };
        let below = folder.join("instances/a/work");
        let mut children = [
            start(Some(&below)),
            start(None),
            start(Some("/other".as_ref())),
        ];
        let pids = children
            .each_ref()
            .map(|child| i32::try_from(child.id()).unwrap());
        let found = started_for(&folder);
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found, [Pid::from_raw(pids[0]).unwrap()]);
        assert!(started_for(&folder).is_empty());
    }
}
