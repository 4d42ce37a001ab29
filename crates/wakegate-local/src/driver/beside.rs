//! Commands that run beside an instance's program, such as health checks.
//!
//! Guarantees: the end of what a command writes is kept and the rest is read and forgotten, however
//! much that is; a command that has ended, is late or is no longer waited for leaves no process of
//! its group behind.

use std::io::{PipeReader, pipe};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Command;
use tokio::time::timeout;

use super::contract::CommandEnd;
use super::error::DriverError;
use super::launch::exit_code;
use super::procfs::environment;
use super::remnants::{COMMAND, MARK};
use crate::tail::Tail;

/// The most bytes of a command's output that are kept, from its end.
const OUTPUT: usize = 4096;
/// Who has left the group may hold the output open; nobody waits longer for it.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Kills what is left of a command's group.
struct GroupEnd(Option<Pid>);

impl Drop for GroupEnd {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Nobody may be left.
            let _none = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Runs a command with the folder and the environment of the process `pid`.
pub(super) async fn run_beside(
    pid: Pid,
    words: &[String],
    folder: Option<&str>,
    patience: Duration,
) -> Result<CommandEnd, DriverError> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(DriverError::Unsupported("process"));
    };
    let pid = pid.as_raw_nonzero();
    let folder = folder.map_or_else(|| format!("/proc/{pid}/cwd").into(), PathBuf::from);
    let (ours, output) = pipe().map_err(DriverError::Files)?;
    let errors = output.try_clone().map_err(DriverError::Files)?;
    let environment = environment(pid.get());
    let mark = environment.iter().find(|(name, _)| name == MARK);
    let mark = mark.map(|(_, folder)| Path::new(folder).with_file_name(COMMAND));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(environment)
        .envs(mark.map(|mark| (MARK, mark)))
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(output))
        .stderr(OwnedFd::from(errors))
        .process_group(0)
        .kill_on_drop(true);
    let child = command.spawn();
    // Its ends of the pipe are the child's alone from here on.
    drop(command);
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            return Ok(CommandEnd {
                // As a shell has it.
                code: Some(127),
                output: error.to_string(),
            });
        }
    };
    let leader = child.id().and_then(|pid| i32::try_from(pid).ok());
    let group = GroupEnd(leader.and_then(Pid::from_raw));
    let mut tail = Tail::new(OUTPUT);
    let code = {
        let mut reading = std::pin::pin!(read(ours, &mut tail));
        let mut is_read = false;
        let ended = async {
            loop {
                tokio::select! {
                    status = child.wait() => return status.ok().and_then(exit_code),
                    () = &mut reading, if !is_read => is_read = true,
                }
            }
        };
        let code = timeout(patience, ended).await.unwrap_or(None);
        drop(group);
        if !is_read {
            // What has not come by then is not heard.
            let _unheard = timeout(LAST_WORDS, &mut reading).await;
        }
        code
    };
    Ok(CommandEnd {
        code,
        output: tail.into_text(),
    })
}

/// Reads to the end, into what keeps the last of it.
async fn read(output: PipeReader, tail: &mut Tail) {
    let Ok(mut output) = Receiver::from_owned_fd(OwnedFd::from(output)) else {
        return;
    };
    let mut buffer = vec![0; OUTPUT];
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        tail.push(buffer.get(..length).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn run(script: &str, patience: Duration) -> CommandEnd {
        let pid = Pid::from_raw(i32::try_from(std::process::id()).unwrap()).unwrap();
        let words = ["/bin/sh", "-c", script].map(str::to_owned);
        run_beside(pid, &words, Some("/"), patience).await.unwrap()
    }

    /// The most memory that this process has had so far, in bytes.
    fn peak() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
        kilobytes.parse::<u64>().unwrap() << 10
    }

    #[tokio::test]
    async fn the_end_of_what_a_command_says_is_kept_and_its_exit_code() {
        let end = run("echo out; echo err >&2; exit 3", PATIENCE).await;
        assert_eq!((end.code, end.output.as_str()), (Some(3), "out\nerr\n"));
        let end = run("kill -9 $$", PATIENCE).await;
        assert_eq!(end.code, Some(137));
        let nobody = ["/nonexistent/program".to_owned()];
        let end = run_beside(Pid::INIT, &nobody, Some("/"), PATIENCE).await;
        assert_eq!(end.unwrap().code, Some(127));
    }

    #[tokio::test]
    async fn a_command_that_writes_without_end_takes_no_memory() {
        let before = peak();
        let end = run("head -c 300000000 /dev/zero; echo; echo done", PATIENCE).await;
        assert_eq!(end.code, Some(0));
        assert!(end.output.ends_with("done\n") && end.output.len() <= OUTPUT);
        let more = peak() - before;
        assert!(more < 100 << 20, "{more} bytes more");
    }

    #[tokio::test]
    async fn a_late_command_and_what_it_has_started_are_killed() {
        let began = Instant::now();
        let script = "sleep 1000 & echo $!; wait";
        let end = run(script, Duration::from_millis(300)).await;
        assert!(began.elapsed() < PATIENCE);
        assert_eq!(end.code, None);
        let started: u32 = end.output.trim().parse().unwrap();
        let gone = async || {
            let stat = std::fs::read_to_string(format!("/proc/{started}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        while !gone().await {
            assert!(began.elapsed() < PATIENCE, "it lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
