//! Messages that are nearly right.
//!
//! Guarantees: most of what comes is valid, so that it is read to its end; the rest differs from
//! what is valid in a byte, a line's end, a framing field or a chunk.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// One of these; the first much more often than the others.
fn usually(usual: &'static str, others: &'static [&'static str]) -> BoxedStrategy<String> {
    prop_oneof![
        12 => Just(usual.to_owned()),
        1 => select(others).prop_map(str::to_owned),
    ]
    .boxed()
}

fn line_end() -> BoxedStrategy<String> {
    prop_oneof![
        60 => Just("\r\n".to_owned()),
        1 => select(&["\n", "\r", "\r\r\n", "\n\r", "", "\r\n\r\n", " \r\n", "\r\n "][..])
            .prop_map(str::to_owned),
    ]
    .boxed()
}

const FIELDS: [&str; 24] = [
    "x-a: 1",
    "X-A:2",
    "x-b:\t v \t",
    "x-c:",
    "accept: */*, a;q=0.5",
    "cookie: a=b; c=\"d\"",
    "x-high: caf\u{e9}",
    "Connection: close",
    "connection: keep-alive",
    "Connection: Keep-Alive, x-a",
    "connection: upgrade",
    "upgrade: websocket",
    "expect: 100-continue",
    "te: trailers",
    "trailer: x-t",
    "x-d : 1",
    ": 1",
    "x-e",
    "x-f: a\0b",
    "x-g: a\x7fb",
    "x-h: a\u{b}b",
    " x-i: fold",
    "x(j): 1",
    "date: Thu, 01 Jan 1970 00:00:00 GMT",
];

fn plain_fields() -> BoxedStrategy<Vec<String>> {
    let good = select(&FIELDS[..15]).prop_map(str::to_owned);
    let any = select(&FIELDS[..]).prop_map(str::to_owned);
    prop::collection::vec(prop_oneof![20 => good, 1 => any], 0..5).boxed()
}

/// Fields that frame a body of `length` bytes, or nearly.
fn length_fields(length: usize) -> BoxedStrategy<Vec<String>> {
    prop_oneof![
        20 => Just(vec![format!("content-length: {length}")]),
        2 => Just(vec![format!("Content-Length:\t00{length} ")]),
        2 => Just(vec![format!("content-length: {length}"), format!("Content-length: {length}")]),
        2 => Just(vec![format!("content-length: {length}, {length}")]),
        1 => Just(vec![format!("content-length: {length}"), format!("content-length: {}", length + 1)]),
        1 => Just(vec![format!("content-length: {length}"), "transfer-encoding: chunked".into()]),
        1 => Just(vec![format!("transfer-encoding: identity"), format!("content-length: {length}")]),
        1 => Just(vec![format!("content-length: +{length}")]),
        1 => Just(vec![format!("content-length: {length},")]),
        1 => Just(vec![format!("content-length: {length} {length}")]),
        1 => Just(vec![format!("content-length: 0x{length:x}")]),
        1 => Just(vec![format!("content-length : {length}")]),
        1 => Just(vec![format!("content_length: {length}")]),
        1 => Just(vec!["content-length:".into()]),
        1 => Just(vec!["content-length: 18446744073709551616".into()]),
    ]
    .boxed()
}

fn coding_fields() -> BoxedStrategy<Vec<String>> {
    prop_oneof![
        20 => Just(vec!["transfer-encoding: chunked"]),
        2 => Just(vec!["Transfer-Encoding:Chunked "]),
        1 => Just(vec!["transfer-encoding: chunked", "transfer-encoding: chunked"]),
        1 => Just(vec!["transfer-encoding: gzip, chunked"]),
        1 => Just(vec!["transfer-encoding: gzip", "transfer-encoding: chunked"]),
        1 => Just(vec!["transfer-encoding: chunked", "transfer-encoding: identity"]),
        1 => Just(vec!["transfer-encoding: chunked, identity"]),
        1 => Just(vec!["transfer-encoding: xchunked"]),
        1 => Just(vec!["transfer-encoding: \"chunked\""]),
        1 => Just(vec!["transfer-encoding: chunked;a=b"]),
        1 => Just(vec!["transfer-encoding: ,chunked"]),
        1 => Just(vec!["transfer-encoding: chunked,"]),
        1 => Just(vec!["transfer-encoding: \x0bchunked"]),
        1 => Just(vec!["transfer-encoding:"]),
        1 => Just(vec!["transfer-encoding : chunked"]),
        1 => Just(vec!["transfer-encoding:\r\n chunked"]),
        1 => Just(vec!["content-length: 5", "transfer-encoding: chunked"]),
        1 => Just(vec!["transfer-encoding: chunked", "content-length: 5"]),
    ]
    .prop_map(|fields| fields.into_iter().map(str::to_owned).collect())
    .boxed()
}

fn data() -> BoxedStrategy<Vec<u8>> {
    prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 1..20),
        1 => Just(b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()),
        1 => Just(b"0\r\n\r\n".to_vec()),
    ]
    .boxed()
}

fn chunk() -> BoxedStrategy<Vec<u8>> {
    let size = prop_oneof![
        20 => Just((0, "")),
        2 => Just((1, "")),
        2 => Just((2, "")),
        1 => select(&["0x", "+", "-", " ", "ffffffffffffffff", "10000000000000000", "_"][..])
            .prop_map(|prefix| (0, prefix)),
    ];
    let extension = usually(
        "",
        &[
            ";a=b",
            " ; a",
            ";a=\"b;\\\"c\"",
            ";",
            " ",
            "\t",
            ";a\u{e9}",
            ";a\nb",
            ";a\rb",
            ";\0",
            ";\x7f",
            " 1",
            "x",
            ";a=\x01",
        ],
    );
    (data(), size, extension, line_end(), line_end())
        .prop_map(|(data, (form, prefix), extension, first, second)| {
            let size = match form {
                0 => format!("{:x}", data.len()),
                1 => format!("{:X}", data.len()),
                _ => format!("000{:x}", data.len()),
            };
            let mut chunk = format!("{prefix}{size}{extension}{first}").into_bytes();
            chunk.extend(data);
            chunk.extend(second.into_bytes());
            chunk
        })
        .boxed()
}

fn chunks() -> BoxedStrategy<Vec<u8>> {
    let last = usually("0", &["00", "0;a=b", "0 ", "", "-0", "0x0"]);
    let trailers = prop_oneof![
        4 => Just(Vec::new()),
        1 => Just(vec!["x-t: 1".to_owned(), "X-T:2".to_owned()]),
        1 => plain_fields(),
    ];
    let trailers = (trailers, prop::collection::vec(line_end(), 6..7));
    (
        prop::collection::vec(chunk(), 0..4),
        last,
        line_end(),
        trailers,
    )
        .prop_map(|(chunks, last, end, (trailers, ends))| {
            let mut body = chunks.concat();
            body.extend(last.into_bytes());
            body.extend(end.into_bytes());
            let mut ends = ends.into_iter();
            for trailer in trailers.into_iter().map(Some).chain([None]) {
                body.extend(trailer.unwrap_or_default().into_bytes());
                body.extend(ends.next().unwrap().into_bytes());
            }
            body
        })
        .boxed()
}

/// What frames a body, and the body.
fn framed(may_be_endless: bool) -> BoxedStrategy<(Vec<String>, Vec<u8>)> {
    let measured = data().prop_flat_map(|data| {
        let fields = length_fields(data.len());
        (fields, Just(data))
    });
    let endless = match may_be_endless {
        true => data(),
        false => Just(Vec::new()).boxed(),
    };
    prop_oneof![
        1 => endless.prop_map(|data| (Vec::new(), data)),
        2 => measured,
        3 => (coding_fields(), chunks()),
    ]
    .boxed()
}

/// A head and its body.
fn message(start: BoxedStrategy<String>, may_be_endless: bool) -> BoxedStrategy<Vec<u8>> {
    let ends = prop::collection::vec(line_end(), 12..13);
    (
        start,
        plain_fields(),
        framed(may_be_endless),
        any::<Index>(),
        ends,
    )
        .prop_map(|(start, mut fields, (framing, body), at, ends)| {
            let at = at.index(fields.len() + 1);
            fields.splice(at..at, framing);
            let mut ends = ends.into_iter();
            let mut bytes = Vec::new();
            for line in [start].into_iter().chain(fields).chain([String::new()]) {
                // Latin-1, so that there are high bytes that are no UTF-8, too.
                bytes.extend(line.chars().map(|char| u8::try_from(char).unwrap_or(b'?')));
                bytes.extend(ends.next().unwrap().into_bytes());
            }
            bytes.extend(body);
            bytes
        })
        .boxed()
}

/// A byte somewhere is replaced, taken away or put in; mostly none.
fn touched(whole: BoxedStrategy<Vec<u8>>) -> BoxedStrategy<Vec<u8>> {
    let bytes = b"\r\n\0 \t:;,0a\x7f\xff\x0b-=/\"".to_vec();
    let touch = (any::<Index>(), select(bytes), 0_u8..3);
    let touches = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(touch, 1..3),
    ];
    (whole, touches)
        .prop_map(|(mut bytes, touches)| {
            for (at, byte, kind) in touches {
                let at = at.index(bytes.len() + 1);
                match kind {
                    0 => bytes.insert(at, byte),
                    1 if at < bytes.len() => bytes[at] = byte,
                    _ if at < bytes.len() => drop(bytes.remove(at)),
                    _ => {}
                }
            }
            bytes
        })
        .boxed()
}

/// Some requests, one behind the other.
pub(crate) fn requests() -> BoxedStrategy<Vec<u8>> {
    let method = usually(
        "GET",
        &[
            "POST", "HEAD", "get", "M-SEARCH", "G@T", "", "CONNECT", "PRI",
        ],
    );
    let target = usually(
        "/a?b=c",
        &[
            "/",
            "*",
            "http://a.test/b",
            "/a b",
            "/<a>",
            "/\u{e9}",
            "/a#b",
            "a",
            "/a\\b",
            "/\x7f",
            "",
        ],
    );
    let version = usually(
        "HTTP/1.1",
        &[
            "HTTP/1.0",
            "HTTP/1.2",
            "HTTP/2.0",
            "http/1.1",
            "HTTP/1.1 ",
            "",
        ],
    );
    let space = || usually(" ", &["  ", "\t", "", "\r"]);
    let start = (method, space(), target, space(), version);
    let start = start.prop_map(|(method, one, target, two, version)| {
        format!("{method}{one}{target}{two}{version}")
    });
    let before = usually("", &["\r\n", "\n", "\r\n\r\n", "\r", " "]);
    let one = (before, message(start.boxed(), false)).prop_map(|(before, message)| {
        let mut bytes = before.into_bytes();
        bytes.extend(message);
        bytes
    });
    let all = prop::collection::vec(one, 1..4).prop_map(|all| all.concat());
    touched(all.boxed())
}

/// One final response, perhaps with interim ones before it.
pub(crate) fn response() -> BoxedStrategy<Vec<u8>> {
    let version = usually(
        "HTTP/1.1",
        &["HTTP/1.0", "HTTP/1.0", "HTTP/1.2", "HTTP/2", ""],
    );
    let status = prop_oneof![
        10 => Just("200".to_owned()),
        4 => (100_u16..1000).prop_map(|status| status.to_string()),
        4 => select(&["204", "205", "304", "404", "500"][..]).prop_map(str::to_owned),
        1 => select(&["000", "20", "2000", "99", "20x", ""][..]).prop_map(str::to_owned),
    ];
    let reason = usually(
        " OK",
        &["", " ", " Quite fine", " caf\u{e9}", "  OK", " a\0", "\tOK"],
    );
    let start = (version, status, reason)
        .prop_map(|(version, status, reason)| format!("{version} {status}{reason}"));
    let interim = usually(
        "",
        &[
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n",
            "HTTP/1.1 100\r\ncontent-length: 5\r\n\r\n",
        ],
    );
    let whole = (interim, message(start.boxed(), true)).prop_map(|(interim, message)| {
        let mut bytes = interim.into_bytes();
        bytes.extend(message);
        bytes
    });
    touched(whole.boxed())
}

/// Sizes of the parts in which bytes come.
pub(crate) fn sizes() -> BoxedStrategy<Vec<usize>> {
    prop_oneof![
        1 => Just(vec![1]),
        1 => Just(vec![usize::MAX]),
        3 => prop::collection::vec(1_usize..40, 1..8),
    ]
    .boxed()
}
