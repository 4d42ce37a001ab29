//! The client: its configuration, its operations, and what they send and answer.
//!
//! Guarantees: `handle` makes a client from a `config` and its `key`; `call` alone sends anything
//! and `answer` alone reads what comes back, so that repetitions, deadlines, bounds and errors are
//! the same for every operation; above them is one file for each kind of resource. No file imports
//! one that imports it.

mod answer;
mod builder;
mod call;
mod config;
mod decode;
mod elements;
mod error;
mod handle;
mod ingresses;
mod instances;
mod key;
mod listed;
mod logs;
mod name;
mod observer;
mod plane;
mod server;
mod snapshots;
mod summary;
pub mod wire;

pub use builder::ClientBuilder;
pub use config::{ApiKey, Config};
pub use error::{BuildError, Error};
pub use handle::Client;
pub use listed::{Listed, OddElement};
pub use logs::{LogLines, LogQuery, LogSource};
pub use name::{InstanceId, InstanceIdError, InstanceRef, ResourceRef};
pub use observer::{Attempt, Observer, Outcome};
pub use plane::ControlPlane;
pub use summary::InstanceSummary;
