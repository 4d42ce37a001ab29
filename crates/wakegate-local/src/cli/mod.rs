//! The command line of the local control plane, for its own binary and for `wakegate local`.
//!
//! Guarantees: a subcommand returns what went wrong and an exit code; it never prints an error or
//! exits. What it prints goes through the functions that its caller gives.

mod args;
mod driver;
mod serve;

use std::fmt::Display;

pub use args::{
    AcceleratorName, DriverArguments, DriverName, Fate, ImageArguments, ImageCommand,
    InternalCommand, LocalArguments,
};
pub use driver::{build_image, choose_driver};
pub use serve::{LocalFile, serve};

use crate::{run_guest, run_hello, run_in_own_session};

/// Something failed while running.
pub const FAILED: u8 = 1;
/// The configuration cannot be used (`EX_CONFIG`).
pub const BAD_CONFIG: u8 = 78;

/// Why a subcommand ended, and the exit code for it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What to tell the person.
    pub message: String,
    /// The exit code.
    pub code: u8,
}

// === impl Failure ===

impl Failure {
    pub(crate) fn failed(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: FAILED,
        }
    }

    pub(crate) fn bad_config(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: BAD_CONFIG,
        }
    }
}

/// Runs a command that needs no runtime, since it becomes another program or is the first process of
/// a VM; returns only a failure. Gives the command back when it needs a runtime.
pub fn run_alone(command: InternalCommand) -> Result<InternalCommand, Failure> {
    match command {
        InternalCommand::Guest => Err(Failure::failed(run_guest())),
        InternalCommand::Session { group, words } => {
            let failure = run_in_own_session(words, group.as_deref());
            Err(Failure::failed(failure))
        }
        InternalCommand::Hello => Ok(InternalCommand::Hello),
    }
}

/// Runs an internal command to its end.
pub async fn run_internal(command: InternalCommand) -> Result<(), Failure> {
    match command {
        InternalCommand::Hello => {
            // The image's own program: its environment is its configuration.
            let variable = |name: &'static str| {
                std::env::var_os(name).and_then(|value| value.into_string().ok())
            };
            run_hello(variable).await.map_err(Failure::failed)
        }
        InternalCommand::Guest | InternalCommand::Session { .. } => run_alone(command).map(drop),
    }
}
