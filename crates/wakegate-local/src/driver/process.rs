//! Instances as process groups, without any privilege.
//!
//! Guarantees: standby stops every process of the group (by its control group's freezer where there
//! is one, else by SIGSTOP; memory is kept) and then closes the address; restore continues them and
//! opens it, in the reverse order of harm; the group outlives the control plane and is found again
//! by process id, start time and boot id. Limits are set where control groups can, and said to be
//! missing where they cannot.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address_proxy::{AddressProxy, Traffic};
use super::cgroup::{Group, Groups};
use super::contract::{Boot, CommandEnd, DriverEvent, Exit, Handle, Started, Usage};
use super::error::DriverError;
use super::procfs::{ProcessStat, boot_id, environment};
use crate::clock::Clock;
use crate::path_info::PathInfo;
use crate::state::State;

const LOOK_AT_ADOPTED: Duration = Duration::from_millis(100);
/// The most bytes of a command's output that are kept, from its end.
const OUTPUT: usize = 4096;

/// Runs instances as process groups.
#[derive(Debug)]
pub(crate) struct ProcessDriver {
    processes: DashMap<String, Arc<Process>>,
    clock: Clock,
    events: mpsc::Sender<DriverEvent>,
    tasks: TaskTracker,
    boot_id: String,
    /// This program, for its `session` subcommand.
    launcher: PathBuf,
    groups: Option<Groups>,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    address: Option<Arc<AddressProxy>>,
    group: Option<Group>,
    /// Whether we are ending it, so that its end is no [`Exit`].
    expected: AtomicBool,
    ended: CancellationToken,
}

// === impl ProcessDriver ===

impl ProcessDriver {
    /// `events` hears of programs that end by themselves.
    pub(crate) fn new(
        clock: Clock,
        events: mpsc::Sender<DriverEvent>,
        tasks: TaskTracker,
        launcher: PathBuf,
    ) -> Self {
        Self {
            processes: DashMap::new(),
            clock,
            events,
            tasks,
            boot_id: boot_id(),
            launcher,
            groups: Groups::find(),
        }
    }

    fn find(&self, id: &str) -> Option<Arc<Process>> {
        self.processes
            .get(id)
            .map(|process| Arc::clone(process.value()))
    }

    fn free_address(&self, port: u16) -> Result<AddressProxy, DriverError> {
        let used = |candidate| {
            self.processes.iter().any(|process| {
                let address = process.address.as_ref();
                address.is_some_and(|address| address.public == candidate)
            })
        };
        AddressProxy::free(&self.clock, port, used).ok_or(DriverError::NoAddress)
    }

    /// A control group with the limits that were asked for, and what of them is not to be had.
    fn group(&self, boot: &Boot) -> (Option<Group>, Vec<String>) {
        let Some(groups) = &self.groups else {
            let why = "no limits on memory and processors: no control group (v2) can be made here";
            return (None, vec![why.to_owned()]);
        };
        let group = match groups.make(&boot.id) {
            Ok(group) => group,
            Err(error) => return (None, vec![format!("no control group: {error}")]),
        };
        let set = |what: &str, done: std::io::Result<()>| match done {
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

    /// Watches the process until its end.
    fn watch<F>(&self, id: &str, process: &Arc<Process>, end: F)
    where
        F: Future<Output = (Option<i32>, String)> + Send + 'static,
    {
        let (events, process, id) = (self.events.clone(), Arc::clone(process), id.to_owned());
        self.tasks.spawn(async move {
            let (code, mut message) = end.await;
            if process
                .group
                .as_ref()
                .is_some_and(|group| group.out_of_memory() > 0)
            {
                message.push_str("; it had used more memory than its size");
            }
            if let Some(address) = &process.address {
                address.close().await;
            }
            process.ended.cancel();
            if !process.expected.load(Ordering::Acquire) {
                // Nobody listens when the control plane is going down, which then adopts or marks
                // the instance at its next start.
                let exit = DriverEvent::Ended(Exit { id, code, message });
                let _unheard = events.send(exit).await;
            }
        });
    }

    pub(super) async fn start(&self, boot: &Boot) -> Result<Started, DriverError> {
        let address = match boot.network_enabled {
            true => Some(Arc::new(self.free_address(boot.port)?)),
            false => None,
        };
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&boot.log)
            .map_err(DriverError::Files)?;
        let errors = log.try_clone().map_err(DriverError::Files)?;
        let private = address.as_ref().map(|address| address.private.to_string());
        let (group, remarks) = self.group(boot);
        let (program, first) = match boot.is_hello {
            true => (&self.launcher, Some("hello")),
            false => (&boot.program, None),
        };
        // Through our own small launcher, which gives it a session of its own: were it in ours, the
        // kernel would wake it and hang it up when we die (setpgid(2), orphaned process groups).
        let mut launch = Command::new(&self.launcher);
        launch.arg("session");
        if let Some(group) = &group {
            launch.arg("--group").arg(group.path());
        }
        let child = launch
            .arg("--")
            .arg(program)
            .args(first)
            .args(&boot.arguments)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", &boot.folder)
            .env("HOST", private.unwrap_or_default())
            .envs(boot.environment.iter().map(|(name, value)| (name, value)))
            .env("PORT", boot.port.to_string())
            .current_dir(&boot.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .kill_on_drop(false)
            .spawn()
            .map_err(|source| DriverError::Spawn {
                program: program.clone(),
                source,
            })?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        let pid = pid.ok_or(DriverError::Gone)?;
        let stat = own_session(pid).await.ok_or(DriverError::Gone)?;
        let handle = Handle {
            pid: pid.as_raw_nonzero().get(),
            start_ticks: stat.start_ticks,
            boot_id: self.boot_id.clone(),
            address: address.as_ref().map(|address| address.public),
            port: boot.port,
            group: group.as_ref().map(|group| group.path().to_owned()),
        };
        let process = Arc::new(Process {
            pid,
            address,
            group,
            expected: AtomicBool::new(false),
            ended: CancellationToken::new(),
        });
        if let Some(address) = &process.address {
            address.open();
        }
        self.watch(&boot.id, &process, wait_for_child(child));
        self.processes.insert(boot.id.clone(), process);
        Ok(Started { handle, remarks })
    }

    pub(super) async fn stop(&self, id: &str, grace: Duration) {
        let Some((_, process)) = self.processes.remove(id) else {
            return;
        };
        process.expected.store(true, Ordering::Release);
        if let Some(address) = &process.address {
            address.close().await;
        }
        // A stopped process takes SIGTERM only once it is continued. A failure to signal means that
        // it has ended already.
        let _ended = kill_process_group(process.pid, Signal::TERM);
        if let Some(group) = &process.group {
            let _ended = group.thaw();
        }
        let _ended = kill_process_group(process.pid, Signal::CONT);
        if tokio::time::timeout(grace, process.ended.cancelled())
            .await
            .is_err()
        {
            let _ended = kill_process_group(process.pid, Signal::KILL);
            process.ended.cancelled().await;
        }
        // What the leader left behind in its group.
        let _none = kill_process_group(process.pid, Signal::KILL);
        if let Some(group) = &process.group {
            group.remove().await;
        }
    }

    pub(super) async fn standby(&self, id: &str) -> Result<(), DriverError> {
        let process = self.find(id).ok_or(DriverError::Gone)?;
        match &process.group {
            Some(group) => {
                if process.ended.is_cancelled() {
                    return Err(DriverError::Gone);
                }
                if !group.freeze().await.map_err(DriverError::Signal)? {
                    group.thaw().map_err(DriverError::Signal)?;
                    return Err(DriverError::NotFrozen);
                }
                let group = group.clone();
                // Beside everything else: it may take longer than a wake.
                self.tasks.spawn_blocking(move || group.reclaim());
            }
            None => {
                signal(&process, Signal::STOP)?;
                if !frozen(process.pid).await {
                    signal(&process, Signal::CONT)?;
                    return Err(DriverError::NotFrozen);
                }
            }
        }
        if let Some(address) = &process.address {
            address.close().await;
        }
        Ok(())
    }

    pub(super) fn restore(&self, id: &str) -> Result<(), DriverError> {
        let process = self.find(id).ok_or(DriverError::Gone)?;
        if let Some(group) = &process.group {
            group.thaw().map_err(DriverError::Signal)?;
        }
        // Thawed by its group, a program learns from this signal that it has slept.
        signal(&process, Signal::CONT)?;
        if let Some(address) = &process.address {
            address.open();
        }
        Ok(())
    }

    pub(super) fn adopt(&self, id: &str, handle: &Handle) -> Option<State> {
        let pid = Pid::from_raw(handle.pid)?;
        let stat = ProcessStat::read(handle.pid)?;
        let same = stat.start_ticks == handle.start_ticks && self.boot_id == handle.boot_id;
        if !same || stat.state == 'Z' {
            return None;
        }
        let address = handle.address.map(|public| {
            let [_, _, x, y] = public.octets();
            Arc::new(AddressProxy::new(self.clock.clone(), [x, y], handle.port))
        });
        let group = handle.group.clone().map(Group::at);
        let asleep = stat.state == 'T' || group.as_ref().is_some_and(Group::is_frozen);
        let process = Arc::new(Process {
            pid,
            address,
            group,
            expected: AtomicBool::new(false),
            ended: CancellationToken::new(),
        });
        let start_ticks = handle.start_ticks;
        self.watch(id, &process, async move {
            // Not our child, so nobody tells us of its end.
            let alive = |stat: &ProcessStat| stat.start_ticks == start_ticks && stat.state != 'Z';
            while ProcessStat::read(pid.as_raw_nonzero().get())
                .as_ref()
                .is_some_and(alive)
            {
                tokio::time::sleep(LOOK_AT_ADOPTED).await;
            }
            (
                None,
                "the program ended; its exit code is not known, since it was adopted".to_owned(),
            )
        });
        if let (false, Some(address)) = (asleep, &process.address) {
            address.open();
        }
        self.processes.insert(id.to_owned(), process);
        Some(if asleep {
            State::Standby
        } else {
            State::Running
        })
    }

    pub(super) fn features(&self) -> Vec<&'static str> {
        let mut features = vec!["standby", "auto_standby", "health_check", "restart_policy"];
        if let Some(groups) = &self.groups {
            features.push("freezer");
            features.extend(groups.limits("memory").then_some("memory_limit"));
            features.extend(groups.limits("cpu").then_some("cpu_limit"));
        }
        features
    }

    /// An instance sees the machine's own files.
    pub(super) async fn look(&self, path: &str, follow: bool) -> Result<PathInfo, DriverError> {
        let path = path.to_owned();
        let look = move || PathInfo::look(&path, follow);
        let info = self.tasks.spawn_blocking(look).await;
        info.map_err(|_| DriverError::NoAnswer)
    }

    pub(super) async fn run(
        &self,
        id: &str,
        words: &[String],
        folder: Option<&str>,
        patience: Duration,
    ) -> Result<CommandEnd, DriverError> {
        let process = self.find(id).ok_or(DriverError::Gone)?;
        run_beside(&process, words, folder, patience).await
    }

    pub(super) fn usage(&self, id: &str) -> Usage {
        let Some(process) = self.find(id) else {
            return Usage::default();
        };
        let stat = ProcessStat::read(process.pid.as_raw_nonzero().get());
        let mut usage = stat.map(|stat| stat.usage()).unwrap_or_default();
        if let Some(micros) = process.group.as_ref().and_then(Group::cpu_micros) {
            usage.cpu_seconds = micros as f64 / 1e6;
        }
        usage
    }

    pub(super) fn traffic(&self, id: &str) -> Option<Arc<Traffic>> {
        self.find(id)?
            .address
            .as_ref()
            .map(|address| Arc::clone(&address.traffic))
    }
}

fn signal(process: &Process, signal: Signal) -> Result<(), DriverError> {
    if process.ended.is_cancelled() {
        return Err(DriverError::Gone);
    }
    kill_process_group(process.pid, signal).map_err(|error| DriverError::Signal(error.into()))
}

/// Waits until the leader is stopped, five seconds at most.
async fn frozen(pid: Pid) -> bool {
    for _ in 0..5000 {
        match ProcessStat::read(pid.as_raw_nonzero().get()) {
            Some(stat) if stat.state == 'T' => return true,
            Some(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            None => return false,
        }
    }
    false
}

/// Waits until the launcher has made the process the leader of its session, a second at most.
async fn own_session(pid: Pid) -> Option<ProcessStat> {
    let number = pid.as_raw_nonzero().get();
    for _ in 0..1000 {
        let stat = ProcessStat::read(number)?;
        if stat.group == u64::try_from(number).ok()? {
            return Some(stat);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None
}

async fn wait_for_child(mut child: Child) -> (Option<i32>, String) {
    match child.wait().await {
        Ok(status) => (exit_code(status), status.to_string()),
        Err(error) => (
            None,
            format!("the program's end could not be read: {error}"),
        ),
    }
}

/// A signal counts as 128 and its number, as in a shell.
fn exit_code(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt as _;
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
}

/// Runs a command beside the instance's program, with that one's folder and environment.
async fn run_beside(
    process: &Process,
    words: &[String],
    folder: Option<&str>,
    patience: Duration,
) -> Result<CommandEnd, DriverError> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(DriverError::Unsupported("process"));
    };
    let pid = process.pid.as_raw_nonzero();
    let folder = folder.map_or_else(|| format!("/proc/{pid}/cwd").into(), PathBuf::from);
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(environment(pid.get()))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(patience, command.output()).await {
        Err(_) => Ok(CommandEnd {
            code: None,
            output: String::new(),
        }),
        Ok(Err(error)) => Ok(CommandEnd {
            // As a shell has it.
            code: Some(127),
            output: error.to_string(),
        }),
        Ok(Ok(output)) => {
            let text = [output.stdout, output.stderr].concat();
            let start = text.len().saturating_sub(OUTPUT);
            Ok(CommandEnd {
                code: exit_code(output.status),
                output: String::from_utf8_lossy(text.get(start..).unwrap_or_default()).into_owned(),
            })
        }
    }
}
