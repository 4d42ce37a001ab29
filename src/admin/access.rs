//! Who may use the operator's API.
//!
//! Guarantees: with a token, only who shows it (compared in constant time); without one, only on an
//! address of this machine's own (loopback), and only by names of it, so that a page whose host
//! name was pointed here (DNS rebinding) reads nothing, `/metrics` included, which needs no token;
//! what changes something is refused to pages of other origins (by `Sec-Fetch-Site` and `Origin`),
//! whoever is logged in. The other paths have nothing in them that a page could use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use subtle::ConstantTimeEq as _;

use super::view::Problem;
use crate::config::Secret;

/// What a client must show.
#[derive(Debug, Clone)]
pub(super) enum Gatekeeper {
    /// The token. Whether the address is this machine's own (loopback) besides.
    Token(Secret, bool),
    /// To be on this machine.
    Loopback,
    /// Nothing helps: the address is everybody's and there is no token.
    Closed,
}

// === impl Gatekeeper ===

impl Gatekeeper {
    pub(super) fn new(address: IpAddr, token: Option<Secret>) -> Self {
        let is_local = address.to_canonical().is_loopback();
        match token {
            Some(token) => Self::Token(token, is_local),
            None if is_local => Self::Loopback,
            None => Self::Closed,
        }
    }

    pub(super) fn judge(
        &self,
        headers: &HeaderMap,
        authority: Option<&str>,
    ) -> Result<(), Problem> {
        match self {
            Self::Token(token, _) if shows(headers, token) => Ok(()),
            Self::Token(..) => Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "admin_token",
                "Give the token of admin.token_file as `Authorization: Bearer …`.",
            )),
            Self::Loopback if is_own_name(headers, authority) => Ok(()),
            Self::Loopback => Err(foreign_name()),
            Self::Closed => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "admin_closed",
                "The admin address is not this machine's own, so the API needs admin.token_file.",
            )),
        }
    }

    /// The same for what needs no token: who shows it may use any name.
    pub(super) fn judge_open(
        &self,
        headers: &HeaderMap,
        authority: Option<&str>,
    ) -> Result<(), Problem> {
        let may_have_any_name = match self {
            Self::Token(token, true) => shows(headers, token),
            Self::Loopback => false,
            Self::Token(_, false) | Self::Closed => true,
        };
        match may_have_any_name || is_own_name(headers, authority) {
            true => Ok(()),
            false => Err(foreign_name()),
        }
    }
}

/// The refusal of a name that a page elsewhere may have.
fn foreign_name() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "admin_host",
        "At a loopback address the gateway answers to localhost and IP addresses alone.",
    )
}

fn shows(headers: &HeaderMap, token: &Secret) -> bool {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return false;
    };
    let shown = value.as_bytes().split_at_checked(7);
    shown.is_some_and(|(scheme, shown)| {
        scheme.eq_ignore_ascii_case(b"bearer ")
            && bool::from(shown.ct_eq(token.reveal().as_bytes()))
    })
}

/// Names that no page elsewhere can have.
fn is_own_name(headers: &HeaderMap, authority: Option<&str>) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        // Two are none: who is to say which of them is meant (RFC 9112 §3.2)?
        (None | Some(_), _) => None,
    };
    let Some(host) = authority.or(host) else {
        return false;
    };
    let (is_own, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address.parse::<Ipv6Addr>().is_ok(), port),
            None => return false,
        },
        None => {
            let (name, port) = host.split_at(host.rfind(':').unwrap_or(host.len()));
            let is_local = name.eq_ignore_ascii_case("localhost");
            (is_local || name.parse::<Ipv4Addr>().is_ok(), port)
        }
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    is_own && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// Whether a page of another origin may have sent this: by `Sec-Fetch-Site` (W3C, Fetch Metadata
/// Request Headers), else by `Origin` (Fetch, "`Origin` header"). A browser sets them itself; no page
/// can. A client that is not a browser sends neither.
fn is_foreign(method: &Method, headers: &HeaderMap, authority: Option<&str>) -> bool {
    // None of these changes anything here.
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return false;
    }
    let field = |name| headers.get(name).map_or(&[][..], HeaderValue::as_bytes);
    match field("sec-fetch-site") {
        b"same-origin" | b"none" => return false,
        // A browser that does not say so yet.
        b"" => {}
        _ => return true,
    }
    let origin = field("origin");
    if origin.is_empty() {
        return false;
    }
    let origin = Uri::try_from(origin).ok();
    let origin = origin.filter(|origin| matches!(origin.scheme_str(), Some("http" | "https")));
    let origin = origin.as_ref().and_then(Uri::authority);
    let host = authority.map_or_else(|| field("host"), str::as_bytes);
    origin.is_none_or(|origin| origin.as_str().as_bytes() != host)
}

/// Refuses what another origin's page asks for.
pub(super) async fn own_origin(request: Request, next: Next) -> Response {
    let authority = request.uri().authority().map(Authority::as_str);
    if is_foreign(request.method(), request.headers(), authority) {
        return Problem::new(
            StatusCode::FORBIDDEN,
            "cross_origin",
            "A page of another origin may not do this.",
        )
        .into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    header::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn a_token_is_shown_once_and_whole() {
        let keeper = Gatekeeper::new([0, 0, 0, 0].into(), Some(Secret::new("0123456789abcdef")));
        let judge = |pairs: &[(&'static str, &'static str)]| {
            keeper.judge(&headers(pairs), None).map_err(|p| p.status)
        };
        assert_eq!(
            judge(&[("authorization", "Bearer 0123456789abcdef")]),
            Ok(())
        );
        for wrong in [
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Basic 0123456789abcdef",
            "Bearer ",
            "",
        ] {
            assert_eq!(judge(&[("authorization", wrong)]), Err(401), "{wrong}");
        }
        assert_eq!(judge(&[]), Err(401));
    }

    #[test]
    fn without_a_token_only_this_machines_own_names_are_answered_to() {
        let keeper = Gatekeeper::new([127, 0, 0, 1].into(), None);
        for (host, fine) in [
            ("localhost:9900", true),
            ("LocalHost", true),
            ("127.0.0.1:9900", true),
            ("[::1]:9900", true),
            ("evil.example:9900", false),
            ("localhost.evil.example", false),
            ("[::1].evil.example", false),
            ("[::1]evil:9900", false),
            ("[localhost]", false),
            ("[::1", false),
            ("::1", false),
            ("127.0.0.1:evil", false),
            ("", false),
        ] {
            let got = keeper.judge(&headers(&[("host", host)]), None);
            assert_eq!(got.is_ok(), fine, "{host}");
        }
        assert!(keeper.judge(&headers(&[]), Some("[::1]")).is_ok());
        let mut two = headers(&[("host", "localhost")]);
        two.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(keeper.judge(&two, None).is_err());
        let closed = Gatekeeper::new([0, 0, 0, 0].into(), None);
        let refused = closed.judge(&headers(&[("host", "localhost")]), None);
        assert_eq!(refused.unwrap_err().code, "admin_closed");
    }

    #[test]
    fn what_needs_no_token_answers_at_loopback_to_own_names_or_to_the_token() {
        let secret = || Some(Secret::new("0123456789abcdef"));
        let evil = ("host", "evil.example:9900");
        let shown = ("authorization", "Bearer 0123456789abcdef");
        for (address, token, pairs, fine) in [
            ([127, 0, 0, 1], None, &[("host", "localhost")][..], true),
            ([127, 0, 0, 1], None, &[evil], false),
            ([127, 0, 0, 1], None, &[], false),
            (
                [127, 0, 0, 1],
                secret(),
                &[("host", "127.0.0.1:9900")],
                true,
            ),
            ([127, 0, 0, 1], secret(), &[evil], false),
            ([127, 0, 0, 1], secret(), &[evil, shown], true),
            // Its names are not known.
            ([0, 0, 0, 0], None, &[("host", "gateway:9900")], true),
            ([0, 0, 0, 0], secret(), &[("host", "gateway:9900")], true),
        ] {
            let keeper = Gatekeeper::new(address.into(), token);
            let judged = keeper.judge_open(&headers(pairs), None);
            assert_eq!(judged.is_ok(), fine, "{keeper:?} {pairs:?}");
        }
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        let host = ("host", "localhost:9900");
        let foreign = |method: Method, pairs: &[(&'static str, &'static str)]| {
            is_foreign(&method, &headers(pairs), None)
        };
        for (own, pairs) in [
            (true, &[host][..]),
            (true, &[host, ("sec-fetch-site", "same-origin")]),
            (true, &[host, ("sec-fetch-site", "none")]),
            (false, &[host, ("sec-fetch-site", "same-site")]),
            (false, &[host, ("sec-fetch-site", "cross-site")]),
            (false, &[host, ("sec-fetch-site", "Same-Origin")]),
            (true, &[host, ("sec-fetch-site", ""), ("origin", "")]),
            (true, &[host, ("origin", "http://localhost:9900")]),
            (true, &[host, ("origin", "https://localhost:9900")]),
            (false, &[host, ("origin", "http://localhost")]),
            (false, &[host, ("origin", "http://evil.example:9900")]),
            (false, &[host, ("origin", "ftp://localhost:9900")]),
            (false, &[host, ("origin", "null")]),
            (false, &[("origin", "http://localhost:9900")]),
            (
                false,
                &[
                    host,
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "http://localhost:9900"),
                ],
            ),
        ] {
            assert_eq!(foreign(Method::POST, pairs), !own, "{pairs:?}");
            assert_eq!(foreign(Method::TRACE, pairs), !own, "{pairs:?}");
            for reading in [Method::GET, Method::HEAD, Method::OPTIONS] {
                assert!(!foreign(reading, pairs), "{pairs:?}");
            }
        }
        // The target's own authority goes before `Host`, as it does everywhere.
        let pairs = headers(&[host, ("origin", "http://localhost:9900")]);
        assert!(is_foreign(&Method::POST, &pairs, Some("other:9900")));
        assert!(!is_foreign(&Method::POST, &pairs, Some("localhost:9900")));
    }
}
