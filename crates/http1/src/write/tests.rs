use http::HeaderValue;

use super::*;

fn request(body: BodyLength, fields: &[(&str, &str)]) -> String {
    let mut out = Vec::new();
    let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
    write_request(&mut out, "PUT", "/x?y=z", fields, body, |out| {
        line(out, "via", b"1.1 w");
    });
    String::from_utf8(out).unwrap()
}

#[test]
fn a_request_says_once_how_its_body_ends() {
    let start = "PUT /x?y=z HTTP/1.1\r\n";
    let both = [
        ("Content-Length", "05"),
        ("transfer-encoding", "gzip"),
        ("X-A", "1"),
    ];
    for (body, fields, expected) in [
        (BodyLength::Nothing, &both[..], "X-A: 1\r\nvia: 1.1 w\r\n"),
        (
            BodyLength::Length(5),
            &both,
            "Content-Length: 05\r\nX-A: 1\r\nvia: 1.1 w\r\n",
        ),
        (
            BodyLength::Length(7),
            &both,
            "Content-Length: 7\r\nX-A: 1\r\nvia: 1.1 w\r\n",
        ),
        (
            BodyLength::Chunked,
            &both,
            "transfer-encoding: chunked\r\nX-A: 1\r\nvia: 1.1 w\r\n",
        ),
        (
            BodyLength::Length(0),
            &[],
            "via: 1.1 w\r\ncontent-length: 0\r\n",
        ),
        (
            BodyLength::Chunked,
            &[],
            "via: 1.1 w\r\ntransfer-encoding: chunked\r\n",
        ),
    ] {
        assert_eq!(
            request(body, fields),
            format!("{start}{expected}\r\n"),
            "{body:?}"
        );
    }
}

const USUAL: Audience = Audience {
    version: Version::HTTP_11,
    is_head: false,
    is_last: false,
};

fn response(
    status: u16,
    fields: &[(&'static str, &'static str)],
    length: Option<u64>,
    audience: Audience,
) -> (String, Outcome) {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    let status = StatusCode::from_u16(status).unwrap();
    let mut out = Vec::new();
    let date = |out: &mut Vec<u8>| out.extend_from_slice(b"now");
    let response = Final {
        status,
        reason: None,
        lines: None,
        headers: &headers,
        length,
    };
    let outcome = write_response(&mut out, response, audience, |_| {}, date);
    (String::from_utf8(out).unwrap(), outcome)
}

#[test]
fn a_response_is_framed_for_whoever_asked() {
    use BodyLength::{Chunked, Length, Nothing, UntilClose};
    let (old, head) = (
        Audience {
            version: Version::HTTP_10,
            ..USUAL
        },
        Audience {
            is_head: true,
            ..USUAL
        },
    );
    let old_last = Audience {
        is_last: true,
        ..old
    };
    let coded: &[_] = &[("transfer-encoding", "gzip")];
    let five: &[_] = &[("content-length", "5")];
    for (fields, length, audience, lines, body, is_last) in [
        (five, None, USUAL, "content-length: 5\r\n", Length(5), false),
        (
            five,
            Some(3),
            USUAL,
            "content-length: 3\r\n",
            Length(3),
            false,
        ),
        (
            coded,
            None,
            USUAL,
            "transfer-encoding: chunked\r\n",
            Chunked,
            false,
        ),
        (
            coded,
            Some(3),
            USUAL,
            "content-length: 3\r\n",
            Length(3),
            false,
        ),
        (&[], None, old, "connection: close\r\n", UntilClose, true),
        (
            five,
            None,
            old,
            "content-length: 5\r\nconnection: keep-alive\r\n",
            Length(5),
            false,
        ),
        (
            five,
            None,
            old_last,
            "content-length: 5\r\nconnection: close\r\n",
            Length(5),
            true,
        ),
        (five, None, head, "content-length: 5\r\n", Nothing, false),
        (&[], None, head, "", Nothing, false),
        (
            &[("connection", "x, Close")],
            Some(0),
            USUAL,
            "connection: x, Close\r\ncontent-length: 0\r\n",
            Length(0),
            true,
        ),
    ] {
        let (text, outcome) = response(200, fields, length, audience);
        let version = if audience.version == Version::HTTP_10 {
            "1.0"
        } else {
            "1.1"
        };
        assert_eq!(
            text,
            format!("HTTP/{version} 200 OK\r\n{lines}date: now\r\n\r\n")
        );
        assert_eq!(outcome, Outcome { body, is_last }, "{text}");
    }
}

#[test]
fn a_status_without_a_body_has_no_length() {
    for status in [204, 304] {
        let (text, outcome) = response(status, &[("content-length", "5")], None, USUAL);
        assert!(!text.contains("content-length"), "{text}");
        assert_eq!(outcome.body, BodyLength::Nothing);
    }
    let fields = [("connection", "upgrade"), ("upgrade", "x")];
    let (text, _) = response(
        101,
        &fields,
        None,
        Audience {
            is_last: true,
            ..USUAL
        },
    );
    assert!(text.starts_with(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\ndate"
    ));
}

#[test]
fn an_interim_response_says_nothing_about_a_body() {
    let mut headers = HeaderMap::new();
    headers.insert("link", HeaderValue::from_static("</a>"));
    headers.insert("content-length", HeaderValue::from_static("7"));
    let mut out = Vec::new();
    write_interim(&mut out, StatusCode::EARLY_HINTS, &headers);
    assert_eq!(out, b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
}
