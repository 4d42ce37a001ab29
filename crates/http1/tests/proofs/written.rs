//! What the codec read, written out again by the codec and read by the strict reader.
//!
//! Guarantees: whatever the codec accepts goes on as messages that the strict reader ends at the
//! same byte, with the same fields and the same body.

use http::header::{CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use http1::{
    Audience, BodyEncoder, BodyLength, FieldLines, Final, HeadLimits, Outcome, ResponseReader,
    line, write_interim, write_request, write_request_lines, write_response,
};

use crate::codec::{Request, Response};
use crate::strict::{self, Asked};

const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// Writes a body in parts of these sizes.
fn write_body(
    out: &mut Vec<u8>,
    length: BodyLength,
    body: &[u8],
    trailers: &HeaderMap,
    sizes: &[usize],
) {
    let mut encoder = BodyEncoder::new(length);
    for part in crate::codec::cut(body, sizes) {
        let after = encoder
            .begin_part(part.len(), out)
            .expect("as long as it says");
        out.extend_from_slice(part);
        out.extend_from_slice(after);
    }
    encoder
        .end(Some(trailers), out)
        .expect("as long as it says");
}

/// Field lines without those that frame a body.
fn unframed(fields: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let is_framing = |name: &str| FRAMING.iter().any(|other| name.eq_ignore_ascii_case(other));
    let fields = fields.iter().filter(|field| !is_framing(&field.0));
    fields.cloned().collect()
}

fn map(fields: &[(String, Vec<u8>)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        map.append(name, HeaderValue::from_bytes(value).expect("a value"));
    }
    map
}

/// The lines of a head with these fields.
fn lines(fields: &[(String, Vec<u8>)]) -> FieldLines {
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    for (name, value) in fields {
        line(&mut head, name, value);
    }
    head.extend_from_slice(b"\r\n");
    let limits = HeadLimits {
        bytes: head.len(),
        fields: fields.len().max(1),
    };
    let take = |head: http1::ResponseHead<'_, '_>| FieldLines::of(head.bytes, head.fields);
    let read = ResponseReader::new(limits).read_head(&head, &Method::HEAD, take);
    let (_, lines) = read.expect("a head").expect("a whole head");
    lines.expect("it is small")
}

/// Writes these requests one behind the other, and has them read again.
pub(crate) fn check_requests(requests: &[Request], sizes: &[usize]) {
    for by_lines in [false, true] {
        check_requests_of(requests, sizes, by_lines);
    }
}

/// The same, with fields one by one or as the lines of a head.
fn check_requests_of(requests: &[Request], sizes: &[usize], by_lines: bool) {
    let (mut out, mut ends) = (Vec::new(), Vec::new());
    let requests: Vec<&Request> = requests.iter().filter(|one| one.is_whole).collect();
    for Request {
        head,
        fields,
        body,
        trailers,
        ..
    } in &requests
    {
        let (method, target, length) = (&head.method, &head.target, head.framing.body);
        if by_lines {
            let fields = &lines(fields);
            write_request_lines(&mut out, method, target, fields, length, |_| {});
        } else {
            let fields = fields.iter();
            let fields = fields.map(|(name, value)| (name.as_str(), value.as_slice()));
            write_request(&mut out, method, target, fields, length, |_| {});
        }
        write_body(&mut out, length, body, trailers, sizes);
        ends.push(out.len());
    }
    let read =
        strict::requests(&out).unwrap_or_else(|error| panic!("{error}: {}", out.escape_ascii()));
    assert_eq!(read.len(), requests.len(), "{}", out.escape_ascii());
    for ((read, request), end) in read.iter().zip(requests).zip(ends) {
        assert_eq!(read.end, end, "{}", out.escape_ascii());
        assert_eq!(read.start[0], request.head.method);
        assert_eq!(read.start[1], request.head.target);
        let mut fields = unframed(&request.fields);
        if by_lines {
            for (name, _) in &mut fields {
                name.make_ascii_lowercase();
            }
        }
        assert_eq!(unframed(&read.fields), fields);
        assert_eq!(read.body, request.body);
        assert_eq!(map(&read.trailers), request.trailers);
    }
}

/// Writes a response for each kind of audience, and has it read again.
pub(crate) fn check_response(response: &Response, sizes: &[usize]) {
    let mut headers = map(&response.fields);
    if response.head.framing.is_interim {
        return check_interim(response.head.status, &headers);
    }
    // A length that a coding has overruled is not the body's (RFC 9112 §6.3, rule 3).
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    let is_kept = |name: &str| {
        !name.eq_ignore_ascii_case("content-length") || headers.contains_key(CONTENT_LENGTH)
    };
    let kept = response.fields.iter().filter(|(name, _)| is_kept(name));
    let lines = lines(&kept.cloned().collect::<Vec<_>>());
    let length = match response.head.framing.body {
        BodyLength::Length(length) => Some(length),
        BodyLength::Nothing | BodyLength::Chunked | BodyLength::UntilClose => None,
    };
    for version in [Version::HTTP_11, Version::HTTP_10] {
        for is_last in [false, true] {
            let audience = Audience {
                version,
                is_head: response.head.asked == Method::HEAD,
                is_last,
            };
            check_final(response, (&headers, None), length, audience, sizes);
            let lines = Some(&lines);
            check_final(response, (&headers, lines), length, audience, sizes);
        }
    }
}

fn check_final(
    response: &Response,
    (headers, lines): (&HeaderMap, Option<&FieldLines>),
    length: Option<u64>,
    audience: Audience,
    sizes: &[usize],
) {
    let (status, none) = (response.head.status, HeaderMap::new());
    let mut out = Vec::new();
    let head = Final {
        status,
        reason: Some(response.head.reason.as_bytes()),
        lines,
        headers: if lines.is_some() { &none } else { headers },
        length,
    };
    let date = |out: &mut Vec<u8>| out.extend_from_slice(b"Thu, 01 Jan 1970 00:00:00 GMT");
    let Outcome { body, is_last } = write_response(&mut out, head, audience, |_| {}, date);
    let is_nothing = matches!(body, BodyLength::Nothing);
    match is_nothing {
        true => write_body(&mut out, body, b"", &HeaderMap::new(), sizes),
        false => write_body(&mut out, body, &response.body, &response.trailers, sizes),
    }
    let end = out.len();
    // What comes next is not the response's, unless the connection ends with it.
    if body != BodyLength::UntilClose {
        out.extend_from_slice(b"HTTP/1.1 404 the next\r\n\r\n");
    }
    let asked = Asked {
        is_head: audience.is_head,
        is_old: audience.version == Version::HTTP_10,
    };
    let read = strict::response(&out, asked)
        .unwrap_or_else(|error| panic!("{error}: {}", out.escape_ascii()));
    let shown = out.escape_ascii();
    assert_eq!(read.end, end, "{shown}");
    assert_eq!(read.start[1], status.as_str());
    assert_eq!(read.start[2], response.head.reason);
    if status != StatusCode::SWITCHING_PROTOCOLS {
        assert_eq!(read.persists, !is_last, "{shown}");
    }
    assert_eq!(read.body, response.body, "{shown}");
    if body == BodyLength::Chunked {
        assert_eq!(map(&read.trailers), response.trailers, "{shown}");
    }
    let (mut before, mut after) = (headers.clone(), map(&read.fields));
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, http::header::CONNECTION] {
        before.remove(&name);
        after.remove(&name);
    }
    let dates = before.get_all(DATE).iter().count().max(1);
    assert_eq!(after.get_all(DATE).iter().count(), dates, "{shown}");
    before.remove(DATE);
    after.remove(DATE);
    assert_eq!(after, before, "{shown}");
}

fn check_interim(status: StatusCode, headers: &HeaderMap) {
    let mut out = Vec::new();
    write_interim(&mut out, status, headers);
    let asked = Asked {
        is_head: false,
        is_old: false,
    };
    let read = strict::response(&out, asked)
        .unwrap_or_else(|error| panic!("{error}: {}", out.escape_ascii()));
    assert_eq!(read.end, out.len());
    assert_eq!(read.start[1], status.as_str());
}
