//! The local control plane: a server that speaks Hypeman's API with real instances, for the demo,
//! for development and for tests.
//!
//! Guarantees: it imports nothing of the gateway's (in particular no wire type of the client, or a
//! wrong field name would agree with itself); an instance is a real process or a real VM that keeps
//! its memory through standby; state is on disk before a call is answered, so that killing the
//! control plane loses nothing; verbs on one instance run one at a time and finish even when their
//! caller leaves.
//!
//! It is a development tool: processes are not isolated from the host or from each other.

mod api;
mod atomic;
pub mod cli;
mod clock;
mod descriptors;
mod driver;
mod error;
mod faults;
mod fleet;
mod guest;
mod hello;
mod id;
mod image;
mod path_info;
mod policy;
mod scalars;
mod server;
mod session;
mod state;
mod store;
mod tail;

pub use clock::Clock;
pub use driver::Accelerator;
pub use faults::Faults;
pub use fleet::{FleetEvent, FleetEvents};
pub use guest::{GuestError, run as run_guest};
pub use hello::{HelloError, run as run_hello};
pub use image::{Image, ImageError, ImageSource};
pub use server::{DriverChoice, LocalConfig, LocalError, LocalServer, OnExit, QemuOptions};
pub use session::{SessionError, run_in_own_session};
pub use state::State;
