//! Identifiers and scalars that are valid by construction.
//!
//! Guarantees: a value of a type in this room has passed its check once, at its constructor, and
//! needs no second look anywhere else. The room imports nothing of ours and does no IO.

mod client_network;
mod hexadecimal;
mod hostname;
mod plane_index;
mod request_id;

pub use client_network::ClientNetwork;
pub use hexadecimal::hexadecimal;
pub use hostname::{Hostname, HostnameError};
pub use plane_index::PlaneIndex;
pub use request_id::RequestId;
