//! Arguments of `wakegate instances`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use hypeman::{GoDuration, InstanceRef};

/// Arguments of `instances`.
#[derive(Debug, Args)]
pub struct InstancesArguments {
    /// The control plane [default: `$HYPEMAN_BASE_URL`, else the local one that runs here, else
    /// `http://localhost:4973`].
    #[arg(long, global = true, value_name = "URL")]
    pub url: Option<String>,
    /// A file with the API key [default: the key in `$HYPEMAN_API_KEY`, which is sent to
    /// `$HYPEMAN_BASE_URL` only].
    #[arg(long, global = true, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Print the server's own JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: InstancesCommand,
}

/// What to do with instances.
#[derive(Debug, Subcommand)]
pub enum InstancesCommand {
    /// List them.
    Ls {
        /// Only those in this state, such as Running.
        #[arg(long)]
        state: Option<String>,
        /// Only those with this tag; all of them, when given again.
        #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = pair)]
        tags: Vec<(String, String)>,
    },
    /// Show one: its state, why it stopped, its command and its settings.
    Show(One),
    /// Create one, and wait until it runs and answers at its `--port`.
    ///
    /// It fails, with the exit code and the last lines of the program, when that ends before.
    Create(Box<CreateArguments>),
    /// Delete.
    Rm(Many),
    /// Put to sleep.
    Standby(Many),
    /// Wake, and return when the server says so; `wake` waits until it runs.
    Restore(Many),
    /// Start what is stopped.
    Start(Many),
    /// Stop.
    Stop(Many),
    /// Make a copy with its own id, name and address.
    Fork {
        /// The original.
        #[command(flatten)]
        source: One,
        /// The copy's name.
        name: String,
        /// Also when the original runs.
        #[arg(long)]
        from_running: bool,
        /// The copy's state: Running, Standby or Stopped [default: the original's].
        #[arg(long)]
        state: Option<String>,
    },
    /// Print a log's lines.
    Logs {
        /// The instance whose log it is.
        #[command(flatten)]
        instance: One,
        /// Go on with new lines.
        #[arg(short, long)]
        follow: bool,
        /// The last so many lines.
        #[arg(short = 'n', long, default_value_t = 100)]
        tail: u32,
        /// The log to read.
        #[arg(long, default_value = "app")]
        source: Source,
        /// Print lines as they are, also what moves the cursor and colours the terminal.
        #[arg(long)]
        raw: bool,
    },
    /// Show what it uses.
    Stats(One),
    /// Bring it to Running from wherever it is, and say how long that took.
    Wake {
        /// The instance to wake.
        #[command(flatten)]
        instance: One,
        /// Also from Stopped: a cold boot, without the memory that it had.
        #[arg(long)]
        start: bool,
        /// The longest that it may take.
        #[arg(long, default_value = "1m")]
        timeout: GoDuration,
    },
}

/// One instance.
#[derive(Debug, Args)]
pub struct One {
    /// Name, id, or unambiguous beginning of an id.
    #[arg(value_name = "INSTANCE", value_parser = InstanceRef::parse)]
    pub instance: InstanceRef,
}

/// Some instances, one after the other.
#[derive(Debug, Args)]
pub struct Many {
    /// Names, ids, or unambiguous beginnings of ids.
    #[arg(value_name = "INSTANCE", required = true, value_parser = InstanceRef::parse)]
    pub instances: Vec<InstanceRef>,
}

/// Arguments of `instances create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// Its name.
    pub name: String,
    /// What it runs; on a local control plane `wakegate/hello`, a small demo server, or
    /// `local/exec`, any program: the COMMAND.
    pub image: String,
    /// Memory, such as 512MB.
    #[arg(long)]
    pub size: Option<String>,
    /// Processors.
    #[arg(long)]
    pub vcpus: Option<u32>,
    /// The port that it is reached at: sets PORT, and waits until it answers there.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// The folder that its program runs in, on a local control plane: sets PWD.
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// An environment variable.
    #[arg(short, long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    pub env: Vec<(String, String)>,
    /// A tag.
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = pair)]
    pub tags: Vec<(String, String)>,
    /// Fall asleep after so long without a connection.
    #[arg(long, value_name = "DURATION")]
    pub idle_timeout: Option<GoDuration>,
    /// Return at once, and do not wait until it runs.
    #[arg(long)]
    pub no_wait: bool,
    /// The program and its arguments, instead of the image's.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Source {
    /// What the program prints.
    App,
    /// What the emulator prints.
    Vmm,
    /// What the control plane did.
    Hypeman,
}

pub(in crate::cli) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it needs a `=`")?;
    Ok((key.to_owned(), value.to_owned()))
}
