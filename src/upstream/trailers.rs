//! Trailers as they pass through.
//!
//! Guarantees: no trailer that would change a message's framing, routing or meaning is forwarded,
//! in either direction, and none that is the gateway's or the route's word: servers that put
//! trailers among the fields (RFC 9110 §6.5.1 lets them) would take a client's for the gateway's.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use hyper::body::Frame;

use super::fields::trim_values;
use super::guarded::{is_alias, is_alias_of, is_guarded};
use crate::config::RouteConfig;

/// Fields that mean something only before a body: framing, routing, authentication, conditions, and
/// what the content is.
const BEFORE_A_BODY: [&str; 22] = [
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "location",
    "pragma",
    "range",
    "realm",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "traceparent",
    "tracestate",
    "upgrade",
    "vary",
    "www-authenticate",
];
/// What the gateway says of itself to clients.
const OURS: &str = "x-wakegate-";

/// The rules of the route that a message belongs to, as far as they are about trailers, too. In a box: most
/// routes have none.
#[derive(Debug, Clone, Default)]
pub struct TrailerRules(Option<Box<(Arc<RouteConfig>, Direction)>>);

#[derive(Debug, Clone, Copy)]
enum Direction {
    Request,
    Response,
}

// === impl TrailerRules ===

impl TrailerRules {
    /// The rules for a request, if the route has some.
    pub fn of_request(route: &Arc<RouteConfig>) -> Self {
        let forwarding = &route.forwarding;
        let has_rules = !forwarding.request_headers.is_empty() || forwarding.auth.is_some();
        Self(has_rules.then(|| Box::new((Arc::clone(route), Direction::Request))))
    }

    /// The rules for a response, if the route has some.
    pub fn of_response(route: &Arc<RouteConfig>) -> Self {
        let has_rules = !route.forwarding.response_headers.is_empty();
        Self(has_rules.then(|| Box::new((Arc::clone(route), Direction::Response))))
    }

    fn forbid(&self, name: &str) -> bool {
        let Some((route, direction)) = self.0.as_deref() else {
            return false;
        };
        let forwarding = &route.forwarding;
        let is_ruled =
            |ruled: &HeaderName| name == ruled.as_str() || is_alias_of(name, ruled.as_str());
        match direction {
            Direction::Request => {
                forwarding.request_headers.replaced().any(is_ruled)
                    || forwarding
                        .auth
                        .as_ref()
                        .is_some_and(|auth| auth.fields().any(is_ruled))
            }
            Direction::Response => forwarding.response_headers.replaced().any(is_ruled),
        }
    }
}

/// The frame without those trailers that must not be forwarded.
pub(super) fn without_unsafe_trailers<B>(frame: Frame<B>, rules: &TrailerRules) -> Frame<B> {
    match frame.into_trailers() {
        Err(frame) => frame,
        Ok(trailers) => Frame::trailers(clean(trailers, rules)),
    }
}

/// Whether a trailer of this name, which is in small letters, may be forwarded.
pub(super) fn may_pass(name: &str, rules: &TrailerRules) -> bool {
    let is_forbidden = BEFORE_A_BODY.contains(&name)
        || name.starts_with("if-")
        || name.starts_with(OURS)
        || is_guarded(name)
        || is_alias(name)
        || rules.forbid(name);
    !is_forbidden
}

fn clean(mut trailers: HeaderMap, rules: &TrailerRules) -> HeaderMap {
    let forbidden: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| !may_pass(name.as_str(), rules))
        .cloned()
        .collect();
    for name in forbidden {
        trailers.remove(name);
    }
    trim_values(&mut trailers);
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};

    #[test]
    fn blanks_around_a_trailers_value_are_taken_away() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-message", "failed: ".parse().unwrap());
        let cleaned = clean(trailers, &TrailerRules::default());
        assert_eq!(cleaned["grpc-message"], "failed:");
    }

    #[test]
    fn what_belongs_before_a_body_or_to_the_gateway_does_not_come_behind_it() {
        let rules = TrailerRules::default();
        for name in [
            "content-length",
            "transfer-encoding",
            "host",
            "authorization",
            "cookie",
            "if-none-match",
            "x-forwarded-for",
            "x_forwarded_for",
            "x-forwarded-anything",
            "forwarded",
            "client-cert",
            "via",
            "x-request-id",
            "x-wakegate-hold",
            "x-wakegate-wake",
        ] {
            assert!(!may_pass(name, &rules), "{name}");
        }
        for name in [
            "grpc-status",
            "grpc-message",
            "x-sum",
            "digest",
            "server-timing",
            "etag",
        ] {
            assert!(may_pass(name, &rules), "{name}");
        }
    }

    #[test]
    fn a_routes_rules_are_for_trailers_too() {
        let text = "[[route]]\nhost = \"a.b\"\ninstance = \"a\"\n\
                    [route.request_headers]\nset = [\"x-tenant: blue\"]\nremove = [\"x-admin\"]\n\
                    rename = [\"x-old: x-new\"]\nadd = [\"x-tag: two\"]\n\
                    [route.response_headers]\nremove = [\"x-powered-by\"]\n\
                    [route.auth]\nheader = \"x-key\"\nvalue = \"0123456789abcdef0123456789abcdef\"\n";
        let config = load("test", text, &Variables::default()).unwrap();
        let route = &config.route[0];
        let (request, response) = (
            TrailerRules::of_request(route),
            TrailerRules::of_response(route),
        );
        for name in ["x-tenant", "x_tenant", "x-admin", "x-old", "x-key", "x_key"] {
            assert!(
                !may_pass(name, &request) && may_pass(name, &response),
                "{name}"
            );
        }
        for name in ["x-tag", "x-new"] {
            assert!(may_pass(name, &request), "{name}");
        }
        assert!(!may_pass("x-powered-by", &response) && may_pass("x-powered-by", &request));
    }
}
