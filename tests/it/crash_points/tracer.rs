//! The program that traces a control plane, `trace.py`, as a test uses it.
//!
//! It is no Rust since commanding another process takes `unsafe` code here, or a crate that turns
//! on features of `libc` for everything that is built with it.
//!
//! Guarantees: from [`Tracer::attach`] on every change that the process makes is seen, and what was
//! asked for is done at the change with that number; the process ends with its tracer.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::support::eventually;
use crate::support::skips::{Lacking, skip};

/// A system call that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub call: String,
    /// A file, or what is started, signalled or ordered.
    pub target: String,
    /// Whether it may need room on the disk.
    pub takes_room: bool,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}({})", self.call, self.target)
    }
}

/// What is done at a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    Nothing,
    /// The control plane is killed before it makes this change.
    Kill(usize),
    /// From this change on the disk is full.
    Full(usize),
    /// What runs in the state directory is killed before this change.
    KillOthers(usize),
}

/// What has been seen.
#[derive(Debug)]
struct Seen {
    changes: Vec<Change>,
    /// When the last one was seen, or the tracing began.
    last: Instant,
    attached: bool,
    refused: Option<String>,
    ended: bool,
}

/// Traces one process to its end.
#[derive(Debug)]
pub struct Tracer {
    seen: Arc<Mutex<Seen>>,
    program: Child,
}

/// Whether this machine lets a process trace another, and this test knows its system calls. The
/// test is skipped where not.
pub async fn can_trace() -> bool {
    if cfg!(not(target_arch = "x86_64")) {
        let reason = "only the system calls of x86-64 are known to the tests of crash points";
        skip(Lacking::Machine, reason);
        return false;
    }
    let python = Command::new("python3").arg("--version").output();
    if !python.is_ok_and(|output| output.status.success()) {
        skip(Lacking::Tool, "python3 is not installed");
        return false;
    }
    let mut other = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = other.id();
    let mut tracer = Tracer::begin(pid, Path::new("/nonexistent"), Deed::Nothing);
    eventually("it is known whether processes may be traced", async || {
        tracer.is_decided()
    })
    .await;
    let refused = tracer.seen.lock().unwrap().refused.clone();
    other.kill().unwrap();
    other.wait().unwrap();
    tracer.program.wait().unwrap();
    if let Some(why) = &refused {
        let reason = format!("processes may not be traced here: {why}");
        skip(Lacking::Machine, &reason);
    }
    refused.is_none()
}

// === impl Tracer ===

impl Tracer {
    fn begin(pid: u32, root: &Path, deed: Deed) -> Self {
        let program = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/it/crash_points/trace.py"
        );
        let mut command = Command::new("python3");
        command.arg(program).arg(pid.to_string()).arg(root);
        let option = match deed {
            Deed::Nothing => None,
            Deed::Kill(at) => Some(("--kill", at)),
            Deed::Full(at) => Some(("--full", at)),
            Deed::KillOthers(at) => Some(("--kill-others", at)),
        };
        if let Some((name, at)) = option {
            command.arg(name).arg(at.to_string());
        }
        let mut program = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let seen = Arc::new(Mutex::new(Seen {
            changes: Vec::new(),
            last: Instant::now(),
            attached: false,
            refused: None,
            ended: false,
        }));
        let (shared, lines) = (Arc::clone(&seen), program.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                let value: Value = serde_json::from_str(&line).unwrap();
                shared.lock().unwrap().hear(&value);
            }
            // Whatever it was, it is over.
            shared.lock().unwrap().ended = true;
        });
        Self { seen, program }
    }

    /// Traces a process; returns when all its threads are traced.
    pub async fn attach(pid: u32, root: &Path, deed: Deed) -> Self {
        let tracer = Self::begin(pid, root, deed);
        eventually("the tracer is attached", async || tracer.is_decided()).await;
        {
            let seen = tracer.seen.lock().unwrap();
            assert!(seen.attached, "not traced: {seen:?}");
        }
        tracer
    }

    fn is_decided(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.attached || seen.refused.is_some() || seen.ended
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> bool {
        self.seen.lock().unwrap().ended
    }

    /// Whether nothing has been changed for so long.
    pub fn is_quiet_for(&self, time: Duration) -> bool {
        self.seen.lock().unwrap().last.elapsed() >= time
    }

    /// The changes until now.
    pub fn changes(&self) -> Vec<Change> {
        self.seen.lock().unwrap().changes.clone()
    }

    /// Waits until the process, which was killed, has gone.
    pub async fn end(&mut self) {
        eventually("the traced process has gone", async || self.has_ended()).await;
        self.program.wait().unwrap();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ended = self.program.kill();
        let _reaped = self.program.wait();
    }
}

// === impl Seen ===

impl Seen {
    fn hear(&mut self, line: &Value) {
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        if let (Some(call), Some(target)) = (text("call"), text("target")) {
            self.last = Instant::now();
            self.changes.push(Change {
                call,
                target,
                takes_room: line["room"] == true,
            });
        }
        self.refused = self.refused.take().or(text("refused"));
        self.attached |= line["attached"] == true;
        self.last = if line["attached"] == true {
            Instant::now()
        } else {
            self.last
        };
    }
}
