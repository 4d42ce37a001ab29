//! The answer to what is no request.
//!
//! Guarantees: the client hears why, and that the connection ends; nothing of what was wrong is
//! repeated to it.

use http::{HeaderMap, StatusCode, Version};
use http1::{Audience, Final, FramingError, HeadError, write_response};

use super::head::Unreadable;
use crate::listener::date;

/// The status for a head that cannot be taken.
fn status(error: Unreadable) -> StatusCode {
    match error {
        Unreadable::LongTarget => StatusCode::URI_TOO_LONG,
        Unreadable::Head(HeadError::TooLarge(_) | HeadError::TooManyFields(_)) => {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        }

        // RFC 9112 §6.1.
        Unreadable::Head(HeadError::Framing(FramingError::Coding)) => StatusCode::NOT_IMPLEMENTED,
        Unreadable::Head(
            HeadError::Syntax(_) | HeadError::Version | HeadError::Value | HeadError::Framing(_),
        )
        | Unreadable::Target => StatusCode::BAD_REQUEST,
    }
}

/// The bytes of the answer, after which the connection ends.
pub(super) fn refusal(error: Unreadable) -> Vec<u8> {
    let mut out = Vec::new();
    let response = Final {
        status: status(error),
        reason: None,
        headers: &HeaderMap::new(),
        length: Some(0),
    };
    let audience = Audience {
        version: Version::HTTP_11,
        is_head: false,
        is_last: true,
    };
    write_response(&mut out, response, audience, |_| {}, date::write);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_was_wrong_and_ends_the_connection() {
        for (error, expected) in [
            (HeadError::TooLarge(1).into(), "431"),
            (HeadError::Framing(FramingError::Coding).into(), "501"),
            (HeadError::Framing(FramingError::Both).into(), "400"),
            (HeadError::Version.into(), "400"),
            (Unreadable::LongTarget, "414"),
            (Unreadable::Target, "400"),
        ] {
            let text = String::from_utf8(refusal(error)).unwrap();
            assert!(text.starts_with(&format!("HTTP/1.1 {expected} ")), "{text}");
            assert!(text.contains("\r\nconnection: close\r\n"), "{text}");
        }
    }
}
