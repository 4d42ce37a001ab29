//! Diagnostics through `tracing`, on standard error.
//!
//! Guarantees: installed at most once in a process; colour only on a terminal.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogConfig, LogFormat};

/// Diagnostics could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum DiagnosticsError {
    /// The filter does not parse.
    #[error("`log.level`: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody else installed a subscriber first.
    #[error("diagnostics are already set up: {0}")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends diagnostics to standard error from here on.
pub fn init_diagnostics(config: &LogConfig) -> Result<(), DiagnosticsError> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(config.level.parse::<EnvFilter>()?)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => builder.compact().finish().try_init()?,
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}
