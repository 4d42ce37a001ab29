//! Talking to instances: connections, forwarding, header rules, tunnels.
//!
//! Guarantees: a connection belongs to one epoch of one instance and is never used in another;
//! an idle one is closed after a fraction of the instance's own idle timeout, so that our pool
//! never keeps an instance awake; bodies stream both ways and are never buffered; a failed
//! request comes back when it was certainly not sent.

mod body;
mod connection;
mod fields;
mod forward;
mod h1;
mod headers;
mod hop;
mod multiplex;
mod outgoing;
mod pace;
mod pool;
mod stamp;
mod tunnel;

pub use body::{BodyError, BodyFate, Ending, RequestBody, ResponseError, UpstreamBody};
pub use connection::Connection;
pub use fields::{Field, Fields};
pub use forward::{ForwardError, Upstream};
pub use h1::{BrokenBody, ChunkError};
pub use headers::{
    ForwardedFor, Provenance, edit, is_upgrade, prepare_request, prepare_response, upgrade_token,
};
pub use hop::{Hop, Introduction};
pub use outgoing::{InterimSink, Outgoing};
pub use stamp::Stamp;
pub use tunnel::tunnel;
