//! Talking to instances: connections, forwarding, header rules, tunnels.
//!
//! Guarantees: a connection belongs to one epoch of one instance and is never used in another;
//! an idle one is closed after a fraction of the instance's own idle timeout, so that our pool
//! never keeps an instance awake; bodies stream both ways and are never buffered; a failed
//! request comes back when it was certainly not sent.

mod body;
mod fields;
mod forward;
mod forwarded;
mod h1;
mod h2_pool;
mod headers;
mod leased_stream;
mod min_rate;
mod outgoing;
mod pool;
mod proxy_protocol;
mod tunnel;

pub use body::{BodyError, BodyFailure, BodyStats, RequestBody, ResponseError, UpstreamBody};
pub use fields::{Field, Fields};
pub use forward::{ForwardError, Upstream};
pub use forwarded::ForwardedHeaders;
pub use h1::{BrokenBody, ChunkError};
pub use headers::{
    ForwardedElement, ForwardedFor, X_REQUEST_ID, edit, is_upgrade, prepare_request,
    prepare_response, upgrade_token,
};
pub use leased_stream::LeasedStream;
pub use outgoing::{InterimSink, Outgoing};
pub use proxy_protocol::{Hop, ProxyHeader};
pub use tunnel::tunnel;
