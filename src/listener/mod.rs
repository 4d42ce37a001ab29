//! Sockets and clients' connections.
//!
//! Guarantees: a connection has a permit before it is accepted, and a client its share of them, so
//! their number is bounded; a PROXY header, a TLS handshake and a head have a deadline; a head has
//! a bounded size and number of fields; HTTP/2 is served where ALPN or the client's preface says
//! so, with bounds on streams, windows, resets and control frames; a drain lets each connection
//! finish its requests and then closes it, and cuts what is left at its deadline.
//!
//! `connection.rs` shows the way of one connection, from top to bottom.

mod accept;
mod address;
mod certificate_facts;
mod certificate_files;
mod certificates;
mod challenge;
mod cipher_order;
mod client_hello;
mod client_stream;
mod clients;
mod connection;
mod date;
mod h1;
mod h2;
mod http;
mod informational;
mod internal;
mod kept;
mod lingering;
pub mod proxy_protocol;
mod seldom;
mod service;
mod serving;
mod settings;
mod shared;
mod ticket_ring;
mod tls_error;

pub use self::accept::{Inherited, Listener, bind, probe};
pub use self::address::is_v6_only;
pub use self::certificates::Certificates;
pub use self::client_hello::fuzz as fuzz_hello;
pub use self::internal::ca_file;
pub use self::service::{
    Backlog, Downstream, ExtraHeaders, RawConnection, Remembered, Service, TlsSession,
};
pub use self::settings::{ListenerSettings, SettingsHandle, TlsParts};
pub use self::shared::Shared;
pub use self::ticket_ring::{TicketRing, TicketRingError};
pub use self::tls_error::TlsError;
