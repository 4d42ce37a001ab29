//! One VM: its process, its lines, and its sleep.
//!
//! Guarantees: a VM that sleeps has no process; its memory is in its file and its devices' state
//! beside it; a sleep or a wake that fails leaves the VM as it was, or as it last slept when its
//! process broke.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::process::Command;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agent::Line;
use super::command::{Beginning, Network, Shape, arguments, forward};
use super::files::{About, Files, NEW_STATE, STATE};
use super::network::Door;
use super::qmp::{Qmp, QmpError};
use super::{Config, Ports};
use crate::local::driver::{DriverError, Exit};
use crate::local::guest::{Order, Status};

/// How often a migration is looked at; most take a few milliseconds.
const LOOK: Duration = Duration::from_millis(1);
/// The longest that a migration of the devices' state may take.
const MIGRATION: Duration = Duration::from_secs(20);
/// How long a QEMU that was told to end may take.
const END: Duration = Duration::from_secs(5);
const LOOK_AT_ADOPTED: Duration = Duration::from_millis(20);

/// One VM.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) files: Files,
    pub(super) shape: Shape,
    pub(super) door: Option<Door>,
    ports: Mutex<Ports>,
    process: Mutex<Option<Arc<Process>>>,
    tasks: TaskTracker,
    /// Held while its files are copied.
    copying: Arc<tokio::sync::Mutex<()>>,
}

/// A VM's process and the lines to it.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) qmp: Arc<Qmp>,
    pub(super) agent: Line,
    /// We are ending it.
    pub(super) expected: AtomicBool,
    pub(super) ended: CancellationToken,
}

// === impl Vm ===

impl Vm {
    pub(super) fn new(
        files: Files,
        shape: Shape,
        door: Option<Door>,
        ports: Ports,
        tasks: TaskTracker,
    ) -> Self {
        if let Some(door) = &door {
            door.expect(&ports);
        }
        Self {
            files,
            shape,
            door,
            ports: Mutex::new(ports),
            process: Mutex::default(),
            tasks,
            copying: Arc::default(),
        }
    }

    pub(super) fn process(&self) -> Option<Arc<Process>> {
        let process = self.process.lock();
        process.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_process(&self, process: Option<Arc<Process>>) {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = process;
    }

    fn ports(&self) -> Ports {
        let ports = self.ports.lock();
        ports.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What must be known to run it again.
    pub(super) fn remember(&self) -> std::io::Result<()> {
        self.files.write_about(&About {
            shape: self.shape.clone(),
            ports: self.ports(),
        })
    }

    /// Keeps a sleep beside, in the background, for the case that the next one breaks.
    pub(super) fn keep_last(self: &Arc<Self>) {
        let Ok(copying) = Arc::clone(&self.copying).try_lock_owned() else {
            return;
        };
        let files = self.files.clone();
        self.tasks.spawn_blocking(move || {
            let _copying = copying;
            if let Err(error) = files.keep_last() {
                let folder = files.folder().display();
                tracing::warn!(%folder, %error, "a VM's sleep could not be kept beside");
            }
        });
    }

    /// Starts a QEMU for it and connects to it.
    pub(super) async fn spawn(
        &self,
        config: &Config,
        beginning: &Beginning<'_>,
    ) -> Result<Arc<Process>, DriverError> {
        let folder = self.files.folder();
        let errors = open_log(&folder.join("../vmm.log")).map_err(DriverError::Files)?;
        let output = errors.try_clone().map_err(DriverError::Files)?;
        // Through our launcher, which gives it a session of its own: it outlives us.
        let child = Command::new(&config.launcher)
            .args(["session", "--"])
            .arg(&config.qemu)
            .args(arguments(&self.shape, beginning, &self.ports()))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(false)
            .spawn();
        let mut child = child.map_err(|source| DriverError::Spawn {
            program: config.qemu.clone(),
            source,
        })?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).ok_or(DriverError::Gone)?;
        let ended = CancellationToken::new();
        let ends = ended.clone().drop_guard();
        self.tasks.spawn(async move {
            let _ends = ends;
            // Whatever it was, it is over.
            let _how = child.wait().await;
        });
        let connected = self.connect(pid, ended.clone()).await;
        if connected.is_err() {
            kill(pid, &ended).await;
        }
        connected
    }

    /// Connects to a QEMU that an earlier control plane has started.
    pub(super) async fn find(&self, pid: i32) -> Result<Arc<Process>, DriverError> {
        let pid = Pid::from_raw(pid).ok_or(DriverError::Gone)?;
        let (files, ended) = (self.files.clone(), CancellationToken::new());
        let ends = ended.clone().drop_guard();
        self.tasks.spawn(async move {
            let _ends = ends;
            while files.process().is_some() {
                sleep(LOOK_AT_ADOPTED).await;
            }
        });
        self.connect(pid, ended).await
    }

    async fn connect(
        &self,
        pid: Pid,
        ended: CancellationToken,
    ) -> Result<Arc<Process>, DriverError> {
        let (folder, alive) = (self.files.folder(), || !ended.is_cancelled());
        let qmp = Qmp::connect(folder, alive, &self.tasks).await?;
        let agent = Line::connect(folder, alive, &self.tasks).await;
        let agent = agent.map_err(QmpError::Connect)?;
        let ignore = json!([{ "capability": "x-ignore-shared", "state": true }]);
        let capabilities = json!({ "capabilities": ignore });
        // Memory is in its file already; on both sides, or the sides do not understand each other.
        qmp.execute("migrate-set-capabilities", capabilities)
            .await?;
        Ok(Arc::new(Process {
            pid,
            qmp,
            agent,
            expected: AtomicBool::new(false),
            ended,
        }))
    }

    /// Saves the VM's state and ends its process.
    pub(super) async fn fall_asleep(self: &Arc<Self>) -> Result<(), DriverError> {
        let process = self.process().ok_or(DriverError::Gone)?;
        // From here on its end is ours to judge.
        process.expected.store(true, Ordering::Release);
        let saved = async {
            self.files.begin_to_fall().map_err(DriverError::Files)?;
            process.qmp.execute("stop", json!(null)).await?;
            if let Some(door) = &self.door {
                door.close().await;
            }
            self.remember().map_err(DriverError::Files)?;
            self.save(&process).await?;
            self.files.fall_asleep().map_err(DriverError::Files)
        };
        let Err(error) = saved.await else {
            self.end(&process).await;
            self.keep_last();
            return Ok(());
        };
        // As it was: it runs.
        let runs = process.qmp.execute("cont", json!(null)).await;
        if runs.is_ok() {
            self.files.end_of_fall().map_err(DriverError::Files)?;
            process.expected.store(false, Ordering::Release);
            if let Some(door) = &self.door {
                door.open();
            }
            return Err(error);
        }
        // It does not even answer.
        kill(process.pid, &process.ended).await;
        self.set_process(None);
        match self.files.fall_back().map_err(DriverError::Files)? {
            true => Err(DriverError::FellBack),
            false => Err(DriverError::Broke),
        }
    }

    /// Copies the VM's memory and state into other files; it stands still meanwhile.
    pub(super) async fn copy_to(&self, other: Files) -> Result<(), DriverError> {
        let _copying = self.copying.lock().await;
        let files = self.files.clone();
        let Some(process) = self.process() else {
            return blocking(&self.tasks, move || files.copy_to(&other)).await;
        };
        self.remember().map_err(DriverError::Files)?;
        process.qmp.execute("stop", json!(null)).await?;
        let copied = async {
            self.save(&process).await?;
            blocking(&self.tasks, move || files.copy_paused_to(&other)).await
        };
        let copied = copied.await;
        process.qmp.execute("cont", json!(null)).await?;
        self.files.end_of_fall().map_err(DriverError::Files)?;
        copied
    }

    /// Writes the devices' state beside the memory of a VM that stands still.
    async fn save(&self, process: &Process) -> Result<(), DriverError> {
        let target = json!({ "uri": format!("exec:cat > {NEW_STATE}") });
        process.qmp.execute("migrate", target).await?;
        self.saved(&process.qmp).await
    }

    /// Waits until the state is written.
    pub(super) async fn saved(&self, qmp: &Qmp) -> Result<(), DriverError> {
        let written = async {
            loop {
                match qmp.migration().await?.as_str() {
                    "completed" => return Ok(()),
                    "failed" | "cancelled" => return Err(DriverError::NotSaved),
                    _ => sleep(LOOK).await,
                }
            }
        };
        timeout(MIGRATION, written)
            .await
            .unwrap_or(Err(DriverError::NotSaved))
    }

    /// Ends the process of a VM whose state is saved or not wanted.
    pub(super) async fn end(&self, process: &Process) {
        process.expected.store(true, Ordering::Release);
        // One that has gone need not be told.
        let _gone = process.qmp.execute("quit", json!(null)).await;
        if timeout(END, process.ended.cancelled()).await.is_err() {
            kill(process.pid, &process.ended).await;
        }
        self.set_process(None);
    }

    /// Runs the VM again from its saved state.
    pub(super) async fn wake(&self, config: &Config) -> Result<Arc<Process>, DriverError> {
        if !self.files.is_asleep() {
            return Err(DriverError::Gone);
        }
        // Its memory is about to change.
        drop(self.copying.lock().await);
        let process = self.spawn(config, &Beginning::Restore).await?;
        let loaded = async {
            let source = json!({ "uri": format!("exec:cat {STATE}") });
            process.qmp.execute("migrate-incoming", source).await?;
            self.loaded(&process).await?;
            // From here on the memory changes, so the state is worth nothing.
            self.files.wake().map_err(DriverError::Files)
        };
        if let Err(error) = loaded.await {
            process.expected.store(true, Ordering::Release);
            kill(process.pid, &process.ended).await;
            return Err(error);
        }
        process.qmp.execute("cont", json!(null)).await?;
        let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        process.agent.order(Order::Clock(now));
        process.agent.order(Order::Tell);
        self.set_process(Some(Arc::clone(&process)));
        if let Some(door) = &self.door {
            door.open();
        }
        Ok(process)
    }

    /// Waits until the state is read.
    async fn loaded(&self, process: &Process) -> Result<(), DriverError> {
        let read = async {
            loop {
                match process.qmp.status().await?.as_str() {
                    "inmigrate" => sleep(LOOK).await,
                    "paused" | "prelaunch" => return Ok(()),
                    _ => return Err(DriverError::NotLoaded),
                }
            }
        };
        timeout(MIGRATION, read)
            .await
            .unwrap_or(Err(DriverError::NotLoaded))
    }

    /// Opens and closes ports as the VM's program does.
    pub(super) async fn follow_ports(&self, process: &Process, status: &Status) {
        let Network::User { address, .. } = self.shape.network else {
            return;
        };
        let before = self.ports();
        let mut open = before.clone();
        for port in status.ports.difference(&before) {
            let line = format!("hostfwd_add network {}", forward(address, *port));
            match process.qmp.monitor(&line).await {
                Ok(()) => drop(open.insert(*port)),
                Err(error) => tracing::warn!(%address, port, %error, "cannot open a VM's port"),
            }
        }
        for port in before.difference(&status.ports) {
            let line = format!("hostfwd_remove network tcp:{address}:{port}");
            if process.qmp.monitor(&line).await.is_ok() {
                open.remove(port);
            }
        }
        if open != before {
            *self.ports.lock().unwrap_or_else(PoisonError::into_inner) = open;
            if let Err(error) = self.remember() {
                tracing::warn!(%address, %error, "cannot remember a VM's ports");
            }
        }
    }
}

/// Runs what blocks beside the workers.
pub(super) async fn blocking<F>(tasks: &TaskTracker, work: F) -> Result<(), DriverError>
where
    F: FnOnce() -> std::io::Result<()> + Send + 'static,
{
    let done = tasks.spawn_blocking(work).await;
    done.map_err(|_| DriverError::Gone)?
        .map_err(DriverError::Files)
}

/// Kills a process and waits until it has gone.
async fn kill(pid: Pid, ended: &CancellationToken) {
    if !ended.is_cancelled() {
        // It may end by itself just now.
        let _ended = kill_process(pid, Signal::KILL);
        ended.cancelled().await;
    }
}

fn open_log(path: &Path) -> std::io::Result<std::fs::File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(path)
}

/// How a VM ended that nobody asked to.
pub(super) fn exit(id: String, status: &Status) -> Exit {
    match &status.exit {
        Some((code, message)) => Exit {
            id,
            code: Some(*code),
            message: message.clone(),
        },
        None => Exit {
            id,
            code: None,
            message: "the VM ended without a word of its program; see the vmm log".to_owned(),
        },
    }
}
