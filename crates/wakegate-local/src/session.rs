//! `wakegate session`: starts an instance's program in a session of its own.
//!
//! Guarantees: the program replaces this process, so its id, output and end are the instance's; it
//! is not in its control plane's session, so the kernel does not hang it up when that dies.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

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
pub fn run_in_own_session(mut words: Vec<OsString>, group: Option<&Path>) -> SessionError {
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
    let source = Command::new(&program).args(words).exec();
    SessionError::Exec { program, source }
}
