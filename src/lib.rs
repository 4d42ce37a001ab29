//! wakegate: an HTTP edge gateway that wakes sleeping Hypeman instances.
//!
//! The map is `docs/ARCHITECTURE.md`. To follow a request, begin at
//! [`proxy::Gateway::handle`]; to follow a wake, at [`wake::Instance::ready`] and
//! [`wake::machine`]; to see how the parts come together, at [`app::App::bind`].

pub mod acme;
pub mod admin;
pub mod app;
pub mod backoff;
pub mod cli;
pub mod client;
pub mod config;
pub mod deadline;
pub mod descriptors;
pub mod drain;
pub mod file_stamp;
pub mod fleet;
pub mod flow;
pub mod hold;
pub mod identity;
pub mod instance_tls;
pub mod keep_warm;
pub mod listener;
pub mod names;
pub mod pem;
pub mod private_files;
pub mod problem;
pub mod proxy;
pub mod router;
mod signatures;
pub mod telemetry;
pub mod upstream;
pub mod validity;
pub mod wake;
pub mod workers;
pub mod workload;
