//! The demo's folder, and who looks after it.
//!
//! Guarantees: the folder and every process below it end with their owner, also when that is killed:
//! a guard of the same program waits for the end of a pipe that only the owner holds.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

const PREFIX: &str = "wakegate-demo-";
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
        let running = running_in(folder);
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

/// The processes whose working directory is the folder or below it.
fn running_in(folder: &Path) -> Vec<Pid> {
    let Ok(folder) = folder.canonicalize() else {
        return Vec::new();
    };
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_there = |pid: &i32| {
        let place = std::fs::read_link(format!("/proc/{pid}/cwd"));
        place.is_ok_and(|place| place.starts_with(&folder))
    };
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_there)
        .filter_map(Pid::from_raw)
        .collect()
}
