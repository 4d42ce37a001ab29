//! A request's way, from its head to its response's last byte.
//!
//! Guarantees: [`Gateway::handle`] always answers; every refusal is one typed [`ProxyError`] that
//! [`rescue`] alone turns into a response; every request leaves one access line and one count,
//! however it ends.

mod account;
mod error;
pub mod rescue;
mod service;

pub use account::GatewayBody;
pub use error::ProxyError;
pub use service::{Gateway, GatewayParts};
