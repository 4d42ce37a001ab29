//! What `/proc` says about a process.
//!
//! Guarantees: a process that is gone is `None`, never an error.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::contract::Usage;

/// The parts of `/proc/<pid>/stat` that we need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProcessStat {
    /// `R`, `S`, `T` (stopped), `Z` (ended), …
    pub(super) state: char,
    pub(super) start_ticks: u64,
    pub(super) parent: u64,
    pub(super) group: u64,
    session: u64,
    cpu_ticks: u64,
    vms_bytes: u64,
    rss_pages: u64,
}

// === impl ProcessStat ===

impl ProcessStat {
    /// `None` when there is no such process.
    pub(super) fn read(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name, in parentheses, may hold anything, so fields are counted from its end.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // proc_pid_stat(5) counts from 1, and state is its field 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: number(4)?,
            group: number(5)?,
            session: number(6)?,
            cpu_ticks: number(14)? + number(15)?,
            start_ticks: number(22)?,
            vms_bytes: number(23)?,
            rss_pages: number(24)?,
        })
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            cpu_seconds: self.cpu_ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
            memory_rss_bytes: self.rss_pages * rustix::param::page_size() as u64,
            memory_vms_bytes: self.vms_bytes,
        }
    }
}

/// The processes of an instance.
#[derive(Debug, Clone)]
pub(super) struct Members {
    /// The leader of their session.
    pub(super) leader: i32,
    /// Their control group, which also has those that began a session of their own.
    pub(super) group: Option<PathBuf>,
    /// What each has in its environment, by which those are found where there is no group.
    pub(super) mark: String,
}

impl Members {
    fn pids(&self) -> Vec<i32> {
        let in_group = self.group.as_ref();
        let in_group = in_group.and_then(|at| fs::read_to_string(at.join("cgroup.procs")).ok());
        if let Some(text) = in_group {
            return text.lines().filter_map(|line| line.parse().ok()).collect();
        }
        let session = u64::try_from(self.leader).ok();
        let is_member = |pid: &i32| ProcessStat::read(*pid).map(|stat| stat.session) == session;
        all_pids().filter(is_member).collect()
    }

    /// Those with the mark; none where a group has them all.
    fn marked_pids(&self) -> Vec<i32> {
        if self.group.is_some() {
            return Vec::new();
        }
        let is_marked = |pid: &i32| {
            let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mut entries = bytes.split(|b| *b == 0);
            entries.any(|entry| entry == self.mark.as_bytes())
        };
        all_pids().filter(is_marked).collect()
    }
}

/// The numbers of all processes of this machine.
pub(super) fn all_pids() -> impl Iterator<Item = i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The numbers of the sockets that an instance's processes have open.
pub(super) fn sockets_of(members: &Members) -> HashSet<u64> {
    sockets(members.pids())
}

/// The numbers of the sockets that those of an instance's processes have open which are found by
/// their mark alone. This looks at every process of the machine.
pub(super) fn sockets_of_marked(members: &Members) -> HashSet<u64> {
    sockets(members.marked_pids())
}

fn sockets(pids: Vec<i32>) -> HashSet<u64> {
    let socket = |link: PathBuf| {
        let text = link.to_str()?.strip_prefix("socket:[")?;
        text.strip_suffix(']')?.parse().ok()
    };
    let open = |pid: i32| {
        fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
    };
    let files = pids.into_iter().flat_map(open).flatten();
    let links = files.filter_map(|file| fs::read_link(file.path()).ok());
    links.filter_map(socket).collect()
}

/// The environment that a process was started with.
pub(super) fn environment(pid: i32) -> Vec<(OsString, OsString)> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let pair = |entry: &[u8]| {
        let at = entry.iter().position(|b| *b == b'=')?;
        let text = |part: Option<&[u8]>| Some(OsStr::from_bytes(part?).to_owned());
        Some((text(entry.get(..at))?, text(entry.get(at + 1..))?))
    };
    bytes.split(|b| *b == 0).filter_map(pair).collect()
}

/// Differs after each boot of the machine.
pub(super) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Whether a process runs, for tests.
#[cfg(test)]
pub(super) fn is_alive(pid: i32) -> bool {
    ProcessStat::read(pid).is_some_and(|stat| stat.state != 'Z')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse_the_fields() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 9001 4096000 25 x";
        let stat = ProcessStat::parse(text).unwrap();
        assert_eq!(
            (stat.state, stat.start_ticks, stat.cpu_ticks),
            ('S', 9001, 300)
        );
        assert_eq!((stat.vms_bytes, stat.rss_pages), (4_096_000, 25));
    }

    #[test]
    fn a_listener_of_our_own_is_among_our_sockets() {
        use std::os::fd::AsRawFd as _;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let leader = i32::try_from(ProcessStat::read(pid).unwrap().session).unwrap();
        let members = Members {
            leader,
            group: None,
            mark: String::new(),
        };
        assert!(members.pids().contains(&pid));
        let name = |inode: &u64| link.to_str() == Some(&format!("socket:[{inode}]"));
        assert!(sockets_of(&members).iter().any(name));
    }

    #[test]
    fn who_began_a_session_of_its_own_is_found_by_its_mark_where_there_is_no_group() {
        let mark = format!("MARK_OF_A_TEST={}", std::process::id());
        let (name, value) = mark.split_once('=').unwrap();
        let mut daemon = std::process::Command::new("setsid")
            .args(["sleep", "600"])
            .env(name, value)
            .spawn()
            .unwrap();
        let pid = i32::try_from(daemon.id()).unwrap();
        let members = |group: Option<&str>| Members {
            leader: i32::MAX,
            group: group.map(PathBuf::from),
            mark: mark.clone(),
        };
        assert!(members(None).pids().is_empty());
        assert_eq!(members(None).marked_pids(), [pid]);
        assert!(members(Some("/nonexistent")).marked_pids().is_empty());
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    #[test]
    fn our_own_process_has_figures() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(ProcessStat::read(pid).unwrap().usage().memory_rss_bytes > 0);
    }
}
