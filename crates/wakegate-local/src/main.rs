//! The binary of the local control plane alone, for machines whose gateway is built without it.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use wakegate_local::cli::{
    Failure, ImageCommand, InternalCommand, LocalArguments, build_image, run_alone, run_internal,
    serve,
};

/// A control plane that speaks Hypeman's API, with processes or virtual machines as instances.
///
/// It is for development and tests: processes are not isolated from this machine or from each
/// other.
#[derive(Debug, Parser)]
#[command(
    name = "wakegate-local",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(after_help = "Exit codes: 0 ok, 1 runtime failure, 2 usage, 78 bad configuration.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control plane.
    Serve(Box<LocalArguments>),
    /// Build what virtual machines of the qemu driver boot.
    #[command(subcommand)]
    Image(ImageCommand),
    #[command(flatten)]
    Internal(InternalCommand),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Internal(command) => run_alone(command).map(Command::Internal),
        command @ (Command::Serve(_) | Command::Image(_)) => Ok(command),
    };
    match result.and_then(with_runtime) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            err(&format!("wakegate-local: {}\n", failure.message.trim_end()));
            ExitCode::from(failure.code)
        }
    }
}

fn with_runtime(command: Command) -> Result<(), Failure> {
    let runtime = Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure {
        message: format!("cannot start the runtime: {error}"),
        code: wakegate_local::cli::FAILED,
    })?;
    runtime.block_on(run(command))
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(arguments) => {
            tracing_subscriber::fmt()
                .with_max_level(tracing::Level::INFO)
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal())
                .compact()
                .init();
            serve(*arguments, shutdown_signal(), out).await
        }
        Command::Image(ImageCommand::Build { dir, image }) => build_image(&dir, image, out),
        Command::Internal(command) => run_internal(command).await,
    }
}

/// Ends at the first SIGTERM or SIGINT, also at one that comes before it is first polled.
fn shutdown_signal() -> impl Future<Output = ()> {
    let (terminate, interrupt) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    async {
        let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
            // Without handlers the signals keep their default, which ends the process at once.
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // A reader that has gone (`| head`) is no reason to fail.
    let _closed = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}

fn err(text: &str) {
    // There is nowhere else to say that standard error is closed.
    let _closed = std::io::stderr().write_all(text.as_bytes());
}
