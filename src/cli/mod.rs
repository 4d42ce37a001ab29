//! The command line: what each subcommand takes, and how it runs.
//!
//! Guarantees: a subcommand returns what went wrong and how to leave; only `main` prints errors and
//! exits.

mod args;
mod demo;
mod driver;
mod explain;
mod gateway;
mod init;
mod instances;
mod local;
mod serve;
mod table;
mod watched;

use std::fmt::Display;

use clap::CommandFactory as _;

pub use args::{
    AcceleratorName, Arguments, CheckArguments, Command, ConfigArguments, DemoArguments,
    DriverArguments, DriverName, Fate, GatewayArguments, ImageArguments, ImageCommand,
    InitArguments, LocalArguments, RoutesArguments, ServeArguments, WhichArguments,
};

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

/// Runs what needs no runtime, since it becomes another program or is the first one of a VM; it
/// returns only a failure. Gives back what needs one.
pub fn run_alone(command: Command) -> Result<Command, Failure> {
    if let Command::Guest = command {
        return Err(Failure::failed(crate::local::run_guest()));
    }
    if let Command::Session { group, words } = command {
        let failure = crate::local::run_in_own_session(words, group.as_deref());
        return Err(Failure::failed(failure));
    }
    Ok(command)
}

/// Runs a subcommand to its end.
pub async fn run(command: Command, voice: Voice) -> Result<(), Failure> {
    let out = voice.out;
    match command {
        Command::Instances(arguments) => instances::run(arguments, voice).await,
        Command::Demo(arguments) => demo::run(*arguments, out).await,
        Command::Serve(arguments) => serve::run(arguments).await,
        Command::Local(arguments) => local::run(*arguments, out).await,
        Command::Image(ImageCommand::Build { dir, image }) => driver::build(&dir, image, out),
        Command::Init(arguments) => init::run(&arguments, voice),
        Command::Check(arguments) => serve::check(&arguments, voice),
        Command::Schema => init::print_schema(voice),
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
        Command::Guest | Command::Session { .. } => run_alone(command).map(drop),
        Command::Hello => {
            // The image's own program: its environment is its configuration.
            let variable = |name: &'static str| {
                std::env::var_os(name).and_then(|value| value.into_string().ok())
            };
            crate::local::run_hello(variable)
                .await
                .map_err(Failure::failed)
        }
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
