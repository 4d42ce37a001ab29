//! How an instance's program is started.
//!
//! Guarantees: it begins only when its handle has been written down, and never if we die before;
//! it leads a session of its own when [`launch`] returns, and is the program itself, not our
//! launcher; one that cannot be run is told apart from one that ran and ended; whatever fails
//! leaves no process behind.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::contract::{Boot, Commit, Handle};
use super::error::DriverError;
use super::procfs::ProcessStat;
use super::remnants::MARK;
use crate::descriptors;

/// The longest that our launcher may take to become the program.
const LAUNCH: Duration = Duration::from_secs(30);
/// The most bytes of the launcher's report.
const REPORT: u64 = 4096;

/// What to start.
pub(super) struct Launch<'a> {
    /// Our own program, for its `session` subcommand.
    pub(super) launcher: &'a PathBuf,
    /// The handle, but for the process; its control group is the one to join.
    pub(super) handle: Handle,
    /// Writes the handle down.
    pub(super) commit: Commit<'a>,
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
}

/// Starts a program through our own small launcher, which gives it a session of its own: were it in
/// ours, the kernel would wake it and hang it up when we die (setpgid(2), orphaned process groups).
pub(super) async fn launch(what: Launch<'_>) -> Result<Launched, DriverError> {
    let Launch {
        launcher,
        handle,
        commit,
        program,
        arguments,
        environment,
        folder,
        output: [output, errors],
    } = what;
    if !folder.is_dir() {
        return Err(DriverError::NoFolder(folder));
    }
    let (ours, theirs) = sockets().map_err(DriverError::Files)?;
    let mut command = Command::new(launcher);
    // The launcher is told to go on, and reports, at its standard input, which is nothing to the
    // program.
    command.args(["session", "--wait", "--report"]);
    if let Some(group) = &handle.group {
        command.arg("--group").arg(group);
    }
    if let Some(files) = descriptors::given() {
        command.arg("--files").arg(files.to_string());
    }
    let child = command
        .arg("--")
        .arg(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .current_dir(folder)
        .stdin(theirs)
        .stdout(output)
        .stderr(errors)
        // It outlives us.
        .kill_on_drop(false)
        .spawn();
    // Its end of the pair is the child's alone from here on.
    drop(command);
    let spawn = |source| DriverError::Spawn {
        program: program.clone(),
        source,
    };
    let mut child = child.map_err(spawn)?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.and_then(Pid::from_raw);
    // Not reaped yet, so that its number is nobody else's, also when it has ended.
    let stat = pid.and_then(|pid| ProcessStat::read(pid.as_raw_nonzero().get()));
    let begun = match (pid, stat) {
        (Some(pid), Some(stat)) => commit(&Handle {
            pid: pid.as_raw_nonzero().get(),
            start_ticks: stat.start_ticks,
            ..handle
        })
        .map_err(DriverError::Files)
        .map(|()| pid),
        _ => Err(DriverError::Gone),
    };
    let pid = match begun {
        Ok(pid) => pid,
        Err(error) => {
            // The launcher ends without its word.
            let _ended = child.kill().await;
            return Err(error);
        }
    };
    let reported = timeout(LAUNCH, begin(ours)).await;
    let failure = match reported {
        Ok(Ok(text)) if text.is_empty() => None,
        Ok(Ok(text)) => Some(match text.parse() {
            Ok(code) => spawn(std::io::Error::from_raw_os_error(code)),
            Err(_) => DriverError::Launcher(text),
        }),
        Ok(Err(error)) => Some(DriverError::Files(error)),
        Err(_) => Some(DriverError::Launcher("it took too long".to_owned())),
    };
    if let Some(failure) = failure {
        // It may have ended by itself, or be the program already, with processes of its own.
        let _none = kill_process_group(pid, Signal::KILL);
        let _ended = child.kill().await;
        return Err(failure);
    }
    Ok(Launched { child, pid })
}

/// Two connected sockets: ours, and one for the launcher.
fn sockets() -> std::io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// Lets the launcher go on. Returns everything that it has to say before it becomes the program.
async fn begin(mut launcher: UnixStream) -> std::io::Result<String> {
    let mut text = String::new();
    // One that has ended already has said why.
    let _ended = launcher.write_all(b"\n").await;
    launcher.take(REPORT).read_to_string(&mut text).await?;
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

/// What `/bin/sh` as the launcher finds as `session` in the program's folder: our own launcher is
/// not built yet when the tests of this crate's rooms are.
#[cfg(test)]
pub(crate) const SESSION_OF_TESTS: &str = "\
while [ \"$1\" != -- ]; do
  if [ \"$1\" = --group ]; then echo 0 > \"$2/cgroup.procs\"; fi
  shift
done
shift
read _word && exec setsid \"$@\" < /dev/null
";

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
pub(super) fn environment(
    boot: &Boot,
    host: Option<Ipv4Addr>,
    own_port: u16,
) -> Vec<(&str, String)> {
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
    all.push((MARK, boot.folder.display().to_string()));
    all
}
