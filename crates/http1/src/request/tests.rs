use proptest::prelude::*;

use super::*;
use crate::FramingError;

const LIMITS: HeadLimits = HeadLimits {
    bytes: 200,
    fields: 70,
};

/// A head's parts, owned.
type Owned = (String, String, Vec<(String, Vec<u8>)>, RequestFraming);

fn owned(head: RequestHead<'_, '_>) -> Owned {
    let fields = head.fields.iter();
    let fields = fields.map(|field| (field.name.to_owned(), field.value.to_vec()));
    (
        head.method.into(),
        head.target.into(),
        fields.collect(),
        head.framing,
    )
}

fn read(text: &str) -> Result<Option<(usize, Owned)>, HeadError> {
    RequestReader::new(LIMITS).read_head(text.as_bytes(), owned)
}

fn framed(text: &str) -> Result<RequestFraming, HeadError> {
    read(&format!("{text}\r\n\r\n")).map(|read| read.unwrap().1.3)
}

#[test]
fn a_head_is_read_as_it_came_and_what_follows_it_left() {
    let text = "GET /a?b=\"<>` HTTP/1.1\r\nHost: x.y\r\nX-A:  1 \r\nx-a: 2\r\n\r\nGET /next";
    let (length, (method, target, fields, framing)) = read(text).unwrap().unwrap();
    assert_eq!(text.get(length..), Some("GET /next"));
    assert_eq!((&*method, &*target), ("GET", "/a?b=\"<>`"));
    let expected = [("Host", "x.y"), ("X-A", "1"), ("x-a", "2")];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
    assert_eq!(fields, expected);
    let expected = RequestFraming {
        body: BodyLength::Nothing,
        is_persistent: true,
        expects_continue: false,
        wants_trailers: false,
        is_upgrade: false,
    };
    assert_eq!(framing, expected);
}

#[test]
fn a_body_with_two_lengths_is_refused() {
    for (fields, expected) in [
        ("", Ok(BodyLength::Nothing)),
        ("Content-Length: 0", Ok(BodyLength::Length(0))),
        ("content-length: 5", Ok(BodyLength::Length(5))),
        (
            "content-length: 5, 5\r\nContent-Length: 5",
            Ok(BodyLength::Length(5)),
        ),
        (
            "content-length: 5\r\ncontent-length: 6",
            Err(FramingError::Length),
        ),
        ("content-length: 5,", Err(FramingError::Length)),
        ("content-length: +5", Err(FramingError::Length)),
        ("content-length: ", Err(FramingError::Length)),
        ("content-length: 0x5", Err(FramingError::Length)),
        (
            "content-length: 99999999999999999999",
            Err(FramingError::Length),
        ),
        ("Transfer-Encoding: Chunked", Ok(BodyLength::Chunked)),
        (
            "transfer-encoding: gzip, chunked",
            Err(FramingError::Coding),
        ),
        (
            "transfer-encoding: chunked, chunked",
            Err(FramingError::Coding),
        ),
        (
            "transfer-encoding: chunked, identity",
            Err(FramingError::NotChunked),
        ),
        ("transfer-encoding: identity", Err(FramingError::NotChunked)),
        ("transfer-encoding: ", Err(FramingError::NotChunked)),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
            Err(FramingError::Coding),
        ),
        (
            "transfer-encoding: chunked\r\ncontent-length: 5",
            Err(FramingError::Both),
        ),
        (
            "content-length: 5\r\ntransfer-encoding: chunked",
            Err(FramingError::Both),
        ),
        (
            "content-length: 5\r\ntransfer-encoding: x",
            Err(FramingError::Both),
        ),
    ] {
        let text = match fields {
            "" => "POST / HTTP/1.1".to_owned(),
            fields => format!("POST / HTTP/1.1\r\n{fields}"),
        };
        let found = framed(&text).map(|framing| framing.body);
        assert_eq!(found, expected.map_err(HeadError::Framing), "{fields:?}");
    }
    let old = framed("POST / HTTP/1.0\r\ntransfer-encoding: chunked");
    assert_eq!(old, Err(HeadError::Framing(FramingError::OldCoding)));
}

#[test]
fn a_connection_goes_on_as_its_version_and_options_say() {
    for (text, expected) in [
        ("GET / HTTP/1.1", true),
        ("GET / HTTP/1.1\r\nConnection: x, Close", false),
        ("GET / HTTP/1.1\r\nconnection: keep-alive, close", false),
        ("GET / HTTP/1.0", false),
        ("GET / HTTP/1.0\r\nconnection: Keep-Alive", true),
        (
            "GET / HTTP/1.0\r\nconnection: keep-alive\r\nconnection: close",
            false,
        ),
    ] {
        assert_eq!(framed(text).unwrap().is_persistent, expected, "{text:?}");
    }
}

#[test]
fn expectations_and_upgrades_are_of_the_newer_version() {
    for (version, expected) in [("1", true), ("0", false)] {
        let text = format!(
            "GET / HTTP/1.{version}\r\nexpect: 100-Continue\r\nupgrade: x\r\nconnection: Upgrade"
        );
        let framing = framed(&text).unwrap();
        assert_eq!(
            (framing.expects_continue, framing.is_upgrade),
            (expected, expected)
        );
    }
    assert!(!framed("GET / HTTP/1.1\r\nupgrade: x").unwrap().is_upgrade);
}

#[test]
fn what_is_no_head_is_refused_with_its_reason() {
    let many = format!("GET / HTTP/1.1\r\n{}", "a: 1\r\n".repeat(71));
    let reader = &mut RequestReader::new(HeadLimits {
        bytes: 1000,
        fields: 70,
    });
    let many = reader.read_head(format!("{many}\r\n").as_bytes(), owned);
    assert_eq!(many, Err(HeadError::TooManyFields(70)));
    for (text, expected) in [
        (
            format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(200)),
            HeadError::TooLarge(200),
        ),
        (
            format!("GET /{}", "x".repeat(200)),
            HeadError::TooLarge(200),
        ),
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), HeadError::Version),
    ] {
        assert_eq!(read(&text).unwrap_err(), expected, "{text:?}");
    }
    for wrong in [
        "G(T / HTTP/1.1\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\na : 1\r\n\r\n",
        "GET / HTTP/1.1\r\n a: 1\r\n\r\n",
        "GET / HTTP/1.1\r\na: 1\r\n 2\r\n\r\n",
        "GET / HTTP/1.1\r\nCont\0ent-Length: 1\r\n\r\n",
        "GET / HTTP/1.1\r\na: b\0\r\n\r\n",
        "GET / HTTP/1.1\r\na: b\rc\r\n\r\n",
        "\x16\x03\x01\x02",
    ] {
        assert!(
            matches!(read(wrong), Err(HeadError::Syntax(_))),
            "{wrong:?}"
        );
    }
}

#[test]
fn more_fields_than_there_is_usually_room_for_are_read() {
    let mut reader = RequestReader::new(HeadLimits {
        bytes: 1000,
        fields: 70,
    });
    let text = format!("GET / HTTP/1.1\r\n{}\r\n", "a: 1\r\n".repeat(70));
    let (_, (_, _, fields, _)) = reader.read_head(text.as_bytes(), owned).unwrap().unwrap();
    assert_eq!(fields.len(), 70);
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

/// Reads a connection's bytes, which come in these parts: the requests, and whether the rest is
/// wrong.
fn requests(parts: &[&[u8]]) -> (Vec<(Owned, Vec<u8>)>, bool) {
    let mut reader = RequestReader::new(LIMITS);
    let (mut input, mut all, mut is_in_body) = (BytesMut::new(), Vec::new(), false);
    for part in parts {
        input.extend_from_slice(part);
        loop {
            if !is_in_body {
                let blank = empty_lines(&input);
                let _blank = input.split_to(blank);
                match reader.read_head(&input, owned) {
                    Err(_) => return (all, true),
                    Ok(None) => break,
                    Ok(Some((length, head))) => {
                        let _head = input.split_to(length);
                        all.push((head, Vec::new()));
                        is_in_body = true;
                    }
                }
            }
            let (_, body) = all.last_mut().unwrap();
            match reader.read_body(&mut input) {
                Err(_) => return (all, true),
                Ok(BodyPart::Data(data)) => body.extend_from_slice(&data),
                Ok(BodyPart::Trailers(_) | BodyPart::End) if reader.body().is_over() => {
                    is_in_body = false;
                }
                Ok(BodyPart::Trailers(_) | BodyPart::End | BodyPart::More) => break,
            }
        }
    }
    (all, false)
}

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "GET / HTTP/1.1\r\n",
        "POST /x HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "\r\n",
        "\n",
        "\r",
        "host: a\r\n",
        "content-length: 3\r\n",
        "Content-Length: 4\r\n",
        "abc",
        "abcd",
        "transfer-encoding: chunked\r\n",
        "3\r\n",
        "0\r\n",
        "a: b\r\n",
        "connection: close\r\n",
        ":",
        " ",
        "x",
        "\u{e9}",
        "\0",
    ]);
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn where_requests_are_cut_does_not_matter(bytes in pieces(), cut in any::<prop::sample::Index>()) {
        let whole = requests(&[&bytes]);
        let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
        let (parts, is_wrong) = requests(&[head, tail]);
        // What is wrong may be awaited until the line ends.
        prop_assert!(whole.1 || !is_wrong);
        prop_assert_eq!(whole.0, parts);
    }

    #[test]
    fn a_head_means_the_same_whatever_follows_it(bytes in pieces(), more in pieces()) {
        if let Ok(Some((length, head))) = RequestReader::new(LIMITS).read_head(&bytes, owned) {
            let mut longer = bytes[..length].to_vec();
            let before = RequestReader::new(LIMITS).read_head(&longer[..length - 1], owned);
            prop_assert_eq!(before, Ok(None));
            longer.extend(more);
            let again = RequestReader::new(LIMITS).read_head(&longer, owned);
            prop_assert_eq!(again, Ok(Some((length, head))));
        }
    }
}
