//! Arguments.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::server::OnExit;

/// What instances of the local control plane are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DriverName {
    /// Processes of this machine, without any privilege.
    Process,
    /// Virtual machines; needs qemu-system-x86, busybox-static and a kernel with its modules.
    Qemu,
}

/// Whose processors virtual machines run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AcceleratorName {
    /// The host's.
    Kvm,
    /// Software's.
    Tcg,
}

/// How instances of the local control plane are run.
#[derive(Debug, Clone, Args)]
pub struct DriverArguments {
    /// What instances are [default: process].
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<DriverName>,
    /// What virtual machines boot.
    #[command(flatten)]
    pub image: ImageArguments,
    /// The emulator [default: qemu-system-x86_64].
    #[arg(long, value_name = "PROGRAM", help_heading = "Virtual machines")]
    pub qemu: Option<PathBuf>,
    /// Whose processors are used [default: the host's, if a VM comes up with them].
    #[arg(long, value_name = "WHOSE", help_heading = "Virtual machines")]
    pub accelerator: Option<AcceleratorName>,
    /// Let virtual machines reach out, to wherever this machine can.
    #[arg(long, help_heading = "Virtual machines")]
    pub egress: bool,
    /// Put virtual machines on a bridge, as a Hypeman server has them, and count their connections
    /// by the kernel's tracking; needs root, iproute2 and nftables.
    #[arg(long, help_heading = "Virtual machines")]
    pub bridged: bool,
    /// Start so many emulators of each kind of virtual machine before they are needed [default: 0].
    #[arg(long, value_name = "NUMBER", help_heading = "Virtual machines")]
    pub prestart: Option<usize>,
}

/// What virtual machines boot.
#[derive(Debug, Clone, Args)]
pub struct ImageArguments {
    /// A kernel [default: the newest in /boot that has modules].
    #[arg(long, value_name = "FILE", help_heading = "Virtual machines")]
    pub kernel: Option<PathBuf>,
    /// The directory of the kernel's modules [default: /lib/modules/VERSION].
    #[arg(long, value_name = "DIR", help_heading = "Virtual machines")]
    pub modules: Option<PathBuf>,
    /// A file system of your own, as an initrd [default: busybox's commands].
    #[arg(long, value_name = "FILE", help_heading = "Virtual machines")]
    pub initrd: Option<PathBuf>,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build one from this machine's kernel and busybox, or from your own.
    ///
    /// The control plane with `--driver qemu` does this by itself; what is built here can be looked at, and
    /// booted by hand.
    Build {
        /// Where `kernel` and `initrd` are written.
        #[arg(value_name = "DIR", default_value = "image")]
        dir: PathBuf,
        /// What it is made of.
        #[command(flatten)]
        image: ImageArguments,
    },
}

/// Arguments of `local`.
#[derive(Debug, Args)]
pub struct LocalArguments {
    /// A TOML file with any of: `api_listen`, `state_dir`, `no_auth`, `on_exit`, `driver`, and for
    /// virtual machines `kernel`, `modules`, `initrd`, `qemu`, `accelerator`, `egress`, `bridged`,
    /// `prestart`. Flags win over it.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the API listens [default: 127.0.0.1:4973].
    #[arg(long, value_name = "ADDRESS")]
    pub api_listen: Option<SocketAddr>,
    /// Where instances and their state are kept [default: `$XDG_STATE_HOME/wakegate`, else
    /// `~/.local/state/wakegate`].
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Let every program in that can connect, without a token, and no web page.
    #[arg(long)]
    pub no_auth: bool,
    /// Let `/_test/faults` switch faults on, for tests.
    #[arg(long)]
    pub allow_faults: bool,
    /// What becomes of instances at the end [default: keep].
    #[arg(long, value_name = "ACTION")]
    pub on_exit: Option<OnExit>,
    /// How instances are run.
    #[command(flatten)]
    pub driver: DriverArguments,
}

/// How this program starts itself: the image's program, an instance's launcher, a machine's first
/// process. Nobody types these.
#[derive(Debug, Subcommand)]
pub enum InternalCommand {
    /// The first process of a virtual machine.
    #[command(hide = true)]
    Guest,
    /// The demo server behind the image `wakegate/hello`; listens at $HOST:$PORT.
    #[command(hide = true)]
    Hello,
    /// Starts a program in a session of its own; the local control plane's launcher.
    #[command(hide = true)]
    Session {
        /// A control group to join first.
        #[arg(long)]
        group: Option<PathBuf>,
        /// Begin the program only at a byte on the standard input, and never when that ends.
        #[arg(long)]
        wait: bool,
        /// Standard input is a pipe to report at.
        #[arg(long)]
        report: bool,
        /// How many files the program may have open to begin with.
        #[arg(long)]
        files: Option<u64>,
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<std::ffi::OsString>,
    },
}
