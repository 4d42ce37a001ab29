//! How an instance's program is started.
//!
//! Guarantees: it leads a session of its own when [`launch`] returns, and is the program itself,
//! not our launcher; one that cannot be run is told apart from one that ran and ended; whatever
//! fails leaves no process behind.

use std::ffi::OsStr;
use std::io::{PipeReader, pipe};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::contract::Boot;
use super::error::DriverError;
use super::procfs::ProcessStat;

/// The longest that our launcher may take to become the program.
const LAUNCH: Duration = Duration::from_secs(30);
/// The most bytes of the launcher's report.
const REPORT: u64 = 4096;

/// What to start.
pub(super) struct Launch<'a> {
    /// Our own program, for its `session` subcommand.
    pub(super) launcher: &'a PathBuf,
    /// The control group to join.
    pub(super) group: Option<PathBuf>,
    pub(super) program: &'a PathBuf,
    pub(super) arguments: Vec<&'a OsStr>,
    pub(super) environment: Vec<(&'a str, String)>,
    pub(super) folder: PathBuf,
    pub(super) output: [OwnedFd; 2],
}

/// A program that runs.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) child: Child,
    pub(super) pid: Pid,
    pub(super) start_ticks: u64,
}

/// Starts a program through our own small launcher, which gives it a session of its own: were it in
/// ours, the kernel would wake it and hang it up when we die (setpgid(2), orphaned process groups).
pub(super) async fn launch(what: Launch<'_>) -> Result<Launched, DriverError> {
    let Launch {
        launcher,
        group,
        program,
        arguments,
        environment,
        folder,
        output: [output, errors],
    } = what;
    if !folder.is_dir() {
        return Err(DriverError::NoFolder(folder));
    }
    let (ours, report) = pipe().map_err(DriverError::Files)?;
    let mut command = Command::new(launcher);
    // The launcher reports at its standard input, which is nothing to the program.
    command.args(["session", "--report"]);
    if let Some(group) = group {
        command.arg("--group").arg(group);
    }
    let child = command
        .arg("--")
        .arg(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir(folder)
        .stdin(OwnedFd::from(report))
        .stdout(output)
        .stderr(errors)
        // It outlives us.
        .kill_on_drop(false)
        .spawn();
    // Its ends of the pipe are the child's alone from here on.
    drop(command);
    let spawn = |source| DriverError::Spawn {
        program: program.clone(),
        source,
    };
    let mut child = child.map_err(spawn)?;
    let reported = timeout(LAUNCH, read(ours)).await;
    let failure = match reported {
        Ok(Ok(text)) if text.is_empty() => None,
        Ok(Ok(text)) => Some(match text.parse() {
            Ok(code) => spawn(std::io::Error::from_raw_os_error(code)),
            Err(_) => DriverError::Launcher(text),
        }),
        Ok(Err(error)) => Some(DriverError::Files(error)),
        Err(_) => Some(DriverError::Launcher("it took too long".to_owned())),
    };
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.and_then(Pid::from_raw);
    // Not reaped yet, so that its number is nobody else's, also when it has ended.
    let stat = pid.and_then(|pid| ProcessStat::read(pid.as_raw_nonzero().get()));
    let (None, Some(pid), Some(stat)) = (&failure, pid, stat) else {
        // It may have ended by itself.
        let _ended = child.kill().await;
        return Err(failure.unwrap_or(DriverError::Gone));
    };
    Ok(Launched {
        child,
        pid,
        start_ticks: stat.start_ticks,
    })
}

/// Everything that the launcher has to say before it becomes the program.
async fn read(report: PipeReader) -> std::io::Result<String> {
    let receiver = Receiver::from_owned_fd(OwnedFd::from(report))?;
    let mut text = String::new();
    receiver.take(REPORT).read_to_string(&mut text).await?;
    Ok(text.trim().to_owned())
}

/// Waits for the end of a program. Returns its exit code and how it ended.
pub(super) async fn wait_for_child(mut child: Child) -> (Option<i32>, String) {
    match child.wait().await {
        Ok(status) => (exit_code(status), status.to_string()),
        Err(error) => (
            None,
            format!("the program's end could not be read: {error}"),
        ),
    }
}

/// A signal counts as 128 and its number, as in a shell.
pub(super) fn exit_code(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt as _;
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
}

/// The folder in which a program runs: that of its `PWD`, else the instance's own.
pub(super) fn folder(boot: &Boot) -> PathBuf {
    let named = boot.environment.iter().find(|(name, _)| name == "PWD");
    named.map_or_else(|| boot.folder.clone(), |(_, folder)| folder.into())
}

/// What a program finds in its environment: `host` and `own_port` are where it is to listen.
pub(super) fn environment<'a>(
    boot: &'a Boot,
    host: Option<Ipv4Addr>,
    own_port: u16,
) -> Vec<(&'a str, String)> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let host = host.map(|host| host.to_string());
    let mut all = vec![
        ("PATH", path.to_owned()),
        ("HOME", boot.folder.display().to_string()),
        ("HOST", host.unwrap_or_default()),
    ];
    let own = boot.environment.iter();
    all.extend(own.map(|(name, value)| (name.as_str(), value.clone())));
    all.push(("PORT", own_port.to_string()));
    all
}
