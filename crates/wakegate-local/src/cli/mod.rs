//! The command line of the local control plane, for its own binary and for `wakegate local`.
//!
//! Guarantees: a subcommand returns what went wrong and an exit code; it never prints an error or
//! exits. What it prints goes through the functions that its caller gives.

mod args;
mod driver;
mod failure;
mod file;
mod internal;
mod running;
mod serve;

pub use args::{
    AcceleratorName, DriverArguments, DriverName, ImageArguments, ImageCommand, InternalCommand,
    LocalArguments,
};
pub use driver::{build_image, choose_driver};
pub use failure::{BAD_CONFIG, FAILED, Failure};
pub use file::LocalFile;
pub use internal::{run_alone, run_internal};
pub use running::{RunningPlane, running_plane};
pub use serve::serve;
