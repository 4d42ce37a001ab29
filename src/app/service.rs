//! The gateway as the service behind every listener.
//!
//! Guarantees: what a listener knows of a connection reaches the gateway whole; nothing is decided
//! here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http1::InterimSink;

use crate::acme::Acme;
use crate::client::{ClientRequest, Refusal};
use crate::fleet::PeerName;
use crate::flow::ClientBuffers;
use crate::listener::{Backlog, Downstream, ExtraHeaders, RawConnection, Service, TlsSession};
use crate::names::Hostname;
use crate::proxy::{Arrival, ConnectionCache, FromPeer, Gateway, GatewayBody, RawKind};

/// Hands requests and connections to the gateway.
#[derive(Clone)]
pub(super) struct GatewayService {
    pub(super) gateway: Arc<Gateway<hypeman::Client>>,
    /// Orders certificates, where listeners want them by ACME.
    pub(super) acme: Option<Arc<Acme>>,
}

/// How long a control plane is asked whether a name exists.
const PATIENCE: Duration = Duration::from_secs(5);

impl ExtraHeaders for GatewayBody {
    fn extra_headers(&self, say: impl FnMut(&HeaderName, &HeaderValue)) {
        self.extra_headers(say);
    }
}

impl Backlog for GatewayBody {
    fn backlog(&self) -> usize {
        self.backlog()
    }

    fn read_at_once(&mut self, bytes: usize) {
        self.read_at_once(bytes);
    }
}

impl GatewayService {
    /// Answers a request of another member of the fleet: its client's, most of the time.
    async fn call_for_peer(
        &self,
        name: &Arc<PeerName>,
        mut request: ClientRequest,
        from: &Downstream,
        interim: &InterimSink,
    ) -> Response<GatewayBody> {
        let from_peer = FromPeer::take(Arc::clone(name), request.headers_mut());
        let (client, local, secure) = match from_peer.facts() {
            Some(facts) => (facts.client, facts.local, facts.secure),
            None => (from.client, from.local, true),
        };
        // The next request is another client's.
        let cache = match from_peer.facts() {
            Some(facts) => ConnectionCache::of_client(facts.connection),
            None => ConnectionCache::default(),
        };
        let arrival = Arrival {
            client,
            local,
            secure,
            covers: &|_| true,
            certificate: None,
            interim: Some(interim),
            cache: &cache,
            from_peer: Some(&from_peer),
            is_asking: false,
            buffers: None,
        };
        Arc::clone(&self.gateway).handle(request, &arrival).await
    }
}

impl Service for GatewayService {
    type ConnectionCache = ConnectionCache;
    type Body = GatewayBody;

    fn on_client_hello(&self, sni: &str, client: IpAddr, port: u16) {
        self.gateway.on_client_hello(sni, client, port);
    }

    async fn before_handshake(&self, sni: &str, client: IpAddr, port: u16) {
        let (Some(acme), Ok(host)) = (&self.acme, Hostname::parse(sni)) else {
            return;
        };
        if !acme.wants(host.as_str()) {
            return;
        }
        // Who has a certificate is not kept waiting.
        let patience = match acme.has(host.as_str()) {
            true => Duration::ZERO,
            false => PATIENCE,
        };
        let confirmed = self.gateway.confirms_name(&host, (client, port), patience);
        if confirmed.await {
            acme.demand(host.as_str(), client).await;
        }
    }

    fn client_of(&self, fields: &HeaderMap, from: &Downstream) -> Option<IpAddr> {
        from.peer.as_ref().and_then(|_| FromPeer::client_of(fields))
    }

    async fn call(
        &self,
        request: ClientRequest,
        (from, cache): &(Downstream, ConnectionCache),
        interim: &InterimSink,
    ) -> Response<GatewayBody> {
        if let Some(name) = &from.peer {
            // In a box: most listeners are for clients.
            return Box::pin(self.call_for_peer(name, request, from, interim)).await;
        }
        let covers = |host: &str| from.tls.as_ref().is_none_or(|tls| tls.covers(host));
        let arrival = Arrival {
            client: from.client,
            local: from.local,
            secure: from.tls.is_some(),
            covers: &covers,
            certificate: from.tls.as_ref().and_then(TlsSession::client_certificate),
            interim: Some(interim),
            cache,
            from_peer: None,
            is_asking: from.is_asking,
            buffers: None,
        };
        Arc::clone(&self.gateway).handle(request, &arrival).await
    }

    fn refuse(&self, refusal: Refusal, from: &Downstream) -> Response<GatewayBody> {
        self.gateway
            .refuse(refusal, from.client.ip(), from.peer.is_some())
    }

    async fn proxy_tcp(&self, connection: RawConnection, buffers: ClientBuffers) {
        let RawConnection {
            stream,
            host,
            tls,
            from,
        } = connection;
        let kind = if tls { RawKind::Tls } else { RawKind::Tcp };
        let arrival = Arrival {
            client: from.client,
            local: from.local,
            secure: tls,
            covers: &|_| true,
            certificate: None,
            interim: None,
            cache: &ConnectionCache::default(),
            from_peer: None,
            is_asking: false,
            buffers: Some(&buffers),
        };
        self.gateway.proxy_tcp(stream, &host, kind, &arrival).await;
    }
}
