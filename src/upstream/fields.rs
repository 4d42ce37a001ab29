//! The header fields that the gateway has to look at: which of them a message has, and their lists.
//!
//! Guarantees: a field that is there is never taken for absent. Most requests have few of these
//! fields, and one pass over the names that are there costs less than to ask for each of the
//! others.

use http::{HeaderMap, HeaderName, HeaderValue};
use http1::{FieldLines, options};

use super::guarded::{is_alias, is_foreign_forwarding, is_of_peers, is_plain};
use super::response::InstanceResponse;
use crate::client::Request;

/// The set of fields that a message has, and the length of its head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fields {
    present: u32,
    bytes: usize,
}

/// One of the fields that the gateway looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the field of its name")]
pub enum Field {
    Accept,
    /// Any other spelling of a name that clients may not use.
    Alias,
    Authorization,
    ClientCert,
    Connection,
    ContentType,
    Cookie,
    /// A cookie in more than one field, as HTTP/2 may split it.
    CookieCrumbs,
    Expect,
    /// A forwarding field that the gateway has no value for.
    ForeignForwarding,
    Forwarded,
    GrpcTimeout,
    Host,
    MaxForwards,
    /// What members of a fleet say to each other, and what a gateway says of a parked connection.
    OfPeers,
    /// Any other field that ends with this hop.
    OfThisHop,
    Prefer,
    Te,
    TraceParent,
    TransferEncoding,
    Upgrade,
    UserAgent,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedProto,
    XRequestId,
    XWakegateHold,
    XWakegateWake,
}

// === impl Fields ===

impl Fields {
    /// The fields of a message.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            fields.add(name, value);
        }
        fields
    }

    /// Those of a request.
    pub fn of_request<B>(request: &Request<B>) -> Self {
        match request.lines() {
            Some(lines) => Self::of_lines(lines),
            None => Self::of(request.headers()),
        }
    }

    /// Those of a response.
    pub fn of_response<B>(response: &InstanceResponse<B>) -> Self {
        match response.lines() {
            Some(lines) => Self::of_lines(lines),
            None => Self::of(response.headers()),
        }
    }

    fn of_lines(lines: &FieldLines) -> Self {
        let mut fields = Self::default();
        for (name, value) in lines.iter() {
            fields.count(name, value);
        }
        fields
    }

    /// Whether the message has none but these.
    pub(super) fn has_only(self, known: &[Field]) -> bool {
        let known = known.iter().fold(0, |all, field| all | field.bit());
        self.present & !known == 0
    }

    /// Adds one field.
    pub(super) fn add(&mut self, name: &HeaderName, value: &HeaderValue) {
        self.count(name.as_str().as_bytes(), value.as_bytes());
    }

    fn count(&mut self, name: &[u8], value: &[u8]) {
        // What stands between name and value, and at the end.
        self.bytes += name.len() + value.len() + 4;
        if let Some(field) = Field::named(name) {
            if field == Field::Cookie && self.has(field) {
                self.present |= Field::CookieCrumbs.bit();
            }
            self.present |= field.bit();
        }
    }

    /// Whether the message has it.
    pub fn has(self, field: Field) -> bool {
        self.present & field.bit() != 0
    }

    /// About as many bytes as the fields took on the wire.
    pub fn bytes(self) -> usize {
        self.bytes
    }
}

/// The elements of a list field, whatever octets are beside them: one that nobody understands hides none
/// of the others.
pub(super) fn tokens<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'h [u8]> {
    let values = headers.get_all(name).iter();
    values.flat_map(|value| options(value.as_bytes()))
}

/// Adds one element to a list field; a list in several fields is one list (RFC 9110 §5.3).
pub(super) fn append(headers: &mut HeaderMap, name: HeaderName, element: &HeaderValue) {
    let lines = headers.get_all(&name).iter().map(HeaderValue::as_bytes);
    let lines = lines.filter(|line| !line.is_empty());
    let list = lines.chain([element.as_bytes()]).collect::<Vec<_>>();
    let list = HeaderValue::from_bytes(&list.join(&b", "[..]));
    headers.insert(name, list.unwrap_or_else(|_| element.clone()));
}

// === impl Field ===

impl Field {
    const fn bit(self) -> u32 {
        1 << self as u8
    }

    fn named(name: &[u8]) -> Option<Self> {
        // By length first: most names end here.
        Some(match (name.len(), name) {
            (2, b"te") => Self::Te,
            (3, b"via") => Self::Via,
            (4, b"host") => Self::Host,
            (6, b"accept") => Self::Accept,
            (6, b"cookie") => Self::Cookie,
            (6, b"expect") => Self::Expect,
            (6, b"prefer") => Self::Prefer,
            (7, b"upgrade") => Self::Upgrade,
            (9, b"forwarded") => Self::Forwarded,
            (10, b"connection") => Self::Connection,
            (10, b"keep-alive")
            | (14, b"http2-settings")
            | (16, b"proxy-connection")
            | (18, b"proxy-authenticate")
            | (19, b"proxy-authorization")
            | (25, b"proxy-authentication-info") => Self::OfThisHop,
            (10, b"user-agent") => Self::UserAgent,
            (11, b"client-cert") | (17, b"client-cert-chain") => Self::ClientCert,
            (11, b"traceparent") => Self::TraceParent,
            (12, b"content-type") => Self::ContentType,
            (12, b"grpc-timeout") => Self::GrpcTimeout,
            (12, b"max-forwards") => Self::MaxForwards,
            (12, b"x-request-id") => Self::XRequestId,
            (13, b"authorization") => Self::Authorization,
            // Nearly every response has it, and the guard of names does not mind it.
            (14, b"content-length") => return None,
            (15, b"x-wakegate-hold") => Self::XWakegateHold,
            (15, b"x-wakegate-wake") => Self::XWakegateWake,
            (15, b"x-forwarded-for") => Self::XForwardedFor,
            (16, b"x-forwarded-host") => Self::XForwardedHost,
            (17, b"transfer-encoding") => Self::TransferEncoding,
            (17, b"x-forwarded-proto") => Self::XForwardedProto,
            _ => return Self::guarded(name),
        })
    }

    /// A field that only the guard of names is interested in. Few names begin with these letters.
    fn guarded(name: &[u8]) -> Option<Self> {
        let may_be = match name {
            [b'c', b'l' | b'o', ..]
            | [b'h', b't', ..]
            | [b'k', b'e', ..]
            | [b'm', b'a', ..]
            | [b'p' | b't', b'r', ..] => !name.iter().copied().all(is_plain),
            [b'x', _, b'f' | b'r' | b'w', ..] => true,
            _ => false,
        };
        if !may_be {
            return None;
        }
        // Names are ASCII.
        let name = str::from_utf8(name).ok()?;
        if is_foreign_forwarding(name) {
            return Some(Self::ForeignForwarding);
        }
        if is_of_peers(name) {
            return Some(Self::OfPeers);
        }
        is_alias(name).then_some(Self::Alias)
    }
}

/// Takes away the blanks around values. Those of HTTP/1.1 mean nothing; over HTTP/2 a value that has
/// some is not to be passed on (RFC 9113 §8.2.1), and whoever gets it refuses the message.
pub(super) fn trim_values(fields: &mut HeaderMap) {
    for value in fields.values_mut() {
        let bytes = value.as_bytes();
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = bytes {
            // A part of what is valid is valid.
            *value =
                HeaderValue::from_bytes(bytes.trim_ascii()).unwrap_or(HeaderValue::from_static(""));
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::FORWARDED;

    use super::*;

    #[test]
    fn a_list_goes_on_from_what_is_there() {
        let mut headers = HeaderMap::new();
        let element = HeaderValue::from_static("for=10.0.0.9");
        for (sent, expected) in [
            (None, "for=10.0.0.9"),
            (
                Some("for=\"a,b\""),
                "for=10.0.0.9, for=\"a,b\", for=10.0.0.9",
            ),
            (
                Some(""),
                "for=10.0.0.9, for=\"a,b\", for=10.0.0.9, for=10.0.0.9",
            ),
        ] {
            if let Some(sent) = sent {
                headers.append(FORWARDED, HeaderValue::from_static(sent));
            }
            append(&mut headers, FORWARDED, &element);
            assert_eq!(headers[FORWARDED], expected);
            assert_eq!(headers.len(), 1);
        }
    }

    #[test]
    fn each_field_is_found_by_its_name_and_no_other_is() {
        for (name, field) in [
            ("te", Field::Te),
            ("Accept", Field::Accept),
            ("cookie", Field::Cookie),
            ("host", Field::Host),
            ("expect", Field::Expect),
            ("authorization", Field::Authorization),
            ("prefer", Field::Prefer),
            ("upgrade", Field::Upgrade),
            ("forwarded", Field::Forwarded),
            ("connection", Field::Connection),
            ("keep-alive", Field::OfThisHop),
            ("user-agent", Field::UserAgent),
            ("client-cert", Field::ClientCert),
            ("client-cert-chain", Field::ClientCert),
            ("traceparent", Field::TraceParent),
            ("content-type", Field::ContentType),
            ("grpc-timeout", Field::GrpcTimeout),
            ("x-request-id", Field::XRequestId),
            ("x-wakegate-hold", Field::XWakegateHold),
            ("x-wakegate-wake", Field::XWakegateWake),
            ("http2-settings", Field::OfThisHop),
            ("x-forwarded-for", Field::XForwardedFor),
            ("x-forwarded-host", Field::XForwardedHost),
            ("proxy-connection", Field::OfThisHop),
            ("transfer-encoding", Field::TransferEncoding),
            ("x-forwarded-proto", Field::XForwardedProto),
            ("proxy-authenticate", Field::OfThisHop),
            ("proxy-authorization", Field::OfThisHop),
            ("proxy-authentication-info", Field::OfThisHop),
            ("via", Field::Via),
            ("max-forwards", Field::MaxForwards),
            ("x-forwarded-port", Field::ForeignForwarding),
            ("x-real-ip", Field::ForeignForwarding),
            ("x-wakegate-hops", Field::OfPeers),
            ("x-wakegate-misplaced", Field::OfPeers),
            ("x-wakegate-parked", Field::OfPeers),
            ("x_wakegate_parked", Field::Alias),
            ("x-wakegate-peer", Field::OfPeers),
            ("x-wakegate-peer-code", Field::OfPeers),
            ("x_wakegate_hops", Field::Alias),
            ("x_wakegate-peer_code", Field::Alias),
            ("x_forwarded_for", Field::Alias),
            ("client_cert", Field::Alias),
            ("http2_settings", Field::Alias),
            ("keep_alive", Field::Alias),
            ("max_forwards", Field::Alias),
            ("proxy_connection", Field::Alias),
            ("transfer_encoding", Field::Alias),
        ] {
            let name: HeaderName = name.parse().unwrap();
            let length = name.as_str().len();
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static("x"))]);
            let fields = Fields::of(&headers);
            assert_eq!((fields.present, fields.bytes()), (field.bit(), length + 5));
            assert!(fields.has(field));
        }
        let other =
            ["content-length", "date"].map(|name| (name.parse().unwrap(), "1".parse().unwrap()));
        let other: HeaderMap = HeaderMap::from_iter(other);
        assert_eq!(Fields::of(&other).present, 0);
    }

    #[test]
    fn a_cookie_in_several_fields_is_told_from_one_in_one() {
        let mut headers = HeaderMap::new();
        for is_split in [false, true] {
            headers.append("cookie", HeaderValue::from_static("a=b"));
            let fields = Fields::of(&headers);
            assert!(fields.has(Field::Cookie));
            assert_eq!(fields.has(Field::CookieCrumbs), is_split);
        }
    }

    #[test]
    fn a_value_has_no_blanks_around_it() {
        for (came, expected) in [
            (" a b\t", "a b"),
            ("\ta", "a"),
            ("a ", "a"),
            (" ", ""),
            ("", ""),
            ("a", "a"),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert("x-a", HeaderValue::from_static(came));
            trim_values(&mut fields);
            assert_eq!(fields["x-a"], expected, "{came:?}");
        }
    }
}
