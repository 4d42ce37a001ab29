//! What a driver could not do, and why.
//!
//! Guarantees: each message is one that the instance's owner may read; none holds a secret.

use std::path::PathBuf;

use crate::error::is_no_room;

/// A driver could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    #[error("cannot run `{}`: {source}", program.display())]
    Spawn {
        program: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot prepare the instance's files: {0}")]
    Files(std::io::Error),
    #[error("there is no room for the VM's memory on the disk: it needs {needed} bytes")]
    NoRoom { needed: u64 },
    #[error("cannot prepare to run the program: {0}")]
    Launcher(String),
    #[error("the working directory {} does not exist", .0.display())]
    NoFolder(PathBuf),
    #[error(
        "no address of 127.77.0.0/16 has a free port {0}; does something on this machine listen at \
         port {0} of every address?"
    )]
    NoAddress(u16),
    #[error("this machine has no free port for the program")]
    NoPort,
    #[error("the instance's process is gone")]
    Gone,
    #[error("the instance's process did not freeze within five seconds")]
    NotFrozen,
    #[error("cannot signal the instance's process: {0}")]
    Signal(std::io::Error),
    #[error("the VM's state could not be saved")]
    NotSaved,
    #[error("the VM broke, and sleeps as it did before")]
    FellBack,
    #[error("the VM broke, and there is no sleep that it could go back to")]
    Broke,
    #[error("the VM's state could not be loaded; see its vmm log")]
    NotLoaded,
    #[error("the instance's agent did not answer")]
    NoAnswer,
    #[error("{0}")]
    Network(String),
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error("the {0} driver cannot do that")]
    Unsupported(&'static str),
}

// === impl DriverError ===

impl DriverError {
    /// Whether it is for want of room on the disk.
    pub(crate) fn is_no_room(&self) -> bool {
        matches!(self, Self::NoRoom { .. })
            || matches!(self, Self::Files(error) if is_no_room(error))
    }
}

/// QEMU could not be told something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    #[error("QEMU cannot be reached: {0}")]
    Connect(std::io::Error),
    #[error("QEMU has gone")]
    Gone,
    #[error("QEMU did not answer `{0}` in time")]
    TimedOut(&'static str),
    #[error("QEMU refused `{command}`: {reason}")]
    Refused {
        command: &'static str,
        reason: String,
    },
}

// === impl DriverError ===

impl DriverError {
    /// What a shell would say of a program that it could not run.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        let Self::Spawn { source, .. } = self else {
            return None;
        };
        let is_missing = source.kind() == std::io::ErrorKind::NotFound;
        Some(if is_missing { 127 } else { 126 })
    }
}
