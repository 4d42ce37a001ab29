//! Heads of messages: a request's to bytes, a response's from bytes.
//!
//! Guarantees: what is written is what a careful server reads in one way only; a response whose
//! head or whose body's length could be read in two ways is refused (RFC 9112 §6.3). The syntax is
//! `httparse`'s, which is hyper's own.

use std::mem::MaybeUninit;

use bytes::{Buf as _, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use crate::upstream::fields::{Field, Fields, tokens};
use crate::upstream::forwarded::ForwardedHeaders;
use http1::{BodyLength, Copied, digits, line};

/// Fields of a response, and bytes of its head.
const MOST_FIELDS: usize = 100;
pub(super) const MOST_BYTES: usize = 400 * 1024;
/// Fields that the gateway adds to a response.
const ADDED: usize = 4;

/// A response's head is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::upstream) enum HeadError {
    /// Its syntax.
    #[error("{0}")]
    Syntax(#[from] httparse::Error),
    /// A status, name or value that HTTP does not know.
    #[error("it has a status, a name or a value that is not valid")]
    Value,
    /// It does not end.
    #[error("its head is larger than {MOST_BYTES} bytes")]
    TooLarge,
    /// Its lengths differ, or are none.
    #[error("its Content-Length is not one length")]
    Length,
    /// HTTP/1.0 has no Transfer-Encoding (RFC 9112 §6.1).
    #[error("it is HTTP/1.0 and has a Transfer-Encoding")]
    Coding,
}

/// A response, as far as its head says.
#[derive(Debug)]
pub(in crate::upstream) struct Head {
    pub(in crate::upstream) response: Response<()>,
    pub(in crate::upstream) body: BodyLength,
    /// Whether the connection takes another request afterwards.
    pub(in crate::upstream) keep_alive: bool,
}

/// Writes a request without a body.
pub(in crate::upstream) fn write(
    head: &Parts,
    forwarded: Option<&ForwardedHeaders>,
    out: &mut Vec<u8>,
) {
    let target = head.uri.path_and_query();
    for part in [
        head.method.as_str(),
        " ",
        target.map_or("/", |target| target.as_str()),
        " HTTP/1.1\r\n",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
    for (name, value) in &head.headers {
        // A length that nothing follows would swallow the next request.
        if *name == CONTENT_LENGTH && value.as_bytes() != b"0" {
            continue;
        }
        line(out, name.as_str(), value.as_bytes());
    }
    if let Some(forwarded) = forwarded {
        forwarded.write(out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Takes a response's head off the beginning of `input`, once it is there as a whole.
pub(in crate::upstream) fn read(
    input: &mut BytesMut,
    method: &Method,
) -> Result<Option<Head>, HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        input,
        &mut fields,
    )?;
    let httparse::Status::Complete(length) = status else {
        return match input.len() < MOST_BYTES {
            true => Ok(None),
            false => Err(HeadError::TooLarge),
        };
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(HeadError::Value)?;
    let version = match parsed.version {
        Some(1) => Version::HTTP_11,
        _ => Version::HTTP_10,
    };
    let reason = parsed
        .reason
        .filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    let copied = Copied::of(input.get(..length).unwrap_or_default());
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + ADDED);
    let mut fields = Fields::default();
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Value)?;
        let value = copied.part(field.value);
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| HeadError::Value)?;
        fields.add(&name, &value);
        headers.append(name, value);
    }
    input.advance(length);
    let body = body_of(method, status, version, &headers, fields)?;
    let keep_alive = keeps_alive(version, &headers, fields)
        && status != StatusCode::SWITCHING_PROTOCOLS
        && body != BodyLength::UntilClose;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    Ok(Some(Head {
        response,
        body,
        keep_alive,
    }))
}

/// RFC 9112 §9.3.
fn keeps_alive(version: Version, headers: &HeaderMap, fields: Fields) -> bool {
    if !fields.has(Field::Connection) {
        return version == Version::HTTP_11;
    }
    let has =
        |option: &str| tokens(headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case(option));
    match version {
        Version::HTTP_11 => !has("close"),
        _ => has("keep-alive") && !has("close"),
    }
}

/// RFC 9112 §6.3.
fn body_of(
    method: &Method,
    status: StatusCode,
    version: Version,
    headers: &HeaderMap,
    fields: Fields,
) -> Result<BodyLength, HeadError> {
    let without = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if without || *method == Method::HEAD {
        return Ok(BodyLength::Nothing);
    }
    if fields.has(Field::TransferEncoding)
        && let Some(last) = headers.get_all(TRANSFER_ENCODING).iter().next_back()
    {
        let last = last.as_bytes().rsplit(|byte| *byte == b',').next();
        let chunked = last.is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        return match (version, chunked) {
            (Version::HTTP_10, _) => Err(HeadError::Coding),
            (_, true) => Ok(BodyLength::Chunked),
            (_, false) => Ok(BodyLength::UntilClose),
        };
    }
    let mut length = None;
    for field in headers.get_all(CONTENT_LENGTH) {
        for text in field.as_bytes().split(|byte| *byte == b',') {
            let this = digits(text.trim_ascii()).ok_or(HeadError::Length)?;
            if *length.get_or_insert(this) != this {
                return Err(HeadError::Length);
            }
        }
    }
    Ok(match length {
        Some(0) => BodyLength::Nothing,
        Some(length) => BodyLength::Length(length),
        None => BodyLength::UntilClose,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: Method, target: &str, fields: &[(&'static str, &'static str)]) -> Parts {
        let mut request = http::Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().unwrap();
        for (name, value) in fields {
            let value = HeaderValue::from_static(value);
            request.headers_mut().append(*name, value);
        }
        request.into_parts().0
    }

    #[test]
    fn a_request_without_a_body_never_says_that_it_has_one() {
        let mut out = Vec::new();
        let fields = [
            ("host", "a.b"),
            ("content-length", "5"),
            ("x-a", "1"),
            ("x-a", "2"),
        ];
        write(&parts(Method::GET, "/x?y=z", &fields), None, &mut out);
        assert_eq!(
            out,
            b"GET /x?y=z HTTP/1.1\r\nhost: a.b\r\nx-a: 1\r\nx-a: 2\r\n\r\n"
        );
        out.clear();
        write(
            &parts(Method::POST, "/", &[("content-length", "0")]),
            None,
            &mut out,
        );
        assert_eq!(out, b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
    }

    fn reading(text: &str, method: &Method) -> Result<Option<(u16, BodyLength, bool)>, HeadError> {
        let mut input = BytesMut::from(text);
        let head = read(&mut input, method)?;
        Ok(head.map(|head| (head.response.status().as_u16(), head.body, head.keep_alive)))
    }

    #[test]
    fn a_body_is_as_long_as_its_head_says_and_in_one_way_only() {
        let chunked = || BodyLength::Chunked;
        for (text, expected) in [
            (
                "200 OK\r\ncontent-length: 5",
                Ok((BodyLength::Length(5), true)),
            ),
            (
                "200 OK\r\ncontent-length: 5, 5\r\ncontent-length: 5",
                Ok((BodyLength::Length(5), true)),
            ),
            (
                "200 OK\r\ncontent-length: 0",
                Ok((BodyLength::Nothing, true)),
            ),
            (
                "200 OK\r\ntransfer-encoding: chunked",
                Ok((chunked(), true)),
            ),
            (
                "200 OK\r\ntransfer-encoding: gzip, Chunked",
                Ok((chunked(), true)),
            ),
            (
                "200 OK\r\ntransfer-encoding: chunked, gzip",
                Ok((BodyLength::UntilClose, false)),
            ),
            (
                "200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5",
                Ok((chunked(), true)),
            ),
            (
                "200 OK\r\nconnection: close\r\ncontent-length: 5",
                Ok((BodyLength::Length(5), false)),
            ),
            (
                "200 OK\r\nconnection: x, Close\r\ncontent-length: 5",
                Ok((BodyLength::Length(5), false)),
            ),
            ("200 OK", Ok((BodyLength::UntilClose, false))),
            (
                "204 No Content\r\ncontent-length: 5",
                Ok((BodyLength::Nothing, true)),
            ),
            (
                "304 Not Modified\r\ncontent-length: 5",
                Ok((BodyLength::Nothing, true)),
            ),
            (
                "101 Switching Protocols\r\nupgrade: x",
                Ok((BodyLength::Nothing, false)),
            ),
            (
                "200 OK\r\ncontent-length: 5\r\ncontent-length: 6",
                Err(HeadError::Length),
            ),
            ("200 OK\r\ncontent-length: +5", Err(HeadError::Length)),
            ("200 OK\r\ncontent-length: 5,", Err(HeadError::Length)),
            ("200 OK\r\ncontent-length: ", Err(HeadError::Length)),
            (
                "200 OK\r\ncontent-length: 99999999999999999999",
                Err(HeadError::Length),
            ),
        ] {
            let found = reading(&format!("HTTP/1.1 {text}\r\n\r\n"), &Method::GET);
            let found = found.map(|found| found.map(|(_, body, alive)| (body, alive)).unwrap());
            assert_eq!(found, expected, "{text}");
        }
        let one = |fields| reading(&format!("HTTP/1.0 200 OK\r\n{fields}\r\n"), &Method::GET);
        assert_eq!(
            one("content-length: 1\r\n"),
            Ok(Some((200, BodyLength::Length(1), false)))
        );
        let kept = one("content-length: 1\r\nconnection: keep-alive\r\n");
        assert_eq!(kept, Ok(Some((200, BodyLength::Length(1), true))));
        assert_eq!(
            one("transfer-encoding: chunked\r\n"),
            Err(HeadError::Coding)
        );
        let head = reading(
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
            &Method::HEAD,
        );
        assert_eq!(head, Ok(Some((200, BodyLength::Nothing, true))));
    }

    #[test]
    fn what_is_no_head_is_refused_and_what_is_not_there_yet_awaited() {
        for wrong in [
            "HTTP/2.0 200 OK\r\n\r\n",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
        ] {
            assert!(reading(wrong, &Method::GET).is_err(), "{wrong:?}");
        }
        let whole = "HTTP/1.1 404 Nothing Here\r\na: b\r\ncontent-length: 1\r\n\r\n";
        for end in 0..whole.len() {
            let part = whole.get(..end).unwrap();
            assert_eq!(reading(part, &Method::GET), Ok(None), "{end}");
        }
        let mut input = BytesMut::from(&*format!("{whole}x"));
        let head = read(&mut input, &Method::GET).unwrap().unwrap();
        let reason = head.response.extensions().get::<ReasonPhrase>().unwrap();
        assert_eq!(reason.as_bytes(), b"Nothing Here");
        assert_eq!(
            (&head.response.headers()["a"], &input[..]),
            (&"b".parse().unwrap(), &b"x"[..])
        );
        let endless = format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(MOST_BYTES));
        assert_eq!(reading(&endless, &Method::GET), Err(HeadError::TooLarge));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(101));
        assert!(reading(&many, &Method::GET).is_err());
    }
}
