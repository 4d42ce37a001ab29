//! How far an `OPTIONS` or `TRACE` goes (`Max-Forwards`, RFC 9110 §7.6.2).
//!
//! Guarantees: a request that may go no further is answered here, and wakes and asks nobody; what
//! `TRACE` repeats has no credentials in it (RFC 9110 §9.3.8). With other methods the field means
//! nothing, and it passes as it came.

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, COOKIE, MAX_FORWARDS, PROXY_AUTHORIZATION,
};
use http::{HeaderName, HeaderValue, Method, Response};
use http_body_util::Full;
use http1::{digits, line};

use super::response_body::Content;
use crate::client::Request;
use crate::upstream::{Field, Fields};

const SECRET: [HeaderName; 5] = [
    AUTHORIZATION,
    COOKIE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("client-cert"),
    HeaderName::from_static("client-cert-chain"),
];

/// The gateway's answer, if the request may go no further; otherwise it has one hop less.
/// `fields` are those of the request.
pub(super) fn answer_last<B>(
    request: &mut Request<B>,
    fields: Fields,
) -> Option<Response<Content>> {
    let is_limited = matches!(*request.method(), Method::OPTIONS | Method::TRACE);
    if !fields.has(Field::MaxForwards) || !is_limited {
        return None;
    }
    let mut values = request.headers().get_all(MAX_FORWARDS).iter();
    let left = match (values.next(), values.next()) {
        (Some(left), None) => digits(left.as_bytes())?,
        // What is said twice says nothing.
        _ => return None,
    };
    let Some(left) = left.checked_sub(1) else {
        return Some(match *request.method() {
            Method::TRACE => trace(request),
            _ => Response::new(Content::Own(Full::default())),
        });
    };
    request.headers_mut().insert(MAX_FORWARDS, left.into());
    None
}

/// The request as it came here.
fn trace<B>(request: &Request<B>) -> Response<Content> {
    let mut message = format!(
        "{} {} {:?}\r\n",
        request.method(),
        request.uri(),
        request.version()
    );
    let mut fields = Vec::new();
    for (name, value) in request.headers() {
        if !SECRET.contains(name) {
            line(&mut fields, name.as_str(), value.as_bytes());
        }
    }
    message.push_str(&String::from_utf8_lossy(&fields));
    message.push_str("\r\n");
    let mut response = Response::new(Content::Own(Full::new(Bytes::from(message))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("message/http"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(method: &str, values: &[&str]) -> (bool, Vec<String>) {
        let mut request = http::Request::builder().method(method);
        for value in values {
            request = request.header(MAX_FORWARDS, *value);
        }
        let mut request = Request::from(request.body(()).unwrap());
        let fields = Fields::of(request.headers());
        let answered = answer_last(&mut request, fields).is_some();
        let left = request.headers().get_all(MAX_FORWARDS).iter();
        let left = left.map(|value| value.to_str().unwrap().to_owned());
        (answered, left.collect())
    }

    #[test]
    fn a_hop_is_taken_off_until_none_is_left() {
        for (method, values, answered, expected) in [
            ("OPTIONS", &["10"][..], false, &["9"][..]),
            ("TRACE", &["1"], false, &["0"]),
            ("TRACE", &["0"], true, &["0"]),
            ("OPTIONS", &["00"], true, &["00"]),
            ("OPTIONS", &["-1"], false, &["-1"]),
            (
                "OPTIONS",
                &["99999999999999999999"],
                false,
                &["99999999999999999999"],
            ),
            ("OPTIONS", &["0", "0"], false, &["0", "0"]),
            ("OPTIONS", &[], false, &[]),
            ("GET", &["0"], false, &["0"]),
        ] {
            let expected = expected.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(
                left(method, values),
                (answered, expected),
                "{method} {values:?}"
            );
        }
    }
}
