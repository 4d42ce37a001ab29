//! The agent's children: as the first process it inherits every orphan of the VM, too.
//!
//! Guarantees: one place waits for all of them, so that none stays a zombie and each end is heard
//! by who started it; a command that is late is killed with all of its group, and who has left that
//! and holds its output is not waited for; of what it writes, the end alone is kept.

use std::collections::HashMap;
use std::io::{PipeReader, Read as _, pipe};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, wait};

use crate::tail::Tail;

/// The pause between two looks at a VM without children.
const NONE: Duration = Duration::from_millis(2);
/// Who has left a command's group may hold its output open; nobody waits longer for it.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The children, and who waits for the end of each.
#[derive(Default)]
pub(super) struct Children(Mutex<HashMap<Pid, Sender<End>>>);

/// The end of a child.
pub(super) struct End {
    /// A signal counts as 128 and its number, as in a shell.
    pub(super) code: i32,
    pub(super) text: String,
}

impl From<WaitStatus> for End {
    fn from(how: WaitStatus) -> Self {
        let (code, signal) = (how.exit_status(), how.terminating_signal());
        let text = match (code, signal) {
            (Some(code), _) => format!("exit status: {code}"),
            (None, Some(signal)) => format!("signal: {signal}"),
            (None, None) => "ended".to_owned(),
        };
        let code = code.or_else(|| Some(128 + signal?)).unwrap_or(-1);
        Self { code, text }
    }
}

/// One pipe for output and errors: our end, and the child's two.
fn pipes() -> std::io::Result<(PipeReader, Stdio, Stdio)> {
    let (ours, theirs) = pipe()?;
    Ok((ours, theirs.try_clone()?.into(), theirs.into()))
}

// === impl Children ===

impl Children {
    /// Starts a child. Its end comes over the channel, also when it comes at once.
    pub(super) fn start(&self, command: &mut Command) -> std::io::Result<(Pid, Receiver<End>)> {
        // Held over the start, so that the end cannot be heard before somebody waits for it.
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| std::io::Error::other("no process id"))?;
        let (sender, end) = channel();
        waiting.insert(pid, sender);
        Ok((pid, end))
    }

    /// Runs a command to its end, or kills it after `patience`. The last bytes of its output come
    /// back, at most `most`.
    pub(super) fn run(
        &self,
        command: &mut Command,
        patience: Duration,
        most: usize,
    ) -> (Option<i32>, String) {
        let (mut ours, out, err) = match pipes() {
            Ok(pipes) => pipes,
            Err(error) => return (None, error.to_string()),
        };
        command.stdout(out).stderr(err).process_group(0);
        let started = self.start(command);
        // Its ends of the pipe are the child's alone from here on.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let (pid, end) = match started {
            Ok(started) => started,
            Err(error) => return (Some(127), error.to_string()),
        };
        let tail = Arc::new(Mutex::new(Tail::new(most)));
        let (written, (at_end, all)) = (Arc::clone(&tail), channel());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // What cannot be read is left out.
            while let Ok(length @ 1..) = ours.read(&mut buffer) {
                let mut tail = written.lock().unwrap_or_else(PoisonError::into_inner);
                tail.push(buffer.get(..length).unwrap_or_default());
            }
            // Whoever waited may have left.
            let _late = at_end.send(());
        });
        let code = end.recv_timeout(patience).ok().map(|end| end.code);
        // Also what it left behind, which would keep its output open.
        let _ended = kill_process_group(pid, Signal::KILL);
        let _more_may_come = all.recv_timeout(LAST_WORDS);
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        let text = std::mem::replace(&mut *tail, Tail::new(0)).into_text();
        (code, text)
    }

    /// Waits for children, for ever.
    pub(super) fn reap(&self) {
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, how))) => {
                    let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(sender) = waiting.remove(&pid) {
                        // Whoever started it may not wait any more.
                        let _unheard = sender.send(how.into());
                    }
                }
                Ok(None) | Err(_) => thread::sleep(NONE),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_command_whose_output_somebody_else_holds_open_is_not_waited_for() {
        let children = Children::default();
        let mut command = Command::new("sh");
        command.args(["-c", "echo before; exec setsid -w sleep 20"]);
        let began = Instant::now();
        // Nobody reaps in a test, where others have children, too: it is late.
        let patience = Duration::from_secs(1);
        let (code, output) = children.run(&mut command, patience, 100);
        assert_eq!((code, output.as_str()), (None, "before\n"));
        assert!(began.elapsed() < Duration::from_secs(15));
    }
}
