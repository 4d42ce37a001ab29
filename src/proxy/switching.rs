//! Requests that leave HTTP: upgrades over HTTP/1.1 (RFC 9110 §7.8) and WebSocket over HTTP/2
//! (extended CONNECT, RFC 8441).
//!
//! Guarantees: an instance always sees HTTP/1.1's upgrade; it may only switch to what its client
//! asked for; a client of HTTP/2 gets 200 where one of HTTP/1.1 gets 101.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use h2::ext::Protocol;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version};

use super::error::ProxyError;
use super::peer_facts;
use crate::client::{ClientUpgrade, Request};
use crate::upstream::{Field, Fields, InstanceResponse, is_upgrade, upgrade_token};

const WEBSOCKET: &[u8] = b"websocket";
/// What makes an accept key of a key (RFC 6455 §1.3).
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A client's wish to switch.
pub(super) struct Switch {
    downstream: ClientUpgrade,
    offer: Offer,
}

/// What an instance may agree to.
pub(super) struct Offer {
    /// What it may switch to.
    protocol: HeaderValue,
    /// Over HTTP/2 the gateway is the WebSocket client of this hop, with a key of its own.
    key: Option<String>,
    /// The client is behind another member of the fleet, which has the handshake's fields.
    is_of_peer: bool,
}

/// Sixteen random bytes (RFC 6455 §4.1). They show that the answer is to this question; they are no
/// secret.
fn generate_key() -> String {
    BASE64.encode(fastrand::u128(..).to_ne_bytes())
}

/// What a server that understands WebSocket answers to a key (RFC 6455 §4.2.2).
fn accept_key(key: &str) -> String {
    let text = [key.as_bytes(), MAGIC].concat();
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text))
}

// === impl Switch ===

impl Switch {
    /// The client's wish, if it has one. A request of HTTP/2 is made one of HTTP/1.1.
    pub(super) fn of<B>(
        request: &mut Request<B>,
        fields: Fields,
    ) -> Result<Option<Self>, ProxyError> {
        if request.method() != Method::CONNECT {
            if !fields.has(Field::Upgrade) {
                return Ok(None);
            }
            if request.version() == Version::HTTP_10 {
                // It knows no upgrade (RFC 9110 §7.8).
                request.headers_mut().remove(UPGRADE);
                return Ok(None);
            }
            return Ok(upgrade_token(request.headers()).map(|protocol| Self {
                downstream: ClientUpgrade::of(request),
                offer: Offer {
                    protocol,
                    key: None,
                    is_of_peer: false,
                },
            }));
        }
        match request.extensions().get::<Protocol>() {
            None => return Err(ProxyError::Connect),
            Some(protocol) if protocol.as_str() != "websocket" => {
                return Err(ProxyError::UnknownProtocol);
            }
            Some(_) => {}
        }
        let downstream = ClientUpgrade::of(request);
        let (protocol, key) = (HeaderValue::from_static("websocket"), generate_key());
        *request.method_mut() = Method::GET;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
        if let Ok(key) = HeaderValue::from_str(&key) {
            headers.insert(SEC_WEBSOCKET_KEY, key);
        }
        let offer = Offer {
            protocol,
            key: Some(key),
            is_of_peer: false,
        };
        Ok(Some(Self { downstream, offer }))
    }

    /// The wish of a client that another member of the fleet has passed on: extended CONNECT, whatever
    /// the client has spoken, with the fields of HTTP/1.1's handshake.
    pub(super) fn of_peer<B>(request: &mut Request<B>) -> Result<Option<Self>, ProxyError> {
        let upgrade = request.headers_mut().remove(peer_facts::UPGRADE);
        let method = peer_facts::take_method(request.headers_mut());
        if request.method() != Method::CONNECT {
            return Ok(None);
        }
        let protocol = request.extensions().get::<Protocol>();
        let protocol = protocol.ok_or(ProxyError::Connect)?;
        let protocol = HeaderValue::from_str(protocol.as_str());
        let protocol = match (upgrade, protocol) {
            (Some(upgrade), _) => upgrade,
            (None, Ok(protocol)) => protocol,
            (None, Err(_)) => return Err(ProxyError::UnknownProtocol),
        };
        let downstream = ClientUpgrade::of(request);
        *request.method_mut() = method;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
        Ok(Some(Self {
            downstream,
            offer: Offer {
                protocol,
                key: None,
                is_of_peer: true,
            },
        }))
    }

    /// Whether the client wants to speak WebSocket and nothing else.
    pub(super) fn is_websocket(&self) -> bool {
        let protocol = self.offer.protocol.as_bytes().trim_ascii();
        protocol.eq_ignore_ascii_case(WEBSOCKET)
    }

    /// The answer to a handshake of WebSocket (RFC 6455 §4.2.2) in its instance's place, with no
    /// extension and no subprotocol; the instance is offered the same then, and judged by the gateway.
    pub(super) fn shake_hands<B>(
        &mut self,
        request: &Request<B>,
    ) -> Result<Response<()>, ProxyError> {
        let mut response = Response::new(());
        if self.offer.key.is_some() {
            // Over HTTP/2 there is nothing to prove (RFC 8441 §5.1).
            return Ok(response);
        }
        let headers = request.headers();
        let key = only(headers, &SEC_WEBSOCKET_KEY).ok_or(ProxyError::Handshake)?;
        let is_key = BASE64.decode(key).is_ok_and(|bytes| bytes.len() == 16);
        let version = only(headers, &SEC_WEBSOCKET_VERSION);
        if !is_key || version != Some("13") || request.method() != Method::GET {
            return Err(ProxyError::Handshake);
        }
        let websocket = HeaderValue::from_static("websocket");
        if self.offer.is_of_peer {
            // The other member makes a 101 of it, or takes the key for its own client's.
            response
                .headers_mut()
                .insert(peer_facts::UPGRADE, websocket);
        } else {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let answer = response.headers_mut();
            answer.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            answer.insert(UPGRADE, websocket);
        }
        let answer = response.headers_mut();
        if let Ok(accept) = HeaderValue::try_from(accept_key(key)) {
            answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        self.offer.key = Some(key.to_owned());
        Ok(response)
    }

    /// The client's side of the tunnel, and what the instance may agree to.
    pub(super) fn into_parts(self) -> (ClientUpgrade, Offer) {
        (self.downstream, self.offer)
    }
}

// === impl Offer ===

impl Offer {
    /// That of a handshake of WebSocket that the gateway makes itself, with its key.
    pub(super) fn of_gateway() -> (Self, HeaderValue) {
        let key = generate_key();
        let field = HeaderValue::from_str(&key);
        let offer = Self {
            protocol: HeaderValue::from_static("websocket"),
            key: Some(key),
            is_of_peer: false,
        };
        (offer, field.unwrap_or(HeaderValue::from_static("")))
    }

    /// Whether the instance has switched as its client was told before: to this subprotocol, and without
    /// an extension.
    pub(super) fn agreed_as<B>(
        &self,
        response: &mut InstanceResponse<B>,
        subprotocol: Option<&HeaderValue>,
    ) -> Result<bool, ProxyError> {
        if !self.agreed(response)? {
            return Ok(false);
        }
        let headers = response.headers();
        let picked = headers.get(SEC_WEBSOCKET_PROTOCOL);
        let is_other = picked.is_some() && picked != subprotocol;
        match is_other || headers.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
            true => Err(ProxyError::UnexpectedUpgrade),
            false => Ok(true),
        }
    }

    /// Whether the instance has switched, and then only as it was asked to. What the client hears
    /// of it is put into `response`.
    pub(super) fn agreed<B>(&self, response: &mut InstanceResponse<B>) -> Result<bool, ProxyError> {
        let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if self.is_of_peer && !is_switch && response.status().is_success() {
            // Over HTTP/2 it would say that the stream has switched.
            let status = HeaderValue::from(response.status().as_u16());
            response.headers_mut().insert(peer_facts::STATUS, status);
            *response.status_mut() = StatusCode::CONFLICT;
            return Ok(false);
        }
        if !is_switch {
            // 200 would tell a client of HTTP/2 that it is connected.
            let misleading = self.key.is_some() && response.status().is_success();
            return match misleading {
                true => Err(ProxyError::UnexpectedUpgrade),
                false => Ok(false),
            };
        }
        let chosen = response.headers().get(UPGRADE).map(HeaderValue::as_bytes);
        let offered = self.protocol.as_bytes().split(|byte| *byte == b',');
        let fits = |chosen: &[u8]| {
            let mut offered = offered.map(<[u8]>::trim_ascii);
            offered.any(|offer| offer.eq_ignore_ascii_case(chosen.trim_ascii()))
        };
        if !is_upgrade(response.headers()) || !chosen.is_some_and(fits) {
            return Err(ProxyError::UnexpectedUpgrade);
        }
        if let Some(key) = &self.key {
            let accept = response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
            let expected = accept_key(key);
            if accept.is_none_or(|accept| accept.as_bytes() != expected.as_bytes()) {
                return Err(ProxyError::UnexpectedUpgrade);
            }
            *response.status_mut() = StatusCode::OK;
        }
        if self.is_of_peer {
            let chosen = response.headers().get(UPGRADE).cloned();
            *response.status_mut() = StatusCode::OK;
            let headers = response.headers_mut();
            headers.extend(chosen.map(|chosen| (peer_facts::UPGRADE, chosen)));
        }
        Ok(true)
    }
}

/// Whether this message switches to WebSocket.
pub(super) fn switches_to_websocket(headers: &HeaderMap) -> bool {
    let protocol = headers.get(UPGRADE).map(HeaderValue::as_bytes);
    protocol.is_some_and(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(WEBSOCKET))
}

/// The only field of this name.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::trim),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_the_rfc_says() {
        // The example of RFC 6455 §1.3.
        let accepted = accept_key("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accepted, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let (one, other) = (generate_key(), generate_key());
        assert_eq!(BASE64.decode(&one).unwrap().len(), 16);
        assert_ne!(one, other);
    }
}
