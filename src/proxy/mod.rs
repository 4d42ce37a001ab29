//! A request's way, from its head to its response's last byte.
//!
//! `service` lists the phases: `route`, `authenticate`, `resolve`, `answer_locally`, `admit`, `prepare`,
//! [`dispatch`], `respond`. Each has a file of its own, whose first lines say what it guarantees;
//! the other files are what the phases use.
//!
//! Guarantees: [`Gateway::handle`] always answers; every refusal is one typed [`ProxyError`] that
//! [`error_response`] alone turns into a response; every request leaves one access line and one
//! count, however it ends.

mod active_routes;
mod admission;
mod admit;
mod answer_locally;
mod asked_anew;
mod auth;
mod authenticate;
mod client_address;
mod connection_cache;
mod context;
mod denied;
pub mod dispatch;
mod error;
pub mod error_response;
mod first_frame;
mod fleet_link;
mod gateway;
mod handshake;
mod https_redirect;
mod l4;
mod max_forwards;
mod on_demand;
mod page;
mod park_keeper;
mod park_places;
mod parking;
mod path_rules;
mod path_verdict;
mod peer_facts;
mod peer_tcp;
mod pending_request;
mod planes;
mod ports;
mod preflight;
mod prepare;
mod preset;
mod prewarm;
mod rates;
mod request_body;
mod request_deadline;
mod request_head;
mod request_log;
mod request_target;
mod resolve;
mod respond;
mod response_body;
mod route;
mod service;
mod switching;
mod to_peer;
mod transaction;
mod tunnel_places;
mod unknown_names;
mod waiting;
mod wake_info;
mod wake_service;

pub use admission::Admission;
pub use asked_anew::{AskedAnew, find_claimed};
pub use auth::{AuthRedirect, Challenge};
pub use connection_cache::ConnectionCache;
pub use context::{Arrival, GatewayParts, RawKind};
pub use denied::{Denied, WakeDenied};
pub use error::ProxyError;
pub use fleet_link::FleetLink;
pub use gateway::Gateway;
pub use https_redirect::HttpsRedirect;
pub use park_keeper::{Sleeper, Slept, keep};
pub use path_rules::PathRules;
pub use path_verdict::PathVerdict;
pub use peer_facts::{FromPeer, PeerFacts, Raw};
pub use pending_request::{Admitted, LookUp, PendingRequest, Resolved, queues_of};
pub use request_head::RequestHead;
pub use response_body::GatewayBody;
pub use wake_info::WakeInfo;
