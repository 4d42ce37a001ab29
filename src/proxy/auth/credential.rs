//! Where a request has its credentials: fields, cookies, the query, subprotocols.
//!
//! Guarantees: a place that has two of one name has none that counts; what is taken away is gone in
//! every spelling that an application could read, and the rest of the request stays as it is.

use http::header::{AUTHORIZATION, COOKIE, REFERER, SEC_WEBSOCKET_PROTOCOL};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use http1::options;
use percent_encoding::percent_decode_str;

use crate::client::Request;
use crate::config::{AuthConfig, JwtAuth, Proof, TokenFrom};
use crate::identity::SignedUrl;

/// A place of a request has two tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) struct Ambiguous;

// === Reading ===

/// The tokens of a request, at most one of each place.
pub(in crate::proxy) fn tokens<B>(
    request: &Request<B>,
    from: &TokenFrom,
    may_switch: bool,
) -> Result<Vec<String>, Ambiguous> {
    let headers = request.headers();
    let mut found = Vec::new();
    let authorization = headers.get_all(AUTHORIZATION).iter();
    found.extend(only(authorization.filter_map(bearer))?);
    if let Some(name) = &from.query {
        let query = request.uri().query().unwrap_or_default();
        let values = parameters(query).filter(|(own, _)| own == name);
        found.extend(only(values.map(|(_, value)| value))?);
    }
    if let Some(prefix) = from.subprotocol.as_deref().filter(|_| may_switch) {
        let offered = list(headers, &SEC_WEBSOCKET_PROTOCOL);
        found.extend(only(
            offered.filter_map(|one| one.strip_prefix(prefix).map(str::to_owned)),
        )?);
    }
    if let Some(name) = &from.cookie {
        let values = cookies(headers).filter(|(own, _)| *own == name.as_bytes());
        // What cannot be read is a token that does not count.
        let values = values.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
        found.extend(only(values)?);
    }
    Ok(found)
}

fn only(mut values: impl Iterator<Item = String>) -> Result<Option<String>, Ambiguous> {
    let first = values.next();
    match values.next() {
        Some(_) => Err(Ambiguous),
        None => Ok(first),
    }
}

/// The token of `Authorization: Bearer` (RFC 6750 §2.1). What cannot be read is a token that does
/// not count.
fn bearer(value: &HeaderValue) -> Option<String> {
    let scheme = value.as_bytes().get(..6)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    match value.as_bytes().get(6..)? {
        [b' ' | b'\t', rest @ ..] => Some(String::from_utf8_lossy(rest.trim_ascii()).into_owned()),
        [] => Some(String::new()),
        [..] => None,
    }
}

/// The parameters of a query, by their decoded names.
fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (decoded(name), decoded(value))
    })
}

fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

/// The pairs of all cookies (RFC 6265 §5.4), in whatever letters the others are: some applications
/// write them in Latin-1.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    pairs(headers).map(|pair| match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => {
            let (name, value) = pair.split_at(at);
            let value = value.get(1..).unwrap_or_default();
            (name.trim_ascii(), unquoted(value.trim_ascii()))
        }
        None => (&[][..], unquoted(pair)),
    })
}

fn pairs(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let fields = headers.get_all(COOKIE).iter();
    let pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii)
}

fn unquoted(value: &[u8]) -> &[u8] {
    let inner = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    inner.unwrap_or(value)
}

/// The elements of a list of tokens. What else is among them is none, and hides no other.
fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let fields = headers.get_all(name).iter();
    let elements = fields.flat_map(|field| options(field.as_bytes()));
    let elements = elements.filter(|element| element.is_ascii());
    elements.filter_map(|element| str::from_utf8(element).ok())
}

// === Taking away ===

/// Takes away whatever the ways of a route could have been shown, unless the instance is to see it.
/// Authorization and cookies stay if another server has accepted them: they are the instance's, too.
/// Returns the subprotocol that was for the gateway.
pub(in crate::proxy) fn take_all<B>(
    auth: &AuthConfig,
    is_judged_elsewhere: bool,
    request: &mut Request<B>,
) -> Option<HeaderValue> {
    for name in auth.fields() {
        request.headers_mut().remove(name);
    }
    let mut subprotocol = None;
    for way in auth.any.iter().filter(|way| !way.keeps_credential()) {
        match way.proof() {
            Some(Proof::Jwt(JwtAuth { token_from, .. })) => {
                let headers = request.headers_mut();
                if !is_judged_elsewhere {
                    take_bearer(headers);
                    let cookie = token_from.cookie.iter();
                    cookie.for_each(|name| take_cookie(headers, name));
                }
                if let Some(prefix) = &token_from.subprotocol {
                    subprotocol = take_subprotocol(headers, prefix).or(subprotocol);
                }
                if let Some(name) = &token_from.query {
                    take_from_targets(request, |own| own == name);
                }
            }
            Some(Proof::SignedUrl(_)) => {
                take_from_targets(request, |own| SignedUrl::PARAMETERS.contains(&own));
            }
            Some(Proof::Header(_) | Proof::ClientCertificate(_) | Proof::Forward(_)) | None => {}
        }
    }
    subprotocol
}

fn take_bearer(headers: &mut HeaderMap) {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    if values.any(|value| bearer(value).is_some()) {
        headers.remove(AUTHORIZATION);
    }
}

fn take_cookie(headers: &mut HeaderMap, name: &str) {
    let is_own = |pair: &[u8]| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let own = parts.next().unwrap_or_default();
        parts.next().is_some() && own.trim_ascii() == name.as_bytes()
    };
    if !pairs(headers).any(is_own) {
        return;
    }
    let rest: Vec<&[u8]> = pairs(headers).filter(|pair| !is_own(pair)).collect();
    let rest = HeaderValue::from_bytes(&rest.join(&b"; "[..]));
    headers.remove(COOKIE);
    if let Ok(rest) = rest
        && !rest.is_empty()
    {
        headers.insert(COOKIE, rest);
    }
}

/// Returns the first that was offered with this beginning.
pub(in crate::proxy) fn take_subprotocol(
    headers: &mut HeaderMap,
    prefix: &str,
) -> Option<HeaderValue> {
    let offered: Vec<String> = list(headers, &SEC_WEBSOCKET_PROTOCOL)
        .map(str::to_owned)
        .collect();
    let (own, rest): (Vec<_>, Vec<_>) =
        offered.into_iter().partition(|one| one.starts_with(prefix));
    let own = HeaderValue::from_str(own.first()?).ok()?;
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Ok(rest) = HeaderValue::from_str(&rest.join(", "))
        && !rest.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, rest);
    }
    Some(own)
}

/// Takes parameters out of the request's query, and out of the address of the page that it came from.
fn take_from_targets<B>(request: &mut Request<B>, is_own: impl Fn(&str) -> bool) {
    take_parameters(request.uri_mut(), &is_own);
    let headers = request.headers_mut();
    let pages: Vec<HeaderValue> = headers.get_all(REFERER).iter().cloned().collect();
    if !pages.iter().any(|page| page.as_bytes().contains(&b'?')) {
        return;
    }
    headers.remove(REFERER);
    for page in pages {
        // What cannot be read may have them, and is not needed (RFC 9110 §10.1.3).
        if let Ok(mut page) = Uri::try_from(page.as_bytes()) {
            take_parameters(&mut page, &is_own);
            if let Ok(page) = HeaderValue::try_from(page.to_string()) {
                headers.append(REFERER, page);
            }
        }
    }
}

/// Takes parameters of these decoded names out of the query.
fn take_parameters(uri: &mut Uri, is_own: impl Fn(&str) -> bool) {
    let Some(query) = uri.query() else {
        return;
    };
    let name_of = |parameter: &str| {
        decoded(
            parameter
                .split_once('=')
                .map_or(parameter, |(name, _)| name),
        )
    };
    let rest: Vec<&str> = query
        .split('&')
        .filter(|one| !is_own(&name_of(one)))
        .collect();
    if rest.len() == query.split('&').count() {
        return;
    }
    let target = match rest.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), rest.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(target).ok();
    if let Ok(changed) = Uri::from_parts(parts) {
        *uri = changed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, fields: &[(&'static str, &str)]) -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = target.parse().unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
    }

    fn everywhere() -> TokenFrom {
        TokenFrom {
            cookie: Some("session".to_owned()),
            query: Some("access_token".to_owned()),
            subprotocol: Some("token.".to_owned()),
        }
    }

    #[test]
    fn a_place_with_two_tokens_has_none_that_counts() {
        for (target, fields) in [
            (
                "/",
                &[("authorization", "Bearer a"), ("authorization", "bearer a")][..],
            ),
            ("/?access_token=a&access_token=a", &[]),
            ("/?access_token=a&access%5Ftoken=b", &[]),
            ("/", &[("cookie", "session=a; session=b")]),
            (
                "/",
                &[("cookie", "session=a"), ("cookie", "x=y; session=b")],
            ),
            ("/", &[("sec-websocket-protocol", "token.a, token.b")]),
        ] {
            let found = tokens(&request(target, fields), &everywhere(), true);
            assert_eq!(found, Err(Ambiguous), "{target} {fields:?}");
        }
    }

    #[test]
    fn tokens_are_found_only_where_the_route_looks() {
        let fields = [
            ("authorization", "BEARER  a"),
            ("cookie", "x=1; session=\"b\"; sessions=z"),
            ("sec-websocket-protocol", "chat, token.c"),
        ];
        let full = request("/p?access_token=d&y=1", &fields);
        assert_eq!(tokens(&full, &TokenFrom::default(), true).unwrap(), ["a"]);
        assert_eq!(
            tokens(&full, &everywhere(), true).unwrap(),
            ["a", "d", "c", "b"]
        );
        assert_eq!(
            tokens(&full, &everywhere(), false).unwrap(),
            ["a", "d", "b"]
        );
        let none = request("/", &[("authorization", "Basic YTpi"), ("cookie", "a=b")]);
        assert_eq!(tokens(&none, &everywhere(), true).unwrap(), [""; 0]);
        let bare = request("/", &[("authorization", "Bearer")]);
        assert_eq!(tokens(&bare, &everywhere(), true).unwrap(), [""]);
    }

    #[test]
    fn cookies_in_other_letters_hide_no_token_and_no_second_one() {
        let cookies = |fields: &[&[u8]]| {
            let mut request = Request::new(());
            for field in fields {
                let field = HeaderValue::from_bytes(field).unwrap();
                request.headers_mut().append(COOKIE, field);
            }
            tokens(&request, &everywhere(), false)
        };
        let beside = cookies(&[b"n=J\xfcrgen; session=a"]).unwrap();
        assert_eq!(beside, ["a"]);
        let hidden = cookies(&[b"session=a", b"n=\xfc; session=b"]);
        assert_eq!(hidden, Err(Ambiguous));
        let own = cookies(&[b"session=\xfc"]).unwrap();
        assert_eq!(own, ["\u{fffd}"], "one that does not count");
    }

    #[test]
    fn the_page_that_a_request_came_from_tells_no_credential_however_it_is_written() {
        for (pages, expected) in [
            (
                &["https://a.test/p?access_token=d&x=1"][..],
                &["https://a.test/p?x=1"][..],
            ),
            (&["/p?access_token=d"], &["/p"]),
            (&["https://a.test/p?q=a b&access_token=d"], &[]),
            (
                &["https://a.test/?x=1", "https://a.test/?access_token=d"],
                &["https://a.test/?x=1", "https://a.test/"],
            ),
            (&["what is no address"], &["what is no address"]),
        ] {
            let fields: Vec<_> = pages.iter().map(|page| ("referer", *page)).collect();
            let mut request = request("/", &fields);
            take_from_targets(&mut request, |name| name == "access_token");
            let left: Vec<_> = request.headers().get_all(REFERER).iter().collect();
            assert_eq!(left, expected, "{pages:?}");
        }
    }

    #[test]
    fn what_is_taken_away_leaves_the_rest_as_it_is() {
        for (target, expected) in [
            ("/p?access_token=d", "/p"),
            ("/p?access_token=d&y=%20&z", "/p?y=%20&z"),
            ("/p?y=1&access%5ftoken=d&access_token", "/p?y=1"),
            ("/p?&access_token=d", "/p?"),
            ("/p?xaccess_token=d", "/p?xaccess_token=d"),
            ("http://a.test/p?access_token=d", "http://a.test/p"),
        ] {
            let mut uri: Uri = target.parse().unwrap();
            take_parameters(&mut uri, |name| name == "access_token");
            assert_eq!(uri.to_string(), expected);
        }
        let mut headers = request(
            "/",
            &[
                ("cookie", "a=\"1\"; session=x;b=2"),
                ("cookie", "session=y"),
            ],
        )
        .headers()
        .clone();
        take_cookie(&mut headers, "session");
        assert_eq!(headers[COOKIE], "a=\"1\"; b=2");
        take_cookie(&mut headers, "a");
        take_cookie(&mut headers, "b");
        assert!(!headers.contains_key(COOKIE));
        let mut headers = HeaderMap::new();
        let latin = HeaderValue::from_bytes(b"n=J\xfcrgen; session=x").unwrap();
        headers.append(COOKIE, latin);
        take_cookie(&mut headers, "session");
        assert_eq!(headers[COOKIE].as_bytes(), b"n=J\xfcrgen");
        let mut headers = request(
            "/",
            &[
                ("sec-websocket-protocol", "chat,token.c"),
                ("sec-websocket-protocol", "v2"),
            ],
        )
        .headers()
        .clone();
        assert_eq!(take_subprotocol(&mut headers, "token.").unwrap(), "token.c");
        assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], "chat, v2");
        assert_eq!(take_subprotocol(&mut headers, "token."), None);
        let latin = HeaderValue::from_bytes(b"caf\xe9, token.c,v2").unwrap();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, latin);
        assert_eq!(take_subprotocol(&mut headers, "token.").unwrap(), "token.c");
        assert_eq!(headers[SEC_WEBSOCKET_PROTOCOL], "v2");
    }
}
