//! Talking to instances: connections, forwarding, header rules, tunnels.
//!
//! Guarantees: a connection belongs to one epoch of one instance, is never used in another, and is
//! closed at once when its epoch is cut, whatever is spoken on it and in whatever direction; an idle
//! one is closed after a fraction of the instance's own idle timeout, so that our pool
//! never keeps an instance awake; bodies stream both ways and are never buffered; a failed
//! request comes back when it was certainly not sent.

mod arrivals;
mod bound_auth;
mod carried;
mod carry;
mod epoch_end;
mod epoch_stream;
mod epoch_tasks;
mod farewell;
mod field_names;
mod fields;
mod forward;
mod forwarded;
mod guarded;
mod h1;
mod h1_body;
mod h2_peer;
mod h2_pool;
mod h2_stream;
mod h2_windows;
mod headers;
mod hop;
mod leased_stream;
mod min_rate;
mod outgoing;
mod park;
mod peer;
mod peer_body;
mod pool;
mod proxy_protocol;
mod read_timeout;
mod relay;
mod replay;
mod request_body;
mod response;
mod response_body;
mod response_clock;
mod timed_body;
mod trailers;
mod tunnel;
mod via;
mod waiting_client;
mod websocket;

pub use bound_auth::{ClientConnection, has_bound_credentials};
pub use carried::{Carried, OpenTunnel};
pub use carry::{TunnelRules, at, carry, close_for};
pub use farewell::Farewell;
pub use fields::{Field, Fields};
pub use forward::{ForwardError, Upstream};
pub use forwarded::{ForwardedElement, ForwardedHeaders, X_REQUEST_ID};
pub use guarded::{X_WAKEGATE_HOPS, X_WAKEGATE_MISPLACED, X_WAKEGATE_PARKED, is_of_peers};
pub use h1_body::BrokenBody;
pub use headers::{
    ForwardedFor, edit, is_upgrade, prepare_interim, prepare_lines, prepare_request,
    prepare_request_of_peer, prepare_response, prepare_response_lines, remove_aliases,
    upgrade_token,
};
pub use hop::Hop;
pub use http1::{ChunkError, InterimSink};
pub use leased_stream::LeasedStream;
pub use outgoing::Outgoing;
pub use park::{
    EventSink, EventStream, InstanceSide, LeftBehind, ParkHost, ParkRules, Parted, Reopen,
    Reopened, Unready, Woken, carry_parkable, event_stream,
};
pub use peer::{PeerError, PeerRequest, Peers};
pub use peer_body::PeerStream;
pub use proxy_protocol::ProxyHeader;
pub use request_body::{BodyError, BodyFailure, BodyStats, RequestBody};
pub use response::InstanceResponse;
pub use response_body::{ResponseError, UpstreamBody};
pub use trailers::TrailerRules;
pub use tunnel::{TunnelFarewell, TunnelStream, parkable_tunnel, tunnel};
pub use via::{Pseudonym, Pseudonyms, ViaElement};
pub use waiting_client::{ClientStream, NoFrame, WaitingClient};
pub use websocket::{
    Close, FrameHeader, FrameReader, LONGEST_CONTROL, NotWebSocket, Opcode, PingToken, control,
    masked,
};
