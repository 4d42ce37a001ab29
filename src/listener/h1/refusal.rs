//! What is known of bytes that are no request.
//!
//! Guarantees: a method or a target is only taken from a start line that cannot be read otherwise;
//! fields are not looked at.

use http::uri::PathAndQuery;
use http::{Method, Uri};
use http1::{FramingError, HeadError};

use super::head::Unreadable;
use crate::client::{Refusal, RefusalReason};

/// Bytes of a method, at most; none that is registered is half as long.
const MOST_METHOD: usize = 32;

/// The refusal of a head that `bytes` begin with.
pub(super) fn refusal(error: Unreadable, bytes: &[u8]) -> Refusal {
    let (method, target) = start_line(bytes);
    Refusal {
        reason: reason(error),
        method,
        target,
        accept: None,
    }
}

fn reason(error: Unreadable) -> RefusalReason {
    match error {
        Unreadable::LongTarget => RefusalReason::LongTarget,
        Unreadable::NoRoom => RefusalReason::NoRoom,
        Unreadable::Head(HeadError::TooLarge(_) | HeadError::TooManyFields(_)) => {
            RefusalReason::LargeHead
        }
        // RFC 9112 §6.1.
        Unreadable::Head(HeadError::Framing(FramingError::Coding)) => RefusalReason::TransferCoding,
        Unreadable::Head(
            HeadError::Syntax(_) | HeadError::Version | HeadError::Value | HeadError::Framing(_),
        )
        | Unreadable::Target => RefusalReason::Malformed,
    }
}

/// The method and the target, as far as they are certain (RFC 9112 §3).
fn start_line(bytes: &[u8]) -> (Option<Method>, Option<PathAndQuery>) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let line = lines.next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    // What nothing follows may not be all of it.
    let method = method.filter(|method| target.is_some() && method.len() <= MOST_METHOD);
    let method = method.and_then(|method| Method::from_bytes(method).ok());
    let is_whole = lines.next().is_some() && words.next().is_none();
    let is_version = |version: &[u8]| {
        matches!(
            version,
            b"HTTP/1.1\r" | b"HTTP/1.0\r" | b"HTTP/1.1" | b"HTTP/1.0"
        )
    };
    let target = target.filter(|_| method.is_some() && is_whole && version.is_some_and(is_version));
    let target = target.and_then(|target| Uri::try_from(target).ok());
    let target = target.and_then(|target| target.into_parts().path_and_query);
    (method, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_reason() {
        for (error, expected) in [
            (HeadError::TooLarge(1).into(), RefusalReason::LargeHead),
            (HeadError::TooManyFields(1).into(), RefusalReason::LargeHead),
            (
                HeadError::Framing(FramingError::Coding).into(),
                RefusalReason::TransferCoding,
            ),
            (
                HeadError::Framing(FramingError::Both).into(),
                RefusalReason::Malformed,
            ),
            (HeadError::Version.into(), RefusalReason::Malformed),
            (Unreadable::LongTarget, RefusalReason::LongTarget),
            (Unreadable::Target, RefusalReason::Malformed),
            (Unreadable::NoRoom, RefusalReason::NoRoom),
        ] {
            assert_eq!(refusal(error, b"").reason, expected, "{error}");
        }
    }

    #[test]
    fn of_a_start_line_no_more_is_believed_than_is_certain() {
        for (text, method, target) in [
            ("GET /a?b HTTP/1.1\r\na b: c\r\n", "GET", "/a?b"),
            ("GET http://a.b/c HTTP/1.1\r\n", "GET", "/c"),
            ("OPTIONS * HTTP/1.1\n", "OPTIONS", "*"),
            // The end of the line has not come.
            ("GET /long", "GET", ""),
            ("GET /a HTTP/1.1", "GET", ""),
            ("GE", "", ""),
            // Something else than one target and one version.
            ("GET /a b HTTP/1.1\r\n", "GET", ""),
            ("GET  /a HTTP/1.1\r\n", "GET", ""),
            ("GET /a HTTP/1.1 \r\n", "GET", ""),
            ("GET /a\r\n", "GET", ""),
            ("GET /a HTTP/2.0\r\n", "GET", ""),
            (" GET /a HTTP/1.1\r\n", "", ""),
            ("G(T /a HTTP/1.1\r\n", "", ""),
            ("\u{16}\u{3}\u{1}", "", ""),
            ("", "", ""),
        ] {
            let (found, path) = start_line(text.as_bytes());
            let found = found.as_ref().map_or("", Method::as_str);
            let path = path.as_ref().map_or("", PathAndQuery::as_str);
            assert_eq!((found, path), (method, target), "{text:?}");
        }
        let long = format!("{} /a HTTP/1.1\r\n", "X".repeat(MOST_METHOD + 1));
        assert_eq!(start_line(long.as_bytes()).0, None);
    }
}
