//! `wakegate guest`: the first process in a VM of the qemu driver.
//!
//! Guarantees: the VM's devices, file systems and network are there before the instance's program
//! starts; the program's output goes to the serial console; its end, and the ports that it listens
//! at, are told to the control plane; a control plane that goes away and comes back is told again;
//! the VM ends when its program does. It never returns in a VM.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use rustix::system::{RebootCommand, reboot};
use rustix::time::{ClockId, Timespec, clock_settime};

use super::boot;
use super::children::Children;
use super::error::{GuestError, missing};
use super::ports;
use super::protocol::{AgentMessage, Answer, HOME, Order, Program, Question, Status};
use crate::path_info::PathInfo;

/// The pause between two looks at a port without anybody at its other end.
const NOBODY_THERE: Duration = Duration::from_millis(20);
/// The most bytes of a command's output that an answer has, from its end.
const OUTPUT: usize = 4096;

/// The most bytes of an order, which holds at most a program's words and environment.
const LONGEST_ORDER: u64 = 8 << 20;

/// The state that all threads of the agent share.
struct Agent {
    status: Mutex<Status>,
    port: Mutex<File>,
    program: Mutex<Option<Pid>>,
    children: Children,
}

/// Brings the VM up and runs its program to its end. Returns only an error.
pub fn run() -> GuestError {
    if std::process::id() != 1 {
        return GuestError::NotFirst;
    }
    match live() {
        Ok(()) => {}
        Err(error) => complain(&error),
    }
    rustix::fs::sync();
    // QEMU ends when its VM restarts.
    match reboot(RebootCommand::Restart) {
        Ok(()) => missing("restart", &"it returned"),
        Err(error) => missing("restart", &error),
    }
}

/// Complains at the console, which is all that there is.
fn complain(error: &dyn std::fmt::Display) {
    let _lost = writeln!(std::io::stderr(), "wakegate guest: {error}");
}

fn live() -> Result<(), GuestError> {
    boot::mount_all()?;
    boot::load_modules()?;
    let port = boot::open_port()?;
    let reading = port.try_clone().map_err(|e| missing("the line", &e))?;
    let agent = Arc::new(Agent {
        status: Mutex::default(),
        port: Mutex::new(port),
        program: Mutex::default(),
        children: Children::default(),
    });
    let (sender, programs) = channel();
    let listener = Arc::clone(&agent);
    thread::spawn(move || listener.listen(reading, &sender));
    agent.send(&AgentMessage::Status(Status::default()));
    agent.run_to_the_end(&programs);
    Ok(())
}

// === impl Agent ===

impl Agent {
    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the status, and tells it when that made a difference.
    fn change(&self, change: impl FnOnce(&mut Status)) {
        let changed = {
            let mut status = self.status();
            let before = status.clone();
            change(&mut status);
            (*status != before).then(|| status.clone())
        };
        if let Some(status) = changed {
            self.send(&AgentMessage::Status(status));
        }
    }

    fn send(&self, message: &AgentMessage) {
        let Ok(mut text) = serde_json::to_vec(message) else {
            return;
        };
        text.push(b'\n');
        // A control plane that is not there asks when it is.
        let mut port = self.port.lock().unwrap_or_else(PoisonError::into_inner);
        let _unheard = port.write_all(&text);
    }

    /// Carries out orders for ever.
    fn listen(self: &Arc<Self>, port: File, programs: &Sender<Program>) {
        let mut reader = BufReader::new(port);
        let mut text = Vec::new();
        loop {
            match (&mut reader)
                .take(LONGEST_ORDER)
                .read_until(b'\n', &mut text)
            {
                // An end in the middle of a line: whoever sent it has gone.
                Ok(0) | Err(_) => {
                    text.clear();
                    thread::sleep(NOBODY_THERE);
                    continue;
                }
                Ok(_) => {}
            }
            if text.len() as u64 >= LONGEST_ORDER {
                // No order of ours: what is left of it ends at the next line's end and is none.
                text.clear();
            }
            if text.ends_with(b"\n") {
                if let Ok(order) = serde_json::from_slice(&text) {
                    self.obey(order, programs);
                }
                text.clear();
            }
        }
    }

    fn obey(self: &Arc<Self>, order: Order, programs: &Sender<Program>) {
        match order {
            Order::Network(network) => {
                if let Err(error) = boot::join_network(&network, &self.children) {
                    complain(&error);
                }
            }
            // Nobody listens any more when the program has been started.
            Order::Run(program) => drop(programs.send(program)),
            Order::Stop => {
                let program = *self.program.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(program) = program {
                    // It may have ended just now.
                    let _ended = kill_process_group(program, Signal::TERM);
                }
            }
            Order::Clock(nanos) => {
                let time = Timespec {
                    tv_sec: nanos.div_euclid(1_000_000_000),
                    tv_nsec: nanos.rem_euclid(1_000_000_000),
                };
                if let Err(error) = clock_settime(ClockId::Realtime, time) {
                    complain(&missing("the clock", &error));
                }
            }
            Order::Tell => self.send(&AgentMessage::Status(self.status().clone())),
            Order::Ask { number, question } => {
                let agent = Arc::clone(self);
                thread::spawn(move || {
                    let answer = agent.answer(question);
                    agent.send(&AgentMessage::Answer { number, answer });
                });
            }
        }
    }

    fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Path { path, follow } => Answer::Path(PathInfo::look(&path, follow)),
            Question::Command {
                words,
                folder,
                patience_ms,
            } => {
                let (first, rest) = match words.split_first() {
                    Some((first, rest)) => (first.clone(), rest),
                    None => (String::new(), [].as_slice()),
                };
                let mut command = Command::new(first);
                command
                    .args(rest)
                    .current_dir(folder.as_deref().unwrap_or("/"))
                    .stdin(Stdio::null());
                let patience = Duration::from_millis(patience_ms);
                let (code, output) = self.children.run(&mut command, patience, OUTPUT);
                Answer::Command { code, output }
            }
        }
    }

    /// Starts the first program that is asked for, and waits until it has ended.
    fn run_to_the_end(self: &Arc<Self>, programs: &Receiver<Program>) {
        let reaper = Arc::clone(self);
        thread::spawn(move || reaper.children.reap());
        let Ok(program) = programs.recv() else { return };
        let (pid, end) = match self.children.start(&mut command(program)) {
            Ok(started) => started,
            Err(error) => {
                let text = format!("the program could not be started: {error}");
                // As a shell says it.
                self.change(|status| status.exit = Some((127, text)));
                return;
            }
        };
        *self.program.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
        self.change(|status| status.started = true);
        let watcher = Arc::clone(self);
        thread::spawn(move || {
            ports::watch(|ports| watcher.change(|status| status.ports = ports));
        });
        if let Ok(how) = end.recv() {
            self.change(|status| status.exit = Some((how.code, how.text)));
        }
    }
}

fn command(program: Program) -> Command {
    let mut words = program.words;
    if program.is_hello {
        words.splice(0..0, [format!("{HOME}/agent"), "hello".to_owned()]);
    }
    let first = words.first().cloned().unwrap_or_default();
    let mut command = Command::new(first);
    command
        .args(words.get(1..).unwrap_or_default())
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/")
        .env("HOST", "0.0.0.0")
        .envs(program.environment)
        .current_dir("/")
        .process_group(0);
    command
}
