use super::*;
use crate::FramingError;

const LIMITS: HeadLimits = HeadLimits {
    bytes: 400,
    fields: 100,
};

fn framed(text: &str, asked: &Method) -> Result<Option<ResponseFraming>, HeadError> {
    let read = ResponseReader::new(LIMITS).read_head(text.as_bytes(), asked, |head| head.framing);
    read.map(|read| read.map(|(_, framing)| framing))
}

#[test]
fn a_body_is_as_long_as_its_head_says_and_in_one_way_only() {
    use BodyLength::{Chunked, Length, Nothing, UntilClose};
    for (text, expected) in [
        ("200 OK\r\ncontent-length: 5", Ok((Length(5), true))),
        (
            "200 OK\r\ncontent-length: 5, 5\r\ncontent-length: 5",
            Ok((Length(5), true)),
        ),
        ("200 OK\r\ncontent-length: 0", Ok((Length(0), true))),
        ("200 OK\r\ntransfer-encoding: chunked", Ok((Chunked, true))),
        (
            "200 OK\r\ntransfer-encoding: gzip, Chunked",
            Err(FramingError::Coding),
        ),
        (
            "200 OK\r\ntransfer-encoding: chunked, gzip",
            Err(FramingError::NotChunked),
        ),
        (
            "200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked",
            Err(FramingError::Coding),
        ),
        (
            "200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5",
            Ok((Chunked, true)),
        ),
        (
            "200 OK\r\nconnection: close\r\ncontent-length: 5",
            Ok((Length(5), false)),
        ),
        (
            "200 OK\r\nconnection: x, Close\r\ncontent-length: 5",
            Ok((Length(5), false)),
        ),
        ("200 OK", Ok((UntilClose, false))),
        ("204 No Content\r\ncontent-length: 5", Ok((Nothing, true))),
        (
            "304 Not Modified\r\ncontent-length: x",
            Ok((Nothing, false)),
        ),
        (
            "101 Switching Protocols\r\nupgrade: x",
            Ok((Nothing, false)),
        ),
        (
            "200 OK\r\ncontent-length: 5\r\ncontent-length: 6",
            Err(FramingError::Length),
        ),
        ("200 OK\r\ncontent-length: +5", Err(FramingError::Length)),
        ("200 OK\r\ncontent-length: 5,", Err(FramingError::Length)),
        ("200 OK\r\ncontent-length: ", Err(FramingError::Length)),
        (
            "200 OK\r\ncontent-length: 99999999999999999999",
            Err(FramingError::Length),
        ),
    ] {
        let found = framed(&format!("HTTP/1.1 {text}\r\n\r\n"), &Method::GET);
        let found = found.map(|found| {
            let framing = found.unwrap();
            (framing.body, framing.is_persistent)
        });
        assert_eq!(found, expected.map_err(HeadError::Framing), "{text}");
    }
    let old = |fields| framed(&format!("HTTP/1.0 200 OK\r\n{fields}\r\n"), &Method::GET);
    assert!(!old("content-length: 1\r\n").unwrap().unwrap().is_persistent);
    let kept = old("content-length: 1\r\nconnection: keep-alive\r\n");
    assert!(kept.unwrap().unwrap().is_persistent);
    let coded = old("transfer-encoding: chunked\r\n");
    assert_eq!(coded, Err(HeadError::Framing(FramingError::OldCoding)));
    let text = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
    let to_head = framed(text, &Method::HEAD).unwrap().unwrap();
    assert_eq!((to_head.body, to_head.is_persistent), (Nothing, true));
}

#[test]
fn a_final_response_follows_an_interim_one_and_not_a_switch() {
    for (status, expected) in [("100", true), ("103", true), ("101", false), ("200", false)] {
        let framing = framed(&format!("HTTP/1.1 {status} x\r\n\r\n"), &Method::GET);
        assert_eq!(framing.unwrap().unwrap().is_interim, expected, "{status}");
    }
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
        assert!(framed(wrong, &Method::GET).is_err(), "{wrong:?}");
    }
    let whole = "HTTP/1.1 404 Nothing Here\r\na: b\r\ncontent-length: 1\r\n\r\n";
    for end in 0..whole.len() {
        let part = whole.get(..end).unwrap();
        assert_eq!(framed(part, &Method::GET), Ok(None), "{end}");
    }
    let mut reader = ResponseReader::new(LIMITS);
    let read = reader.read_head(format!("{whole}x").as_bytes(), &Method::GET, |head| {
        (head.reason.to_owned(), head.fields.len(), head.bytes.len())
    });
    let expected = ("Nothing Here".to_owned(), 2, whole.len());
    assert_eq!(read, Ok(Some((whole.len(), expected))));
    let endless = format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(400));
    assert_eq!(
        framed(&endless, &Method::GET),
        Err(HeadError::TooLarge(400))
    );
}
