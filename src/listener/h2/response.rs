//! The head of a response as HTTP/2 has it (RFC 9113 §8.2.2, §8.3.2).
//!
//! Guarantees: it has no field of the connection, all that its body adds, the time, and its
//! length where that is certain; a response without content ends with its head.

use ::http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, Entry, HeaderName, TE, TRANSFER_ENCODING, UPGRADE,
};
use ::http::response::Parts;
use ::http::{HeaderMap, StatusCode};
use http1::{only_length, options};
use hyper::body::Body;

use crate::listener::date;
use crate::listener::service::ExtraHeaders;

/// Room for fields that are added.
const ADDED: usize = 4;

/// Completes a head; returns whether its response has content.
pub(super) fn complete<B: Body + ExtraHeaders>(
    head: &mut Parts,
    body: &mut B,
    is_head: bool,
) -> bool {
    let headers = &mut head.headers;
    if let Some(lines) = body.take_lines() {
        let own = std::mem::replace(headers, lines.to_map(ADDED));
        for (name, value) in &own {
            headers.append(name.clone(), value.clone());
        }
    }
    if headers.keys().any(is_of_connection) {
        remove_connections(headers);
    }
    body.extra_headers(|name, value| {
        headers.append(name.clone(), value.clone());
    });
    if let Entry::Vacant(entry) = headers.entry(DATE)
        && let Some(now) = date::value()
    {
        entry.insert(now);
    }
    let is_without = matches!(
        head.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    let is_nothing = is_without || body.is_end_stream();
    let exact = body.size_hint().exact().filter(|_| !is_nothing);
    if headers.contains_key(CONTENT_LENGTH) || exact.is_some() {
        // As over HTTP/1: one length, or none (RFC 9110 §8.6).
        let length = exact.or_else(|| only_length(headers));
        match length.filter(|_| !is_without) {
            Some(length) => drop(headers.insert(CONTENT_LENGTH, length.into())),
            None => drop(headers.remove(CONTENT_LENGTH)),
        }
    }
    !is_nothing && !is_head
}

fn is_of_connection(name: &HeaderName) -> bool {
    match name.as_str().len() {
        2 => *name == TE,
        7 => *name == UPGRADE,
        10 => *name == CONNECTION || name == "keep-alive",
        16 => name == "proxy-connection",
        17 => *name == TRANSFER_ENCODING,
        _ => false,
    }
}

/// Removes the fields of the connection, and those that `Connection` names (RFC 9110 §7.6.1).
fn remove_connections(headers: &mut HeaderMap) {
    let fields: Vec<_> = headers.get_all(CONNECTION).iter().cloned().collect();
    for option in fields.iter().flat_map(|value| options(value.as_bytes())) {
        if let Ok(name) = HeaderName::from_bytes(option) {
            headers.remove(name);
        }
    }
    let names: Vec<_> = headers
        .keys()
        .filter(|name| is_of_connection(name))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderValue, Response};
    use bytes::Bytes;
    use http_body_util::Full;

    use super::*;

    impl ExtraHeaders for Full<Bytes> {
        fn extra_headers(&self, mut add: impl FnMut(&HeaderName, &HeaderValue)) {
            let (name, value) = ("x-extra", HeaderValue::from_static("1"));
            add(&HeaderName::from_static(name), &value);
        }
    }

    fn completed(
        status: u16,
        fields: &[(&str, &str)],
        body: &'static str,
        is_head: bool,
    ) -> (HeaderMap, bool) {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let (mut head, ()) = response.body(()).unwrap().into_parts();
        let has_content = complete(&mut head, &mut Full::<Bytes>::from(body), is_head);
        (head.headers, has_content)
    }

    #[test]
    fn nothing_of_a_connection_goes_on() {
        let (headers, _) = completed(
            200,
            &[
                ("connection", "x-hop, close"),
                ("connection", "x-other"),
                ("x-hop", "1"),
                ("x-other", "1"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "close"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("te", "gzip"),
                ("x-kept", "1"),
            ],
            "",
            false,
        );
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["date", "x-extra", "x-kept"]);
    }

    #[test]
    fn a_response_has_its_length_and_the_time_and_keeps_its_own() {
        let (headers, has_content) = completed(200, &[], "abc", false);
        assert!(has_content && headers[CONTENT_LENGTH] == "3" && headers.contains_key(DATE));
        let (headers, _) = completed(200, &[("date", "then")], "abc", false);
        assert_eq!(headers[DATE], "then");
    }

    #[test]
    fn a_response_has_one_length_that_is_true_or_none() {
        for (status, lengths, body, expected) in [
            (200, &["3", "3"][..], "abc", Some("3")),
            (200, &["3, 3"], "abc", Some("3")),
            // What answers HEAD, or 304, has no body that could contradict it.
            (200, &["9"], "", Some("9")),
            (200, &["abc"], "", None),
            (200, &["5", "6"], "", None),
            (204, &["5"], "", None),
            (304, &["5"], "", None),
            (304, &["x"], "", None),
        ] {
            let fields: Vec<_> = lengths.iter().map(|one| ("content-length", *one)).collect();
            let (headers, _) = completed(status, &fields, body, body.is_empty());
            let found: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
            let expected: Vec<_> = expected.into_iter().collect();
            assert_eq!(found, expected, "{status} {lengths:?}");
        }
    }

    #[test]
    fn what_has_no_content_ends_with_its_head() {
        let (headers, has_content) = completed(200, &[], "abc", true);
        assert!(!has_content && headers[CONTENT_LENGTH] == "3");
        for status in [204, 304] {
            let (headers, has_content) = completed(status, &[], "abc", false);
            assert!(
                !has_content && !headers.contains_key(CONTENT_LENGTH),
                "{status}"
            );
        }
        let (headers, has_content) = completed(200, &[], "", false);
        assert!(!has_content && !headers.contains_key(CONTENT_LENGTH));
    }
}
