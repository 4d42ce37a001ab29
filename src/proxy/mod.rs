//! A request's way, from its head to its response's last byte.
//!
//! Guarantees: [`Gateway::handle`] always answers; every refusal is one typed [`ProxyError`] that
//! [`rescue`] alone turns into a response; every request leaves one access line and one count,
//! however it ends.

mod account;
mod admission;
pub mod deliver;
mod error;
mod foresight;
mod memory;
mod outgoing;
mod patience;
mod preflight;
mod preset;
mod rates;
mod raw;
pub mod rescue;
mod service;
mod site;
mod switching;
mod unknown;
mod waiting;

pub use account::GatewayBody;
pub use admission::{Admission, Refusal, Visit};
pub use error::ProxyError;
pub use memory::Memory;
pub use raw::RawKind;
pub use service::{Arrival, Gateway, GatewayParts};
