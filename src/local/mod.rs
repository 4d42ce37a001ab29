//! The local control plane: a server that speaks Hypeman's API with real instances, for the demo,
//! for development and for tests.
//!
//! Guarantees: it imports nothing of the gateway's (in particular no wire type of the client, or a
//! wrong field name would agree with itself); an instance is a real process that keeps its memory
//! through standby; state is on disk before a call is answered, so that killing the control plane
//! loses nothing; verbs on one instance run one at a time and finish even when their caller leaves.
//!
//! It is a development tool: its instances are not isolated from the host or from each other.

mod api;
mod auto_standby;
mod connections;
mod driver;
mod faults;
mod fleet;
mod hello;
mod id;
mod instance;
mod lifecycle;
mod policy;
mod scalars;
mod server;
mod session;
mod store;

pub use faults::Faults;
pub use fleet::{FleetEvent, FleetEvents};
pub use hello::{HelloError, run as run_hello};
pub use instance::State;
pub use server::{LocalConfig, LocalError, LocalServer, OnExit};
pub use session::{SessionError, run_in_own_session};
