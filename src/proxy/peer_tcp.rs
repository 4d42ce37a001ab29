//! Connections that are passed on as they are, between members of the fleet (CONNECT).
//!
//! Guarantees: at the node such a connection wakes, waits and is refused as at a listener of its own;
//! the front says what the node says; what the node's route parks is parked there, and reset here if it is
//! lost; nothing of the client's bytes is sent before the node has
//! answered, so that a node that is not the right one can be left for another.

use std::sync::Arc;

use http::uri::Authority;
use http::{Method, Response, Uri};

use super::context::{Arrival, RawKind, RequestContext};
use super::dispatch::dispatch;
use super::error::ProxyError;
use super::fleet_link::Fleet;
use super::gateway::Gateway;
use super::l4::Opener;
use super::parking::Parking;
use super::peer_facts::{self, PeerFacts, Raw};
use super::request_log::RequestLog;
use super::response_body::Content;
use super::route::Destination;
use super::to_peer::found;
use super::transaction::Transaction;
use crate::client::{ClientRequest, ClientUpgrade, Request};
use crate::fleet::Place;
use crate::flow::ClientBuffers;
use crate::telemetry::known_code;
use crate::upstream::{PeerError, PeerRequest, PeerStream, RequestBody, TunnelRules, X_REQUEST_ID};
use hypeman::ControlPlane;

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// Where the instance of a client's connection is, if it is not here.
    pub(super) fn connection_elsewhere(
        &self,
        destination: &Destination,
    ) -> Option<(&Fleet, Place)> {
        let fleet = self.fleet.get()?;
        let place = fleet.elsewhere(&destination.instance)?;
        Some((fleet, place))
    }

    /// A stream to the instance by way of its host's node, and whether that may park it; `None` if it is
    /// here by now.
    pub(super) async fn connect_by_peer(
        &self,
        (fleet, mut place): (&Fleet, Place),
        destination: &Destination,
        kind: RawKind,
        arrival: &Arrival<'_>,
        context: &RequestContext,
        log: &mut RequestLog,
    ) -> Result<Option<(PeerStream, bool)>, ProxyError> {
        let mut facts = PeerFacts::about(destination, arrival, context);
        facts.raw = Some(match kind {
            RawKind::Tls => Raw::Tls,
            RawKind::Tcp => Raw::Tcp,
        });
        let host = log.host.as_ref().map(ToString::to_string);
        let authority = format!("{}:{}", host.unwrap_or_default(), destination.port);
        let authority: Authority = authority.parse().map_err(|_| ProxyError::Target)?;
        let mut head = Request::new(RequestBody::default());
        *head.method_mut() = Method::CONNECT;
        *head.uri_mut() = Uri::from(authority);
        let id = context.request_id.header().clone();
        head.headers_mut().insert(X_REQUEST_ID, id);
        if let Some(buffers) = arrival.buffers {
            // What the stream has in memory is its client's.
            head.extensions_mut().insert(buffers.clone());
        }
        let mut request = PeerRequest::new(head, None, self.patience(destination));
        let mut is_second = false;
        let mut response = loop {
            let (member, claim) = found(place)?;
            log.fleet_peer = Some(member.name.as_str().into());
            facts.claimed(&claim, fleet.placement.revision());
            let written = facts.write(1, request.head_mut().headers_mut());
            written.ok_or(ProxyError::Target)?;
            let peers = fleet.peers.as_ref().ok_or(PeerError::Unreachable)?;
            let sent = peers.send(&member, &request).await;
            self.count_sent(&sent);
            let response = sent?;
            let is_misplaced = peer_facts::is_misplaced(response.status(), response.headers());
            if !is_misplaced {
                break response;
            }
            if is_second {
                return Err(ProxyError::Nowhere);
            }
            is_second = true;
            match fleet.elsewhere_by_now(&destination.instance).await {
                Some(elsewhere) => place = elsewhere,
                None => return Ok(None),
            }
        };
        let may_park = peer_facts::take_parks(response.headers_mut());
        match response.body_mut().take_peer_stream() {
            Some(stream) => Ok(Some((stream, may_park))),
            None => {
                let code = peer_facts::take_code(response.headers_mut());
                let code = code.and_then(|code| known_code(code.to_str().ok()?));
                let code = code.unwrap_or("upstream_broke");
                Err(ProxyError::OfPeer(response.status(), code))
            }
        }
    }

    /// Passes on a connection that another member of the fleet has.
    pub(super) async fn carry_for_peer(
        self: &Arc<Self>,
        mut request: ClientRequest,
        arrival: &Arrival<'_>,
        transaction: &mut Transaction,
    ) -> Result<Response<Content>, ProxyError> {
        let Transaction {
            context, wake, log, ..
        } = transaction;
        let downstream = ClientUpgrade::of(&mut request);
        let buffers = request.extensions().get::<ClientBuffers>().cloned();
        if request.method() != Method::CONNECT {
            return Err(ProxyError::Target);
        }
        let host = request.uri().host().unwrap_or_default();
        let destination = self.route_connection(host, arrival, context, log)?;
        let resolved = self.resolve(&destination, arrival, log).await?;
        let look_up = self.look_up_of(&destination, arrival.from_peer);
        let mut pending = self.pending_connection(&destination, &resolved, &look_up);
        let admitted = pending.admit(wake).await?;
        let opener = Opener::new(&self.parts.upstream);
        let sent = dispatch(&opener, &mut pending, arrival, admitted, &mut (), wake, log).await?;
        let rules = TunnelRules::of(&destination.route.config().tunnel, false);
        let (stream, instance) = (sent.response, &pending.resolved.instance);
        let judged = (pending.may_wake, None);
        let park = Parking::of(self, &destination, (&resolved, instance), judged, None);
        let may_park = park.is_some();
        let transaction = match park {
            Some(park) => {
                let at = (sent.endpoint, sent.slot);
                let park = park.counting(buffers);
                park.begin_tunnel(downstream, stream, rules, at, ())
            }
            None => {
                let of = (Arc::clone(instance), sent.endpoint);
                self.begin_tunnel(downstream, stream, rules, Some((of, sent.slot)), ())
            }
        };
        let mut response = Response::new(Content::Switching(transaction));
        if may_park {
            peer_facts::say_parks(response.headers_mut());
        }
        Ok(response)
    }
}
