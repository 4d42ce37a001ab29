//! The binary: arguments in, an exit code out.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser as _;
use wakegate::cli::{Arguments, FAILED, OK, Output, run, run_alone};

/// What has been freed goes back to the system within seconds, however small the pieces were
/// (docs/performance.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The reader of standard output has gone.
static CLOSED: AtomicBool = AtomicBool::new(false);
/// Why a part of the result could not be written; a full disk, say.
static LOST: OnceLock<std::io::Error> = OnceLock::new();

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output {
        out,
        err,
        is_watched: std::io::stderr().is_terminal(),
        is_closed: || CLOSED.load(Ordering::Relaxed),
    };
    let result = run_alone(arguments.command).and_then(|command| run(command, output));
    match result {
        Ok(()) => match LOST.get() {
            None => ExitCode::from(OK),
            Some(error) => {
                err(&format!(
                    "wakegate: cannot write to standard output: {error}\n"
                ));
                ExitCode::from(FAILED)
            }
        },
        Err(failure) => {
            err(&format!("wakegate: {}\n", failure.message.trim_end()));
            ExitCode::from(failure.code)
        }
    }
}

fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // A reader that has gone (`| head`) is no reason to fail, and one to write nothing more.
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    if let Err(error) = written {
        CLOSED.store(true, Ordering::Relaxed);
        if error.kind() != std::io::ErrorKind::BrokenPipe {
            let _told_before = LOST.set(error);
        }
    }
}

fn err(text: &str) {
    // There is nowhere else to say that standard error is closed.
    let _closed = std::io::stderr().write_all(text.as_bytes());
}
