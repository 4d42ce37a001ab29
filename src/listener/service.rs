//! The interface between connections and whatever answers their requests.
//!
//! Guarantees: an implementation knows who a request comes from, and keeps state for as long as the
//! connection lives.

use std::fmt;
use std::future::{Future, ready};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue, Response};
use http1::{FieldLines, InterimSink};
use hyper::body::Body;
use tokio::net::TcpStream;

use super::certificates::Certificates;
use crate::client::{ClientRequest, Refusal};
use crate::fleet::PeerName;
use crate::flow::{ClientBuffers, PeekStream, SendTimeout};

/// The client's side of a request's connection.
pub struct Downstream {
    /// The client's address: the peer's, or what a trusted peer's PROXY header says.
    pub client: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
    /// The result of its TLS handshake; `None` in clear.
    pub tls: Option<Box<TlsSession>>,
    /// The member of the fleet that it is, at the listener for members.
    pub peer: Option<Arc<PeerName>>,
    /// Whether it is another proxy that asks where instances are, and its requests go to none.
    pub is_asking: bool,
    /// Whether it speaks in clear where TLS is spoken, so that no request of its is answered.
    pub is_misplaced: bool,
    /// The client's side of the budget of bytes in memory, once the connection is served. Requests of other
    /// members' clients bring their own.
    pub buffers: Option<ClientBuffers>,
}

/// The result of a TLS handshake.
#[derive(Debug, Clone)]
pub struct TlsSession {
    pub(super) certificates: Arc<Certificates>,
    pub(super) sni: Option<Arc<str>>,
    /// The client's certificate, as RFC 9440 writes it in a field.
    pub(super) client: Option<HeaderValue>,
}

/// A connection that is passed on as it is.
#[derive(Debug)]
pub struct RawConnection {
    /// The connection's bytes, from the first.
    pub stream: PeekStream<SendTimeout<TcpStream>>,
    /// The host it is for: the client's SNI, or the listener's own.
    pub host: Arc<str>,
    /// Whether it is TLS.
    pub tls: bool,
    /// The client that it is from.
    pub from: Downstream,
}

/// Header fields that a response has besides those of its head. To write them at the end costs less
/// than to put them into a map first.
pub trait ExtraHeaders {
    /// Calls `add` with each of them.
    fn extra_headers(&self, add: impl FnMut(&HeaderName, &HeaderValue));

    /// Takes those that are still lines of a head that was read: nobody needs them once they are
    /// written.
    fn take_lines(&mut self) -> Option<FieldLines> {
        None
    }
}

/// What a response's body has in memory that it has not handed out.
pub trait Backlog {
    /// Bytes that may wait behind what it has handed out, while its reader waits for the client.
    fn backlog(&self) -> usize {
        0
    }

    /// From now on it is not to read more at once than so many bytes.
    fn read_at_once(&mut self, _bytes: usize) {}
}

/// The state that a service keeps of a connection.
pub trait Remembered: Default + Send + Sync + 'static {
    /// Lets go of what can be found out again: the connection has had no request for a while.
    fn let_go(&mut self) {}
}

impl Remembered for () {}

/// Something that answers requests.
pub trait Service: Clone + Send + Sync + 'static {
    /// The state that it keeps of a connection from one request to the next.
    type ConnectionCache: Remembered;

    /// The body of its responses.
    type Body: Body<Data = bytes::Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + ExtraHeaders
        + Backlog
        + Unpin
        + Send
        + 'static;

    /// Learns which host a TLS client wants, before its handshake is over.
    fn on_client_hello(&self, sni: &str, client: IpAddr, port: u16);

    /// Sees to it that there is a certificate for the host, where one may be ordered; the handshake
    /// waits.
    fn before_handshake(
        &self,
        _sni: &str,
        _client: IpAddr,
        _port: u16,
    ) -> impl Future<Output = ()> + Send {
        ready(())
    }

    /// The client that a member of the fleet speaks for in a request with these fields.
    fn client_of(&self, _fields: &HeaderMap, _from: &Downstream) -> Option<IpAddr> {
        None
    }

    /// Answers one request, which may be a head alone. `interim` takes 1xx responses to it.
    fn call(
        &self,
        request: ClientRequest,
        from: &(Downstream, Self::ConnectionCache),
        interim: &InterimSink,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Answers what is no request; the connection ends with the answer.
    fn refuse(&self, refusal: Refusal, from: &Downstream) -> Response<Self::Body>;

    /// Passes a connection on, until it ends. What it has in memory is counted on its client's side.
    fn proxy_tcp(
        &self,
        connection: RawConnection,
        buffers: ClientBuffers,
    ) -> impl Future<Output = ()> + Send;
}

// === impl Downstream ===

impl Downstream {
    /// A client in clear.
    pub(super) fn in_clear(client: SocketAddr, local: SocketAddr) -> Self {
        Self {
            client,
            local,
            tls: None,
            peer: None,
            is_asking: false,
            is_misplaced: false,
            buffers: None,
        }
    }
}

// === impl TlsSession ===

impl TlsSession {
    /// The certificate that the client has shown, as the field `Client-Cert` has it (RFC 9440
    /// §2.2).
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
