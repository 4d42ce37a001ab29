//! A handshake of WebSocket that the gateway may make once more, when its instance has lost the connection.
//!
//! Guarantees: it is the client's request as the instance has got it first, with a key of its own, the
//! subprotocol that was agreed on then, and the name of the connection that it takes up again, which is no
//! client's choice and the same each time. Where an extension was agreed on there is none: what was compressed before
//! belongs to the connection that is lost.

use std::fmt;

use http::header::{SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderValue};

use super::route::Target;
use super::switching::{Offer, Switch, switches_to_websocket};
use super::transaction::copied;
use crate::config::ParkResume;
use crate::names::RequestId;
use crate::upstream::{Hop, Outgoing, X_WAKEGATE_PARKED};

/// What is kept of a handshake.
pub(super) struct Handshake {
    outgoing: Outgoing,
    hop: Hop,
    subprotocol: Option<HeaderValue>,
    name: RequestId,
}

// === impl Target ===

impl Target {
    /// Whether it is a WebSocket whose handshake may have to be made once more.
    pub(super) fn may_shake_hands_again(&self) -> bool {
        let park = self.destination.route.config().tunnel.park.as_ref();
        park.is_some_and(|park| park.resume == ParkResume::Reconnect)
            && self.switch.as_ref().is_some_and(Switch::is_websocket)
    }
}

// === impl Handshake ===

impl Handshake {
    /// Keeps what is about to be sent, if it may be needed again.
    pub(super) fn of(target: &Target, outgoing: &Outgoing, hop: &Hop) -> Option<Box<Self>> {
        let park = target.destination.route.config().tunnel.park.as_ref();
        if park.is_none_or(|park| park.resume != ParkResume::Reconnect) {
            return None;
        }
        Some(Box::new(Self {
            outgoing: outgoing.handshake()?,
            hop: hop.clone(),
            subprotocol: None,
            name: RequestId::generate(),
        }))
    }

    /// The same with what the instance has agreed on by this response, if it may be made again.
    pub(super) fn agreed(mut self: Box<Self>, response: &HeaderMap) -> Option<Box<Self>> {
        if !switches_to_websocket(response) || response.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
            return None;
        }
        // It is kept as long as the tunnel, and the response's head is not.
        self.subprotocol = response.get(SEC_WEBSOCKET_PROTOCOL).and_then(copied);
        let headers = self.outgoing.headers_mut();
        headers.remove(SEC_WEBSOCKET_PROTOCOL);
        if let Some(subprotocol) = &self.subprotocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol.clone());
        }
        headers.insert(X_WAKEGATE_PARKED, self.name.header().clone());
        Some(self)
    }

    /// The subprotocol that both sides speak.
    pub(super) fn subprotocol(&self) -> Option<&HeaderValue> {
        self.subprotocol.as_ref()
    }

    /// The request, the way to the instance, and what that may agree to.
    pub(super) fn once_more(&self) -> Option<(Outgoing, Hop, Offer)> {
        let mut outgoing = self.outgoing.handshake()?;
        let (offer, key) = Offer::of_gateway();
        outgoing.headers_mut().insert(SEC_WEBSOCKET_KEY, key);
        Some((outgoing, self.hop.clone(), offer))
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handshake({})", self.name)
    }
}
