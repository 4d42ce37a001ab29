//! Diagnostics through `tracing`, on standard error.
//!
//! Guarantees: installed at most once in a process; colour only on a terminal; writing never waits
//! for a slow reader: lines without room are dropped and counted; what was said before the guard is
//! dropped is written; what strangers wrote is visible and forges no line.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::escape::Visible;
use super::panics;
use crate::config::{FilterError, LogConfig, LogFormat, parse_filter};

/// Diagnostics could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum DiagnosticsError {
    /// The filter does not parse.
    #[error("`log.level`: {0}")]
    Filter(#[from] FilterError),
    /// Somebody else installed a subscriber first.
    #[error("diagnostics are already set up: {0}")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
}

/// Keeps diagnostics going; dropping it writes what is still queued.
#[must_use]
#[derive(Debug)]
pub struct Diagnostics {
    _worker: WorkerGuard,
}

/// Lines that may wait for a slow reader, in each of the two logs. The queue takes its memory, 40
/// bytes a line, from the start.
pub(super) const QUEUED_LINES: usize = 16 * 1024;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines lost so far because whoever reads standard error was too slow.
pub(super) fn dropped() -> u64 {
    DROPPED
        .get()
        .map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Sends diagnostics to standard error from here on.
pub fn init_diagnostics(config: &LogConfig) -> Result<Diagnostics, DiagnosticsError> {
    let subscriber = registry().with(parse_filter(&config.level)?);
    let builder = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(QUEUED_LINES)
        .thread_name("diagnostics");
    let (writer, worker) = builder.finish(std::io::stderr());
    let counter = writer.error_counter();
    let has_colour = std::io::stderr().is_terminal();
    let writer = move || Visible::new(writer.clone(), has_colour);
    let plain = layer().with_ansi(has_colour);
    match config.format {
        LogFormat::Text => {
            let text = plain.with_writer(writer).compact();
            subscriber.with(text).try_init()?;
        }
        LogFormat::Json => {
            let json = plain.with_writer(writer).json().flatten_event(true);
            subscriber.with(json).try_init()?;
        }
        LogFormat::Logfmt => {
            let logfmt = tracing_logfmt::builder().layer().with_writer(writer);
            subscriber.with(logfmt).try_init()?;
        }
    }
    // Nobody else can have come here, since installing succeeds once.
    DROPPED.get_or_init(|| counter);
    panics::watch();
    Ok(Diagnostics { _worker: worker })
}
