//! Processes that an earlier control plane, or an instance's program, has left, found by a mark in
//! their environment.
//!
//! Guarantees: only what was started for this state directory is ended, and nothing that this
//! process has started but the program of an instance that ends; a process that clears its
//! environment is found by its instance's handle or control group only.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::procfs::{ProcessStat, all_pids, environment};

/// The variable that names the folder for which a process was started.
pub(super) const MARK: &str = "WAKEGATE_LOCAL_FOLDER";
/// The last part of the mark of commands that are run beside an instance's program.
pub(super) const COMMAND: &str = "command";
const ROUNDS: usize = 500;
const PAUSE: Duration = Duration::from_millis(2);

/// A process with our mark.
#[derive(Debug)]
pub(super) struct Remnant {
    pub(super) pid: i32,
    /// Its folder, below the state directory.
    pub(super) folder: PathBuf,
    start_ticks: u64,
}

// === impl Remnant ===

impl Remnant {
    /// The instance whose program, or part of it, this is.
    pub(super) fn instance(&self) -> Option<&str> {
        let mut parts = self.folder.iter().map(OsStr::to_str);
        match (parts.next()?, parts.next()?, parts.next()?) {
            (Some("instances"), Some(id), Some(part)) if part != COMMAND => Some(id),
            _ => None,
        }
    }

    /// Ends it, unless another process has its number by now.
    fn end(&self) {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return;
        };
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        let same = |stat: ProcessStat| stat.start_ticks == self.start_ticks;
        if ProcessStat::read(self.pid).is_some_and(same) {
            // It may have ended by itself.
            let _gone = pidfd_send_signal(process, Signal::KILL);
        }
    }
}

/// The mark of an instance's program and of what it starts, by its folder.
pub(super) fn mark_of(folder: &Path) -> String {
    format!("{MARK}={}", folder.display())
}

/// Every process that was started for a folder of this state directory.
fn find(root: &Path) -> Vec<(Remnant, ProcessStat)> {
    let own = u64::from(std::process::id());
    let marked = all_pids().filter_map(|pid| {
        let runs = |stat: &ProcessStat| stat.state != 'Z' && u64::try_from(pid) != Ok(own);
        let stat = ProcessStat::read(pid).filter(runs)?;
        let (_, folder) = environment(pid)
            .into_iter()
            .find(|(name, _)| name == MARK)?;
        let remnant = Remnant {
            pid,
            folder: Path::new(&folder).strip_prefix(root).ok()?.to_owned(),
            start_ticks: stat.start_ticks,
        };
        Some((remnant, stat))
    });
    marked.collect()
}

/// Ends what an instance's program has started outside its session and its group, when the program
/// itself has ended. `root` is the state directory.
pub(super) async fn end_of_instance(tasks: &TaskTracker, root: &Path, id: &str) {
    for _ in 0..ROUNDS {
        let (root, id) = (root.to_owned(), id.to_owned());
        // It looks at every process of this machine.
        let round = tasks.spawn_blocking(move || {
            let mut left = find(&root);
            left.retain(|(remnant, _)| remnant.instance() == Some(&id));
            for (remnant, _) in &left {
                remnant.end();
            }
            left.len()
        });
        // A panic in it is in the log already.
        if round.await.unwrap_or(0) == 0 {
            return;
        }
        sleep(PAUSE).await;
    }
    tracing::warn!(
        instance = id,
        "processes of an instance that has ended do not end"
    );
}

/// Ends every process of this state directory that is not in use, and waits until it has gone.
pub(super) async fn end(root: &Path, is_in_use: impl Fn(&Remnant) -> bool) {
    let own = u64::from(std::process::id());
    for _ in 0..ROUNDS {
        let mut remnants = find(root);
        remnants.retain(|(remnant, stat)| stat.parent != own && !is_in_use(remnant));
        if remnants.is_empty() {
            return;
        }
        for (remnant, _) in &remnants {
            let (pid, folder) = (remnant.pid, remnant.folder.display());
            tracing::info!(pid, %folder, "ending what an earlier control plane has left");
            remnant.end();
        }
        sleep(PAUSE).await;
    }
    tracing::warn!("processes of an earlier control plane do not end");
}

/// The instances that have a folder, whatever became of them.
pub(super) fn instances(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root.join("instances"));
    let entries = entries.into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    // What is being removed, or was put aside, has its id behind a word.
    let id = |name: String| name.rsplit('-').next().unwrap_or_default().to_owned();
    names.map(id).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::procfs::is_alive;
    use super::*;

    /// Starts a process with this mark whose parent ends at once.
    fn leave(mark: &str) -> i32 {
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 600 >/dev/null 2>&1 & echo $!"]);
        let output = shell.env(MARK, mark).output().unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    }

    #[tokio::test]
    async fn what_a_program_has_left_goes_with_its_instance_and_nobody_elses_does() {
        let root = Path::new("/no/such/other/state");
        let folder = |id: &str| root.join("instances").join(id).join("work");
        let (ends, stays) = (folder("ends"), folder("stays"));
        let of = |folder: &Path| leave(folder.to_str().unwrap());
        let (gone, alive) = (of(&ends), of(&stays));
        let command = of(&ends.with_file_name(COMMAND));
        end_of_instance(&TaskTracker::new(), root, "ends").await;
        assert_eq!([gone, alive, command].map(is_alive), [false, true, true]);
        end(root, |_| false).await;
        assert_eq!([alive, command].map(is_alive), [false, false]);
    }

    #[tokio::test]
    async fn only_marked_processes_of_this_directory_that_nobody_uses_are_ended() {
        let root = Path::new("/no/such/state");
        let used = leave("/no/such/state/instances/used/work");
        let command = leave("/no/such/state/instances/used/command");
        let left = leave("/no/such/state/instances/left/work");
        let other = leave("/no/such/state2/instances/left/work");
        let mut own = Command::new("sleep");
        own.arg("600")
            .env(MARK, "/no/such/state/instances/left/work");
        let mut own = own.spawn().unwrap();
        end(root, |remnant| remnant.instance() == Some("used")).await;
        let alive = [used, command, left, other].map(is_alive);
        assert_eq!(alive, [true, false, false, true]);
        assert!(own.try_wait().unwrap().is_none(), "it is ours");
        own.kill().unwrap();
        own.wait().unwrap();
        for pid in [used, other] {
            let process = Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(process, Signal::KILL).unwrap();
        }
    }
}
