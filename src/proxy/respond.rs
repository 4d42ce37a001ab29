//! Phase 8, respond: what the client gets of the instance's response.
//!
//! Guarantees: an upgrade is only to what the client asked for, and its tunnel keeps the request's
//! slot at the instance; the application's wish to stay awake is capped; fields of this hop end
//! here, and the gateway's own fields are there once.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, Response, StatusCode, Version};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::dispatch::Sent;
use super::error::ProxyError;
use super::gateway::Gateway;
use super::response_body::{Content, X_WAKEGATE_WAKE};
use super::route::Target;
use super::switching::{Switch, switches_to_websocket};
use super::transaction::{ExtraFields, Transaction};
use super::tunnel_places::TunnelPlace;
use crate::config::{TunnelConfig, ViaConfig};
use crate::hold::Slot;
use crate::upstream::{
    Carried, Field, Fields, ForwardError, TrailerRules, TunnelRules, UpstreamBody, X_REQUEST_ID,
    edit, prepare_response, tunnel,
};
use crate::wake::{Endpoint, Instance};
use hypeman::{ControlPlane, GoDuration};

const X_WAKEGATE_HOLD: HeaderName = HeaderName::from_static("x-wakegate-hold");

/// Who has the request's slot at the instance, and its transaction, from here on.
enum HandOver {
    /// The response, until its body has ended.
    Response(Slot),
    /// The tunnel, which is sent the transaction when the head has been written.
    Tunnel(oneshot::Sender<Box<Transaction>>),
}

// === impl Gateway ===

impl<P: ControlPlane> Gateway<P> {
    /// Makes the client's response of the instance's.
    pub(super) fn respond(
        &self,
        sent: Sent<Response<UpstreamBody>>,
        target: Target,
        instance: &Arc<Instance>,
        extra: &mut ExtraFields,
    ) -> Result<Response<Content>, ProxyError> {
        let Sent {
            mut response,
            endpoint,
            slot,
        } = sent;
        let fields = Fields::of(response.headers());
        if fields.has(Field::XWakegateHold)
            && let Some(until) = self.hold_until(response.headers_mut())
        {
            instance.keep_awake(until);
        }
        let subprotocol = target.identity.subprotocol;
        if let Some(preflight) = target.preflight {
            self.preflights
                .remember(instance.id(), &preflight, &response);
        }
        let tunnel_config = &target.destination.route.config().tunnel;
        let tunnel = (tunnel_config, target.tunnel_place, Arc::clone(instance));
        let hand_over = self.switch(target.switch, &mut response, endpoint, slot, tunnel)?;
        let is_switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;

        let config = target.destination.route.config();
        let forwarding = &config.forwarding;
        response.body_mut().obey(TrailerRules::of_response(config));
        let headers = response.headers_mut();
        prepare_response(headers, fields, is_switching);
        edit(headers, &forwarding.response_headers);
        if let (Some(subprotocol), HandOver::Tunnel(_)) = (subprotocol, &hand_over) {
            // A browser that has offered some gives up where none is picked.
            let picked = headers.entry(SEC_WEBSOCKET_PROTOCOL);
            picked.or_insert(subprotocol);
        }
        if target.via == ViaConfig::Both {
            // An upgrade goes over HTTP/1.1 in any case.
            let received = match forwarding.protocol.is_h2() && !is_switching {
                true => Version::HTTP_2,
                false => Version::HTTP_11,
            };
            target.pseudonym.element(received).append_to(headers);
        }
        if let Some(age) = forwarding.hsts.filter(|_| target.is_secure) {
            headers.insert(STRICT_TRANSPORT_SECURITY, max_age(age));
        }
        let config = self.parts.response.load();
        *extra = ExtraFields::of(&config);
        if fields.has(Field::XRequestId) {
            headers.remove(X_REQUEST_ID);
        }
        if fields.has(Field::XWakegateWake) && config.wake_header {
            headers.remove(X_WAKEGATE_WAKE);
        }
        Ok(response.map(|body| match hand_over {
            HandOver::Response(slot) => Content::Upstream { body, _slot: slot },
            HandOver::Tunnel(transaction) => Content::Switching(transaction),
        }))
    }

    /// Joins client and instance in a tunnel, if both agree to switch; the slot is the tunnel's
    /// then.
    fn switch(
        &self,
        switch: Option<Switch>,
        response: &mut Response<UpstreamBody>,
        endpoint: Endpoint,
        slot: Slot,
        (config, place, owner): (&TunnelConfig, Option<TunnelPlace>, Arc<Instance>),
    ) -> Result<HandOver, ProxyError> {
        let Some(switch) = switch else {
            return match response.status() {
                StatusCode::SWITCHING_PROTOCOLS => Err(ProxyError::UnexpectedUpgrade),
                _ => Ok(HandOver::Response(slot)),
            };
        };
        let (downstream, offer) = switch.into_parts();
        let rules = TunnelRules::of(config, switches_to_websocket(response.headers()));
        if !offer.agreed(response)? {
            return Ok(HandOver::Response(slot));
        }
        // Without a stream the instance's epoch has been cut meanwhile.
        let Some(instance) = response.body_mut().take_stream() else {
            return Err(ProxyError::Forward(ForwardError::Severed));
        };
        let cut = self.parts.cut.clone();
        let send_timeout = self.parts.server.load().send_timeout;
        let carried = Arc::new(Carried::new(Arc::clone(&self.parts.metrics)));
        let (transaction, handed_over) = oneshot::channel::<Box<Transaction>>();
        self.parts.tunnels.spawn(async move {
            let limits = (&cut, send_timeout);
            let ends = (&*owner, &endpoint);
            let farewell = tunnel(downstream, instance, rules, &carried, ends, limits).await;
            drop(slot);
            farewell.say(Some(&endpoint)).await;
            drop(place);
            // It comes when the head has been written, or cannot be.
            if let Ok(mut transaction) = handed_over.await {
                transaction.log.carried = Some(carried);
            }
        });
        Ok(HandOver::Tunnel(transaction))
    }

    /// The time until which the application wants to stay awake, by its `x-wakegate-hold`.
    pub(super) fn hold_until(&self, headers: &mut HeaderMap) -> Option<Instant> {
        let value = headers.remove(X_WAKEGATE_HOLD)?;
        let requested = value.to_str().ok()?.parse::<GoDuration>().ok()?.to_std()?;
        Some(Instant::now() + requested.min(self.parts.max_hold))
    }
}

/// The value of `Strict-Transport-Security` (RFC 6797 §6.1.1).
pub(super) fn max_age(age: Duration) -> HeaderValue {
    HeaderValue::try_from(format!("max-age={}", age.as_secs()))
        .unwrap_or(HeaderValue::from_static("max-age=0"))
}
