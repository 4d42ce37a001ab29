//! Requests' heads.
//!
//! Guarantees: a head is taken only when it is whole, can be read in one way, and nothing belongs
//! to it but itself. The syntax is `httparse`'s, which is hyper's own.

use std::mem::MaybeUninit;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{Method, Request, Uri};
use hyper::body::Incoming;

use crate::config::ServerConfig;
use http1::Copied;

/// Fields, at most; a client that sends more is hyper's, whatever the configuration allows.
const MOST_FIELDS: usize = 100;
/// Bytes of a target, at most: as many as `http::Uri` takes.
const MOST_TARGET: usize = (u16::MAX - 1) as usize;
/// Room for fields that the gateway adds to a request.
const ADDED: usize = 4;

/// A request that is a head alone.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) request: Request<Option<Incoming>>,
    /// Its bytes.
    pub(super) length: usize,
    /// Whether it is to be the connection's last.
    pub(super) last: bool,
}

/// It is something else, or it is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotSimple;

/// Limits on a head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) fields: usize,
    pub(super) bytes: usize,
}

// === impl Limits ===

impl Limits {
    pub(super) fn of(config: &ServerConfig) -> Self {
        Self {
            fields: config.max_headers.min(MOST_FIELDS),
            bytes: config.max_header_bytes,
        }
    }
}

/// Reads the head that `input` begins with, once it is there as a whole.
pub(super) fn read(input: &[u8], limits: Limits) -> Result<Option<Head>, NotSimple> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let status = parsed.parse_with_uninit_headers(input, &mut fields);
    let length = match status.map_err(|_| NotSimple)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if input.len() <= limits.bytes => return Ok(None),
        httparse::Status::Partial => return Err(NotSimple),
    };
    let (Some(method), Some(target), Some(1)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(NotSimple);
    };
    if length > limits.bytes
        || parsed.headers.len() > limits.fields
        || target.len() > MOST_TARGET
        || method == "CONNECT"
    {
        return Err(NotSimple);
    }
    let copied = Copied::of(input.get(..length).unwrap_or_default());
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + ADDED);
    let mut last = false;
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| NotSimple)?;
        match name {
            CONNECTION if headers.contains_key(CONNECTION) => return Err(NotSimple),
            CONNECTION if field.value.eq_ignore_ascii_case(b"close") => last = true,
            CONNECTION if field.value.eq_ignore_ascii_case(b"keep-alive") => {}
            CONNECTION | CONTENT_LENGTH | EXPECT | TE | TRANSFER_ENCODING | UPGRADE => {
                return Err(NotSimple);
            }
            _ => {}
        }
        let value =
            HeaderValue::from_maybe_shared(copied.part(field.value)).map_err(|_| NotSimple)?;
        headers.append(name, value);
    }
    let mut request = Request::new(None);
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| NotSimple)?;
    *request.uri_mut() =
        Uri::from_maybe_shared(copied.part(target.as_bytes())).map_err(|_| NotSimple)?;
    *request.headers_mut() = headers;
    Ok(Some(Head {
        request,
        length,
        last,
    }))
}

/// Bytes of the empty lines before a head, which mean nothing (RFC 9112 §2.2). Were they kept, each
/// would be looked at again with the next.
pub(super) fn empty_lines(input: &[u8]) -> usize {
    let mut rest = input;
    while let Some(less) = (rest.strip_prefix(b"\n")).or_else(|| rest.strip_prefix(b"\r\n")) {
        rest = less;
    }
    input.len() - rest.len()
}

/// For the fuzzer: a head is no longer than what it was read from, and means the same whatever
/// follows it.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let limits = Limits {
        fields: MOST_FIELDS,
        bytes: 64 * 1024,
    };
    let Ok(Some(head)) = read(bytes, limits) else {
        return;
    };
    let alone = bytes.get(..head.length).map(|alone| read(alone, limits));
    let fields = alone.and_then(|alone| Some(alone.ok()??.request.headers().clone()));
    assert_eq!(fields.as_ref(), Some(head.request.headers()));
    let before = bytes.get(..head.length - 1).map(|part| read(part, limits));
    assert!(matches!(before, Some(Ok(None))), "{before:?}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        fields: 3,
        bytes: 200,
    };

    fn is_plain(text: &str) -> bool {
        let read = read(text.as_bytes(), LIMITS);
        !matches!(read, Err(NotSimple))
    }

    #[test]
    fn a_head_alone_is_read_and_what_follows_it_left() {
        let text = "GET /a?b HTTP/1.1\r\nHost: x.y\r\nX-A: 1\r\nx-a: 2\r\n\r\nGET /next";
        let head = read(text.as_bytes(), LIMITS).unwrap().unwrap();
        assert_eq!(text.get(head.length..), Some("GET /next"));
        let request = &head.request;
        assert_eq!(
            (request.method(), request.uri().path()),
            (&Method::GET, "/a")
        );
        assert!(request.body().is_none() && !head.last);
        assert_eq!(request.headers().get_all("x-a").iter().count(), 2);
        assert_eq!(request.headers()["host"], "x.y");
        let closing = b"GET / HTTP/1.1\r\nconnection: Close\r\n\r\n";
        assert!(read(closing, LIMITS).unwrap().unwrap().last);
    }

    #[test]
    fn what_is_not_there_yet_is_awaited_up_to_the_limit() {
        let text = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        for end in 0..text.len() {
            let part = text.get(..end).unwrap();
            assert!(matches!(read(part.as_bytes(), LIMITS), Ok(None)), "{end}");
        }
        let endless = format!("GET /{}", "x".repeat(LIMITS.bytes));
        assert!(!is_plain(&endless));
    }

    #[test]
    fn empty_lines_before_a_head_are_no_part_of_it() {
        for (text, expected) in [
            ("", 0),
            ("\r", 0),
            ("\r\n\n\r\nGET", 5),
            ("\n\r", 1),
            (" \n", 0),
        ] {
            assert_eq!(empty_lines(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn all_that_is_not_plain_is_unusual() {
        for unusual in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/2.0\r\n\r\n",
            "CONNECT a:1 HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nTE: trailers\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: close, x-a\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: close\r\nConnection: close\r\n\r\n",
            "GET / HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n\r\n",
            "GET / HTTP/1.1\r\na : 1\r\n\r\n",
            "GET / HTTP/1.1\r\na: 1\r\n 2\r\n\r\n",
            "GET / HTTP/1.1\r\nCont\0ent-Length: 1\r\n\r\n",
            "G(T / HTTP/1.1\r\n\r\n",
            "\x16\x03\x01\x02",
        ] {
            assert!(!is_plain(unusual), "{unusual:?}");
        }
        let long = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(LIMITS.bytes));
        assert!(!is_plain(&long));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "GET", "/", " ", "HTTP/1.1", "\r\n", "\n", "host: a", "connection: close", ":", "x", "\u{e9}",
                ]),
                0..20,
            )
        ) {
            fuzz(pieces.concat().as_bytes());
        }
    }
}
