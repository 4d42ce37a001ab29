//! The fields that say to an instance who asks, and by what way: the gateway's word alone.
//!
//! Guarantees: a client cannot say in another spelling what it may not say by the name itself. CGI,
//! and with it WSGI, PHP and Rack, hands `X_Forwarded_For` and `X-Forwarded-For` to an application
//! as one variable: every character that is neither letter nor digit becomes an underscore (RFC
//! 3875 §4.1.18).

use http::HeaderName;

/// Names that the gateway sets or takes away, besides those that begin with [`FORWARDED`].
const GUARDED: [&str; 19] = [
    "client-cert",
    "client-cert-chain",
    "content-length",
    "forwarded",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "transfer-encoding",
    "via",
    X_REAL_IP,
    "x-request-id",
    "x-wakegate-hold",
    HOPS,
    MISPLACED,
    PARKED,
];
const X_REAL_IP: &str = "x-real-ip";
const HOPS: &str = "x-wakegate-hops";
const MISPLACED: &str = "x-wakegate-misplaced";
const PARKED: &str = "x-wakegate-parked";
/// What else members of a fleet say to each other.
const OF_PEERS: &str = "x-wakegate-peer";
/// How many hops between members of a fleet a request has made.
pub const X_WAKEGATE_HOPS: HeaderName = HeaderName::from_static(HOPS);
/// Says that a request was sent nowhere, since its instance is another host's.
pub const X_WAKEGATE_MISPLACED: HeaderName = HeaderName::from_static(MISPLACED);
/// Names the parked connection that a handshake takes up again.
pub const X_WAKEGATE_PARKED: HeaderName = HeaderName::from_static(PARKED);
/// Proxies have made many names of it, and applications believe most of them: `-Port`, `-Prefix`,
/// `-Server`, `-Ssl`.
const FORWARDED: &str = "x-forwarded-";

/// Whether the gateway alone may send a field of this name, which is in small letters.
pub(super) fn is_guarded(name: &str) -> bool {
    name.starts_with(FORWARDED) || name.starts_with(OF_PEERS) || GUARDED.contains(&name)
}

/// Whether gateways say what is in a field of this name, to each other or to an instance, and neither
/// clients nor instances may.
pub fn is_of_peers(name: &str) -> bool {
    name.starts_with(OF_PEERS) || matches!(name, HOPS | MISPLACED | PARKED)
}

/// Whether it is a forwarding field of which the gateway has no value of its own: an untrusted
/// client's is taken away, a trusted proxy's passes.
pub(super) fn is_foreign_forwarding(name: &str) -> bool {
    name.starts_with(FORWARDED) || name == X_REAL_IP
}

/// Whether it is another spelling of a guarded name.
pub(super) fn is_alias(name: &str) -> bool {
    if name.bytes().all(is_plain) {
        return false;
    }
    let begins_as = |of: &str| {
        let prefix = name.get(..of.len());
        prefix.is_some_and(|prefix| is_spelling(prefix, of))
    };
    begins_as(FORWARDED)
        || begins_as(OF_PEERS)
        || GUARDED.iter().any(|guarded| is_spelling(name, guarded))
}

/// Whether it is another spelling of `of`, and not the same name.
pub(super) fn is_alias_of(name: &str, of: &str) -> bool {
    name != of && is_spelling(name, of)
}

/// Whether a CGI application finds both under one name.
fn is_spelling(name: &str, of: &str) -> bool {
    let same = |(one, other): (u8, u8)| {
        one == other || !(one.is_ascii_alphanumeric() || other.is_ascii_alphanumeric())
    };
    name.len() == of.len() && name.bytes().zip(of.bytes()).all(same)
}

/// Whether a name of such characters has no other spelling that means it.
pub(super) fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::upstream::fields::{Field, Fields};

    #[test]
    fn a_name_is_another_spelling_where_cgi_makes_one_variable_of_both() {
        for alias in [
            "x_forwarded_for",
            "x-forwarded_for",
            "x_forwarded-",
            "x.forwarded~proto",
            "x_forwarded_anything-else",
            "client_cert",
            "client_cert-chain",
            "transfer_encoding",
            "content.length",
            "x_request_id",
            "x_real_ip",
        ] {
            assert!(is_alias(alias), "{alias}");
        }
        for other in [
            "x-forwarded-for",
            "client-cert",
            "x_own",
            "forwarded",
            "x_forwarded",
            "xx_forwarded_for",
            "client_certs",
            "",
        ] {
            assert!(!is_alias(other), "{other}");
        }
        assert!(is_alias_of("x_tenant", "x-tenant") && is_alias_of("x-tenant", "x_tenant"));
        assert!(!is_alias_of("x-tenant", "x-tenant") && !is_alias_of("x-tenants", "x-tenant"));
    }

    proptest! {
        #[test]
        fn every_spelling_of_a_guarded_name_is_found(
            name in prop::sample::select(GUARDED.to_vec()),
            marks in prop::collection::vec(prop::sample::select(vec!['-', '_', '.', '~', '!']), 4),
        ) {
            let mut marks = marks.into_iter();
            let spelling: String = name
                .chars()
                .map(|c| if c == '-' { marks.next().unwrap() } else { c })
                .collect();
            prop_assert_eq!(is_alias(&spelling), spelling != name);
            prop_assert!(is_guarded(name) && (spelling == name || !is_guarded(&spelling)));
        }

        #[test]
        fn no_spelling_escapes_whoever_looks_at_the_first_letters_alone(
            name in prop::sample::select(
                [&GUARDED[..], &["x-forwarded-for", "x-forwarded-a-b", OF_PEERS, "x-wakegate-peer-a"]].concat(),
            ),
            marks in prop::collection::vec(prop::sample::select(vec!['-', '_', '.', '~', 'a']), 4),
        ) {
            let mut marks = marks.into_iter();
            let spelling: String = name
                .chars()
                .map(|c| if c == '-' { marks.next().unwrap() } else { c })
                .collect();
            let named = spelling.parse::<HeaderName>().unwrap();
            let fields = Fields::of(&[(named, HeaderValue::from_static("x"))].into_iter().collect());
            let is_seen = [Field::Alias, Field::ForeignForwarding, Field::OfPeers]
                .into_iter()
                .any(|field| fields.has(field));
            prop_assert!(is_seen || !is_alias(&spelling), "{spelling}");
        }
    }
}
