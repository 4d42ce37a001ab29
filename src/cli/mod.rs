//! The command line: what each subcommand takes, and how it runs.
//!
//! Guarantees: a subcommand returns what went wrong and how to leave; only `main` prints errors and
//! exits.

mod args;
mod certificates;
mod check;
mod configuration;
#[cfg(feature = "local")]
mod demo;
#[cfg(feature = "local")]
mod demo_files;
mod explain;
mod fleet;
mod fleet_directory;
mod fleet_import;
mod gateway;
mod init;
mod instances;
#[cfg(feature = "local")]
mod local;
mod output;
mod serve;
mod sign_url;
mod signals;
mod table;
mod wakes;
mod watched;

use std::thread::available_parallelism;

use clap::CommandFactory as _;
use tokio::runtime::Builder;

pub use args::{
    Arguments, CheckArguments, Command, ConfigArguments, FleetCommand, GatewayArguments,
    ImportArguments, InitArguments, ListArguments, MoveArguments, NameArguments, PutArguments,
    RoutesArguments, ServeArguments, StandbyArguments, WakesArguments, WhichArguments,
};
#[cfg(feature = "local")]
pub use args::{DemoArguments, LocalCommand, LocalVerb, RunArguments};

#[cfg(feature = "local")]
use self::signals::end_signal;
#[cfg(feature = "local")]
use crate::{config::LogConfig, telemetry::init_diagnostics};

pub use instances::{CreateArguments, InstancesArguments, InstancesCommand, Many, One, Source};
pub use sign_url::SignUrlArguments;

pub use output::{BAD_CONFIG, FAILED, Failure, OK, Output};

/// The threads of the runtime that serves no clients.
const THREADS: usize = 2;
/// How long the runtime's end waits for what blocks its threads.
const SHUTDOWN: std::time::Duration = std::time::Duration::from_secs(2);

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

/// Runs a subcommand to its end, on a runtime of its own.
// Not `async`: what that comes to would be compiled once more, in the binary.
pub fn run(command: Command, output: Output) -> Result<(), Failure> {
    // Clients are served elsewhere, on the workers' runtimes. This one is for the engine, operators
    // and what comes by the clock; where there is one processor, it has nobody to give work to.
    let alone = available_parallelism().is_ok_and(|processors| processors.get() == 1);
    let mut builder = match alone {
        true => Builder::new_current_thread(),
        false => Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(THREADS).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format_args!("no runtime: {error}")))?;
    let result = runtime.block_on(dispatch(command, output));
    // A file system that hangs keeps a thread, but not the process.
    runtime.shutdown_timeout(SHUTDOWN);
    result
}

async fn dispatch(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Instances(arguments) => instances::run(arguments, output).await,
        #[cfg(feature = "local")]
        Command::Demo(arguments) => demo::run(*arguments, output.out).await,
        Command::Serve(arguments) => serve::run(arguments).await,
        #[cfg(feature = "local")]
        Command::Local(arguments) => {
            if let Some(LocalVerb::Run(arguments)) = arguments.command {
                return local::run(*arguments, output).await;
            }
            let diagnostics = init_diagnostics(&LogConfig::default());
            let _diagnostics = diagnostics.map_err(Failure::failed)?;
            let served = wakegate_local::cli::serve(arguments.serve, end_signal(), output.out);
            Ok(served.await?)
        }
        #[cfg(feature = "local")]
        Command::Image(wakegate_local::cli::ImageCommand::Build { dir, image }) => {
            Ok(wakegate_local::cli::build_image(&dir, image, output.out)?)
        }
        Command::Init(arguments) => init::run(&arguments, output),
        Command::Check(arguments) => check::run(&arguments, output),
        Command::Schema => {
            init::print_schema(output);
            Ok(())
        }
        Command::Explain { code } => explain::run(code.as_deref(), output),
        Command::SignUrl(arguments) => sign_url::run(&arguments, output),
        Command::Status(arguments) => gateway::status(arguments, output).await,
        Command::Wakes(arguments) => wakes::run(arguments, output).await,
        Command::Certificates(arguments) => certificates::run(arguments, output).await,
        Command::Fleet(command) => fleet::run(command, output).await,
        Command::Routes(arguments) => gateway::routes(arguments, output).await,
        Command::Wake(arguments) => gateway::act(arguments, "wake", false, output).await,
        Command::Standby(arguments) => {
            gateway::act(arguments.which, "standby", arguments.force, output).await
        }
        Command::ResetBreaker(arguments) => {
            gateway::act(arguments, "reset-breaker", false, output).await
        }
        Command::Reload(arguments) => gateway::reload(arguments, output).await,
        Command::Drain(arguments) => gateway::drain(arguments, output).await,
        Command::Healthcheck { config, url } => {
            gateway::healthcheck(config.config.as_deref(), url).await
        }
        Command::Completions { shell } => {
            completions(shell, output);
            Ok(())
        }
        Command::Man { dir } => {
            let pages = clap_mangen::generate_to(Arguments::command(), &dir);
            let message = |error| format!("cannot write into {}: {error}", dir.display());
            pages
                .map(drop)
                .map_err(|error| Failure::failed(message(error)))
        }
        #[cfg(not(feature = "local"))]
        Command::Elsewhere { .. } => Err(Failure::usage(
            "this program is the gateway alone; the control plane for development is the program \
             `wakegate-local` (`wakegate-local serve`), and `demo` is in a build with the feature \
             `local`, which `cargo run --release -- demo` makes",
        )),
        #[cfg(feature = "local")]
        Command::Internal(internal) => Ok(wakegate_local::cli::run_internal(internal).await?),
        #[cfg(feature = "local")]
        Command::DemoGuard { folder } => {
            // It waits for the end of its input, and nothing else runs here.
            demo_files::guard(&folder);
            Ok(())
        }
    }
}

fn completions(shell: clap_complete::Shell, output: Output) {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "wakegate", &mut text);
    output.print(&String::from_utf8_lossy(&text));
}
