//! Who may call an API that asks for no token: programs of this machine, and no web page.
//!
//! Guarantees: a call is answered only under a name that no page can have, so that a host name
//! which was pointed here (DNS rebinding) reads nothing; one that a browser sends for a page of
//! another origin is refused (by `Sec-Fetch-Site` and `Origin`); what is sent is JSON, so that no
//! form and no request without a preflight (Fetch, "CORS-safelisted request-header") gets through.

use std::net::IpAddr;

use axum::body::HttpBody as _;
use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use super::error::ApiError;

/// Refuses what a web page may have sent.
pub(super) async fn keep_pages_out(request: Request, next: Next) -> Result<Response, ApiError> {
    let authority = request.uri().authority();
    let hosts = hosts(request.headers(), authority);
    let has_body = !request.body().is_end_stream();
    judge(request.method(), request.headers(), &hosts, has_body)?;
    Ok(next.run(request).await)
}

/// The names under which this server is called: normally one.
fn hosts(headers: &HeaderMap, authority: Option<&Authority>) -> Vec<String> {
    let fields = headers.get_all(header::HOST).iter();
    let fields = fields.map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned());
    let authority = authority.map(|authority| authority.as_str().to_owned());
    authority.into_iter().chain(fields).collect()
}

/// Whether no page elsewhere can have this name: addresses and `localhost` are not looked up.
fn is_own_name(host: &str) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (name, rest) = match bracketed {
        Some(both) => both,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    if !(rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)) {
        return false;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// Whether a page of the same origin has sent this, or none at all. A browser sets these fields
/// itself; no page can.
fn is_own_origin(method: &Method, headers: &HeaderMap, hosts: &[String]) -> bool {
    let fields = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let is_own_site = fields("sec-fetch-site").all(|site| matches!(site, b"same-origin" | b"none"));
    // A link that is followed from elsewhere shows the answer to the person only; a script or an
    // image of a page tells the page whether there was a good one.
    let is_link = *method == Method::GET && fields("sec-fetch-mode").eq([b"navigate".as_slice()]);
    if !is_own_site && !is_link {
        return false;
    }
    fields("origin").all(|origin| {
        let origin = Uri::try_from(origin).ok();
        let origin = origin.as_ref().and_then(Uri::authority);
        origin.is_some_and(|origin| {
            let mut hosts = hosts.iter();
            hosts.any(|host| host.eq_ignore_ascii_case(origin.as_str()))
        })
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return false;
    };
    let kind = kind.to_str().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn judge(
    method: &Method,
    headers: &HeaderMap,
    hosts: &[String],
    has_body: bool,
) -> Result<(), ApiError> {
    if hosts.is_empty() || !hosts.iter().all(|host| is_own_name(host)) {
        return Err(ApiError::forbidden(
            "without a token the API answers to localhost and IP addresses alone",
        ));
    }
    if !is_own_origin(method, headers, hosts) {
        return Err(ApiError::forbidden(
            "without a token the API answers no page of another origin",
        ));
    }
    if (has_body || headers.contains_key(header::CONTENT_TYPE)) && !is_json(headers) {
        return Err(ApiError::unsupported_media_type(
            "without a token a body must be application/json",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    fn status(method: &Method, fields: &[(&'static str, &str)], has_body: bool) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let hosts = hosts(&headers, None);
        let judged = judge(method, &headers, &hosts, has_body);
        judged.map_or_else(
            |error| error.status().as_u16(),
            |()| StatusCode::OK.as_u16(),
        )
    }

    #[test]
    fn only_names_that_no_page_can_have_are_answered() {
        for host in [
            "localhost",
            "LOCALHOST:4973",
            "localhost.:4973",
            "127.0.0.1:4973",
            "[::1]:4973",
            "[::1]",
            "192.168.1.7",
            "localhost:",
            "[2001:db8::7]:80",
        ] {
            assert_eq!(
                status(&Method::GET, &[("host", host)], false),
                200,
                "{host}"
            );
        }
        for host in [
            "evil.example",
            "evil.example:4973",
            "localhost.evil.example",
            "127.0.0.1.evil.example:4973",
            "",
            "[::1].evil.example",
            "[::1",
            "localhost:4973.evil.example",
            "localhost:49 73",
            "localhost..",
            ".localhost",
            "127.0.0.1, evil.example",
        ] {
            assert_eq!(
                status(&Method::GET, &[("host", host)], false),
                403,
                "{host}"
            );
        }
        assert_eq!(status(&Method::GET, &[], false), 403, "no host at all");
        let both = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(status(&Method::GET, &both, false), 403, "one of two");
    }

    #[test]
    fn pages_of_other_origins_are_refused_and_programs_are_not() {
        let host = ("host", "localhost:4973");
        let post = |field: (&'static str, &str)| status(&Method::POST, &[host, field], false);
        assert_eq!(post(("user-agent", "curl")), 200);
        for origin in [
            "http://evil.example",
            "null",
            "http://localhost:3000",
            "https://localhost",
            "http://evil.example/localhost:4973",
        ] {
            assert_eq!(post(("origin", origin)), 403, "{origin}");
            let get = [host, ("origin", origin)];
            assert_eq!(status(&Method::GET, &get, false), 403, "{origin}");
        }
        assert_eq!(post(("origin", "http://localhost:4973")), 200);
        for (site, expected) in [
            ("cross-site", 403),
            ("same-site", 403),
            ("same-origin", 200),
            ("none", 200),
        ] {
            assert_eq!(post(("sec-fetch-site", site)), expected, "{site}");
        }
        let two = [
            host,
            ("origin", "http://localhost:4973"),
            ("origin", "http://evil.example"),
        ];
        assert_eq!(status(&Method::POST, &two, false), 403, "one of two");
    }

    #[test]
    fn a_page_elsewhere_may_link_here_and_learns_nothing_from_what_it_loads() {
        let site = ("sec-fetch-site", "cross-site");
        for (method, mode, expected) in [
            (Method::GET, Some("navigate"), 200),
            (Method::POST, Some("navigate"), 403),
            (Method::GET, Some("no-cors"), 403),
            (Method::GET, Some("cors"), 403),
            (Method::HEAD, Some("no-cors"), 403),
            (Method::GET, None, 403),
        ] {
            let mode = mode.map(|mode| ("sec-fetch-mode", mode));
            let fields = [("host", "localhost:4973"), site];
            let fields: Vec<_> = fields.into_iter().chain(mode).collect();
            let got = status(&method, &fields, false);
            assert_eq!(got, expected, "{method} {mode:?}");
        }
    }

    #[test]
    fn the_name_in_an_absolute_target_counts_too() {
        let mut headers = HeaderMap::new();
        headers.insert("host", "localhost:4973".parse().unwrap());
        for (target, is_fine) in [
            ("http://localhost:4973/instances", true),
            ("http://[::1]:4973/instances", true),
            ("http://evil.example:4973/instances", false),
            ("http://localhost@evil.example/instances", false),
            ("http://evil@localhost:4973/instances", false),
        ] {
            let target: Uri = target.parse().unwrap();
            let hosts = hosts(&headers, target.authority());
            let judged = judge(&Method::GET, &headers, &hosts, false);
            assert_eq!(judged.is_ok(), is_fine, "{target}");
        }
    }

    #[test]
    fn what_is_sent_is_json() {
        let host = ("host", "localhost:4973");
        let post = |fields: &[(&'static str, &str)], has_body: bool| {
            let fields = [&[host][..], fields].concat();
            status(&Method::POST, &fields, has_body)
        };
        assert_eq!(post(&[], false), 200, "nothing is sent");
        assert_eq!(post(&[], true), 415, "nobody says what it is");
        for kind in ["application/json", "Application/JSON; charset=utf-8"] {
            assert_eq!(post(&[("content-type", kind)], true), 200, "{kind}");
        }
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=application/json",
            "text/plain; application/json",
            "application/jsonp",
        ] {
            assert_eq!(post(&[("content-type", kind)], true), 415, "{kind}");
            assert_eq!(post(&[("content-type", kind)], false), 415, "{kind}");
        }
        let two = [
            ("content-type", "application/json"),
            ("content-type", "text/plain"),
        ];
        assert_eq!(post(&two, true), 415, "two kinds");
    }
}
