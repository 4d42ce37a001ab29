//! Control groups (v2) of instances' processes, where this machine lets us make them.
//!
//! Guarantees: without the right to make groups nothing of this is used, and whoever starts an
//! instance learns which limit could not be set and why; a frozen group's processes can still be
//! killed; a group goes away with its instance.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use super::contract::Boot;

/// A group freezes within milliseconds, unless a process of it is in the middle of slow input or
/// the machine is so busy that it does not come to its signal.
const FREEZING: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_micros(200);
const CPU_PERIOD_MICROS: u64 = 100_000;

/// The folder in which we may make groups.
#[derive(Debug, Clone)]
pub(super) struct Groups(PathBuf);

/// One instance's group.
#[derive(Debug, Clone)]
pub(super) struct Group(PathBuf);

/// Finds the unified hierarchy in a table of `/proc/self/mountinfo`'s form, and our place in it in
/// one of `/proc/self/cgroup`'s (cgroups(7)).
fn own_group(mounts: &str, groups: &str) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut fields = place.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        kind.starts_with("cgroup2 ").then_some((root, point))
    });
    let (root, point) = mount?;
    let ours = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    // In a container, the mount shows a part of the hierarchy only.
    let inside = Path::new(ours).strip_prefix(root).ok()?;
    Some(Path::new(point).join(inside))
}

// === impl Groups ===

impl Groups {
    /// The place for instances' groups, if we can make one there that freezes.
    pub(super) fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let ours = own_group(&mounts, &groups)?;
        let base = ours.join("wakegate");
        make(&base).ok()?;
        for place in [&ours, &base] {
            for controller in ["+cpu", "+memory"] {
                // Not ours to give, or (when processes are beside the groups) not possible.
                let _refused = fs::write(place.join("cgroup.subtree_control"), controller);
            }
        }
        base.join("cgroup.freeze").exists().then_some(Self(base))
    }

    /// Whether a group can limit this: `cpu` or `memory`.
    pub(super) fn limits(&self, controller: &str) -> bool {
        fs::read_to_string(self.0.join("cgroup.subtree_control"))
            .is_ok_and(|list| list.split_whitespace().any(|word| word == controller))
    }

    /// The instance's group, if there is one.
    pub(super) fn existing(&self, id: &str) -> Option<Group> {
        let path = self.0.join(id);
        (!id.is_empty() && path.is_dir()).then_some(Group(path))
    }

    /// Makes a group for the instance.
    pub(super) fn make(&self, id: &str) -> io::Result<Group> {
        let path = self.0.join(id);
        make(&path)?;
        let group = Group(path);
        // One that an earlier run has left may be frozen; a new one is not.
        let _not_frozen = group.thaw();
        Ok(group)
    }
}

/// A control group with the limits that were asked for, and what of them is not to be had.
pub(super) fn make_group(groups: Option<&Groups>, boot: &Boot) -> (Option<Group>, Vec<String>) {
    let Some(groups) = groups else {
        let why = "no limits on memory and processors: no control group (v2) can be made here";
        return (None, vec![why.to_owned()]);
    };
    let group = match groups.make(&boot.id) {
        Ok(group) => group,
        Err(error) => return (None, vec![format!("no control group: {error}")]),
    };
    let set = |what: &str, done: io::Result<()>| match done {
        Ok(()) => None,
        Err(_) if !groups.limits(what) => Some(format!(
            "no limit on {what}: its controller is not given to our control group"
        )),
        Err(error) => Some(format!("no limit on {what}: {error}")),
    };
    let remarks = [
        set("memory", group.limit_memory(boot.memory_bytes)),
        set("cpu", group.limit_cpus(boot.vcpus)),
    ];
    (Some(group), remarks.into_iter().flatten().collect())
}

fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

// === impl Group ===

impl Group {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Limits the memory; a program that takes more is ended.
    pub(super) fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        fs::write(self.0.join("memory.max"), bytes.to_string())
    }

    /// Limits the processors' time to that of so many.
    pub(super) fn limit_cpus(&self, count: u32) -> io::Result<()> {
        let quota = u64::from(count) * CPU_PERIOD_MICROS;
        fs::write(
            self.0.join("cpu.max"),
            format!("{quota} {CPU_PERIOD_MICROS}"),
        )
    }

    /// Stops every process in it; `false` when that did not happen within five seconds.
    pub(super) async fn freeze(&self) -> io::Result<bool> {
        fs::write(self.0.join("cgroup.freeze"), "1")?;
        let frozen = async {
            while !self.is_frozen() {
                sleep(LOOK).await;
            }
        };
        Ok(tokio::time::timeout(FREEZING, frozen).await.is_ok())
    }

    pub(super) fn thaw(&self) -> io::Result<()> {
        fs::write(self.0.join("cgroup.freeze"), "0")
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.counter("cgroup.events", "frozen") == Some(1)
    }

    /// Gives its memory back as far as the kernel can. Takes as long as that takes.
    pub(super) fn reclaim(&self) {
        let all = fs::read_to_string(self.0.join("memory.current")).unwrap_or_default();
        // What cannot be given back is kept, which the kernel calls an error.
        let _as_far_as_possible = fs::write(self.0.join("memory.reclaim"), all.trim());
    }

    /// The number of its processes that the kernel ended for want of memory.
    pub(super) fn out_of_memory(&self) -> u64 {
        self.counter("memory.events", "oom_kill").unwrap_or(0)
    }

    /// The processor time of everything that ever ran in it.
    pub(super) fn cpu_micros(&self) -> Option<u64> {
        self.counter("cpu.stat", "usage_usec")
    }

    fn counter(&self, file: &str, name: &str) -> Option<u64> {
        let text = fs::read_to_string(self.0.join(file)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    }

    /// Kills what is left in it and removes it.
    pub(super) async fn remove(&self) {
        // Kernels before 5.14 cannot.
        let killed = fs::write(self.0.join("cgroup.kill"), "1").is_ok();
        for _ in 0..1000 {
            match fs::remove_dir(&self.0) {
                // A killed process is in it until its parent has heard of its end.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    if !killed {
                        self.kill_each();
                    }
                    sleep(LOOK).await;
                }
                _ => return,
            }
        }
        tracing::warn!(group = %self.0.display(), "a control group could not be removed");
    }

    /// Kills the processes in it one by one; those that they start meanwhile are in it as well.
    fn kill_each(&self) {
        let list = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        let pids = list
            .lines()
            .filter_map(|line| Pid::from_raw(line.parse().ok()?));
        for pid in pids {
            // It may have ended by itself.
            let _gone = kill_process(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_of_a_group_is_killed_where_the_kernel_cannot_kill_a_group() {
        let group = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let list = format!("0\nx\n{}\n", child.id());
        fs::write(group.path().join("cgroup.procs"), list).unwrap();
        Group::at(group.path().to_owned()).kill_each();
        let status = child.wait().unwrap();
        assert_eq!(super::super::launch::exit_code(status), Some(137));
    }

    #[test]
    fn our_group_is_found_also_beside_the_old_hierarchies_and_in_a_container() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                      42 24 0:39 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let groups = "3:memory:/x\n0::/system.slice/wakegate.service\n";
        assert_eq!(
            own_group(hybrid, groups).unwrap(),
            Path::new("/sys/fs/cgroup/unified/system.slice/wakegate.service")
        );
        let container = "42 24 0:39 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(
            own_group(container, "0::/docker/abc\n").unwrap(),
            Path::new("/sys/fs/cgroup")
        );
        assert_eq!(own_group(container, "0::/elsewhere\n"), None);
        assert_eq!(
            own_group("30 24 0:26 / /x rw - cgroup cgroup rw\n", groups),
            None
        );
    }
}
