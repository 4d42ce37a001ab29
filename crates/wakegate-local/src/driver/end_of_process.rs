//! The end of a process that is no child of ours.
//!
//! Guarantees: waiting for it costs nothing (`pidfd_open(2)`), and the number of a process that has
//! ended is never taken for another's; where the kernel has no such thing, a look a second.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::unix::pipe::Receiver;
use tokio::time::sleep;

use super::procfs::ProcessStat;

const LOOK: Duration = Duration::from_secs(1);

/// A process that ran when this was made, and no later one with its number.
#[derive(Debug)]
pub(super) struct RunningProcess {
    pid: Pid,
    start_ticks: u64,
    /// None where the kernel cannot tell its end.
    end: Option<OwnedFd>,
}

// === impl RunningProcess ===

impl RunningProcess {
    /// The process `pid` that was started at `start_ticks`, with what is known of it now; `None`
    /// when it has ended.
    pub(super) fn find(pid: Pid, start_ticks: u64) -> Option<(Self, ProcessStat)> {
        // First, so that what is read of the number later is this process' or of none.
        let end = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(end) => Some(end),
            Err(Errno::SRCH) => return None,
            Err(_) => None,
        };
        let this = Self {
            pid,
            start_ticks,
            end,
        };
        let stat = this.stat()?;
        Some((this, stat))
    }

    /// What is known of it; `None` when it has ended.
    fn stat(&self) -> Option<ProcessStat> {
        let stat = ProcessStat::read(self.pid.as_raw_nonzero().get())?;
        (stat.start_ticks == self.start_ticks && stat.state != 'Z').then_some(stat)
    }

    /// Returns when it has ended.
    pub(super) async fn ended(mut self) {
        // Like a pipe's end, it becomes readable, which is all that is asked of it.
        if let Some(end) = self.end.take()
            && let Ok(end) = Receiver::from_owned_fd_unchecked(end)
            && end.readable().await.is_ok()
        {
            return;
        }
        while self.stat().is_some() {
            sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_process_is_heard_and_its_number_alone_finds_nobody() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let number = i32::try_from(child.id()).unwrap();
        let pid = Pid::from_raw(number).unwrap();
        let ticks = ProcessStat::read(number).unwrap().start_ticks;
        assert!(RunningProcess::find(pid, ticks + 1).is_none());
        let (process, stat) = RunningProcess::find(pid, ticks).unwrap();
        assert_eq!(stat.start_ticks, ticks);
        let mut ended = std::pin::pin!(process.ended());
        let early = tokio::time::timeout(Duration::from_millis(20), &mut ended).await;
        assert!(early.is_err(), "it runs");
        drop(child.stdin.take());
        ended.await;
        assert!(
            RunningProcess::find(pid, ticks).is_none(),
            "nobody has reaped it"
        );
        child.wait().unwrap();
        assert!(RunningProcess::find(pid, ticks).is_none());
    }
}
