//! The requests with two readings that the gateway is tried with, and more of their kind: each is
//! refused or read in one way.

#[allow(
    dead_code,
    reason = "which status refuses a request, and what goes on, is not the codec's"
)]
#[path = "../../../../tests/it/framing/cases.rs"]
mod cases;

use cases::{Case, Want};

use crate::codec::{self, End, Request, Seen};
use crate::written;

const LIMITS: http1::HeadLimits = http1::HeadLimits {
    bytes: 64 * 1024,
    fields: 100,
};

/// The one reading of these bytes, in whole, byte by byte, and in two parts.
fn reading(bytes: &[u8]) -> Seen<Request> {
    let seen = codec::requests([bytes], LIMITS);
    let bytewise = codec::requests(codec::cut(bytes, &[1]), LIMITS);
    assert_eq!(
        seen.reading(),
        bytewise.reading(),
        "{}",
        bytes.escape_ascii()
    );
    if bytes.len() < 1000 {
        for at in 0..bytes.len() {
            let (head, tail) = bytes.split_at(at);
            let parts = codec::requests([head, tail], LIMITS);
            assert_eq!(
                seen.reading(),
                parts.reading(),
                "{} at {at}",
                bytes.escape_ascii()
            );
        }
    }
    written::check_requests(&seen.messages, &[3, 100]);
    seen
}

/// Whether a rule is about where a message ends, so that it is the codec's.
fn is_framing(rule: &str) -> bool {
    ["RFC 9112 §6", "RFC 9112 §7", "RFC 9112 §5"]
        .iter()
        .any(|section| rule.starts_with(section))
}

#[test]
fn a_request_with_two_readings_is_refused_or_has_one() {
    let cases = cases::all();
    assert!(cases.len() >= 100, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for Case { rule, bytes, want } in &cases {
        // A length of more than is kept of a size line is a case of its own, below.
        if bytes.len() > 30_000 {
            continue;
        }
        let seen = reading(bytes);
        let whole = seen.messages.iter().filter(|one| one.is_whole).count();
        let is_refused = seen.is_refused();
        let has_both = ["content-length", "transfer-encoding"].iter().all(|name| {
            let text = String::from_utf8_lossy(bytes).to_lowercase();
            text.contains(&format!("\r\n{name}:")) && rule.contains("beside")
                || rule.contains("the same in the other order")
        });
        let is_right = match want {
            _ if has_both => is_refused && whole == 0,
            Want::Refused(_) => !is_framing(rule) || is_refused && whole == 0,
            Want::Broken => whole == 0 && seen.end != End::Clean,
            Want::Passed(..) => whole == 1 && seen.end == End::Clean,
        };
        if !is_right {
            wrong.push(format!("{rule}: {} {:?}", bytes.escape_ascii(), seen.end));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const HEAD: &str = "POST /p HTTP/1.1\r\nHost: a\r\n";
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Nobody reads any of these as a message.
#[test]
fn framing_fields_in_disguise_are_refused() {
    for fields in [
        "Content-Length: 5\r\nContent-Length: 05, 6",
        "Content-Length: 5\r\ncontent-length:",
        "Content-Length: 5\r\nContent-Length: -5",
        "Content-Length: ,5",
        "Content-Length: 5\t5",
        "Content-Length: 5;a",
        "Content-Length: \"5\"",
        "Content-Length: 5e0",
        "Content-Length: 1_0",
        "Content-Length: 5\x0b",
        "Content-Length: 5\x0c",
        "Content-Length: 5\0",
        "Content-Length: \u{ff15}",
        "Content-Length\t: 5",
        "Content-Length\0: 5",
        "Content-Length:\r\n 5",
        "Content-Length: 5\r\n 5",
        "Content-Length: 5\rX: 1",
        " Content-Length: 5",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding:",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked chunked",
        "Transfer-Encoding: chunked\x0c",
        "Transfer-Encoding: chunk",
        "Transfer-Encoding: chunked-",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: chunked; q=1",
        "Transfer-Encoding: chunked\rX: 1",
        "Transfer-Encoding\x0b: chunked",
        "\tTransfer-Encoding: chunked",
        "X: y\r\n\tTransfer-Encoding: chunked",
        "Transfer-Encoding: identity\r\nContent-Length: 5",
        "Transfer-Encoding: \r\nContent-Length: 5",
    ] {
        let text = format!("{HEAD}{fields}\r\n\r\nhello{SMUGGLED}");
        let seen = reading(text.as_bytes());
        assert!(seen.is_refused(), "{fields:?}: {seen:?}");
        assert!(seen.messages.is_empty(), "{fields:?}");
    }
}

/// Names that a careless reader might take for those that frame: the body is what follows, and
/// nothing is lost of it.
#[test]
fn other_names_frame_nothing() {
    for field in [
        "Content_Length: 5",
        "Content-Lengths: 5",
        "X-Content-Length: 5",
        "Transfer_Encoding: chunked",
        "Transfer-Encodin: chunked",
        "TE: chunked",
        "Content-Encoding: chunked",
    ] {
        let text = format!("{HEAD}{field}\r\n\r\n{SMUGGLED}");
        let seen = reading(text.as_bytes());
        assert_eq!(
            (seen.messages.len(), seen.end),
            (2, End::Clean),
            "{field:?}"
        );
    }
}

/// Chunks that one reader ends here and another there.
#[test]
fn chunks_in_disguise_are_refused() {
    for body in [
        "5\rhello\r\n0\r\n\r\n",
        "5\n\nhello\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "5\t\x0b\r\nhello\r\n0\r\n\r\n",
        "5;\n\r\nhello\r\n0\r\n\r\n",
        "5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
        "5;a\r;b\r\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "\u{ff15}\r\nhello\r\n0\r\n\r\n",
        "_5\r\nhello\r\n0\r\n\r\n",
        "5h\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\n\r\n",
        "5\r\nhello\r\n0\r\n \r\n",
        "5\r\nhello\r\n0\r\nx: y\r\n z\r\n\r\n",
        "5\r\nhello\r\n0\r\nx y\r\n\r\n",
        "5\r\nhello\r\n0\r\nx : y\r\n\r\n",
        "5\r\nhello\r\n0\r\nx: y\rz: 1\r\n\r\n",
        "5\r\nhello\r\n0\r\nx: \0\r\n\r\n",
    ] {
        let text = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}");
        let seen = reading(text.as_bytes());
        let whole = seen.messages.iter().filter(|one| one.is_whole).count();
        assert!(whole == 0 && seen.is_refused(), "{body:?}: {seen:?}");
    }
}
