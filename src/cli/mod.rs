//! The command line: what each subcommand takes, and how it runs.
//!
//! Guarantees: a subcommand returns what went wrong and how to leave; only `main` prints errors and
//! exits.

mod args;
#[cfg(feature = "local")]
mod demo;
mod explain;
mod gateway;
mod init;
mod instances;
mod serve;
mod table;
mod watched;

use std::fmt::Display;

use clap::CommandFactory as _;

#[cfg(feature = "local")]
pub use args::DemoArguments;
pub use args::{
    Arguments, CheckArguments, Command, ConfigArguments, GatewayArguments, InitArguments,
    RoutesArguments, ServeArguments, WhichArguments,
};

#[cfg(feature = "local")]
use crate::{config::LogConfig, telemetry::init_diagnostics};

pub use instances::{CreateArguments, InstancesArguments, InstancesCommand, Many, One, Source};

/// Everything is in order.
pub const OK: u8 = 0;
/// Something failed while running.
pub const FAILED: u8 = 1;
/// The configuration cannot be used (`EX_CONFIG`).
pub const BAD_CONFIG: u8 = 78;

/// How a subcommand speaks.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    /// To standard output: what was asked for.
    pub out: fn(&str),
    /// To standard error: how it goes on.
    pub err: fn(&str),
    /// Whether standard error is a terminal.
    pub is_watched: bool,
}

impl Voice {
    fn say(self, text: &str) {
        (self.out)(text);
    }

    fn aside(self, text: &str) {
        (self.err)(text);
    }
}

/// Why a subcommand ended, and the exit code for it.
#[derive(Debug)]
pub struct Failure {
    /// What to tell the person.
    pub message: String,
    /// The exit code.
    pub code: u8,
}

// === impl Failure ===

impl Failure {
    fn failed(message: impl Display) -> Self {
        Self {
            message: message.to_string(),
            code: FAILED,
        }
    }

    fn bad_config(message: impl Display) -> Self {
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

/// Runs what needs no runtime, since it becomes another program or is the first one of a VM; it
/// returns only a failure. Gives back what needs one.
pub fn run_alone(command: Command) -> Result<Command, Failure> {
    match command {
        #[cfg(feature = "local")]
        Command::Internal(internal) => {
            let internal = wakegate_local::cli::run_alone(internal)?;
            Ok(Command::Internal(internal))
        }
        other => Ok(other),
    }
}

/// Runs a subcommand to its end.
pub async fn run(command: Command, voice: Voice) -> Result<(), Failure> {
    match command {
        Command::Instances(arguments) => instances::run(arguments, voice).await,
        #[cfg(feature = "local")]
        Command::Demo(arguments) => demo::run(*arguments, voice.out).await,
        Command::Serve(arguments) => serve::run(arguments).await,
        #[cfg(feature = "local")]
        Command::Local(arguments) => {
            let diagnostics = init_diagnostics(&LogConfig::default());
            let _diagnostics = diagnostics.map_err(Failure::failed)?;
            let served = wakegate_local::cli::serve(*arguments, asked_to_end(), voice.out);
            Ok(served.await?)
        }
        #[cfg(feature = "local")]
        Command::Image(wakegate_local::cli::ImageCommand::Build { dir, image }) => {
            Ok(wakegate_local::cli::build_image(&dir, image, voice.out)?)
        }
        Command::Init(arguments) => init::run(&arguments, voice),
        Command::Check(arguments) => serve::check(&arguments, voice),
        Command::Schema => {
            init::print_schema(voice);
            Ok(())
        }
        Command::Explain { code } => explain::run(code.as_deref(), voice),
        Command::Status(arguments) => gateway::status(arguments, voice).await,
        Command::Routes(arguments) => gateway::routes(arguments, voice).await,
        Command::Wake(arguments) => gateway::act(arguments, "wake", voice).await,
        Command::Standby(arguments) => gateway::act(arguments, "standby", voice).await,
        Command::ResetBreaker(arguments) => gateway::act(arguments, "reset-breaker", voice).await,
        Command::Reload(arguments) => gateway::reload(arguments, voice).await,
        Command::Drain(arguments) => gateway::drain(arguments, voice).await,
        Command::Healthcheck { config, url } => {
            gateway::healthcheck(config.config.as_deref(), url).await
        }
        Command::Completions { shell } => {
            completions(shell, voice);
            Ok(())
        }
        Command::Man { dir } => {
            let pages = clap_mangen::generate_to(Arguments::command(), &dir);
            let told = |error| format!("cannot write into {}: {error}", dir.display());
            pages
                .map(drop)
                .map_err(|error| Failure::failed(told(error)))
        }
        #[cfg(feature = "local")]
        Command::Internal(internal) => Ok(wakegate_local::cli::run_internal(internal).await?),
    }
}

fn completions(shell: clap_complete::Shell, voice: Voice) {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "wakegate", &mut text);
    voice.say(&String::from_utf8_lossy(&text));
}

/// From now on SIGTERM and SIGINT end the process in good order: the future ends at the first of them, however early it
/// came.
fn asked_to_end() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
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
