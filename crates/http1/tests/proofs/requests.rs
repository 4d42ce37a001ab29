//! Requests that are nearly right, beside what hyper's server makes of them; each rule by which the
//! two differ has an example.

use proptest::prelude::*;

use crate::agreed_requests::{Rule, compare};
use crate::codec::{self, End, LIMITS};
use crate::{nearly, peer};

proptest! {
    #![proptest_config(crate::many())]

    #[test]
    fn requests_are_read_as_hyper_reads_them(bytes in nearly::requests(), sizes in nearly::sizes()) {
        if let Err(difference) = compare(&bytes, &sizes) {
            return Err(TestCaseError::fail(difference));
        }
    }
}

const HEAD: &str = "POST / HTTP/1.1\r\nhost: a\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";

/// Each of these hyper reads as one request at least.
#[test]
fn what_is_refused_though_hyper_reads_it() {
    let head = |fields: &str, body: &str| format!("{HEAD}{fields}\r\n\r\n{body}");
    let hello = "5\r\nhello\r\n0\r\n\r\n";
    for (expected, text) in [
        (
            Rule::Both,
            head("content-length: 5\r\ntransfer-encoding: chunked", hello),
        ),
        (
            Rule::Both,
            head("transfer-encoding: chunked\r\ncontent-length: 5", hello),
        ),
        (
            Rule::Both,
            head("transfer-encoding: chunked\r\ncontent-length: x", hello),
        ),
        (
            Rule::OtherCoding,
            head("transfer-encoding: gzip, chunked", hello),
        ),
        (
            Rule::OtherCoding,
            head("transfer-encoding: chunked, chunked", hello),
        ),
        (
            Rule::OtherCoding,
            head("transfer-encoding: , chunked", hello),
        ),
        (
            Rule::OtherCoding,
            head(
                "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
                hello,
            ),
        ),
        (
            Rule::ControlInExtension,
            format!("{CHUNKED}5;a=\0\r\nhello\r\n0\r\n\r\n"),
        ),
        (
            Rule::ControlInExtension,
            format!("{CHUNKED}5;a=\x7f\r\nhello\r\n0\r\n\r\n"),
        ),
    ] {
        for sizes in [&[usize::MAX][..], &[1], &[7, 3]] {
            assert_eq!(
                compare(text.as_bytes(), sizes),
                Ok(Some(expected)),
                "{text:?}"
            );
            let parts = codec::cut(text.as_bytes(), sizes);
            let seen = codec::requests(parts.iter().copied(), LIMITS);
            assert!(seen.is_refused(), "{text:?}");
            assert!(seen.messages.iter().all(|message| !message.is_whole));
            let (theirs, _) = peer::requests(&parts);
            assert!(theirs.iter().any(|one| one.is_whole), "{text:?}");
        }
    }
}

/// Neither of the two is right about less: these are valid, or are somebody else's to refuse.
#[test]
fn what_is_read_though_hyper_refuses_it() {
    for (expected, text) in [
        (Rule::NoUri, "GET /\u{e9}|<> HTTP/1.1\r\nhost: a\r\n\r\n"),
        (
            Rule::ListOfLengths,
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2, 2\r\n\r\nok",
        ),
    ] {
        assert_eq!(
            compare(text.as_bytes(), &[9]),
            Ok(Some(expected)),
            "{text:?}"
        );
        let seen = codec::requests([text.as_bytes()], LIMITS);
        assert_eq!((seen.messages.len(), seen.end), (1, End::Clean));
        assert!(peer::requests(&[text.as_bytes()]).0.is_empty());
    }
}

#[test]
fn an_option_of_high_bytes_hides_no_other() {
    for (text, expected) in [
        ("GET / HTTP/1.1\r\nconnection: \u{e9}, close\r\n\r\n", false),
        (
            "GET / HTTP/1.0\r\nconnection: keep-alive, \u{e9}\r\n\r\n",
            true,
        ),
    ] {
        let text = format!("{text}GET / HTTP/1.1\r\n\r\n");
        let compared = compare(text.as_bytes(), &[9]);
        assert_eq!(compared, Ok(Some(Rule::OptionOfHighBytes)), "{text:?}");
        let seen = codec::requests([text.as_bytes()], LIMITS);
        assert_eq!(seen.messages[0].head.framing.is_persistent, expected);
        assert_eq!(seen.messages.len(), 1 + usize::from(expected));
    }
}

/// Both refuse these, or read the same.
#[test]
fn what_looks_like_a_difference_and_is_none() {
    let chunked = |body: &str| format!("{CHUNKED}{body}");
    for text in [
        chunked("5\nhello\r\n0\r\n\r\n"),
        chunked("5\r\nhello\n0\r\n\r\n"),
        chunked("5;a\nb\r\nhello\r\n0\r\n\r\n"),
        chunked("5;a\rb\r\nhello\r\n0\r\n\r\n"),
        chunked("5 ;a=\"\\\"\"\t\r\nhello\r\n00\r\nx: y\r\n\r\nGET / HTTP/1.0\r\n\r\n"),
        chunked("\r\nhello\r\n0\r\n\r\n"),
        chunked("10000000000000005\r\nhello\r\n0\r\n\r\n"),
        "\r\n\nGET / HTTP/1.1\nhost: a\n\nGET /b HTTP/1.0\r\nconnection: keep-alive\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nconnection: close\r\nconnection: keep-alive\r\n\r\nGET".into(),
        "GET / HTTP/1.0\r\nconnection: keep-alive\r\nconnection: close\r\n\r\nGET".into(),
        "GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nx : a\r\n\r\n".into(),
    ] {
        for sizes in [&[usize::MAX][..], &[1], &[5]] {
            assert_eq!(compare(text.as_bytes(), sizes), Ok(None), "{text:?}");
        }
    }
}
