//! What a driver could not do, and why.
//!
//! Guarantees: each message is one that the instance's owner may read; none holds a secret.

use std::path::PathBuf;

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
    #[error("no free address in 127.77.0.0/16")]
    NoAddress,
    #[error("the instance's process is gone")]
    Gone,
    #[error("the instance's process did not freeze within five seconds")]
    NotFrozen,
    #[error("cannot signal the instance's process: {0}")]
    Signal(std::io::Error),
    #[error("the VM's state could not be saved")]
    NotSaved,
    #[error("the VM broke while it fell asleep, and sleeps as it did before")]
    FellBack,
    #[error("the VM broke while it fell asleep the first time")]
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
