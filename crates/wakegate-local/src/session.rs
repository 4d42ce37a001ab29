//! `wakegate session`: starts an instance's program in a session of its own.
//!
//! Guarantees: the program replaces this process, so its id, output and end are the instance's; it
//! is not in its control plane's session, so the kernel does not hang it up when that dies; a
//! program that waits for a word never begins without it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// We lead a process group already.
    #[error("cannot begin a session: {0}")]
    Session(std::io::Error),
    /// The control group is not there, or not ours.
    #[error("cannot join the control group {}: {source}", group.display())]
    Group {
        /// The control group.
        group: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Whoever started us has gone, or has given up, before our program was to begin.
    #[error("the program was not begun: its control plane gave it up")]
    GivenUp,
    /// Nothing to start.
    #[error("no program to start")]
    NoProgram,
    /// It cannot be executed.
    #[error("cannot run `{}`: {source}", program.display())]
    Exec {
        /// The program.
        program: OsString,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Becomes the program, in `group` if there is one; returns only when that fails.
///
/// With `wait`, it begins only when it is told to by a byte on its standard input: whoever started
/// it must have written down first that it is there, and one that dies before has started nothing.
/// With `reports`, standard input is a socket: it ends when the program runs, and else says why it
/// does not, by the system's number for that where there is one. With either, the program's own
/// input is nothing.
pub fn run_in_own_session(
    words: Vec<OsString>,
    group: Option<&Path>,
    wait: bool,
    reports: bool,
) -> SessionError {
    if !reports {
        return become_program(words, group, wait, wait);
    }
    // This one is closed when the program replaces us, as those that the standard library makes.
    let report = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(report) => report,
        Err(error) => return SessionError::Session(error),
    };
    let error = become_program(words, group, wait, true);
    let text = match &error {
        SessionError::Exec { source, .. } => source.raw_os_error().map(|code| code.to_string()),
        SessionError::Session(_)
        | SessionError::Group { .. }
        | SessionError::GivenUp
        | SessionError::NoProgram => None,
    };
    let text = text.unwrap_or_else(|| error.to_string());
    // Whoever would read it may have gone.
    let _unheard = File::from(report).write_all(text.as_bytes());
    error
}

fn become_program(
    mut words: Vec<OsString>,
    group: Option<&Path>,
    wait: bool,
    alone: bool,
) -> SessionError {
    if words.is_empty() {
        return SessionError::NoProgram;
    }
    if let Some(group) = group
        // 0 is whoever writes it (cgroups(7)).
        && let Err(source) = std::fs::write(group.join("cgroup.procs"), "0")
    {
        let group = group.to_owned();
        return SessionError::Group { group, source };
    }
    let program = words.remove(0);
    if let Err(error) = rustix::process::setsid() {
        return SessionError::Session(error.into());
    }
    let mut command = Command::new(&program);
    if wait && std::io::stdin().read_exact(&mut [0]).is_err() {
        return SessionError::GivenUp;
    }
    if alone {
        command.stdin(Stdio::null());
    }
    let source = command.args(words).exec();
    SessionError::Exec { program, source }
}
