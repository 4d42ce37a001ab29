//! How this program starts itself: the demo server, an instance's launcher, a VM's first process.
//!
//! Guarantees: what becomes another program does so before a runtime is there.

use super::args::InternalCommand;
use super::failure::Failure;
use crate::descriptors;
use crate::guest::run as run_guest;
use crate::hello::run as run_hello;
use crate::session::run_in_own_session;

/// Runs a command that needs no runtime, since it becomes another program or is the first process
/// of a VM; returns only a failure. Gives the command back when it needs a runtime.
pub fn run_alone(command: InternalCommand) -> Result<InternalCommand, Failure> {
    match command {
        InternalCommand::Guest => Err(Failure::failed(run_guest())),
        InternalCommand::Session {
            group,
            wait,
            report,
            files,
            words,
        } => {
            if files.is_some()
                && let Err(error) = descriptors::set(files)
            {
                // It has more than it expects, which is seldom too many.
                tracing::warn!(%error, "the limit of open files stays as it is");
            }
            let failure = run_in_own_session(words, group.as_deref(), wait, report);
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
