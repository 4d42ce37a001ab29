//! A request's way, from its head to its response's last byte.
//!
//! Guarantees: [`Gateway::handle`] always answers; every refusal is one typed [`ProxyError`] that
//! [`error_response`] alone turns into a response; every request leaves one access line and one count,
//! however it ends.

mod active_routes;
mod admission;
mod connection_cache;
pub mod dispatch;
mod error;
pub mod error_response;
mod l4;
mod outgoing;
mod preflight;
mod preset;
mod prewarm;
mod rates;
mod request_deadline;
mod request_log;
mod service;
mod switching;
mod unknown_names;
mod waiting;

pub use admission::{Admission, Denied, RequestHead};
pub use connection_cache::ConnectionCache;
pub use error::ProxyError;
pub use l4::RawKind;
pub use request_log::GatewayBody;
pub use service::{Arrival, Gateway, GatewayParts};
