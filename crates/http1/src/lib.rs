//! What both sides of HTTP/1.1 read and write alike: the client's (`listener`) and the instance's
//! (`upstream`).
//!
//! Guarantees: a length is digits and nothing else (RFC 9110 §8.6); what keeps a part of a head
//! keeps that head, and nothing that was read beside it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// Takes interim responses (1xx, RFC 9110 §15.2) for a client: the upstream side has them, and the
/// client's connection writes them.
pub type InterimSink = Arc<dyn Fn(StatusCode, &HeaderMap) + Send + Sync>;

/// A head's bytes, copied once for all values in it.
#[derive(Debug)]
pub struct Copied {
    whole: Bytes,
    /// The address of the head that was copied.
    base: usize,
}

// === impl Copied ===

impl Copied {
    /// A copy of a whole head.
    pub fn of(head: &[u8]) -> Self {
        Self {
            whole: Bytes::copy_from_slice(head),
            base: head.as_ptr().addr(),
        }
    }

    /// The part that lay at `part`, which is a slice of the head that was copied.
    pub fn part(&self, part: &[u8]) -> Bytes {
        let start = part.as_ptr().addr() - self.base;
        self.whole.slice(start..start + part.len())
    }
}

/// Writes one field.
pub fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The value of a length field.
pub fn digits(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_digits_and_nothing_else() {
        for (text, expected) in [
            ("0", Some(0)),
            ("0042", Some(42)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            ("+5", None),
            ("5 ", None),
            ("5,5", None),
        ] {
            assert_eq!(digits(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_part_is_what_lay_there() {
        let read = b"a: bc\r\nand more".to_vec();
        let copied = Copied::of(&read[..7]);
        let part = copied.part(&read[3..5]);
        drop(read);
        assert_eq!(part, "bc");
    }
}
