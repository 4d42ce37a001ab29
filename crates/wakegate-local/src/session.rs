//! `wakegate session`: starts an instance's program in a session of its own.
//!
//! Guarantees: the program replaces this process, so its id, output and end are the instance's; it
//! is not in its control plane's session, so the kernel does not hang it up when that dies; a
//! program that waits for a word never begins without it.

use std::ffi::OsString;
use std::io::Read as _;
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
pub fn run_in_own_session(
    mut words: Vec<OsString>,
    group: Option<&Path>,
    wait: bool,
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
    command.args(words);
    if wait {
        if !matches!(std::io::stdin().read(&mut [0]), Ok(1)) {
            return SessionError::GivenUp;
        }
        command.stdin(Stdio::null());
    }
    let source = command.exec();
    SessionError::Exec { program, source }
}
