//! Which header fields cross the gateway.
//!
//! Guarantees: hop-by-hop fields, and those that `Connection` names, end here (RFC 9110 §7.6.1),
//! but for a requested upgrade; `Transfer-Encoding` is never forwarded (the codec frames anew), and
//! with it goes `Content-Length`; forwarding fields from a peer that is not trusted are replaced or
//! taken away, not extended; a guarded name in another spelling ends here, whoever sent it.

use std::sync::Arc;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use http1::{FieldLines, options};

use super::fields::{Field, Fields, tokens};
use super::forwarded::{ForwardedElement, ForwardedHeaders, X_REQUEST_ID};
use super::guarded::{is_alias, is_alias_of, is_foreign_forwarding, is_of_peers};
use super::via::ViaElement;
use crate::config::{HeaderEdits, Rename};
use crate::names::RequestId;

const HOP_BY_HOP: [(Field, HeaderName); 9] = [
    (Field::Connection, CONNECTION),
    (Field::OfThisHop, HeaderName::from_static("keep-alive")),
    (
        Field::OfThisHop,
        HeaderName::from_static("proxy-authenticate"),
    ),
    (
        Field::OfThisHop,
        HeaderName::from_static("proxy-authentication-info"),
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
/// The options of `Connection` that are about the connection itself, and are no names of fields.
const OPTIONS: [&str; 3] = ["close", "keep-alive", "upgrade"];
/// The fields that need nothing but to be left out, or nothing at all.
const PASSING: [Field; 13] = [
    Field::Accept,
    Field::Authorization,
    Field::Connection,
    Field::ContentType,
    Field::Cookie,
    Field::GrpcTimeout,
    Field::Host,
    Field::MaxForwards,
    Field::OfThisHop,
    Field::Prefer,
    Field::TraceParent,
    Field::UserAgent,
    Field::XWakegateWake,
];
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// Who sent a request, for the forwarding fields.
#[derive(Debug)]
pub struct ForwardedFor<'a> {
    /// Its client, and the host that it is for.
    pub forwarded: &'a Arc<ForwardedElement>,
    /// Whether its own forwarding fields are believed.
    pub trusted: bool,
    /// The request's id.
    pub request_id: &'a RequestId,
    /// The client's certificate, if it has shown one.
    pub certificate: Option<&'a HeaderValue>,
    /// What the gateway adds to `Via`, if it does.
    pub via: Option<ViaElement>,
}

/// The protocol that a request wants to switch to, if the gateway forwards it. It does not forward
/// `h2c`, which would carry requests past the gateway.
pub fn upgrade_token(headers: &HeaderMap) -> Option<HeaderValue> {
    let requested =
        tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let mut fields = headers.get_all(UPGRADE).iter();
    match (requested, fields.next(), fields.next()) {
        (true, Some(token), None) if !token.as_bytes().to_ascii_lowercase().starts_with(b"h2c") => {
            Some(token.clone())
        }
        _ => None,
    }
}

/// Whether a message requests, or responds with, an upgrade that the gateway forwards.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    upgrade_token(headers).is_some()
}

/// Removes fields that are for this hop only; `Content-Length`, too, when it is not the framing.
fn strip_hop_by_hop(headers: &mut HeaderMap, fields: Fields) {
    if fields.has(Field::Connection) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter(|token| !is_option(token))
            .filter_map(|token| HeaderName::from_bytes(token).ok())
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

/// Takes away what clients may not say: guarded names in another spelling, and, from those who are
/// not trusted, forwarding fields that the gateway has no value for.
fn strip_guarded(headers: &mut HeaderMap, trusted: bool) {
    remove_where(headers, |name| {
        is_alias(name) || !trusted && is_foreign_forwarding(name)
    });
}

fn remove_where(headers: &mut HeaderMap, is_unwanted: impl Fn(&str) -> bool) {
    let unwanted: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_unwanted(name.as_str()))
        .cloned()
        .collect();
    for name in unwanted {
        headers.remove(name);
    }
}

/// Takes away other spellings of the names that a route's rules replace: an application that reads
/// both under one name would find the client's value there.
pub fn remove_aliases(headers: &mut HeaderMap, replaced: &[&HeaderName]) {
    remove_where(headers, |name| {
        replaced
            .iter()
            .any(|replaced| is_alias_of(name, replaced.as_str()))
    });
}

/// Makes the fields of a request from another member of the fleet those that an instance is sent: what
/// they say is that member's word, who has seen the client.
pub fn prepare_request_of_peer(headers: &mut HeaderMap, fields: Fields) {
    prepare_for_next_hop(headers, fields);
}

/// Ends what is for this hop, and says what is for the next one.
fn prepare_for_next_hop(headers: &mut HeaderMap, fields: Fields) {
    let upgrade = (fields.has(Field::Upgrade) && fields.has(Field::Connection))
        .then(|| upgrade_token(headers));
    let trailers = |token: &[u8]| token.eq_ignore_ascii_case(b"trailers");
    let wants_trailers = fields.has(Field::Te) && tokens(headers, &TE).any(trailers);
    strip_hop_by_hop(headers, fields);
    if fields.has(Field::CookieCrumbs) {
        join_cookies(headers);
    }
    if fields.has(Field::Expect) {
        // The gateway answers 100 itself, when the instance is ready and the body is first read.
        headers.remove(EXPECT);
    }
    // `TE` is for one hop, and says so (RFC 9110 §10.1.4).
    let options = match (upgrade.flatten(), wants_trailers) {
        (Some(token), _) => {
            headers.insert(UPGRADE, token);
            Some(if wants_trailers {
                "upgrade, TE"
            } else {
                "upgrade"
            })
        }
        (None, true) => Some("TE"),
        (None, false) => None,
    };
    if let Some(options) = options {
        headers.insert(CONNECTION, HeaderValue::from_static(options));
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if fields.has(Field::OfPeers) {
        remove_where(headers, is_of_peers);
    }
}

/// Makes a request's fields those that an instance is sent. `fields` are those of `headers`.
/// Forwarding fields are returned, and not inserted, where the request has none of its own that
/// they would replace or extend.
pub fn prepare_request(
    headers: &mut HeaderMap,
    fields: Fields,
    from: &ForwardedFor<'_>,
) -> Option<ForwardedHeaders> {
    prepare_for_next_hop(headers, fields);
    if fields.has(Field::Alias) || fields.has(Field::ForeignForwarding) && !from.trusted {
        strip_guarded(headers, from.trusted);
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
    let forwarded = ForwardedHeaders::new(from.forwarded, from.request_id, from.via);
    let forwarding = [
        Field::Forwarded,
        Field::XForwardedFor,
        Field::XForwardedHost,
        Field::XForwardedProto,
        Field::XRequestId,
        Field::Via,
    ];
    if !forwarding.into_iter().any(|field| fields.has(field)) {
        return Some(forwarded);
    }
    match from.trusted {
        true => forwarded.extend(headers),
        false => forwarded.insert(headers),
    }
    None
}

/// Makes the lines of a request those that an instance is sent, if that takes no more than to leave some
/// out; `fields` are theirs. The forwarding fields are returned; `None` where a map is needed.
pub fn prepare_lines(
    lines: &mut FieldLines,
    fields: Fields,
    from: &ForwardedFor<'_>,
) -> Option<ForwardedHeaders> {
    let is_simple = fields.has_only(&PASSING)
        && from.certificate.is_none()
        && fields.has(Field::Host)
        && (!fields.has(Field::Connection) || lines.values(CONNECTION).all(has_only_options));
    if !is_simple {
        return None;
    }
    if fields.has(Field::Connection) || fields.has(Field::OfThisHop) {
        leave_out_hop_by_hop(lines);
    }
    let (forwarded, request_id) = (from.forwarded, from.request_id);
    Some(ForwardedHeaders::new(forwarded, request_id, from.via))
}

/// Whether a `Connection` names no field.
fn has_only_options(value: &[u8]) -> bool {
    options(value).all(is_option)
}

/// Whether an element of `Connection` is about the connection itself.
fn is_option(token: &[u8]) -> bool {
    OPTIONS
        .iter()
        .any(|one| token.eq_ignore_ascii_case(one.as_bytes()))
}

/// Applies a route's rules to a message's fields: rename, remove, set, add, in this order.
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

/// Makes a response's fields those that a client is sent. `fields` are those of `headers`, or were
/// before some were removed.
pub fn prepare_response(headers: &mut HeaderMap, fields: Fields, switching: bool) {
    let upgrade = switching.then(|| headers.get(UPGRADE).cloned()).flatten();
    strip_hop_by_hop(headers, fields);
    if fields.has(Field::OfPeers) {
        remove_where(headers, is_of_peers);
    }
    if let Some(token) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, token);
    }
}

/// The same where the fields are still lines, and it takes no more than to leave some out; whether that is
/// so.
pub fn prepare_response_lines(lines: &mut FieldLines, fields: Fields, switching: bool) -> bool {
    let (has_options, is_chunked) = (
        fields.has(Field::Connection),
        fields.has(Field::TransferEncoding),
    );
    if switching
        || fields.has(Field::OfPeers)
        || fields.has(Field::Upgrade)
        || has_options && !lines.values(CONNECTION).all(has_only_options)
    {
        return false;
    }
    if has_options || is_chunked || fields.has(Field::OfThisHop) || fields.has(Field::Te) {
        leave_out_hop_by_hop(lines);
    }
    if is_chunked {
        lines.leave_out(|name| name == CONTENT_LENGTH.as_str().as_bytes());
    }
    true
}

fn leave_out_hop_by_hop(lines: &mut FieldLines) {
    lines.leave_out(|name| {
        HOP_BY_HOP
            .iter()
            .any(|(_, own)| own.as_str().as_bytes() == name)
    });
}

/// Makes an interim response's fields those that a client is sent. It has no content, so nothing
/// frames it (RFC 9110 §8.6, RFC 9112 §6.1); what the gateway says of a request, it says in the
/// final response.
pub fn prepare_interim(headers: &mut HeaderMap) {
    let fields = Fields::of(headers);
    strip_hop_by_hop(headers, fields);
    for name in [CONTENT_LENGTH, TRAILER, X_REQUEST_ID] {
        headers.remove(name);
    }
    remove_where(headers, |name| name.starts_with("x-wakegate-"));
}

#[cfg(test)]
mod lines_tests;
#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::names::Hostname;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn prepared(pairs: &[(&'static str, &'static str)], trusted: bool) -> HeaderMap {
        let mut headers = headers(pairs);
        let host = Hostname::parse("a.b").unwrap();
        let request_id = RequestId::generate();
        let client = IpAddr::from([10, 0, 0, 9]);
        let fields = Fields::of(&headers);
        let named =
            HeaderValue::from_static(pairs.iter().find(|(name, _)| *name == "host").unwrap().1);
        let from = ForwardedFor {
            forwarded: &Arc::new(ForwardedElement::of(client, false, &host, Some(named))),
            trusted,
            request_id: &request_id,
            certificate: None,
            via: None,
        };
        if let Some(forwarded) = prepare_request(&mut headers, fields, &from) {
            forwarded.insert(&mut headers);
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
        assert_eq!(out["connection"], "TE");
        for gone in [
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
    fn a_wish_for_trailers_goes_beside_an_upgrade() {
        let out = prepared(
            &[
                ("host", "a.b"),
                ("connection", "Upgrade, TE"),
                ("upgrade", "websocket"),
                ("te", "trailers"),
            ],
            false,
        );
        assert_eq!(out["connection"], "upgrade, TE");
        assert_eq!(
            (&out["te"], &out["upgrade"]),
            (&"trailers".parse().unwrap(), &"websocket".parse().unwrap())
        );
    }

    #[test]
    fn what_clients_may_not_say_they_say_in_no_spelling() {
        let sent = [
            ("host", "a.b"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded_for", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.7"),
            ("client_cert", ":6:"),
            ("x-forwarded-port", "6"),
            ("x-real-ip", "6.6.6.6"),
            ("x_own", "1"),
        ];
        for trusted in [false, true] {
            let out = prepared(&sent, trusted);
            for gone in ["x_forwarded_for", "x-forwarded_for", "client_cert"] {
                assert!(!out.contains_key(gone), "{gone}");
            }
            for foreign in ["x-forwarded-port", "x-real-ip"] {
                assert_eq!(out.contains_key(foreign), trusted, "{foreign}");
            }
            assert!(out.contains_key("x_own"));
        }
    }

    #[test]
    fn another_spelling_of_what_a_rule_replaces_is_taken_away() {
        let mut out = headers(&[("x_tenant", "red"), ("x-tenant", "blue"), ("x_own", "1")]);
        let replaced = HeaderName::from_static("x-tenant");
        remove_aliases(&mut out, &[&replaced]);
        assert_eq!(out, headers(&[("x-tenant", "blue"), ("x_own", "1")]));
    }

    #[test]
    fn an_interim_response_keeps_nothing_of_framing_of_the_hop_or_of_the_gateway() {
        let mut out = headers(&[
            ("link", "</a.css>; rel=preload"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x-sum"),
            ("connection", "x-hop, close"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "websocket"),
            ("x-request-id", "1"),
            ("x-wakegate-hold", "10m"),
            ("x-wakegate-wake", "warm"),
        ]);
        prepare_interim(&mut out);
        assert_eq!(out, headers(&[("link", "</a.css>; rel=preload")]));
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
