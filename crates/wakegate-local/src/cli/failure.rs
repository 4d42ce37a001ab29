//! Why a subcommand ended.
//!
//! Guarantees: an exit code means the same for every subcommand.

use std::fmt::Display;

/// Something failed while running.
pub const FAILED: u8 = 1;
/// The command line cannot be used; clap's code.
pub(crate) const USAGE: u8 = 2;
/// The configuration cannot be used (`EX_CONFIG`).
pub const BAD_CONFIG: u8 = 78;

/// Why a subcommand ended, and the exit code for it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// A sentence for the person who typed the command.
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

    pub(crate) fn usage(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: USAGE,
        }
    }

    pub(crate) fn bad_config(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: BAD_CONFIG,
        }
    }
}
