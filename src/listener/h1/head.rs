//! A request's head in the form in which the service takes it.
//!
//! Guarantees: nothing is lost of a head that the codec has accepted but the letter case of names,
//! which is kept where a route wants it;
//! characters of a target that only RFC 3986 forbids are percent-encoded, as browsers do.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};

use crate::client::{ClientRequest, OriginalNames, Request};
use http1::{BodyLength, Copied, FieldLines, HeadError, RequestFraming, RequestHead, digits};

/// Bytes of a target, at most: as many as `http::Uri` takes.
const MOST_TARGET: usize = (u16::MAX - 1) as usize;
/// Room for fields that the gateway adds to a request.
const ADDED: usize = 4;

/// A request, and what its connection has to know of it.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) request: ClientRequest,
    pub(super) framing: RequestFraming,
}

/// A head cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("the target is longer than {MOST_TARGET} bytes")]
    LongTarget,
    #[error("the target is none")]
    Target,
    #[error("the client has as much in memory as it may have")]
    NoRoom,
}

/// Puts the request, without its body, into `into`; `keeps_names` says whether the letters of its
/// names are kept.
pub(super) fn request(
    head: RequestHead<'_, '_>,
    into: &mut Option<Head>,
    keeps_names: bool,
) -> Result<(), Unreadable> {
    let method = Method::from_bytes(head.method.as_bytes()).map_err(|_| HeadError::Value)?;
    let has_one_length = || match head.framing.body {
        BodyLength::Length(_) => {
            let mut lengths = head.fields.all(CONTENT_LENGTH.as_str());
            lengths.next().and_then(digits).is_some() && lengths.next().is_none()
        }
        BodyLength::Nothing | BodyLength::Chunked | BodyLength::UntilClose => true,
    };
    if !keeps_names
        && has_one_length()
        && let Some(lines) = FieldLines::of(head.bytes, head.fields)
    {
        let uri = uri(head.target, || {
            lines.part(head.bytes, head.target.as_bytes())
        })?;
        *into = Some(Head {
            request: Box::new(Request::of_lines(method, uri, head.version, lines, None)),
            framing: head.framing,
        });
        return Ok(());
    }
    let copied = Copied::of(head.bytes);
    let count = head.fields.len();
    let headers = HeaderMap::try_with_capacity(count + ADDED);
    let mut headers = headers.map_err(|_| HeadError::TooManyFields(count))?;
    for field in head.fields.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(copied.part(field.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(HeadError::Value.into());
        };
        if name == CONTENT_LENGTH {
            // Equal lengths, or a list of them, go on as one (RFC 9110 §8.6).
            if let BodyLength::Length(length) = head.framing.body {
                let is_one = digits(field.value).is_some();
                headers
                    .entry(name)
                    .or_insert_with(|| if is_one { value } else { length.into() });
            }
            continue;
        }
        if headers.try_append(name, value).is_err() {
            return Err(HeadError::TooManyFields(count).into());
        }
    }
    let uri = uri(head.target, || copied.part(head.target.as_bytes()))?;
    let request = &mut into
        .insert(Head {
            request: Box::new(Request::new(None)),
            framing: head.framing,
        })
        .request;
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.version_mut() = head.version;
    *request.headers_mut() = headers;
    if keeps_names {
        let names = OriginalNames::new(copied.part(head.bytes));
        request.extensions_mut().insert(names);
    }
    Ok(())
}

fn uri(target: &str, copied: impl FnOnce() -> Bytes) -> Result<Uri, Unreadable> {
    if target.len() > MOST_TARGET {
        return Err(Unreadable::LongTarget);
    }
    Uri::from_maybe_shared(copied()).or_else(|_| encoded(target))
}

/// A target with characters that `http` does not take.
#[cold]
fn encoded(target: &str) -> Result<Uri, Unreadable> {
    let is_raw = |byte: u8| matches!(byte, b'"' | b'<' | b'>' | b'`' | b'^' | b'|' | b'\\');
    let mut encoded = String::with_capacity(target.len() + 16);
    for character in target.chars() {
        match u8::try_from(character).is_ok_and(is_raw) {
            // Writing into memory does not fail.
            true => drop(write!(encoded, "%{:02X}", u32::from(character))),
            false => encoded.push(character),
        }
    }
    // One that has none of them is none now either.
    if encoded.len() > MOST_TARGET {
        return Err(Unreadable::LongTarget);
    }
    Uri::from_maybe_shared(Bytes::from(encoded)).map_err(|_| Unreadable::Target)
}

#[cfg(test)]
mod tests {
    use http1::{HeadLimits, RequestReader};

    use super::*;

    fn read(text: &str) -> Result<Head, Unreadable> {
        let limits = HeadLimits {
            bytes: 200_000,
            fields: 10,
        };
        let mut head = None;
        let take = |parsed: RequestHead<'_, '_>| request(parsed, &mut head, false);
        let read = RequestReader::new(limits).read_head(text.as_bytes(), take)?;
        read.unwrap().1?;
        Ok(head.unwrap())
    }

    #[test]
    fn a_request_has_what_its_head_has() {
        let head = read("GET /a?b HTTP/1.1\r\nHost: x.y\r\nX-A: 1\r\nx-a: 2\r\n\r\n").unwrap();
        let request = &head.request;
        assert_eq!(
            (request.method(), request.uri().path()),
            (&Method::GET, "/a")
        );
        assert_eq!(request.headers().get_all("x-a").iter().count(), 2);
        assert_eq!(request.headers()["host"], "x.y");
        assert!(request.body().is_none());
    }

    #[test]
    fn characters_that_browsers_encode_are_encoded() {
        for (target, expected) in [
            ("/a?f={\"a\":1}", "/a?f={%22a%22:1}"),
            ("/<b>`", "/%3Cb%3E%60"),
            ("/a|b^c", "/a|b^c"),
            ("/%22", "/%22"),
        ] {
            let head = read(&format!("GET {target} HTTP/1.1\r\n\r\n")).unwrap();
            let uri = head.request.uri().path_and_query().unwrap();
            assert_eq!(uri.as_str(), expected, "{target}");
        }
    }

    #[test]
    fn a_target_that_is_too_long_or_none_is_refused() {
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(MOST_TARGET));
        assert_eq!(read(&long).unwrap_err(), Unreadable::LongTarget);
        let none = read("GET http:// HTTP/1.1\r\n\r\n").unwrap_err();
        assert_eq!(none, Unreadable::Target);
    }
}
