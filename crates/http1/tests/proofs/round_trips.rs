//! What goes on of what came in: one reading, however it is cut, and the strict reader's, too.

use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use http1::{Audience, BodyEncoder, BodyLength, Final, HeadLimits, write_response};
use proptest::prelude::*;
use proptest::sample::select;

use crate::codec::{self, LIMITS};
use crate::strict::{self, Asked};
use crate::{nearly, written};

proptest! {
    #![proptest_config(crate::many())]

    #[test]
    fn a_strict_instance_reads_the_requests_that_were_accepted(
        bytes in nearly::requests(),
        sizes in nearly::sizes(),
    ) {
        let seen = codec::requests(codec::cut(&bytes, &sizes), LIMITS);
        written::check_requests(&seen.messages, &sizes);
    }

    #[test]
    fn a_strict_client_reads_the_responses_that_were_accepted(
        bytes in nearly::response(),
        sizes in nearly::sizes(),
        asked in select(vec![Method::GET, Method::HEAD]),
    ) {
        let seen = codec::responses(codec::cut(&bytes, &sizes), LIMITS, &[asked]);
        for response in seen.messages.iter().filter(|one| one.is_whole) {
            written::check_response(response, &sizes);
        }
    }

    #[test]
    fn where_requests_are_cut_does_not_matter(
        bytes in nearly::requests(),
        sizes in nearly::sizes(),
        most in select(vec![60_usize, 120, 8192]),
    ) {
        let limits = HeadLimits { bytes: most, fields: 4 };
        let whole = codec::requests([&*bytes], limits);
        let parts = codec::requests(codec::cut(&bytes, &sizes), limits);
        prop_assert_eq!(whole.reading(), parts.reading(), "{}", bytes.escape_ascii());
    }

    #[test]
    fn where_responses_are_cut_does_not_matter(
        bytes in nearly::response(),
        sizes in nearly::sizes(),
        most in select(vec![60_usize, 120, 8192]),
    ) {
        let limits = HeadLimits { bytes: most, fields: 4 };
        let asked = [Method::GET];
        let whole = codec::responses([&*bytes], limits, &asked);
        let parts = codec::responses(codec::cut(&bytes, &sizes), limits, &asked);
        prop_assert_eq!(whole.reading(), parts.reading(), "{}", bytes.escape_ascii());
    }
}

/// Fields about the body that a response to be written may have.
const ABOUT: [&[(&str, &str)]; 7] = [
    &[],
    &[("content-length", "5")],
    &[("content-length", "005")],
    &[("content-length", "0")],
    &[("transfer-encoding", "chunked")],
    &[("connection", "close")],
    &[("connection", "keep-alive")],
];

#[test]
fn every_status_is_written_so_that_a_strict_client_reads_it() {
    let date = |out: &mut Vec<u8>| out.extend_from_slice(b"now");
    let mut count = 0;
    for (status, about, bits, length) in (200..1000)
        .map(|status| StatusCode::from_u16(status).unwrap())
        .flat_map(|status| ABOUT.map(|about| (status, about)))
        .flat_map(|(status, about)| (0..8).map(move |bits| (status, about, bits)))
        .flat_map(|(status, about, bits)| {
            [None, Some(0), Some(5)].map(|length| (status, about, bits, length))
        })
    {
        let mut headers = HeaderMap::new();
        for (name, value) in about {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let audience = Audience {
            version: match bits & 1 {
                0 => Version::HTTP_11,
                _ => Version::HTTP_10,
            },
            is_head: bits & 2 > 0,
            is_last: bits & 4 > 0,
        };
        let response = Final {
            status,
            reason: None,
            lines: None,
            headers: &headers,
            length,
        };
        let mut out = Vec::new();
        let outcome = write_response(&mut out, response, audience, |_| {}, date);
        let body: &[u8] = match outcome.body {
            BodyLength::Nothing | BodyLength::Length(0) => b"",
            _ => b"hello",
        };
        let mut encoder = BodyEncoder::new(outcome.body);
        if !body.is_empty() {
            let after = encoder.begin_part(body.len(), &mut out).unwrap();
            out.extend_from_slice(body);
            out.extend_from_slice(after);
        }
        encoder.end(None, &mut out).unwrap();
        let end = out.len();
        if outcome.body != BodyLength::UntilClose {
            out.extend_from_slice(b"HTTP/1.1 404 the next\r\n\r\n");
        }
        let asked = Asked {
            is_head: audience.is_head,
            is_old: audience.version == Version::HTTP_10,
        };
        let read = strict::response(&out, asked)
            .unwrap_or_else(|error| panic!("{error}: {}", out.escape_ascii()));
        assert_eq!(
            (read.end, &*read.body),
            (end, body),
            "{}",
            out.escape_ascii()
        );
        assert_eq!(read.persists, !outcome.is_last, "{}", out.escape_ascii());
        count += 1;
    }
    assert_eq!(count, 800 * 7 * 8 * 3);
}
