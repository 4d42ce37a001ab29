//! The port that a request is for, where it may choose one.
//!
//! Guarantees: a port is one that the route allows, or nothing is done for the request; what says
//! which is for the gateway alone.

use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, HeaderName, HeaderValue};
use http1::options;

use super::active_routes::ActiveRoute;
use super::auth::take_subprotocol;
use super::error::ProxyError;
use crate::client::Request;
use crate::config::{PORT, parse_port};

/// The port of a request, or a connection, for this host, where nothing else says which.
pub(super) fn port_of_host(route: &ActiveRoute, host: &str) -> Result<u16, ProxyError> {
    let config = route.config();
    if !config.has_port_of_host() {
        return Ok(config.port);
    }
    let port = route.capture(host, PORT).and_then(parse_port);
    allowed(route, port)
}

/// Finds out which port of its instance a request for this host is for, and takes away what says
/// so; returns the subprotocol that has said it, too.
pub(super) fn choose_port<B>(
    route: &ActiveRoute,
    host: &str,
    may_switch: bool,
    request: &mut Request<B>,
) -> Result<(u16, Option<HeaderValue>), ProxyError> {
    let from = &route.config().port_from;
    let headers = request.headers_mut();
    let by_field = from.header.as_ref().and_then(|name| only(headers, name));
    let prefix = from.subprotocol.as_ref().filter(|_| may_switch);
    let offered = prefix.map_or(0, |prefix| offers(headers, prefix));
    let subprotocol = prefix.and_then(|prefix| take_subprotocol(headers, prefix));
    if let Some(name) = &from.header {
        headers.remove(name);
    }
    let by_subprotocol = subprotocol.as_ref().map(|subprotocol| {
        let text = subprotocol.to_str().ok().filter(|_| offered == 1)?;
        parse_port(text.strip_prefix(prefix?.as_str())?)
    });
    let port = match by_field.or(by_subprotocol) {
        Some(port) => allowed(route, port)?,
        None => port_of_host(route, host)?,
    };
    Ok((port, subprotocol))
}

fn allowed(route: &ActiveRoute, port: Option<u16>) -> Result<u16, ProxyError> {
    let ports = route.config().ports.as_ref();
    port.filter(|port| ports.is_some_and(|ports| ports.contain(*port)))
        .ok_or(ProxyError::PortNotAllowed)
}

/// The port in the only field of this name; `Some(None)` where it is none, or not the only one.
#[allow(
    clippy::option_option,
    reason = "one for whether there is a field, the other for whether it is a port"
)]
fn only(headers: &HeaderMap, name: &HeaderName) -> Option<Option<u16>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => None,
        (Some(value), None) => Some(value.to_str().ok().and_then(parse_port)),
        (Some(_), Some(_)) => Some(None),
    }
}

/// How many subprotocols with this beginning are offered.
fn offers(headers: &HeaderMap, prefix: &str) -> usize {
    let fields = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered = fields.flat_map(|field: &HeaderValue| options(field.as_bytes()));
    let is_own = |one: &&[u8]| one.starts_with(prefix.as_bytes());
    offered.filter(is_own).count()
}
