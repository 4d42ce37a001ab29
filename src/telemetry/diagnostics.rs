//! Diagnostics through `tracing`, on standard error.
//!
//! Guarantees: installed at most once in a process; colour only on a terminal; writing never waits
//! for a slow reader: lines without room are dropped and counted; what was said before the guard is
//! dropped is written; what strangers wrote is visible and forges no line; in systemd's journal
//! each event is one entry, with its priority.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::OnceLock;

use socket2::{SockAddr, SockRef};
use tracing::{Level, Metadata};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::{MakeWriter, layer};
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

/// Where systemd's journal takes what services print (systemd-journald.service(8)).
const JOURNAL: &str = "/run/systemd/journal/stdout";

/// Writers of one event each.
#[derive(Debug)]
struct Events {
    writer: NonBlocking,
    has_colour: bool,
    in_journal: bool,
}

/// Whether the journal reads standard error.
fn is_journal() -> bool {
    let reader = SockRef::from(&std::io::stderr()).peer_addr().ok();
    let reader = reader.as_ref().and_then(SockAddr::as_pathname);
    reader == Some(Path::new(JOURNAL))
}

/// A level as syslog numbers it (RFC 5424 §6.2.1).
fn priority_of(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

// === impl Events ===

impl<'a> MakeWriter<'a> for Events {
    type Writer = Visible<NonBlocking>;

    fn make_writer(&'a self) -> Self::Writer {
        Visible::new(self.writer.clone(), self.has_colour)
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Self::Writer {
        let writer = self.make_writer();
        match self.in_journal {
            true => writer.with_priority(priority_of(*event.level())),
            false => writer,
        }
    }
}

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
    let writer = Events {
        writer,
        has_colour,
        in_journal: is_journal(),
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_journal_is_taken_for_it() {
        // Cargo's own pipe or terminal, and syslog's numbers.
        assert!(!is_journal());
        let priorities = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG].map(priority_of);
        assert_eq!(priorities, [3, 4, 6, 7]);
    }
}
