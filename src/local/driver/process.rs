//! Instances as process groups, without any privilege.
//!
//! Guarantees: standby stops every process of the group (SIGSTOP, so memory is kept) and then
//! closes the address; restore continues them and opens it, in the reverse order of harm; the
//! group outlives the control plane and is found again by process id, start time and boot id.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use futures_util::future::{BoxFuture, FutureExt as _};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::address::{Address, Traffic};
use super::procfs::{ProcessStat, boot_id};
use super::{Boot, Driver, DriverError, Exit, Handle, Usage};
use crate::local::instance::State;

const LOOK_AT_ADOPTED: Duration = Duration::from_millis(100);

/// Runs instances as process groups.
#[derive(Debug)]
pub(in crate::local) struct ProcessDriver {
    processes: DashMap<String, Arc<Process>>,
    exits: mpsc::Sender<Exit>,
    tasks: TaskTracker,
    boot_id: String,
    /// This program, for its `session` subcommand.
    launcher: PathBuf,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    address: Option<Arc<Address>>,
    /// We are ending it, so its end is no [`Exit`].
    expected: AtomicBool,
    ended: CancellationToken,
}

// === impl ProcessDriver ===

impl ProcessDriver {
    /// `exits` hears of programs that end by themselves.
    pub(in crate::local) fn new(
        exits: mpsc::Sender<Exit>,
        tasks: TaskTracker,
        launcher: PathBuf,
    ) -> Self {
        Self {
            processes: DashMap::new(),
            exits,
            tasks,
            boot_id: boot_id(),
            launcher,
        }
    }

    fn find(&self, id: &str) -> Option<Arc<Process>> {
        self.processes
            .get(id)
            .map(|process| Arc::clone(process.value()))
    }

    /// A random address that neither we nor another control plane on this machine uses.
    fn free_address(&self, port: u16) -> Result<Address, DriverError> {
        for _ in 0..1000 {
            let address = Address::new([fastrand::u8(..), fastrand::u8(1..=254)], port);
            let ours = self.processes.iter().any(|process| {
                process
                    .address
                    .as_ref()
                    .is_some_and(|used| used.public == address.public)
            });
            let free = |ip| std::net::TcpListener::bind((ip, port)).is_ok();
            if !ours && free(address.public) && free(address.private) {
                return Ok(address);
            }
        }
        Err(DriverError::NoAddress)
    }

    /// Watches the process until its end.
    fn watch<F>(&self, id: &str, process: &Arc<Process>, end: F)
    where
        F: Future<Output = (Option<i32>, String)> + Send + 'static,
    {
        let (exits, process, id) = (self.exits.clone(), Arc::clone(process), id.to_owned());
        self.tasks.spawn(async move {
            let (code, message) = end.await;
            if let Some(address) = &process.address {
                address.close().await;
            }
            process.ended.cancel();
            if !process.expected.load(Ordering::Acquire) {
                // Nobody listens when the control plane is going down, which then adopts or marks
                // the instance at its next start.
                let _unheard = exits.send(Exit { id, code, message }).await;
            }
        });
    }

    async fn start_process(&self, boot: &Boot) -> Result<Handle, DriverError> {
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
        // Through our own small launcher, which gives it a session of its own: were it in ours, the
        // kernel would wake it and hang it up when we die (setpgid(2), orphaned process groups).
        let child = Command::new(&self.launcher)
            .arg("session")
            .arg(&boot.program)
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
                program: boot.program.clone(),
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
        };
        let process = Arc::new(Process {
            pid,
            address,
            expected: AtomicBool::new(false),
            ended: CancellationToken::new(),
        });
        if let Some(address) = &process.address {
            address.open();
        }
        self.watch(&boot.id, &process, wait_for_child(child));
        self.processes.insert(boot.id.clone(), process);
        Ok(handle)
    }

    async fn stop_process(&self, id: &str, grace: Duration) {
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
    }

    async fn freeze(&self, id: &str) -> Result<(), DriverError> {
        let process = self.find(id).ok_or(DriverError::Gone)?;
        signal(&process, Signal::STOP)?;
        if !frozen(process.pid).await {
            signal(&process, Signal::CONT)?;
            return Err(DriverError::NotFrozen);
        }
        if let Some(address) = &process.address {
            address.close().await;
        }
        Ok(())
    }

    fn thaw(&self, id: &str) -> Result<(), DriverError> {
        let process = self.find(id).ok_or(DriverError::Gone)?;
        signal(&process, Signal::CONT)?;
        if let Some(address) = &process.address {
            address.open();
        }
        Ok(())
    }

    fn take_over(&self, id: &str, handle: &Handle) -> Option<State> {
        let pid = Pid::from_raw(handle.pid)?;
        let stat = ProcessStat::read(handle.pid)?;
        let same = stat.start_ticks == handle.start_ticks && self.boot_id == handle.boot_id;
        if !same || stat.state == 'Z' {
            return None;
        }
        let address = handle.address.map(|public| {
            let [_, _, x, y] = public.octets();
            Arc::new(Address::new([x, y], handle.port))
        });
        let process = Arc::new(Process {
            pid,
            address,
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
        let asleep = stat.state == 'T';
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
}

fn signal(process: &Process, signal: Signal) -> Result<(), DriverError> {
    if process.ended.is_cancelled() {
        return Err(DriverError::Gone);
    }
    kill_process_group(process.pid, signal).map_err(|error| DriverError::Signal(error.into()))
}

/// Waits until the leader is stopped, a second at most.
async fn frozen(pid: Pid) -> bool {
    for _ in 0..1000 {
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

impl Driver for ProcessDriver {
    fn start<'a>(&'a self, boot: &'a Boot) -> BoxFuture<'a, Result<Handle, DriverError>> {
        self.start_process(boot).boxed()
    }

    fn stop<'a>(&'a self, id: &'a str, grace: Duration) -> BoxFuture<'a, ()> {
        self.stop_process(id, grace).boxed()
    }

    fn standby<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), DriverError>> {
        self.freeze(id).boxed()
    }

    fn restore<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), DriverError>> {
        async move { self.thaw(id) }.boxed()
    }

    fn adopt<'a>(&'a self, id: &'a str, handle: &'a Handle) -> BoxFuture<'a, Option<State>> {
        async move { self.take_over(id, handle) }.boxed()
    }

    fn usage(&self, id: &str) -> Usage {
        let stat = self
            .find(id)
            .and_then(|p| ProcessStat::read(p.pid.as_raw_nonzero().get()));
        stat.map(|stat| stat.usage()).unwrap_or_default()
    }

    fn traffic(&self, id: &str) -> Option<Arc<Traffic>> {
        self.find(id)?
            .address
            .as_ref()
            .map(|address| Arc::clone(&address.traffic))
    }
}
