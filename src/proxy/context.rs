//! What a request or a connection brings along, and the parts of the gateway that serve it.
//!
//! Guarantees: what is here stays as it is from the first byte to the last; the phases read it and
//! hand on what they find out themselves.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderValue, Version};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection_cache::ConnectionCache;
use super::peer_facts::{FromPeer, PeerFacts};
use crate::acme::AcmeStore;
use crate::client::Request;
use crate::config::{ReadyWhen, ResponseConfig, RouteConfig, ServerConfig, ViaConfig};
use crate::flow::ClientBuffers;
use crate::hold::Hold;
use crate::instance_tls::{TlsHop, TlsProfiles};
use crate::names::RequestId;
use crate::telemetry::{AccessSink, Metrics, Tracer};
use crate::upstream::{Hop, InterimSink, ProxyHeader, Upstream};
use crate::wake::{self, TargetTls, Wakes};

/// The connection that a request came on.
pub struct Arrival<'a> {
    /// The peer, or whom a trusted peer's PROXY header names.
    pub client: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// Whether it came over TLS.
    pub secure: bool,
    /// The certificate that the client has shown, as `Client-Cert` has it.
    pub certificate: Option<&'a HeaderValue>,
    /// Takes 1xx answers for the client, if it can be sent some.
    pub interim: Option<&'a InterimSink>,
    /// The other member of the fleet that has sent it, and what that says about it.
    pub from_peer: Option<&'a FromPeer>,
    /// Whether another proxy only asks where the request's instance is.
    pub is_asking: bool,
    /// Its client's side of the budget of bytes in memory; requests of other members' clients bring their
    /// own.
    pub buffers: Option<&'a ClientBuffers>,
    /// The cache of what earlier requests of the connection have found out.
    pub cache: &'a ConnectionCache,
    /// Whether the connection may carry requests for a host.
    pub covers: &'a (dyn Fn(&str) -> bool + Sync),
}

/// The parts that a gateway is made of.
#[derive(Debug)]
pub struct GatewayParts<P> {
    /// The wake engine.
    pub wakes: Arc<Wakes<P>>,
    /// The hold queue.
    pub hold: Arc<Hold>,
    /// The TLS that routes speak with their instances.
    pub instance_tls: Arc<TlsProfiles>,
    /// The challenges of CAs, where certificates come by ACME.
    pub challenges: Option<Arc<AcmeStore>>,
    /// Connections to instances.
    pub upstream: Arc<Upstream>,
    /// Header fields that the gateway adds to responses.
    pub response: ArcSwap<ResponseConfig>,
    /// The trusted proxies and other settings of the server.
    pub server: Arc<ArcSwap<ServerConfig>>,
    /// The longest that an application may ask to stay awake for.
    pub max_hold: Duration,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The access log.
    pub access: Arc<AccessSink>,
    /// The tracer that spans go to.
    pub tracer: Tracer,
    /// The tracker of the tasks of tunnels.
    pub tunnels: TaskTracker,
    /// Ends tunnels.
    pub cut: CancellationToken,
}

/// Layer-4 protocols that are passed through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawKind {
    /// TLS, routed by SNI.
    Tls,
    /// Whatever comes to the listener.
    Tcp,
}

/// The facts that are fixed once a request's head, or a connection, is there.
#[derive(Debug)]
pub(super) struct RequestContext {
    /// The id that the instance, the client and the log know the request by.
    pub(super) request_id: RequestId,
    /// The time at which the request's own time begins.
    pub(super) started: Instant,
    /// The peer's address, or the one that a trusted peer's PROXY header names.
    pub(super) peer: IpAddr,
    /// The client that limits, logs and the ledger are about: the one that a trusted proxy names,
    /// else the peer.
    pub(super) client: IpAddr,
    /// The client's `User-Agent`.
    pub(super) user_agent: Option<HeaderValue>,
    /// What the server's settings say of it.
    pub(super) terms: ServerTerms,
}

/// What the server's settings say of a request when its head is there. They may change meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerTerms {
    /// Whether the peer's own forwarding fields are believed.
    pub(super) is_trusted: bool,
    /// The messages in which the gateway adds to `Via`.
    pub(super) via: ViaConfig,
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

// === impl Arrival ===

impl Arrival<'_> {
    /// What another member of the fleet says about a request that it has passed on.
    pub(super) fn facts(&self) -> Option<&PeerFacts> {
        self.from_peer?.facts()
    }

    /// The sink of 1xx answers to a request, whose client can be sent some. HTTP/1.0 knows none (RFC
    /// 9110 §15.2).
    pub(super) fn interim_for<B>(&self, request: &Request<B>) -> Option<&InterimSink> {
        let interim = self.interim;
        interim.filter(|_| request.version() != Version::HTTP_10)
    }

    /// The last hop of this request: from the gateway to its instance's port.
    pub(super) fn hop(&self, config: &RouteConfig, port: u16, tls: Option<TlsHop>) -> Hop {
        Hop {
            port,
            protocol: config.forwarding.protocol,
            tls,
            proxy_header: config.forwarding.proxy_protocol.map(|version| ProxyHeader {
                version,
                client: self.client,
                local: self.local,
            }),
        }
    }
}

impl fmt::Debug for Arrival<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arrival({}, secure: {})", self.client, self.secure)
    }
}

/// The port of an instance, and the kind of readiness, that a route's requests for this port wait for;
/// `tls` is what they go over.
pub(super) fn readiness_of(route: &RouteConfig, port: u16, tls: Option<&TlsHop>) -> wake::Target {
    if port == 0 {
        return wake::Target::AWAKE;
    }
    // An instance that wants to know the client first cannot be asked beforehand.
    let tls = tls.filter(|_| route.forwarding.proxy_protocol.is_none());
    wake::Target {
        tls: tls.cloned().map(TargetTls),
        port,
        is_chosen: route.ports.is_some(),
        when: route.wake.ready,
        health: (route.wake.ready == ReadyWhen::Health)
            .then(|| Arc::clone(&route.wake.health_path)),
    }
}
