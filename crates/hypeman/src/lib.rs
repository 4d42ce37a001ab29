//! The typed client of a Hypeman control plane, and the small part of it that waking needs.
//!
//! Guarantees: every operation of the instance service, its sub-services and the ingresses is here
//! with typed requests and answers; unknown fields, states and hypervisors survive; an error carries
//! status, `code` and `message`; a call is repeated only where the contract makes that safe, and a
//! 409 never is; no secret shows in `Debug`. This room does not know what a wake is.

mod duration;

pub use duration::{GoDuration, GoDurationError};

#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod config;
#[cfg(feature = "client")]
mod error;
#[cfg(feature = "client")]
mod ingresses;
#[cfg(feature = "client")]
mod instances;
#[cfg(feature = "client")]
mod logs;
#[cfg(feature = "client")]
mod name;
#[cfg(feature = "client")]
mod observer;
#[cfg(feature = "client")]
mod plane;
#[cfg(feature = "client")]
mod snapshots;
#[cfg(feature = "client")]
pub mod wire;

#[cfg(feature = "client")]
pub use self::{
    client::{ClientBuildError, HypemanClient},
    config::{ApiKey, Config},
    error::ControlPlaneError,
    logs::{LogLines, LogQuery, LogSource},
    name::{InstanceId, InstanceIdError, InstanceRef},
    observer::{CallReport, NoObserver, Observer},
    plane::ControlPlane,
};
