//! Where the codec has to be stricter than the parsers that it is made of, and than hyper.

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use http1::{
    Audience, BodyDecoder, BodyEncoder, BodyLength, BodyPart, ChunkError, Final, FramingError,
    HeadError, write_response,
};

use crate::codec::{self, End, LIMITS};
use crate::peer;
use crate::strict::{self, Asked};

const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";

/// What hyper takes for one request with trailers is the end of it and another to a reader that
/// lets LF end a line.
#[test]
fn lines_after_the_last_chunk_end_with_cr_lf() {
    for rest in [
        "0\r\n\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        "0\r\nx: y\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        "0\r\nx: y\r\n\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
        "0\r\nx: y\nz: 1\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let text = format!("{CHUNKED}5\r\nhello\r\n{rest}");
        for sizes in [&[usize::MAX][..], &[1], &[7]] {
            let seen = codec::requests(codec::cut(text.as_bytes(), sizes), LIMITS);
            assert_eq!(seen.end, End::Chunk(ChunkError::Trailers), "{rest:?}");
            assert!(seen.messages.iter().all(|message| !message.is_whole));
        }
    }
}

/// Lines of more bytes than are kept of one, which come at once or in parts.
#[test]
fn a_line_that_is_too_long_is_so_however_it_is_cut() {
    let long = "x".repeat(20_000);
    for body in [
        format!("5;{long}\r\nhello\r\n0\r\n\r\n"),
        format!("5{}\r\nhello\r\n0\r\n\r\n", " ".repeat(20_000)),
        format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(20_000)),
        format!("5\r\nhello\r\n0\r\nx: {long}\r\n\r\n"),
    ] {
        for size in [usize::MAX, 16 * 1024, 16 * 1024 + 1, 4096, 97] {
            let mut decoder = BodyDecoder::new(BodyLength::Chunked);
            let (mut input, mut end) = (BytesMut::new(), Ok(BodyPart::More));
            for part in codec::cut(body.as_bytes(), &[size]) {
                input.extend_from_slice(part);
                end = loop {
                    match decoder.take(&mut input) {
                        Ok(BodyPart::Data(_) | BodyPart::Trailers(_)) => {}
                        end => break end,
                    }
                };
                if end != Ok(BodyPart::More) {
                    break;
                }
            }
            assert_eq!(end, Err(ChunkError::TooLarge), "{body:.20} {size}");
        }
    }
}

fn asked_for(method: Method, head: &str) -> codec::Seen<codec::Response> {
    codec::responses([head.as_bytes()], LIMITS, &[method])
}

/// A coding that is not taken off is not passed on as if it had been.
#[test]
fn a_response_in_another_coding_is_refused_though_hyper_reads_it() {
    for coding in [
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "identity",
        "chunked;a=b",
    ] {
        let text = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: {coding}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        let seen = asked_for(Method::GET, &text);
        let is_refused = matches!(
            seen.end,
            End::Head(HeadError::Framing(
                FramingError::Coding | FramingError::NotChunked
            ))
        );
        assert!(is_refused, "{coding}: {:?}", seen.end);
        let theirs = peer::response(&[text.as_bytes()], true, &Method::GET);
        assert!(theirs.is_some_and(|one| one.is_whole), "{coding}");
    }
}

/// A length that is none says nothing about a body that is not there; what else is said holds.
#[test]
fn the_connection_ends_as_it_is_said_beside_a_length_that_is_none() {
    for (method, status) in [(Method::HEAD, "200 OK"), (Method::GET, "304 Not Modified")] {
        for fields in [
            "connection: close\r\ncontent-length: five",
            "content-length: 5\r\ncontent-length: 6\r\nconnection: close",
        ] {
            let text = format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n");
            let seen = asked_for(method.clone(), &text);
            let goes_on = |one: &codec::Response| one.head.framing.is_persistent;
            assert!(!seen.messages.iter().any(goes_on), "{fields:?}");
        }
    }
}

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

/// Also where no body follows: a client or a cache remembers the length (RFC 9110 §8.6).
#[test]
fn an_answer_to_head_has_one_valid_length_or_none() {
    for (fields, expected) in [
        (&[("content-length", "5")][..], Some("5")),
        (&[("content-length", "5"), ("content-length", "5")], None),
        (&[("content-length", "5"), ("content-length", "6")], None),
        (&[("content-length", "+5")], None),
        (&[("content-length", "")], None),
        (&[("content-length", "5, 6")], None),
    ] {
        let mut out = Vec::new();
        let audience = Audience {
            version: Version::HTTP_11,
            is_head: true,
            is_last: false,
        };
        let response = Final {
            status: StatusCode::OK,
            reason: None,
            lines: None,
            headers: &headers(fields),
            length: None,
        };
        write_response(&mut out, response, audience, |_| {}, |_| {});
        let asked = Asked {
            is_head: true,
            is_old: false,
        };
        let read = strict::response(&out, asked).unwrap();
        let mut lengths = read.fields.iter();
        let length = lengths.find(|field| field.0 == "content-length");
        let length = length.map(|field| std::str::from_utf8(&field.1).unwrap());
        // One of two equal ones is as good as none.
        if fields.len() == 1 || length.is_some_and(|length| length != "5") {
            assert_eq!(length, expected, "{fields:?}");
        }
    }
}

/// A coding overrules a length (RFC 9112 §6.3, rule 3), which is not believed afterwards either.
#[test]
fn a_length_beside_a_coding_is_not_believed() {
    let mut out = Vec::new();
    let audience = Audience {
        version: Version::HTTP_11,
        is_head: false,
        is_last: false,
    };
    let fields = [("content-length", "3"), ("transfer-encoding", "chunked")];
    let response = Final {
        status: StatusCode::OK,
        reason: None,
        lines: None,
        headers: &headers(&fields),
        length: None,
    };
    let outcome = write_response(&mut out, response, audience, |_| {}, |_| {});
    assert_eq!(outcome.body, BodyLength::Chunked, "{}", out.escape_ascii());
}

/// A chunk of no bytes would be the last.
#[test]
fn a_part_of_no_bytes_ends_no_body() {
    for length in [
        BodyLength::Chunked,
        BodyLength::Length(5),
        BodyLength::UntilClose,
    ] {
        let (mut encoder, mut out) = (BodyEncoder::new(length), Vec::new());
        let after = encoder.begin_part(0, &mut out).unwrap();
        out.extend_from_slice(after);
        assert_eq!(out, b"", "{length:?}");
    }
}
