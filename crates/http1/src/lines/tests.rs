use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{BodyLength, HeadLimits, RequestReader, write_request, write_request_lines};

const LIMITS: HeadLimits = HeadLimits {
    bytes: 100_000,
    fields: 200,
};

/// Names in small letters, and values.
type Owned = Vec<(String, Vec<u8>)>;

/// The lines of a head, and its fields as the parser has them.
fn read(head: &[u8]) -> Option<(Option<FieldLines>, Owned)> {
    let read = RequestReader::new(LIMITS).read_head(head, |head| {
        let fields = head.fields.iter();
        let fields = fields.map(|one| (one.name.to_ascii_lowercase(), one.value.to_vec()));
        (FieldLines::of(head.bytes, head.fields), fields.collect())
    });
    read.ok()?.map(|(_, read)| read)
}

fn map(fields: &[(String, Vec<u8>)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let value = HeaderValue::from_bytes(value).unwrap();
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    map
}

fn owned(lines: &FieldLines) -> Owned {
    let lines = lines.iter();
    let lines = lines.map(|(name, value)| (String::from_utf8(name.into()).unwrap(), value.into()));
    lines.collect()
}

/// What is written of lines, and of as many fields one by one.
fn written(lines: &FieldLines, body: BodyLength) -> (Vec<u8>, Vec<u8>) {
    let (mut at_once, mut one_by_one) = (Vec::new(), Vec::new());
    let add = |out: &mut Vec<u8>| out.extend_from_slice(b"via: x\r\n");
    let length = write_request_lines(&mut at_once, "PUT", "/", lines, body, add);
    let fields = lines.iter();
    let fields = fields.map(|(name, value)| (str::from_utf8(name).unwrap(), value));
    assert_eq!(
        write_request(&mut one_by_one, "PUT", "/", fields, body, add),
        length
    );
    (at_once, one_by_one)
}

#[test]
fn a_map_has_every_name_and_value_that_is_accepted() {
    let mut accepted = BTreeSet::new();
    // The parser looks at several octets at once where there are many.
    let around = [0, 7, 40].map(|count| vec![b'y'; count]);
    for (octet, around) in (0..=u8::MAX).flat_map(|octet| around.iter().map(move |a| (octet, a))) {
        let part = [around, &[octet][..], around].concat();
        let head = |before: &str, behind: &str| {
            let line = ["GET / HTTP/1.1\r\nx", before].concat();
            [line.as_bytes(), &part, behind.as_bytes(), b"\r\n\r\n"].concat()
        };
        let (name, value) = (head("", "y: z"), head(": y", "z"));
        for head in [name, value] {
            let Some((lines, fields)) = read(&head) else {
                continue;
            };
            let lines = lines.unwrap();
            assert_eq!((lines.to_map(0), owned(&lines)), (map(&fields), fields));
            accepted.insert(octet);
        }
    }
    assert!(accepted.contains(&b'a') && accepted.contains(&0xff) && !accepted.contains(&0));
}

#[test]
fn lines_that_are_left_out_are_gone_for_everybody() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-A: 1\r\nx-a:2\r\n\r\n";
    let mut lines = read(head).unwrap().0.unwrap();
    lines.leave_out(|name| name == b"connection");
    let (host, a) = (http::header::HOST, HeaderName::from_static("x-a"));
    assert_eq!(lines.first(&host).unwrap(), "a");
    assert_eq!(lines.values(a).collect::<Vec<_>>(), [b"1", b"2"]);
    assert_eq!(lines.values(http::header::CONNECTION).next(), None);
    assert_eq!(lines.to_map(1).len(), 3);
    let (at_once, _) = written(&lines, BodyLength::Nothing);
    let expected = "PUT / HTTP/1.1\r\nhost: a\r\nx-a: 1\r\nx-a: 2\r\nvia: x\r\n\r\n";
    assert_eq!(String::from_utf8(at_once).unwrap(), expected);
}

#[test]
fn what_lies_in_the_head_is_not_copied_and_what_is_too_large_is_no_lines() {
    let head = b"GET /a?b HTTP/1.1\r\nhost: a\r\n\r\n";
    let lines = read(head).unwrap().0.unwrap();
    assert_eq!(lines.part(head, &head[4..8]), "/a?b");
    let many = format!(
        "GET / HTTP/1.1\r\n{}\r\n",
        "a: b\r\n".repeat(MOST_LINES + 1)
    );
    assert!(read(many.as_bytes()).unwrap().0.is_none());
    let long = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(1 << 16));
    assert!(read(long.as_bytes()).unwrap().0.is_none());
}

#[test]
fn a_name_of_any_length_is_found_in_whatever_letters_it_came() {
    for length in 1..=70 {
        let small = "n".repeat(length);
        for large in 0..length {
            let mut name = small.clone().into_bytes();
            name[large] = b'N';
            let head = [b"GET / HTTP/1.1\r\n", &*name, b": y\r\n\r\n"].concat();
            let lines = read(&head).unwrap().0.unwrap();
            let name = HeaderName::from_bytes(small.as_bytes()).unwrap();
            assert_eq!(owned(&lines), [(small.clone(), b"y".to_vec())]);
            assert_eq!(lines.values(name.clone()).next(), Some(&b"y"[..]));
            assert!(lines.has(&name));
        }
        let longer = HeaderName::from_bytes([&small, "n"].concat().as_bytes()).unwrap();
        let head = format!("GET / HTTP/1.1\r\n{small}: y\r\n\r\n");
        assert!(!read(head.as_bytes()).unwrap().0.unwrap().has(&longer));
    }
}

#[test]
fn a_coding_or_length_is_written_as_the_body_has_it() {
    let head = |field: &str| format!("PUT / HTTP/1.1\r\na: b\r\n{field}\r\nc: d\r\n\r\n");
    let chunked = "transfer-encoding: chunked";
    for (field, body, expected) in [
        ("Transfer-Encoding: Chunked", BodyLength::Chunked, chunked),
        ("content-length: 03", BodyLength::Chunked, ""),
        (
            "Content-Length: 03",
            BodyLength::Length(3),
            "content-length: 03",
        ),
        (
            "content-length: 3",
            BodyLength::Length(4),
            "content-length: 4",
        ),
        (chunked, BodyLength::Nothing, ""),
    ] {
        let lines = read(head(field).as_bytes()).unwrap().0.unwrap();
        let (at_once, one_by_one) = written(&lines, body);
        assert_eq!(at_once, one_by_one);
        let between = match (expected, body) {
            ("", BodyLength::Chunked) => format!("a: b\r\nc: d\r\nvia: x\r\n{chunked}\r\n"),
            ("", _) => "a: b\r\nc: d\r\nvia: x\r\n".to_owned(),
            _ => format!("a: b\r\n{expected}\r\nc: d\r\nvia: x\r\n"),
        };
        let expected = format!("PUT / HTTP/1.1\r\n{between}\r\n");
        assert_eq!(String::from_utf8(at_once).unwrap(), expected, "{field}");
    }
}

proptest! {
    #[test]
    fn lines_are_what_a_map_is_however_they_came(
        fields in prop::collection::vec(
            (
                prop::sample::select(vec!["A", "b", "Content-Length", "x-Y", "Cookie"]),
                prop::sample::select(vec![":", ": ", ":  ", ":\t"]),
                prop::sample::select(vec!["", "3", "va lue", "\u{e9}"]),
                prop::sample::select(vec!["\r\n", "\n", " \r\n"]),
            ),
            0..8,
        ),
        left_out in prop::sample::select(vec!["", "a", "b", "cookie"]),
        length in prop::option::of(0_u64..5),
    ) {
        let mut head = "PUT / HTTP/1.1\r\n".to_owned();
        for (name, between, value, end) in &fields {
            head.extend([*name, between, value, end]);
        }
        head.push_str("\r\n");
        let Some((lines, mut fields)) = read(head.as_bytes()) else {
            return Ok(());
        };
        let mut lines = lines.unwrap();
        lines.leave_out(|name| name == left_out.as_bytes());
        fields.retain(|(name, _)| name != left_out);
        prop_assert_eq!(&owned(&lines), &fields);
        prop_assert_eq!(lines.to_map(3), map(&fields));
        let body = length.map_or(BodyLength::Nothing, BodyLength::Length);
        let (at_once, one_by_one) = written(&lines, body);
        prop_assert_eq!(at_once, one_by_one);
    }
}
