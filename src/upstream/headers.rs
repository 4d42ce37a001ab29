//! Which header fields cross the gateway.
//!
//! Guarantees: hop-by-hop fields, and those that `Connection` names, end here (RFC 9110 §7.6.1),
//! but for a requested upgrade; `Transfer-Encoding` is never forwarded (hyper frames anew), and with
//! it goes `Content-Length`; forwarding fields from a peer that is not trusted are replaced, not
//! extended.

use std::net::IpAddr;
use std::sync::Arc;

pub(super) use http::header::FORWARDED;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};

use super::fields::{Field, Fields};
use super::forwarded::ForwardedHeaders;
use crate::config::{HeaderEdits, Rename};
use crate::names::{Hostname, RequestId};
use http1::line;

const HOP_BY_HOP: [(Field, HeaderName); 8] = [
    (Field::Connection, CONNECTION),
    (Field::OfThisHop, HeaderName::from_static("keep-alive")),
    (
        Field::OfThisHop,
        HeaderName::from_static("proxy-authenticate"),
    ),
    (
        Field::OfThisHop,
        HeaderName::from_static("proxy-authorization"),
    ),
    (
        Field::OfThisHop,
        HeaderName::from_static("proxy-connection"),
    ),
    (Field::OfThisHop, HeaderName::from_static("http2-settings")),
    (Field::Te, TE),
    (Field::TransferEncoding, TRANSFER_ENCODING),
];
/// What `Connection` says of the connection itself, and no names of fields.
const OPTIONS: [&str; 3] = ["close", "keep-alive", "upgrade"];
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
/// The id of a request, which client, instance and log share.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Where requests come from, in the words of the forwarding fields: the same for all requests of one connection
/// that are for one host.
#[derive(Debug)]
pub struct ForwardedElement {
    /// As the client wrote the host, its port included.
    pub(super) named: HeaderValue,
    pub(super) client: HeaderValue,
    /// An element of `Forwarded` (RFC 7239 §4).
    pub(super) element: HeaderValue,
    pub(super) scheme: &'static str,
    /// All of it, as lines of a head of HTTP/1.1.
    pub(super) lines: Box<[u8]>,
}

/// Who sent a request, for the forwarding fields.
#[derive(Debug)]
pub struct ForwardedFor<'a> {
    /// Its client, and the host it asked for.
    pub forwarded: &'a Arc<ForwardedElement>,
    /// Whether its own forwarding fields are believed.
    pub trusted: bool,
    /// The request's id.
    pub request_id: &'a RequestId,
    /// The certificate that the client has shown.
    pub certificate: Option<&'a HeaderValue>,
}

// === impl ForwardedElement ===

impl ForwardedElement {
    /// How the client wrote the host, in `Host` or in HTTP/2's `:authority`.
    pub fn named(&self) -> &[u8] {
        self.named.as_bytes()
    }

    /// Of a client's requests for `host`, as the client wrote it in `named`; `secure`: over TLS.
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

/// As `Display` has it, which takes its time over IPv4.
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

/// The protocol that a request wants to switch to, if it is one that we pass on. `h2c` is not: it
/// would carry requests past the gateway.
pub fn upgrade_token(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let mut fields = headers.get_all(UPGRADE).iter();
    match (asked, fields.next(), fields.next()) {
        (true, Some(token), None) if !token.as_bytes().to_ascii_lowercase().starts_with(b"h2c") => {
            Some(token.clone())
        }
        _ => None,
    }
}

/// Whether a message asks for, or answers with, an upgrade that we pass on.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    upgrade_token(headers).is_some()
}

pub(super) fn tokens<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(str::trim)
}

/// Removes what is for this hop only; `Content-Length`, too, when it is not the framing.
fn strip_hop_by_hop(headers: &mut HeaderMap, fields: Fields) {
    if fields.has(Field::Connection) {
        let option = |token: &str| OPTIONS.iter().any(|one| token.eq_ignore_ascii_case(one));
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter(|token| !option(token))
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            // A client may not make us drop what routes or frames its request.
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    if fields.has(Field::TransferEncoding) {
        headers.remove(CONTENT_LENGTH);
    }
    for (field, name) in &HOP_BY_HOP {
        if fields.has(*field) {
            headers.remove(name);
        }
    }
    if fields.has(Field::Upgrade) {
        headers.remove(UPGRADE);
    }
}

/// HTTP/2 splits a cookie into crumbs; HTTP/1.1 has one field (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies = headers.get_all(COOKIE);
    if cookies.iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> = cookies.iter().map(HeaderValue::as_bytes).collect();
        if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
            headers.insert(COOKIE, cookie);
        }
    }
}

/// What an instance is sent. `fields` are those of `headers`. Forwarding fields are returned, and not inserted, where
/// the request has none of its own that they would replace or extend.
pub fn prepare_request(
    headers: &mut HeaderMap,
    fields: Fields,
    from: &ForwardedFor<'_>,
) -> Option<ForwardedHeaders> {
    let upgrade = (fields.has(Field::Upgrade) && fields.has(Field::Connection))
        .then(|| upgrade_token(headers));
    let trailers = |token: &str| token.eq_ignore_ascii_case("trailers");
    let wants_trailers = fields.has(Field::Te) && tokens(headers, &TE).any(trailers);
    strip_hop_by_hop(headers, fields);
    if fields.has(Field::Cookie) {
        join_cookies(headers);
    }
    if fields.has(Field::Expect) {
        // The gateway answers 100 itself, when the instance is ready and the body is first read.
        headers.remove(EXPECT);
    }
    if let Some(token) = upgrade.flatten() {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, token);
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    // RFC 9440 §2.4: nobody else may say who a client is.
    if fields.has(Field::ClientCert) && (!from.trusted || from.certificate.is_some()) {
        headers.remove(CLIENT_CERT);
        headers.remove(CLIENT_CERT_CHAIN);
    }
    if let Some(certificate) = from.certificate {
        headers.insert(CLIENT_CERT, certificate.clone());
    }
    if !headers.contains_key(HOST) {
        headers.insert(HOST, from.forwarded.named.clone());
    }
    let stamp = ForwardedHeaders::new(from.forwarded, from.request_id);
    let told = [
        Field::Forwarded,
        Field::XForwardedFor,
        Field::XForwardedHost,
        Field::XForwardedProto,
        Field::XRequestId,
    ];
    if !told.into_iter().any(|field| fields.has(field)) {
        return Some(stamp);
    }
    match from.trusted {
        true => stamp.extend(headers),
        false => stamp.insert(headers),
    }
    None
}

/// What a route's rules make of a message's fields: renamed, removed, set, added, in this order.
pub fn edit(headers: &mut HeaderMap, edits: &HeaderEdits) {
    for Rename { from, to } in &edits.rename {
        let values: Vec<HeaderValue> = headers.get_all(from).iter().cloned().collect();
        headers.remove(from);
        for value in values {
            headers.append(to, value);
        }
    }
    for name in &edits.remove {
        headers.remove(name);
    }
    for field in &edits.set {
        if let Some(value) = &field.value {
            headers.insert(&field.name, value.clone());
        }
    }
    for field in &edits.add {
        if let Some(value) = &field.value {
            headers.append(&field.name, value.clone());
        }
    }
}

/// What a client is sent of an instance's response. `fields` are those of `headers`, or were before some were removed.
pub fn prepare_response(headers: &mut HeaderMap, fields: Fields, switching: bool) {
    let upgrade = switching.then(|| headers.get(UPGRADE).cloned()).flatten();
    strip_hop_by_hop(headers, fields);
    if let Some(token) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

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

    fn prepared(pairs: &[(&'static str, &'static str)], trusted: bool) -> HeaderMap {
        let mut headers = headers(pairs);
        let host = Hostname::parse("a.b").unwrap();
        let request_id = RequestId::generate();
        let client = IpAddr::from([10, 0, 0, 9]);
        let fields = Fields::of(&headers);
        let named =
            HeaderValue::from_static(pairs.iter().find(|(name, _)| *name == "host").unwrap().1);
        let about = ForwardedFor {
            forwarded: &Arc::new(ForwardedElement::of(client, false, &host, Some(named))),
            trusted,
            request_id: &request_id,
            certificate: None,
        };
        if let Some(stamp) = prepare_request(&mut headers, fields, &about) {
            stamp.insert(&mut headers);
        }
        headers
    }

    #[test]
    fn hop_by_hop_fields_and_those_that_connection_names_end_here() {
        let out = prepared(
            &[
                ("host", "a.b"),
                ("connection", "keep-alive, X-Secret, host, content-length"),
                ("x-secret", "1"),
                ("content-length", "3"),
                ("keep-alive", "timeout=5"),
                ("proxy-authorization", "x"),
                ("upgrade", "h2c"),
                ("http2-settings", "x"),
                ("expect", "100-continue"),
                ("te", "trailers, deflate"),
                ("x-stays", "1"),
            ],
            false,
        );
        for gone in [
            "connection",
            "x-secret",
            "keep-alive",
            "proxy-authorization",
            "upgrade",
            "http2-settings",
            "expect",
        ] {
            assert!(!out.contains_key(gone), "{gone}");
        }
        assert_eq!(out["te"], "trailers");
        assert_eq!(
            (&out["host"], &out["content-length"], &out["x-stays"]),
            (
                &"a.b".parse().unwrap(),
                &"3".parse().unwrap(),
                &"1".parse().unwrap()
            )
        );
    }

    #[test]
    fn only_a_requested_upgrade_passes() {
        let out = prepared(
            &[
                ("host", "a.b"),
                ("connection", "Upgrade"),
                ("upgrade", "websocket"),
            ],
            false,
        );
        assert_eq!(
            (&out["connection"], &out["upgrade"]),
            (&"upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
        assert!(
            !is_upgrade(&headers(&[("upgrade", "websocket")])),
            "without Connection: upgrade"
        );
        assert!(!is_upgrade(&headers(&[
            ("connection", "upgrade"),
            ("upgrade", "h2c")
        ])));
    }

    #[test]
    fn forwarding_fields_of_an_untrusted_peer_are_replaced() {
        let sent = [
            ("host", "a.b:80"),
            ("x-forwarded-for", "6.6.6.6"),
            ("forwarded", "for=6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
        ];
        let out = prepared(&sent, false);
        assert_eq!(out["x-forwarded-for"], "10.0.0.9");
        assert_eq!(out["forwarded"], "for=10.0.0.9;host=\"a.b\";proto=http");
        assert_eq!(
            (&out["x-forwarded-proto"], &out["x-forwarded-host"]),
            (&"http".parse().unwrap(), &"a.b:80".parse().unwrap())
        );
        let out = prepared(&sent, true);
        assert_eq!(out["x-forwarded-for"], "6.6.6.6, 10.0.0.9");
        assert_eq!(out["x-forwarded-proto"], "https");
    }

    #[test]
    fn a_response_with_both_framings_keeps_neither_field() {
        let mut out = headers(&[
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("connection", "close"),
        ]);
        let fields = Fields::of(&out);
        prepare_response(&mut out, fields, false);
        assert!(out.is_empty(), "{out:?}");
    }
}
