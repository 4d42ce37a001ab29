//! Connections that are passed on as they are: TLS that the instance terminates, and anything else.
//!
//! Guarantees: such a connection wakes, waits and is refused like a request, by the same limits; its
//! first bytes stay unread by the instance until it is ready; each side's end is passed on to the
//! other; it ends with its instance's epoch or with the gateway.

use std::io;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::dispatch::{Dispatch, Dispatched, Transport, WakeInfo};
use super::error::ProxyError;
use super::error_response;
use super::request_log::{Kind, RequestLog};
use super::service::{Arrival, Gateway, hop_of};
use crate::names::{Hostname, RequestId};
use crate::router::RouteError;
use crate::upstream::{ForwardError, Hop, LeasedStream, Upstream};
use crate::wake::{Endpoint, OpenConnection};
use hypeman::ControlPlane;

/// Bytes on their way, each way.
const BUFFER: usize = 64 * 1024;
/// What a client of TLS hears instead of a handshake (RFC 8446 §6): a fatal alert, "internal error"
/// or "unrecognized name".
const INTERNAL_ERROR: u8 = 80;
const UNRECOGNIZED_NAME: u8 = 112;

/// Which kind of connection, for its account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawKind {
    /// TLS, routed by SNI.
    Tls,
    /// Whatever comes to the listener.
    Tcp,
}

/// Opens connections for connections.
struct Opener(Arc<Upstream>);

impl Transport for Opener {
    type Stream = TcpStream;
    type Request = ();
    type Response = LeasedStream;

    async fn send(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(TcpStream, OpenConnection)>,
        (): &mut (),
        _now: Instant,
    ) -> Result<LeasedStream, ForwardError> {
        let connected = self.0.connect(endpoint, hop, given).await;
        connected.map_err(ForwardError::Connect)
    }

    fn may_repeat(&self, (): &()) -> bool {
        true
    }

    fn status(&self, _: &LeasedStream) -> u16 {
        200
    }
}

// === impl RawKind ===

impl RawKind {
    /// The metric's label, and the access line's method.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Tcp => "tcp",
        }
    }
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// Passes a connection for `host` on to its instance, until it ends.
    pub async fn proxy_tcp(
        &self,
        mut client: impl AsyncRead + AsyncWrite + Unpin + Send,
        host: &str,
        kind: RawKind,
        from: &Arrival<'_>,
    ) {
        let mut log = RequestLog::new(
            &self.parts,
            Kind::Connection(kind),
            from.client.ip(),
            RequestId::generate(),
        );
        let refusal = match self.splice_inner(&mut log, &mut client, host, from).await {
            Ok(()) => return,
            Err(error) => {
                let description = error_response::describe(&error);
                log.status = description.status.as_u16();
                log.error = Some(description.code);
                tracing::debug!(request = %log.request_id, %error, host, "refused");
                error
            }
        };
        if kind == RawKind::Tls {
            let unknown = matches!(refusal, ProxyError::Route(_) | ProxyError::Authority(_));
            let alert = if unknown {
                UNRECOGNIZED_NAME
            } else {
                INTERNAL_ERROR
            };
            // A client that has gone does not need it.
            let _told = client.write_all(&[21, 3, 3, 0, 2, 2, alert]).await;
        }
        let _told = client.shutdown().await;
    }

    /// The line that every such connection walks.
    async fn splice_inner(
        &self,
        log: &mut RequestLog,
        client: &mut (impl AsyncRead + AsyncWrite + Unpin + Send),
        host: &str,
        from: &Arrival<'_>,
    ) -> Result<(), ProxyError> {
        let host = Hostname::parse(host).map_err(crate::router::AuthorityError::from)?;
        log.host = Some(host.clone());
        let active_routes = self.active_routes.load_full();
        let found = active_routes.table.find(&host, "/", from.local.port())?;
        let (route, config) = (&*found.route, found.route.config());
        log.on_route(&active_routes, &found.route);
        if config.forwarding.auth.is_some() {
            return Err(ProxyError::Unauthenticated);
        }
        let patience = config.wake.timeout;
        let peer = log.client;
        let instance = self.find(route, &found.instance, peer, patience).await?;
        log.instance = Some(instance.id().clone());
        let admission = active_routes.admission(route).ok_or(RouteError::NoRoute)?;
        let delivery = Dispatch {
            instance: &instance,
            route,
            hop: hop_of(config, from),
            admission,
            may_wake: admission.check_raw(peer),
            hold: &self.parts.hold,
            gate: &self.parts.hold.gate(instance.id(), config.port),
            metrics: &self.parts.metrics,
            client: peer,
            user_agent: None,
            head_bytes: 0,
            deadline: log.started + patience,
            trace: None,
        };
        let mut notes = WakeInfo::default();
        let admitted = delivery.admit(&mut notes).await;
        (log.wake, log.held) = (notes.wake, notes.held);
        let opener = Opener(Arc::clone(&self.parts.upstream));
        let opened = delivery.send(&opener, admitted?, (), &mut notes).await;
        (log.wake, log.held) = (notes.wake, notes.held);
        let Dispatched {
            response,
            endpoint,
            slot,
        } = opened?;
        log.status = 200;
        let mut instance = TokioIo::new(response);
        let carried = copy_bidirectional_with_sizes(client, &mut instance, BUFFER, BUFFER);
        let carried: io::Result<(u64, u64)> = tokio::select! {
            carried = carried => carried,
            () = endpoint.cut().cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
            () = self.parts.cut.cancelled() => Err(io::ErrorKind::ConnectionAborted.into()),
        };
        drop(slot);
        if let Ok((_, out)) = carried {
            (log.bytes_out, log.complete) = (out, true);
        }
        Ok(())
    }
}
