//! `wakegate guest`: the first process in a VM of the qemu driver, and what the control plane and
//! it say to each other.
//!
//! Guarantees: the agent needs no runtime and no file of the host.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the agent is threads without a runtime: a smaller thing to keep in a VM's memory"
)]

mod agent;
mod boot;
mod children;
mod error;
mod ports;
mod protocol;

pub use agent::run;
pub use error::GuestError;
pub(crate) use protocol::{
    AgentMessage, Answer, GuestNetwork, HOME, Order, PORT_NAME, Program, Question, Status,
};
