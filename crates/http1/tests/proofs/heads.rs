//! Heads, beside what bare `httparse` makes of them.

use http1::{HeadError, HeadLimits};
use proptest::prelude::*;

use crate::codec::{self, End, LIMITS};
use crate::nearly;

type Lines = Vec<(String, Vec<u8>)>;

fn owned(fields: &[httparse::Header<'_>]) -> Lines {
    let fields = fields.iter();
    fields
        .map(|field| (field.name.to_owned(), field.value.to_vec()))
        .collect()
}

proptest! {
    #![proptest_config(crate::many())]

    #[test]
    fn a_request_head_is_what_httparse_says(bytes in nearly::requests(), sizes in nearly::sizes()) {
        let mut table = [httparse::EMPTY_HEADER; 100];
        let mut head = httparse::Request::new(&mut table);
        let parsed = head.parse(&bytes);
        let seen = codec::requests(codec::cut(&bytes, &sizes), LIMITS);
        match parsed {
            Ok(httparse::Status::Complete(length)) => {
                let Some(first) = seen.messages.first() else {
                    prop_assert!(matches!(seen.end, End::Head(HeadError::Framing(_))));
                    return Ok(());
                };
                prop_assert_eq!(Some(&*first.head.method), head.method);
                prop_assert_eq!(Some(&*first.head.target), head.path);
                let is_new = first.head.version == http::Version::HTTP_11;
                prop_assert_eq!(Some(u8::from(is_new)), head.version);
                prop_assert_eq!(&first.fields, &owned(head.headers));
                // What follows the head is all that is left when nothing of it is a body.
                if !first.head.framing.is_persistent && first.body.is_empty() && first.is_whole
                    && first.head.framing.body != http1::BodyLength::Chunked
                {
                    prop_assert!(bytes[length..].starts_with(&seen.left));
                }
            }
            Ok(httparse::Status::Partial) => {
                prop_assert!(seen.messages.is_empty() && matches!(seen.end, End::Cut | End::Clean));
            }
            // A fault in a line may be looked for when the line's end has come.
            Err(_) if seen.end == End::Cut => prop_assert!(seen.messages.is_empty()),
            Err(httparse::Error::Version) => {
                prop_assert_eq!(seen.end, End::Head(HeadError::Version));
            }
            Err(error) => prop_assert_eq!(seen.end, End::Head(HeadError::Syntax(error))),
        }
    }

    #[test]
    fn a_response_head_is_what_httparse_says(bytes in nearly::response(), sizes in nearly::sizes()) {
        let mut table = [httparse::EMPTY_HEADER; 100];
        let mut head = httparse::Response::new(&mut table);
        let parsed = head.parse(&bytes);
        let asked = [http::Method::GET];
        let seen = codec::responses(codec::cut(&bytes, &sizes), LIMITS, &asked);
        match parsed {
            Ok(httparse::Status::Complete(_)) => {
                let Some(first) = seen.messages.first() else {
                    let is_ours = matches!(
                        seen.end,
                        End::Head(HeadError::Framing(_) | HeadError::Value)
                    );
                    prop_assert!(is_ours, "{:?}", seen.end);
                    return Ok(());
                };
                prop_assert_eq!(Some(first.head.status.as_u16()), head.code);
                prop_assert_eq!(Some(&*first.head.reason), head.reason);
                prop_assert_eq!(&first.fields, &owned(head.headers));
            }
            Ok(httparse::Status::Partial) => {
                prop_assert!(seen.messages.is_empty() && matches!(seen.end, End::Cut | End::Clean));
            }
            // A fault in a line may be looked for when the line's end has come.
            Err(_) if seen.end == End::Cut => prop_assert!(seen.messages.is_empty()),
            Err(httparse::Error::Version) => {
                prop_assert_eq!(seen.end, End::Head(HeadError::Version));
            }
            Err(error) => prop_assert_eq!(seen.end, End::Head(HeadError::Syntax(error))),
        }
    }
}

/// The number of fields and of bytes up to the last that is allowed, and one more, in whole and in
/// parts.
#[test]
fn a_limit_is_the_last_that_is_allowed() {
    for fields in [0_usize, 1, 63, 64, 65, 100] {
        for more in [0, 1] {
            let lines = "a: b\r\n".repeat(fields + more);
            let request = format!("GET / HTTP/1.1\r\n{lines}\r\n");
            let response = format!("HTTP/1.1 204 x\r\n{lines}\r\n");
            for sizes in [&[usize::MAX][..], &[1], &[6]] {
                let limits = HeadLimits {
                    bytes: 8192,
                    fields,
                };
                let expected = match more {
                    0 => (1, End::Clean),
                    _ => (0, End::Head(HeadError::TooManyFields(fields))),
                };
                let seen = codec::requests(codec::cut(request.as_bytes(), sizes), limits);
                assert_eq!((seen.messages.len(), seen.end), expected, "{fields} {more}");
                let parts = codec::cut(response.as_bytes(), sizes);
                let seen = codec::responses(parts, limits, &[http::Method::GET]);
                assert_eq!((seen.messages.len(), seen.end), expected, "{fields} {more}");

                let bytes = request.len() - more;
                let limits = HeadLimits { bytes, fields: 200 };
                let expected = match more {
                    0 => (2, End::Clean),
                    _ => (0, End::Head(HeadError::TooLarge(bytes))),
                };
                let two = request.repeat(2);
                let seen = codec::requests(codec::cut(two.as_bytes(), sizes), limits);
                assert_eq!((seen.messages.len(), seen.end), expected, "{fields} {more}");
            }
        }
    }
}
