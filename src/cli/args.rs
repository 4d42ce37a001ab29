//! Arguments.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::instances::InstancesArguments;
#[cfg(feature = "local")]
use super::instances::pair;
use super::sign_url::SignUrlArguments;
#[cfg(feature = "local")]
use wakegate_local::cli::{DriverArguments, ImageCommand, InternalCommand, LocalArguments};

#[cfg(feature = "local")]
macro_rules! start_with {
    () => {
        "Start with `wakegate demo`."
    };
}

#[cfg(not(feature = "local"))]
macro_rules! start_with {
    () => {
        "Start with `wakegate init`."
    };
}

/// An HTTP edge gateway that wakes sleeping Hypeman instances.
///
/// A hostname routes to an instance. A request for an instance in Standby makes wakegate restore
/// it, hold the request until it answers, and forward it. The instance's own auto-standby policy
/// puts it back to sleep.
#[derive(Debug, Parser)]
#[command(
    name = "wakegate",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(after_help = concat!(
    "Exit codes: 0 ok, 1 runtime failure, 2 usage, 78 bad configuration.\n",
    start_with!()
))]
pub struct Arguments {
    /// What to run.
    #[command(subcommand)]
    pub command: Command,
}

/// What to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a local control plane, a gateway and two sleeping instances, and watch them wake.
    ///
    /// With `--driver qemu` the instances are virtual machines.
    #[cfg(feature = "local")]
    Demo(Box<DemoArguments>),
    /// Run the gateway.
    ///
    /// SIGTERM and SIGINT drain: no new connections, requests under way finish, then it ends.
    /// SIGHUP reads the file again and takes its routes; a file with problems changes nothing.
    Serve(ServeArguments),
    /// Run only the local, Hypeman-compatible control plane; or a program of yours in one that runs.
    ///
    /// Its instances are processes, or virtual machines with `--driver qemu`.
    #[cfg(feature = "local")]
    Local(Box<LocalCommand>),
    /// List, create, wake and inspect the instances of a Hypeman server.
    Instances(InstancesArguments),
    /// What virtual machines of the qemu driver boot.
    #[cfg(feature = "local")]
    #[command(subcommand)]
    Image(ImageCommand),
    /// Write an annotated configuration to begin with, and its JSON Schema for editors.
    Init(InitArguments),
    /// Check a configuration and print the effective one as TOML, without its secrets.
    ///
    /// What `serve` would refuse is refused, in the same words and with the same exit code:
    /// certificates, keys and other files are read, addresses are compared. Nothing is changed.
    /// Warnings about what is allowed and risky go to standard error.
    Check(CheckArguments),
    /// Print the configuration's JSON Schema.
    Schema,
    /// Say what an error code means and what to do about it.
    Explain {
        /// The `code` of an answer, such as `wake_timeout`; without one, all are listed.
        code: Option<String>,
    },
    /// Sign a URL, so that it lets in whoever has it until it expires.
    ///
    /// The URL is for a route with `signed_url`. Its host (without the port), path and whole query are
    /// signed as they are printed, so that nothing can be changed in it.
    SignUrl(SignUrlArguments),
    /// Show what a running gateway does: its instances, what they are doing, who waits.
    Status(GatewayArguments),
    /// Show the last wakes of a running gateway, the newest last: who woke what, how long it took,
    /// and why it failed.
    ///
    /// With `--json`, one object a line.
    Wakes(WakesArguments),
    /// Show a running gateway's routes.
    Routes(RoutesArguments),
    /// Show the certificates that a running gateway has by ACME: when they expire, when the next is
    /// ordered, and why the last order failed.
    Certificates(GatewayArguments),
    /// Look into the directory of a fleet, and change it.
    #[command(subcommand)]
    Fleet(FleetCommand),
    /// Wake instances through a running gateway.
    Wake(WhichArguments),
    /// Put instances to sleep through a running gateway.
    ///
    /// A workload with a hook `before_standby` is told first, and may want to go on.
    Standby(StandbyArguments),
    /// Let the next request wake instances whose wakes have failed.
    ResetBreaker(WhichArguments),
    /// Let a running gateway load its configuration again.
    Reload(GatewayArguments),
    /// Let a running gateway finish what it has and end.
    Drain(GatewayArguments),
    /// Succeed if a running gateway answers; for containers.
    Healthcheck {
        /// Which configuration says where.
        #[command(flatten)]
        config: ConfigArguments,
        /// The admin listener's URL, instead of what the configuration says.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Print a shell's completions.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a directory.
    Man {
        /// The directory to write into.
        #[arg(value_name = "DIR", default_value = ".")]
        dir: PathBuf,
    },
    /// What another program does, so that this one runs no commands.
    #[cfg(not(feature = "local"))]
    #[command(
        name = "local",
        aliases = ["demo", "image"],
        hide = true,
        disable_help_flag = true,
        disable_version_flag = true
    )]
    Elsewhere {
        /// Whatever was asked for.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        _words: Vec<std::ffi::OsString>,
    },
    /// How the local control plane starts this program itself.
    #[cfg(feature = "local")]
    #[command(flatten)]
    Internal(InternalCommand),
    /// Looks after a demo's folder.
    #[cfg(feature = "local")]
    #[command(hide = true)]
    DemoGuard {
        /// The folder.
        folder: PathBuf,
    },
}

/// Which configuration.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArguments {
    /// The configuration file. Without one, the WAKEGATE_… environment variables are all.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Arguments of `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArguments {
    /// What `serve` would be told.
    #[command(flatten)]
    pub serve: ServeArguments,
    /// Fail, too, when something is risky.
    #[arg(long)]
    pub strict: bool,
    /// Say only what is wrong or risky.
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    /// Print what is wrong or risky as JSON: rule, file, line, column, key, message and mend.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `init`.
#[derive(Debug, Clone, Args)]
pub struct InitArguments {
    /// What to write.
    #[arg(value_name = "FILE", default_value = "wakegate.toml")]
    pub file: PathBuf,
    /// The first route's host: "api.example.com", "{instance}.example.com", or "*" for all.
    #[arg(long, value_name = "PATTERN")]
    pub host: Option<String>,
    /// Its instance: a name, an id, or a capture of the host.
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
    /// The instance's port.
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// The control plane's URL.
    #[arg(long, value_name = "URL")]
    pub hypeman: Option<String>,
    /// Where clients connect.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Overwrite the file.
    #[arg(long)]
    pub force: bool,
}

/// Which running gateway.
#[derive(Debug, Clone, Args)]
pub struct GatewayArguments {
    /// Its configuration, which says where its admin listener is and which token it wants.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// The admin listener's URL [default: what the configuration says, else
    /// `http://127.0.0.1:9900`].
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// A file with the admin token [default: `admin.token_file`, which is for `admin.address`
    /// alone, else `WAKEGATE_ADMIN_TOKEN`].
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What is done in a fleet's directory.
#[derive(Debug, Clone, Subcommand)]
pub enum FleetCommand {
    /// Show the members, and how the directory stands.
    Status(GatewayArguments),
    /// Show the directory's routes.
    Routes(ListArguments),
    /// Write a route.
    Put(PutArguments),
    /// Take a route away.
    Rm(NameArguments),
    /// Write the routes of a configuration's file.
    ///
    /// What a route says besides its host, path, instance and port becomes a policy.
    Import(ImportArguments),
    /// Print the directory's routes as a configuration has them.
    Export(ConfigArguments),
    /// Move an instance's name to another host.
    ///
    /// The old host must have let go of the instance.
    Move(MoveArguments),
    /// Accept that many routes are gone at once.
    Accept(ConfigArguments),
    /// Look for what cannot be served, and names that several hosts claim.
    Check(ListArguments),
    /// Seal what is secret with the first key of `fleet.key_file`.
    Seal(ConfigArguments),
}

/// A list.
#[derive(Debug, Clone, Args)]
pub struct ListArguments {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A route's name.
#[derive(Debug, Clone, Args)]
pub struct NameArguments {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// The host, as `[[route]]` has it.
    #[arg(long)]
    pub host: String,
    /// The path.
    #[arg(long, default_value = "/")]
    pub path: String,
}

/// A route.
#[derive(Debug, Clone, Args)]
pub struct PutArguments {
    /// Its name.
    #[command(flatten)]
    pub name: NameArguments,
    /// Its instance, or a capture of the host.
    #[arg(long)]
    pub instance: String,
    /// Its port; 0 where the host says which.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// What it says besides.
    #[arg(long)]
    pub policy: Option<String>,
}

/// A file.
#[derive(Debug, Clone, Args)]
pub struct ImportArguments {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// The file with routes.
    pub file: PathBuf,
}

/// A move.
#[derive(Debug, Clone, Args)]
pub struct MoveArguments {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// The instance's name.
    pub name: String,
    /// The host that has it from now on.
    #[arg(long)]
    pub to: String,
    /// Also if the old host is silent.
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `routes`.
#[derive(Debug, Clone, Args)]
pub struct RoutesArguments {
    /// Which gateway.
    #[command(flatten)]
    pub gateway: GatewayArguments,
    /// Only routes whose host or instance has this text in it.
    #[arg(value_name = "TEXT")]
    pub filter: Option<String>,
}

/// Arguments of `wakes`.
#[derive(Debug, Clone, Args)]
pub struct WakesArguments {
    /// Which gateway.
    #[command(flatten)]
    pub gateway: GatewayArguments,
    /// Only the wakes of this instance: its name or its whole id.
    #[arg(value_name = "INSTANCE")]
    pub name: Option<String>,
    /// Go on with the wakes to come, until interrupted.
    #[arg(short, long)]
    pub follow: bool,
    /// At most so many of the last ones [default: all that the gateway remembers, `wake.ledger`].
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub lines: Option<usize>,
}

/// Arguments of what is done to instances through a gateway.
#[derive(Debug, Clone, Args)]
pub struct WhichArguments {
    /// Which gateway.
    #[command(flatten)]
    pub gateway: GatewayArguments,
    /// Names, or whole ids.
    #[arg(value_name = "INSTANCE", required = true)]
    pub names: Vec<String>,
    /// Their control plane, by its configured name [default: the first that has them].
    #[arg(long, value_name = "NAME")]
    pub hypeman: Option<String>,
}

/// Arguments of `standby`.
#[derive(Debug, Clone, Args)]
pub struct StandbyArguments {
    /// Which instances.
    #[command(flatten)]
    pub which: WhichArguments,
    /// Also those whose workload, by its hook `before_standby`, wants to go on.
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArguments {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigArguments,
    /// Where clients connect, instead of every `[[listener]]` of the configuration.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where /healthz, /readyz and /metrics are, instead of the configuration's admin.address.
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<SocketAddr>,
}

/// Arguments of `local`: without a command, it runs the control plane.
#[cfg(feature = "local")]
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LocalCommand {
    /// The control plane's arguments.
    #[command(flatten)]
    pub serve: LocalArguments,
    /// What to do with a control plane that runs.
    #[command(subcommand)]
    pub command: Option<LocalVerb>,
}

/// What to do with a local control plane that runs.
#[cfg(feature = "local")]
#[derive(Debug, Subcommand)]
pub enum LocalVerb {
    /// Run a program of yours as an instance, wait until it answers at its port, and print its URL.
    ///
    /// The instance is made, or woken when it is there already and is the same; one of this name
    /// that ran another command, or with another environment, is replaced. The program runs in
    /// this folder with your PATH, HOME and language, and learns from PORT where to listen; its
    /// instance is reached at `--port`. When it ends, or does not come to its port, you are told
    /// why, and the exit code is 1.
    Run(Box<RunArguments>),
}

/// Arguments of `local run`.
#[cfg(feature = "local")]
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The instance's name.
    pub name: String,
    /// The port that the instance is reached at.
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The folder that the program runs in.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub workdir: PathBuf,
    /// An environment variable.
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// Fall asleep after so long without a connection [default: never].
    #[arg(long, value_name = "DURATION")]
    pub idle_timeout: Option<hypeman::GoDuration>,
    /// Keep connections open while the instance sleeps: they hear nothing until it wakes.
    #[arg(long)]
    pub keep_flows: bool,
    /// The longest that the program may take until it answers.
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    pub timeout: hypeman::GoDuration,
    /// The state directory of the control plane [default: `$XDG_STATE_HOME/wakegate`, else
    /// `~/.local/state/wakegate`].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Arguments of `demo`.
#[cfg(feature = "local")]
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Where clients connect.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where the local control plane's API is.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4973")]
    pub api_listen: SocketAddr,
    /// Where /healthz, /readyz and /metrics are.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9900")]
    pub admin_listen: SocketAddr,
    /// How long without a connection until an instance falls asleep.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub idle_timeout: hypeman::GoDuration,
    /// How instances are run.
    #[command(flatten)]
    pub driver: DriverArguments,
}
