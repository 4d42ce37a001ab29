//! The gateway as the service behind every listener.
//!
//! Guarantees: what a listener knows of a connection reaches the gateway whole; nothing is decided
//! here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http1::{FieldLines, InterimSink};

use crate::acme::Acme;
use crate::client::{ClientRequest, Refusal};
use crate::fleet::PeerName;
use crate::flow::ClientBuffers;
use crate::listener::{
    Backlog, Downstream, ExtraHeaders, RawConnection, Remembered, Service, TlsSession,
};
use crate::names::Hostname;
use crate::proxy::{Arrival, ConnectionCache, FromPeer, Gateway, GatewayBody, RawKind};

/// Hands requests and connections to the gateway.
#[derive(Clone)]
pub(super) struct GatewayService {
    pub(super) gateway: Arc<Gateway<hypeman::Client>>,
    /// Orders certificates, where listeners want them by ACME.
    pub(super) acme: Option<Arc<Acme>>,
}

/// What is known of a request that another member of the fleet has sent: its client's, most of the time.
struct ByMember {
    from: FromPeer,
    cache: ConnectionCache,
}

/// How long a control plane is asked whether a name exists.
const PATIENCE: Duration = Duration::from_secs(5);

impl ExtraHeaders for GatewayBody {
    fn extra_headers(&self, say: impl FnMut(&HeaderName, &HeaderValue)) {
        self.extra_headers(say);
    }

    fn take_lines(&mut self) -> Option<FieldLines> {
        self.take_lines()
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

impl ByMember {
    fn take(name: &Arc<PeerName>, request: &mut ClientRequest) -> Self {
        let from = FromPeer::take(Arc::clone(name), request.headers_mut());
        // The next request is another client's.
        let cache = match from.facts() {
            Some(facts) => ConnectionCache::of_client(facts.connection),
            None => ConnectionCache::default(),
        };
        Self { from, cache }
    }
}

impl Remembered for ConnectionCache {
    fn let_go(&mut self) {
        self.forget();
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
        mut request: ClientRequest,
        (from, cache): &(Downstream, ConnectionCache),
        interim: &InterimSink,
    ) -> Response<GatewayBody> {
        // In a box: most listeners are for clients. The rest of the way is one future for both, since a
        // request that is held keeps it.
        let by_member = from.peer.as_ref();
        let by_member = by_member.map(|name| Box::new(ByMember::take(name, &mut request)));
        let facts = by_member.as_ref().and_then(|by| by.from.facts());
        let tls = from.tls.as_deref().filter(|_| from.peer.is_none());
        let covers = |host: &str| tls.is_none_or(|tls| tls.covers(host));
        let arrival = Arrival {
            client: facts.map_or(from.client, |facts| facts.client),
            local: facts.map_or(from.local, |facts| facts.local),
            secure: match facts {
                Some(facts) => facts.secure,
                None => from.peer.is_some() || tls.is_some(),
            },
            covers: &covers,
            certificate: tls.and_then(TlsSession::client_certificate),
            interim: Some(interim),
            cache: by_member.as_ref().map_or(cache, |by| &by.cache),
            from_peer: by_member.as_ref().map(|by| &by.from),
            is_asking: from.is_asking && from.peer.is_none(),
            buffers: from.buffers.as_ref().filter(|_| from.peer.is_none()),
        };
        self.gateway.handle(request, &arrival).await
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
