//! The forwarding fields: `Forwarded`, `X-Forwarded-*`, `Via` and the request's id.
//!
//! Guarantees: an instance is sent the same fields, whether they were put among the others or
//! written behind them. All but the last two are the same for a connection's requests, and written
//! once. `Via` goes on from what the request brings (RFC 9110 §7.6.3), whoever sent it.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName, HeaderValue};

use super::fields::append;
use super::via::ViaElement;
use crate::names::{Hostname, RequestId};
use http1::line;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The id of a request, which client, instance and log share.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The values of the forwarding fields, which are the same for all requests of one connection that
/// are for one host.
#[derive(Debug)]
pub struct ForwardedElement {
    /// The host as the client wrote it, its port included.
    pub(super) named: HeaderValue,
    pub(super) client: HeaderValue,
    /// An element of `Forwarded` (RFC 7239 §4).
    pub(super) element: HeaderValue,
    pub(super) scheme: &'static str,
    /// All of these fields as lines of a head of HTTP/1.1.
    pub(super) lines: Box<[u8]>,
}

/// The forwarding fields of a request that are not among its other fields yet.
#[derive(Debug, Clone)]
pub struct ForwardedHeaders {
    element: Arc<ForwardedElement>,
    request_id: RequestId,
    via: Option<ViaElement>,
}

// === impl ForwardedElement ===

impl ForwardedElement {
    /// The host as the client wrote it, in `Host` or in HTTP/2's `:authority`.
    pub fn named(&self) -> &[u8] {
        self.named.as_bytes()
    }

    /// The values for a client's requests for `host`, which the client wrote as `named`; `secure`
    /// says that they come over TLS.
    pub fn of(client: IpAddr, secure: bool, host: &Hostname, named: Option<HeaderValue>) -> Self {
        // Addresses and host names are made of what a field may have.
        let value =
            |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"));
        let address = address_text(client);
        let (open, close) = match client {
            IpAddr::V4(_) => ("", ""),
            IpAddr::V6(_) => ("\"[", "]\""),
        };
        let scheme = if secure { "https" } else { "http" };
        let element = [
            "for=",
            open,
            &address,
            close,
            ";host=\"",
            host.as_str(),
            "\";proto=",
            scheme,
        ];
        let named = named.unwrap_or_else(|| value(host.as_str()));
        let (client, element) = (value(&address), value(&element.concat()));
        let mut lines = Vec::with_capacity(256);
        for (name, value) in [
            (X_FORWARDED_HOST, named.as_bytes()),
            (X_FORWARDED_FOR, client.as_bytes()),
            (FORWARDED, element.as_bytes()),
            (X_FORWARDED_PROTO, scheme.as_bytes()),
        ] {
            line(&mut lines, name.as_str(), value);
        }
        Self {
            named,
            client,
            element,
            scheme,
            lines: lines.into(),
        }
    }
}

/// The same text as `Display` writes, which is slow for IPv4.
fn address_text(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else {
        return address.to_string();
    };
    let mut text = String::with_capacity(15);
    for (number, octet) in address.octets().into_iter().enumerate() {
        if number > 0 {
            text.push('.');
        }
        for (unit, begins) in [(100, octet >= 100), (10, octet >= 10), (1, true)] {
            if begins {
                text.push(char::from(b'0' + octet / unit % 10));
            }
        }
    }
    text
}

// === impl ForwardedHeaders ===

impl ForwardedHeaders {
    pub(super) fn new(
        element: &Arc<ForwardedElement>,
        request_id: &RequestId,
        via: Option<ViaElement>,
    ) -> Self {
        Self {
            element: Arc::clone(element),
            request_id: request_id.clone(),
            via,
        }
    }

    /// Writes the fields as lines of a head of HTTP/1.1.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.element.lines);
        if let Some(via) = &self.via {
            line(out, ViaElement::FIELD.as_str(), via.as_bytes());
        }
        line(out, X_REQUEST_ID.as_str(), self.request_id.as_bytes());
    }

    /// Puts the fields among the others, in place of those of the same names.
    pub fn insert(&self, headers: &mut HeaderMap) {
        let shared = &self.element;
        self.extend_via(headers);
        for (name, value) in [
            (X_FORWARDED_HOST, &shared.named),
            (X_FORWARDED_FOR, &shared.client),
            (FORWARDED, &shared.element),
            (X_FORWARDED_PROTO, &HeaderValue::from_static(shared.scheme)),
            (X_REQUEST_ID, self.request_id.header()),
        ] {
            headers.insert(name, value.clone());
        }
    }

    /// Puts the fields among the others, behind what a trusted peer has sent.
    pub(super) fn extend(&self, headers: &mut HeaderMap) {
        let shared = &self.element;
        let mut if_absent = |name: HeaderName, value: &HeaderValue| {
            if !headers.contains_key(&name) {
                headers.insert(name, value.clone());
            }
        };
        if_absent(X_FORWARDED_HOST, &shared.named);
        if_absent(X_FORWARDED_PROTO, &HeaderValue::from_static(shared.scheme));
        append(headers, X_FORWARDED_FOR, &shared.client);
        append(headers, FORWARDED, &shared.element);
        self.extend_via(headers);
        headers.insert(X_REQUEST_ID, self.request_id.header().clone());
    }

    fn extend_via(&self, headers: &mut HeaderMap) {
        if let Some(via) = &self.via {
            via.append_to(headers);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::names::PlaneIndex;
    use crate::upstream::via::Pseudonyms;

    #[test]
    fn addresses_are_written_as_usual() {
        for address in [
            "0.0.0.0",
            "10.200.3.99",
            "255.100.10.1",
            "::1",
            "2001:db8::a",
        ] {
            assert_eq!(address_text(address.parse().unwrap()), address);
        }
    }

    #[test]
    fn what_is_written_and_what_is_inserted_is_the_same() {
        for (client, secure) in [("10.0.0.9", false), ("2001:db8::1", true)] {
            let client: IpAddr = client.parse().unwrap();
            let (host, named) = (
                Hostname::parse("a.b").unwrap(),
                HeaderValue::from_static("A.b:8"),
            );
            let element = Arc::new(ForwardedElement::of(client, secure, &host, Some(named)));
            let name = Pseudonyms::default().of(PlaneIndex(0), &"app".parse().unwrap());
            let via = name.element(http::Version::HTTP_11);
            let forwarded = ForwardedHeaders::new(&element, &RequestId::generate(), Some(via));
            let (mut written, mut headers) = (Vec::new(), HeaderMap::new());
            forwarded.write(&mut written);
            forwarded.insert(&mut headers);
            let mut expected = Vec::new();
            for (name, value) in &headers {
                line(&mut expected, name.as_str(), value.as_bytes());
            }
            let lines = |text: &[u8]| {
                let text = String::from_utf8(text.to_vec()).unwrap();
                text.lines().map(str::to_owned).collect::<BTreeSet<_>>()
            };
            assert_eq!(lines(&written), lines(&expected));
            assert_eq!(headers.len(), 6);
            assert_eq!(headers["x-forwarded-host"], "A.b:8");
        }
    }
}
