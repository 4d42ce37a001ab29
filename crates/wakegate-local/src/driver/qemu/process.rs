//! One QEMU: its process and the connections to it.
//!
//! Guarantees: it outlives the control plane, in a session of its own; whoever waits for its end
//! hears of it, also when it was started by an earlier control plane, and waits at no cost; one that
//! does not answer is not waited for without end; a state is moved in and out of it through sockets,
//! so that no shell reads a path.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::agent::AgentConnection;
use super::config::QemuConfig;
use super::qmp::Qmp;
use super::socket::{connect, listen};
use crate::driver::end_of_process::RunningProcess;
use crate::driver::error::{DriverError, QmpError};
use crate::driver::procfs::ProcessStat;
use crate::driver::remnants::MARK;

/// The pause between two looks at a migration; most take a few milliseconds.
const LOOK: Duration = Duration::from_micros(500);
/// The longest that moving the devices' state may take.
const MIGRATION: Duration = Duration::from_secs(20);
/// How long a QEMU may take to end when it is asked to.
const END: Duration = Duration::from_secs(5);
/// The longest that a new QEMU may take until it answers.
const BEGINNING: Duration = Duration::from_secs(60);
/// The same of one that is there already.
const TAKING_OVER: Duration = Duration::from_secs(10);
/// The file that has the process id; QEMU writes the same there.
const PID_FILE: &str = "qemu.pid";
const OUTGOING: &str = "outgoing.sock";
const INCOMING: &str = "incoming.sock";

/// Writes down the id of a process before it begins.
pub(super) type Register<'a> = &'a (dyn Fn(i32) -> std::io::Result<()> + Sync);

/// A QEMU that runs.
#[derive(Debug)]
pub(super) struct QemuProcess {
    pub(super) pid: Pid,
    /// Its working directory, with its sockets.
    pub(super) folder: PathBuf,
    pub(super) qmp: Arc<Qmp>,
    pub(super) agent: AgentConnection,
    /// Whether its end is ours to judge: we end it, or look whether it has broken.
    pub(super) expected: AtomicBool,
    /// Whether somebody tells of its end.
    is_told: AtomicBool,
    pub(super) ended: CancellationToken,
}

/// The process that runs in a folder, if it is alive: its id, and that it was started there.
pub(super) fn alive_in(folder: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(folder.join(PID_FILE)).ok()?;
    let pid: i32 = text.trim().parse().ok()?;
    let place = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (place == folder.canonicalize().ok()?).then_some(pid)
}

// === impl QemuProcess ===

impl QemuProcess {
    /// Starts a QEMU in `folder` and connects to it. It begins when its process id is written
    /// down, there and by `commit`: an earlier death of ours starts nothing.
    pub(super) async fn spawn(
        config: &QemuConfig,
        folder: &Path,
        log: &Path,
        arguments: Vec<String>,
        commit: Register<'_>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, DriverError> {
        let mut options = OpenOptions::new();
        let errors = options.create(true).append(true).mode(0o600).open(log);
        let errors = errors.map_err(DriverError::Files)?;
        let output = errors.try_clone().map_err(DriverError::Files)?;
        // Through our launcher, which gives it a session of its own: it outlives us.
        let child = Command::new(&config.launcher)
            .args(["session", "--wait", "--"])
            .arg(&config.qemu)
            .args(arguments)
            .current_dir(folder)
            .env(MARK, folder)
            .stdin(Stdio::piped())
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
        let begun = async {
            let number = pid.as_raw_nonzero().get();
            std::fs::write(folder.join(PID_FILE), number.to_string())?;
            commit(number)?;
            let word = child.stdin.take();
            let mut word = word.ok_or(std::io::ErrorKind::BrokenPipe)?;
            word.write_all(b"\n").await
        };
        if let Err(error) = begun.await {
            // Its launcher ends without a word; one that hangs is not waited for.
            let _ended = child.kill().await;
            return Err(DriverError::Files(error));
        }
        let ended = CancellationToken::new();
        let ends = ended.clone().drop_guard();
        tasks.spawn(async move {
            let _ends = ends;
            // Whatever it was, it is over.
            let _how = child.wait().await;
        });
        let alive = || !ended.is_cancelled();
        let connected = Self::connect(pid, folder, &ended, (&alive, BEGINNING), tasks).await;
        if connected.is_err() {
            kill(pid, &ended).await;
        }
        connected
    }

    /// Connects to the QEMU that an earlier control plane has started in `folder`.
    pub(super) async fn find(
        number: i32,
        folder: &Path,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, DriverError> {
        let pid = Pid::from_raw(number).ok_or(DriverError::Gone)?;
        let stat = ProcessStat::read(number).ok_or(DriverError::Gone)?;
        let running = RunningProcess::find(pid, stat.start_ticks);
        let (running, _) = running.ok_or(DriverError::Gone)?;
        let ended = CancellationToken::new();
        // Looked at again now that its number cannot be a later process'.
        let alive = || alive_in(folder) == Some(number);
        if !alive() {
            return Err(DriverError::Gone);
        }
        let process = Self::connect(pid, folder, &ended, (&alive, TAKING_OVER), tasks).await?;
        let ends = ended.drop_guard();
        tasks.spawn(async move {
            let _ends = ends;
            running.ended().await;
        });
        Ok(process)
    }

    /// Connects to a QEMU, for as long as it is `alive`, and no longer than its patience.
    async fn connect(
        pid: Pid,
        folder: &Path,
        ended: &CancellationToken,
        (alive, patience): (&(impl Fn() -> bool + Sync), Duration),
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, DriverError> {
        let connected = async {
            let qmp = Qmp::connect(folder, alive, tasks).await?;
            let agent = AgentConnection::connect(folder, alive, tasks).await;
            Ok::<_, QmpError>((qmp, agent.map_err(QmpError::Connect)?))
        };
        let connected = timeout(patience, connected).await;
        let (qmp, agent) = connected.unwrap_or(Err(QmpError::TimedOut("connect")))?;
        Ok(Arc::new(Self {
            pid,
            folder: folder.to_owned(),
            qmp,
            agent,
            expected: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
            ended: ended.clone(),
        }))
    }

    /// Whether nobody tells of its end yet; whoever hears so does.
    pub(super) fn tell_end(&self) -> bool {
        !self.is_told.swap(true, Ordering::AcqRel)
    }

    pub(super) async fn pause(&self) -> Result<(), QmpError> {
        self.qmp.execute("stop", json!(null)).await.map(drop)
    }

    /// Lets a VM that stands still go on. QEMU refuses that while it is not through with saving it,
    /// also for a moment after it has said how that ended; this is waited for.
    pub(super) async fn resume(&self) -> Result<(), QmpError> {
        let end = Instant::now() + MIGRATION;
        loop {
            let resumed = self.qmp.execute("cont", json!(null)).await;
            let is_refused = matches!(resumed, Err(QmpError::Refused { .. }));
            if !is_refused || Instant::now() >= end || self.qmp.status().await? != "finish-migrate"
            {
                return resumed.map(drop);
            }
            sleep(LOOK).await;
        }
    }

    /// Memory is in its file already, so it is not moved; on both sides, or the sides do not
    /// understand each other.
    async fn leave_memory(&self) -> Result<(), QmpError> {
        let ignore = json!([{ "capability": "x-ignore-shared", "state": true }]);
        let capabilities = json!({ "capabilities": ignore });
        let set = self.qmp.execute("migrate-set-capabilities", capabilities);
        set.await.map(drop)
    }

    /// Writes the devices' state of a VM that stands still to a file.
    pub(super) async fn save(&self, into: &Path) -> Result<(), DriverError> {
        self.leave_memory().await?;
        let listener = listen(&self.folder, OUTGOING).map_err(DriverError::Files)?;
        // Both ends of it are closed when this has ended, so that QEMU's saving ends, too.
        let moved = async move {
            let target = json!({ "uri": format!("unix:{OUTGOING}") });
            self.qmp.execute("migrate", target).await?;
            let (mut state, _) = listener.accept().await.map_err(DriverError::Files)?;
            let mut file = File::create(into).await.map_err(DriverError::Files)?;
            let copied = tokio::io::copy(&mut state, &mut file).await;
            copied.map_err(DriverError::Files)?;
            self.settled().await
        };
        let saved = timeout(MIGRATION, moved).await;
        let saved = saved.unwrap_or(Err(DriverError::NotSaved));
        if saved.is_err() {
            // One that goes on before that would be stopped again, and nobody would hear of it.
            self.settled_anyhow().await;
        }
        saved
    }

    /// Waits until a migration that goes out has ended, whatever becomes of it.
    pub(super) async fn settled_anyhow(&self) {
        let _failed = timeout(MIGRATION, self.settled()).await;
    }

    /// Waits until a migration that goes out has ended well.
    async fn settled(&self) -> Result<(), DriverError> {
        loop {
            match self.qmp.migration().await?.as_str() {
                "completed" => return Ok(()),
                "active" | "setup" | "device" => sleep(LOOK).await,
                _ => return Err(DriverError::NotSaved),
            }
        }
    }

    /// Reads the devices' state from a file; the VM stands still afterwards.
    pub(super) async fn load(&self, from: &Path) -> Result<(), DriverError> {
        self.leave_memory().await?;
        let source = json!({ "uri": format!("unix:{INCOMING}") });
        self.qmp.execute("migrate-incoming", source).await?;
        let read = async {
            let alive = || !self.ended.is_cancelled();
            let stream = connect(&self.folder, INCOMING, alive).await;
            let mut stream = stream.map_err(DriverError::Files)?;
            let mut file = File::open(from).await.map_err(DriverError::Files)?;
            let copied = tokio::io::copy(&mut file, &mut stream).await;
            copied.map_err(DriverError::Files)?;
            drop(stream);
            loop {
                match self.qmp.status().await?.as_str() {
                    "inmigrate" => sleep(LOOK).await,
                    "paused" | "prelaunch" => return Ok(()),
                    _ => return Err(DriverError::NotLoaded),
                }
            }
        };
        let loaded = timeout(MIGRATION, read).await;
        loaded.unwrap_or(Err(DriverError::NotLoaded))
    }

    /// Ends it; its VM's state is saved, or not wanted.
    pub(super) async fn end(&self) {
        self.expected.store(true, Ordering::Release);
        // One that has gone need not be told.
        let _gone = self.qmp.execute("quit", json!(null)).await;
        if timeout(END, self.ended.cancelled()).await.is_err() {
            self.kill().await;
        }
    }

    /// Kills it as if it had broken: whoever watches it tells so.
    pub(super) async fn end_by_itself(&self) {
        kill(self.pid, &self.ended).await;
    }

    pub(super) async fn kill(&self) {
        self.expected.store(true, Ordering::Release);
        kill(self.pid, &self.ended).await;
    }
}

/// Kills a process and waits until it has gone.
async fn kill(pid: Pid, ended: &CancellationToken) {
    if !ended.is_cancelled() {
        // It may end by itself just now.
        let _ended = kill_process(pid, Signal::KILL);
        ended.cancelled().await;
    }
}

/// Kills the process that runs in a folder and that nobody is connected to.
pub(super) async fn kill_in(folder: &Path) {
    while let Some(pid) = alive_in(folder) {
        if let Some(pid) = Pid::from_raw(pid) {
            // It may have ended by itself.
            let _gone = kill_process(pid, Signal::KILL);
        }
        sleep(Duration::from_millis(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command as StdCommand};

    use tokio::io::{AsyncBufReadExt as _, BufReader};
    use tokio::net::UnixListener;

    use super::*;

    /// A process that is taken for a QEMU of an earlier control plane.
    struct Stranger {
        folder: tempfile::TempDir,
        child: Child,
        tasks: TaskTracker,
    }

    impl Stranger {
        fn start() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut sleep = StdCommand::new("sleep");
            let child = sleep.arg("600").current_dir(folder.path()).spawn().unwrap();
            std::fs::write(folder.path().join(PID_FILE), child.id().to_string()).unwrap();
            let tasks = TaskTracker::new();
            Self {
                folder,
                child,
                tasks,
            }
        }

        /// Answers each command with the next of these, and with nothing special after them.
        fn answer(&self, mut answers: std::vec::IntoIter<&'static str>) {
            let listen = |name: &str| UnixListener::bind(self.folder.path().join(name)).unwrap();
            let (control, agent) = (listen("qmp.sock"), listen("agent.sock"));
            self.tasks.spawn(async move {
                let _agent = agent.accept().await.unwrap();
                std::future::pending::<()>().await;
            });
            self.tasks.spawn(async move {
                let (stream, _) = control.accept().await.unwrap();
                let (reader, mut writer) = stream.into_split();
                let mut lines = BufReader::new(reader).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let command: serde_json::Value = serde_json::from_str(&line).unwrap();
                    let id = &command["id"];
                    let answer = match command["execute"].as_str().unwrap() {
                        "qmp_capabilities" => "\"return\": {}",
                        _ => answers.next().unwrap_or("\"return\": {}"),
                    };
                    let text = format!("{{{answer}, \"id\": {id}}}\n");
                    writer.write_all(text.as_bytes()).await.unwrap();
                }
            });
        }

        async fn find(&self) -> Result<Arc<QemuProcess>, DriverError> {
            let number = i32::try_from(self.child.id()).unwrap();
            QemuProcess::find(number, self.folder.path(), &self.tasks).await
        }
    }

    impl Drop for Stranger {
        fn drop(&mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_there_and_does_not_listen_is_not_waited_for_without_end() {
        let stranger = Stranger::start();
        let found = stranger.find().await;
        assert!(
            matches!(found, Err(DriverError::Qmp(QmpError::TimedOut(_)))),
            "{found:?}"
        );
        let mut elsewhere = Stranger::start();
        elsewhere.folder = tempfile::tempdir().unwrap();
        let found = elsewhere.find().await;
        assert!(matches!(found, Err(DriverError::Gone)), "{found:?}");
    }

    #[tokio::test]
    async fn the_end_of_one_that_was_taken_over_is_heard() {
        let mut stranger = Stranger::start();
        stranger.answer(Vec::new().into_iter());
        let process = stranger.find().await.unwrap();
        assert!(!process.ended.is_cancelled());
        stranger.child.kill().unwrap();
        // Also before anybody has reaped it.
        process.ended.cancelled().await;
        assert!(matches!(stranger.find().await, Err(DriverError::Gone)));
    }

    #[tokio::test]
    async fn a_vm_whose_saving_is_not_over_yet_is_let_go_on_when_it_is() {
        let early = "\"error\": {\"desc\": \"Migration is not finalized yet\"}";
        let saving = "\"return\": {\"status\": \"finish-migrate\"}";
        let stranger = Stranger::start();
        stranger.answer(vec![early, saving, early, saving].into_iter());
        let process = stranger.find().await.unwrap();
        process.resume().await.unwrap();

        // One that cannot go on for another reason is not asked for ever.
        let broken = "\"return\": {\"status\": \"internal-error\"}";
        let stranger = Stranger::start();
        stranger.answer(vec![early, broken].into_iter());
        let process = stranger.find().await.unwrap();
        let refused = process.resume().await;
        assert!(matches!(refused, Err(QmpError::Refused { .. })));
    }
}
