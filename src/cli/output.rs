//! What a subcommand writes, and how it fails.

use std::fmt::Display;

/// Everything is in order.
pub const OK: u8 = 0;
/// Something failed while running.
pub const FAILED: u8 = 1;
/// The exit code that clap has for a bad command line.
#[cfg(not(feature = "local"))]
const USAGE: u8 = 2;
/// The configuration cannot be used (`EX_CONFIG`).
pub const BAD_CONFIG: u8 = 78;

/// Where a subcommand writes to.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Writes the result to standard output.
    pub out: fn(&str),
    /// Writes progress to standard error.
    pub err: fn(&str),
    /// Whether standard error is a terminal.
    pub is_watched: bool,
    /// Whether the reader of standard output has gone, as far as a write has found out.
    pub is_closed: fn() -> bool,
}

// === impl Output ===

impl Output {
    /// Writes a part of the result.
    pub(super) fn print(self, text: &str) {
        (self.out)(text);
    }

    /// Writes a word on the progress.
    pub(super) fn note(self, text: &str) {
        (self.err)(text);
    }
}

/// Why a subcommand ended, and the exit code for it.
#[derive(Debug)]
pub struct Failure {
    /// The message for the person.
    pub message: String,
    /// The exit code.
    pub code: u8,
}

// === impl Failure ===

impl Failure {
    pub(super) fn failed(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: FAILED,
        }
    }

    #[cfg(not(feature = "local"))]
    pub(super) fn usage(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: USAGE,
        }
    }

    pub(super) fn bad_config(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: BAD_CONFIG,
        }
    }
}

#[cfg(feature = "local")]
impl From<wakegate_local::cli::Failure> for Failure {
    fn from(failure: wakegate_local::cli::Failure) -> Self {
        Self {
            message: failure.message,
            code: failure.code,
        }
    }
}
