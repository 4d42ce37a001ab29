//! The way to TLS of a client that came without.
//!
//! Guarantees: a client is sent to a port where TLS is served: the operator's word first, then a
//! listener's own; behind a trusted proxy, and where no listener speaks TLS, to the usual port.

use std::fmt;
use std::net::SocketAddr;

use arc_swap::ArcSwap;
use http::{Method, Uri};

use crate::names::Hostname;

/// The port of `https` that needs no name.
const USUAL: u16 = 443;

/// The addresses at which HTTP is served over TLS.
#[derive(Default)]
pub(super) struct TlsListeners(ArcSwap<Vec<SocketAddr>>);

/// A request that has to come over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsRedirect {
    /// The same target over TLS.
    pub location: Uri,
    /// Whether the next request must have the same method (RFC 9110 §15.4.9): a form that is sent
    /// again as a GET is lost.
    pub keeps_method: bool,
}

// === impl TlsListeners ===

impl TlsListeners {
    pub(super) fn set(&self, addresses: Vec<SocketAddr>) {
        self.0.store(addresses.into());
    }

    /// The port for clients that have come to `local`: the usual one if it is there, then that of a
    /// listener at the same IP address, then any.
    pub(super) fn port(&self, local: SocketAddr) -> Option<u16> {
        let listeners = self.0.load();
        let is_near = |at: &&SocketAddr| at.ip() == local.ip() || at.ip().is_unspecified();
        let usual = listeners.iter().find(|at| at.port() == USUAL);
        let near = || listeners.iter().find(is_near);
        let found = usual.or_else(near).or_else(|| listeners.first());
        found.map(SocketAddr::port)
    }
}

impl fmt::Debug for TlsListeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsListeners({:?})", self.0.load())
    }
}

// === impl HttpsRedirect ===

impl HttpsRedirect {
    /// To the same target of `host`, at `port` or at the usual one.
    pub(super) fn new(method: &Method, host: &Hostname, port: Option<u16>, uri: &Uri) -> Self {
        let authority = match port.filter(|port| *port != USUAL) {
            Some(port) => format!("{}:{port}", host.as_str()),
            None => host.as_str().to_owned(),
        };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let location = Uri::builder()
            .scheme("https")
            .authority(authority)
            // `*` is the whole server (RFC 9110 §9.3.7).
            .path_and_query(if target == "*" { "/" } else { target });
        Self {
            // A host that has a route and a target that was parsed make a URI.
            location: location.build().unwrap_or_default(),
            keeps_method: !matches!(*method, Method::GET | Method::HEAD),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_port_is_the_usual_one_or_that_of_the_nearest_listener() {
        let listeners = TlsListeners::default();
        let local = at("192.0.2.1:80");
        assert_eq!(listeners.port(local), None);
        for (addresses, expected) in [
            (&["192.0.2.1:8443", "0.0.0.0:443"][..], 443),
            (&["127.0.0.1:9443", "192.0.2.1:8443"], 8443),
            (&["127.0.0.1:9443", "0.0.0.0:8443"], 8443),
            (&["127.0.0.1:9443"], 9443),
        ] {
            listeners.set(addresses.iter().map(|text| at(text)).collect());
            assert_eq!(listeners.port(local), Some(expected), "{addresses:?}");
        }
    }

    #[test]
    fn the_target_stays_and_only_a_method_that_reads_may_change() {
        for (method, host, port, target, location) in [
            (
                Method::GET,
                "a.test",
                None,
                "/a?b=c",
                "https://a.test/a?b=c",
            ),
            (Method::HEAD, "a.test", Some(443), "/", "https://a.test/"),
            (
                Method::POST,
                "a.test",
                Some(8443),
                "/",
                "https://a.test:8443/",
            ),
            (
                Method::PUT,
                "[2001:db8::1]",
                Some(8443),
                "/",
                "https://[2001:db8::1]:8443/",
            ),
            (Method::OPTIONS, "a.test", None, "*", "https://a.test/"),
        ] {
            let host = Hostname::parse(host).unwrap();
            let redirect = HttpsRedirect::new(&method, &host, port, &target.parse().unwrap());
            assert_eq!(redirect.location.to_string(), location);
            let reads = matches!(method, Method::GET | Method::HEAD);
            assert_eq!(redirect.keeps_method, !reads);
        }
    }
}
