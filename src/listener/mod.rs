//! Sockets and clients' connections.
//!
//! Guarantees: a connection has a permit before it is accepted, and a client its share of them, so
//! their number is bounded; a PROXY header, a TLS handshake and a head have a deadline, a head a size
//! and a number of fields; HTTP/2 is served where ALPN or the client's preface says so, with bounds
//! on streams, windows, resets and control frames; a drain lets each connection finish its requests
//! and then closes it, and cuts what is left at its deadline.
//!
//! A connection's way is `connection.rs`, from top to bottom.

mod accept;
mod certificates;
mod clients;
mod header_read_timer;
#[macro_use]
mod forward_writes;
mod client_hello;
mod connection;
mod h1;
mod h2_flood_guard;
mod http;
mod informational;
mod internal;
mod peek;
pub mod proxy_protocol;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ::http::{HeaderName, HeaderValue, Request, Response};
use hyper::body::{Body, Incoming};
use tokio::net::TcpStream;

pub use self::accept::{Inherited, Listener, ListenerSettings, Shared, bind};
pub use self::certificates::{Certificates, TlsError};
pub use self::client_hello::fuzz as fuzz_hello;
pub use self::h1::fuzz as fuzz_head;
pub use self::informational::InterimSink;
pub use self::peek::PeekStream;

/// Who is at the other end of a request's connection.
pub struct Downstream {
    /// The client's address: the peer's, or what a trusted peer's PROXY header says.
    pub client: SocketAddr,
    /// Where it connected to.
    pub local: SocketAddr,
    /// What its TLS handshake agreed on; `None` in clear.
    pub tls: Option<TlsSession>,
    /// Takes 1xx answers, where the connection can carry some.
    pub interim: Option<InterimSink>,
}

/// What a TLS handshake agreed on.
#[derive(Debug, Clone)]
pub struct TlsSession {
    certificates: Arc<Certificates>,
    sni: Option<Arc<str>>,
    /// The client's certificate, as RFC 9440 writes it in a field.
    client: Option<HeaderValue>,
}

/// A connection that is passed on as it is.
#[derive(Debug)]
pub struct RawConnection {
    /// Its bytes, from the first.
    pub stream: PeekStream<TcpStream>,
    /// The host it is for: the client's SNI, or the listener's own.
    pub host: Arc<str>,
    /// Whether it is TLS.
    pub tls: bool,
    /// Who it is from.
    pub from: Downstream,
}

/// What a response's head says besides its own fields. To write them down here costs less than to put them into a map
/// first.
pub trait ExtraHeaders {
    /// Says each of them.
    fn extra_headers(&self, say: impl FnMut(&HeaderName, &HeaderValue));
}

/// Something that answers requests.
pub trait Service: Clone + Send + Sync + 'static {
    /// What it remembers of a connection from one request to the next.
    type ConnectionCache: Default + Send + Sync + 'static;

    /// Its responses' bodies.
    type Body: Body<Data = bytes::Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + ExtraHeaders
        + Unpin
        + Send
        + 'static;

    /// A TLS client says which host it wants, before its handshake is over.
    fn on_client_hello(&self, sni: &str, client: IpAddr, port: u16);

    /// Answers one request, which may be a head alone.
    fn call(
        &self,
        request: Request<Option<Incoming>>,
        from: &(Downstream, Self::ConnectionCache),
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Passes a connection on, until it ends.
    fn proxy_tcp(&self, connection: RawConnection) -> impl Future<Output = ()> + Send;
}

// === impl TlsSession ===

impl TlsSession {
    /// The certificate that the client has shown, as the field `Client-Cert` has it (RFC 9440 §2.2).
    pub fn client_certificate(&self) -> Option<&HeaderValue> {
        self.client.as_ref()
    }

    /// Whether this connection may carry requests for `host`.
    pub fn covers(&self, host: &str) -> bool {
        self.certificates.covers(self.sni.as_deref(), host)
    }
}

impl fmt::Debug for Downstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Downstream({} to {})", self.client, self.local)
    }
}
