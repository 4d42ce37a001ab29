//! The binary: arguments in, an exit code out.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;

use clap::Parser as _;
use tokio::runtime::Builder;
use wakegate::cli::{Arguments, Command, FAILED, Failure, OK, Output, run, run_alone};

/// What has been freed goes back to the system within seconds, however small the pieces were
/// (docs/explanation/performance.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The threads of the runtime that serves no clients.
const THREADS: usize = 2;

/// The reader of standard output has gone.
static CLOSED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = run_alone(arguments.command).and_then(with_runtime);
    match result {
        Ok(()) => ExitCode::from(OK),
        Err(failure) => {
            err(&format!("wakegate: {}\n", failure.message.trim_end()));
            ExitCode::from(failure.code)
        }
    }
}

fn with_runtime(command: Command) -> Result<(), Failure> {
    // Clients are served elsewhere, on the workers' runtimes. This one is for the engine, operators
    // and what comes by the clock; where there is one processor, it has nobody to give work to.
    let alone = available_parallelism().is_ok_and(|processors| processors.get() == 1);
    let mut builder = match alone {
        true => Builder::new_current_thread(),
        false => Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(THREADS).enable_all().build();
    let runtime = runtime.map_err(|error| Failure {
        message: format!("no runtime: {error}"),
        code: FAILED,
    })?;
    let output = Output {
        out,
        err,
        is_watched: std::io::stderr().is_terminal(),
        is_closed: || CLOSED.load(Ordering::Relaxed),
    };
    runtime.block_on(run(command, output))
}

fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // A reader that has gone (`| head`) is no reason to fail, and one to write nothing more.
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    if written.is_err() {
        CLOSED.store(true, Ordering::Relaxed);
    }
}

fn err(text: &str) {
    // There is nowhere else to say that standard error is closed.
    let _closed = std::io::stderr().write_all(text.as_bytes());
}
