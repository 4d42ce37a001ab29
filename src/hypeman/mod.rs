//! The typed client of a Hypeman control plane, and the small part of it that waking needs.
//!
//! Guarantees: every operation of the instance service, its sub-services and the ingresses is here
//! with typed requests and answers; unknown fields, states and hypervisors survive; an error carries
//! status, `code` and `message`; a call is repeated only where the contract makes that safe, and a
//! 409 never is; no secret shows in `Debug`. This room does not know what a wake is.

mod client;
mod error;
mod ingresses;
mod instances;
mod logs;
mod plane;
mod snapshots;
pub mod wire;

pub use client::{ClientBuildError, HypemanClient};
pub use error::ControlPlaneError;
pub use logs::{LogLines, LogQuery, LogSource};
pub use plane::ControlPlane;
