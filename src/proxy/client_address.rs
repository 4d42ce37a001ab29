//! What a trusted peer says about the client that it speaks for.
//!
//! Guarantees: nobody but a trusted proxy is believed, and each only about the hop before it: the
//! fields are read from the end. An address is understood in every notation that proxies use: with
//! a port or without, in brackets or bare, quoted, IPv4 written as IPv6.

use std::iter::once;
use std::net::IpAddr;

use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// An element of `Forwarded` (RFC 7239 §4), as far as the gateway reads it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Element {
    client: Option<IpAddr>,
    is_secure: Option<bool>,
}

/// The client that a trusted peer speaks for: the last address that is not a trusted proxy's, or
/// the farthest that is known where all are, or where nobody knows the next. `X-Forwarded-For` wins
/// over `Forwarded`: a proxy maintains either, the first most of the time, and passes on what a
/// client says in the other.
pub(super) fn named_client(
    peer: IpAddr,
    headers: &HeaderMap,
    trusts: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut farthest = peer;
    let mut is_client = |address: Option<IpAddr>| {
        farthest = address.unwrap_or(farthest);
        !address.is_some_and(&trusts)
    };
    if headers.contains_key(X_FORWARDED_FOR) {
        let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
        let elements = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        let mut elements = elements
            .map(<[u8]>::trim_ascii)
            .filter(|one| !one.is_empty());
        elements.any(|element| is_client(address(element)));
    } else {
        let elements = elements(headers);
        elements
            .iter()
            .rev()
            .any(|element| is_client(element.client));
    }
    farthest
}

/// Whether a trusted peer says that the client came over TLS. Of a list the client's own hop
/// counts, which is the first: who only redirects to TLS must not do so in a circle.
pub(super) fn came_over_tls(headers: &HeaderMap) -> bool {
    if let Some(schemes) = headers.get(X_FORWARDED_PROTO) {
        let first = schemes.as_bytes().split(|byte| *byte == b',').next();
        return first.is_some_and(is_https);
    }
    let said = |element: &Element| element.is_secure;
    elements(headers).iter().find_map(said).unwrap_or(false)
}

fn is_https(scheme: &[u8]) -> bool {
    scheme.trim_ascii().eq_ignore_ascii_case(b"https")
}

/// The address of a node: bare, or in brackets, and each with or without a port (RFC 7239 §6). A
/// node that is unknown, or hidden behind a name, has none.
fn address(node: &[u8]) -> Option<IpAddr> {
    let node = str::from_utf8(node).ok()?.trim();
    let node = node
        .strip_prefix('"')
        .and_then(|node| node.strip_suffix('"'))
        .unwrap_or(node);
    let bare = match node.strip_prefix('[') {
        Some(node) => {
            let (bare, port) = node.split_once(']')?;
            (port.is_empty() || port.starts_with(':')).then_some(bare)?
        }
        None => match node.split_once(':') {
            // One colon is a port's, more are of IPv6.
            Some((bare, port)) if !port.contains(':') => bare,
            Some(_) | None => node,
        },
    };
    // A zone means something to the machine that has written it.
    let bare = bare.split('%').next()?;
    bare.parse()
        .ok()
        .map(|address: IpAddr| address.to_canonical())
}

/// The elements of `Forwarded`, in their order. One that cannot be read says nothing.
fn elements(headers: &HeaderMap) -> Vec<Element> {
    let lines = headers.get_all(FORWARDED).iter().map(HeaderValue::as_bytes);
    let elements = lines.flat_map(|line| split(line, b','));
    let elements = elements.filter(|element| !element.trim_ascii().is_empty());
    elements.map(element).collect()
}

fn element(text: &[u8]) -> Element {
    let mut element = Element::default();
    for pair in split(text, b';') {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            continue;
        };
        let value = unquoted(value.trim_ascii());
        match name.trim_ascii().to_ascii_lowercase().as_slice() {
            b"for" => element.client = address(&value),
            b"proto" => element.is_secure = Some(is_https(&value)),
            _ => {}
        }
    }
    element
}

/// The parts between separators that are not quoted.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let ends = text.iter().enumerate().filter_map(move |(index, byte)| {
        let is_end = *byte == separator && !is_quoted;
        if *byte == b'"' && !is_escaped {
            is_quoted = !is_quoted;
        }
        is_escaped = is_quoted && *byte == b'\\' && !is_escaped;
        is_end.then_some(index)
    });
    let mut start = 0;
    ends.chain(once(text.len())).map(move |end| {
        let part = text.get(start..end).unwrap_or_default();
        start = end + 1;
        part
    })
}

/// The text of a quoted string (RFC 9110 §5.6.4), or of a token as it is.
fn unquoted(text: &[u8]) -> Vec<u8> {
    let quoted = text.strip_prefix(b"\"");
    let Some(quoted) = quoted.and_then(|text| text.strip_suffix(b"\"")) else {
        return text.to_vec();
    };
    let mut is_escaped = false;
    let plain = quoted.iter().copied().filter(|byte| {
        is_escaped = *byte == b'\\' && !is_escaped;
        !is_escaped
    });
    plain.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: &str = "10.0.0.1";

    /// Trusts 10.0.0.0/8 and what begins with fd00.
    fn trusts(address: IpAddr) -> bool {
        let text = address.to_string();
        text.starts_with("10.") || text.starts_with("fd00:")
    }

    fn fields(lines: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, line) in lines {
            headers.append(*name, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn named(lines: &[(&HeaderName, &str)]) -> String {
        named_client(PEER.parse().unwrap(), &fields(lines), trusts).to_string()
    }

    #[test]
    fn the_last_address_that_is_no_trusted_proxy_is_the_client() {
        for (list, client) in [
            ("192.0.2.1, 192.0.2.2, 10.0.0.2", "192.0.2.2"),
            // The farthest that is known.
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("192.0.2.1, unknown, 10.0.0.2", "10.0.0.2"),
            ("192.0.2.1, 10.0.0.2, unknown", PEER),
            ("192.0.2.1, , 10.0.0.2,", "192.0.2.1"),
            ("", PEER),
        ] {
            assert_eq!(named(&[(&X_FORWARDED_FOR, list)]), client, "{list}");
        }
        assert_eq!(named(&[]), PEER);
        let unreadable = HeaderValue::from_bytes(b"192.0.2.1, \xff, 10.0.0.2").unwrap();
        let headers = HeaderMap::from_iter([(X_FORWARDED_FOR, unreadable)]);
        let client = named_client(PEER.parse().unwrap(), &headers, trusts);
        assert_eq!(client.to_string(), "10.0.0.2");
    }

    #[test]
    fn every_notation_of_an_address_is_understood() {
        for (node, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:4000", Some("192.0.2.1")),
            ("192.0.2.1:_port", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("\"[2001:db8::1]:443\"", Some("2001:db8::1")),
            ("[192.0.2.1]:80", Some("192.0.2.1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("[::ffff:c000:201]:80", Some("192.0.2.1")),
            ("[fe80::1%eth0]:80", Some("fe80::1")),
            ("unknown", None),
            ("_hidden", None),
            ("[2001:db8::1", None),
            ("[2001:db8::1]443", None),
            ("192.0.2", None),
            ("192.0.2.1.5", None),
            ("", None),
        ] {
            let found = address(node.as_bytes()).map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{node}");
        }
    }

    #[test]
    fn what_is_quoted_in_forwarded_is_no_structure() {
        for (line, client) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"[2001:db8::1]:443\";proto=https", "2001:db8::1"),
            (
                "proto=http;host=\"a, for=6.6.6.6;\\\"\" ; for=192.0.2.1",
                "192.0.2.1",
            ),
            ("for=\"1\\92.0.2.1\"", "192.0.2.1"),
            ("for=6.6.6.6, for=unknown", PEER),
            (
                "for=6.6.6.6, for=_hidden;by=10.0.0.9, for=10.0.0.2",
                "10.0.0.2",
            ),
            ("for=6.6.6.6, by=10.0.0.2", PEER),
            ("for=6.6.6.6,,for=192.0.2.1", "192.0.2.1"),
            ("for", PEER),
        ] {
            assert_eq!(named(&[(&FORWARDED, line)]), client, "{line}");
        }
        let both = [(&FORWARDED, "for=6.6.6.6"), (&X_FORWARDED_FOR, "192.0.2.1")];
        assert_eq!(named(&both), "192.0.2.1");
    }

    #[test]
    fn the_clients_own_hop_says_whether_it_came_over_tls() {
        for (name, line, expected) in [
            (&X_FORWARDED_PROTO, "https", true),
            (&X_FORWARDED_PROTO, "HTTPS", true),
            (&X_FORWARDED_PROTO, "https, http", true),
            (&X_FORWARDED_PROTO, "http, https", false),
            (&X_FORWARDED_PROTO, "httpsx", false),
            (
                &FORWARDED,
                "for=192.0.2.1;Proto=https, for=10.0.0.2;proto=http",
                true,
            ),
            (
                &FORWARDED,
                "for=192.0.2.1, for=10.0.0.2;proto=\"https\"",
                true,
            ),
            (&FORWARDED, "for=192.0.2.1;proto=http", false),
        ] {
            assert_eq!(came_over_tls(&fields(&[(name, line)])), expected, "{line}");
        }
        let both = [(&FORWARDED, "proto=https"), (&X_FORWARDED_PROTO, "http")];
        assert!(!came_over_tls(&fields(&both)) && !came_over_tls(&HeaderMap::new()));
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (any::<[u8; 3]>()).prop_map(|[a, b, c]| IpAddr::from([10, a, b, c])),
            any::<[u8; 4]>().prop_map(IpAddr::from),
            (any::<[u16; 7]>())
                .prop_map(|[b, c, d, e, f, g, h]| { IpAddr::from([0xfd00, b, c, d, e, f, g, h]) }),
            any::<[u16; 8]>().prop_map(IpAddr::from),
        ]
    }

    /// One of the ways in which a proxy may write an address.
    fn written(address: IpAddr, notation: u8, port: u16) -> String {
        match (address, notation % 4) {
            (IpAddr::V4(v4), 0) => format!("{v4}"),
            (IpAddr::V4(v4), 1) => format!("{v4}:{port}"),
            (IpAddr::V4(v4), 2) => format!("[{}]:{port}", v4.to_ipv6_mapped()),
            (IpAddr::V4(v4), _) => format!("{}", v4.to_ipv6_mapped()),
            (IpAddr::V6(v6), 0 | 1) => format!("{v6}"),
            (IpAddr::V6(v6), 2) => format!("[{v6}]"),
            (IpAddr::V6(v6), _) => format!("[{v6}]:{port}"),
        }
    }

    proptest! {
        #[test]
        fn a_client_is_the_same_however_its_way_is_written(
            way in prop::collection::vec(
                (any_address(), any::<u8>(), any::<u16>(), any::<bool>(), 0..3_usize),
                0..8,
            )
        ) {
            let mut expected: IpAddr = PEER.parse().unwrap();
            for (address, ..) in way.iter().rev() {
                expected = address.to_canonical();
                if !trusts(expected) {
                    break;
                }
            }
            let (mut lists, mut elements) = (vec![String::new()], vec![String::new()]);
            for (address, notation, port, breaks, spaces) in &way {
                if *breaks {
                    lists.push(String::new());
                    elements.push(String::new());
                }
                let node = written(*address, *notation, *port);
                let space = " ".repeat(*spaces);
                for (lines, text) in [
                    (&mut lists, node.clone()),
                    (&mut elements, format!("by=_x;FOR=\"{node}\";host=\"a,b\"")),
                ] {
                    let line = lines.last_mut().unwrap();
                    if !line.is_empty() {
                        line.push(',');
                    }
                    line.push_str(&space);
                    line.push_str(&text);
                    line.push_str(&space);
                }
            }
            for (name, lines) in [(&X_FORWARDED_FOR, &lists), (&FORWARDED, &elements)] {
                let lines: Vec<_> = lines.iter().map(|line| (name, line.as_str())).collect();
                prop_assert_eq!(named(&lines), expected.to_string(), "{:?}", lines);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "[\\x20-\\x7e]{0,40}") {
            let lines = [(&FORWARDED, text.as_str())];
            named(&lines);
            came_over_tls(&fields(&lines));
            address(text.as_bytes());
        }
    }
}
