//! From the bytes of an answer to a value.
//!
//! Guarantees: a number that no `f64` holds becomes the largest one, and what is no UTF-8, or half
//! of a surrogate pair, becomes U+FFFD, so that neither fails the rest of the answer.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// What can be read from an element of a list.
pub(super) trait Decode: Sized {
    /// Reads JSON, if need be after mending it.
    fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error>;

    /// Reads the object that these bytes begin with, if that can be done at once, and its length in
    /// bytes.
    fn decode_first(_: &[u8]) -> Option<(Self, usize)> {
        None
    }
}

/// The text of the largest number.
const LARGEST: &str = "1.7976931348623157e308";

impl<T: DeserializeOwned> Decode for T {
    fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        decode(bytes)
    }
}

/// Reads JSON, if need be after mending it.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    match serde_json::from_slice(bytes) {
        Err(error) if error.is_syntax() => {
            let text = mended(&String::from_utf8_lossy(bytes));
            serde_json::from_str(&text).map_err(|_| error)
        }
        result => result,
    }
}

/// JSON without numbers and escapes that cannot be read.
fn mended(text: &str) -> String {
    let mut mended = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (piece, after) = match first {
            '"' => rest.split_at(text_length(rest)),
            '-' | '0'..='9' => {
                let is_part = |c: char| matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E');
                let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                rest.split_at(length)
            }
            _ => rest.split_at(first.len_utf8()),
        };
        match first {
            '"' => mended.push_str(&without_half_pairs(piece)),
            _ if piece.parse().is_ok_and(f64::is_infinite) => {
                mended.push_str(if first == '-' { "-" } else { "" });
                mended.push_str(LARGEST);
            }
            _ => mended.push_str(piece),
        }
        rest = after;
    }
    mended
}

/// The length of the JSON string at the beginning of a text, quotes included.
fn text_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// A JSON string in which no half of a surrogate pair is escaped.
fn without_half_pairs(text: &str) -> Cow<'_, str> {
    if !text.contains("\\u") {
        return Cow::Borrowed(text);
    }
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut whole, mut at) = (String::with_capacity(text.len()), 0);
    while let Some(piece) = text.get(at..) {
        let Some(offset) = piece.find('\\') else {
            whole.push_str(piece);
            break;
        };
        let (plain, escape) = (piece.get(..offset), at + offset);
        whole.push_str(plain.unwrap_or_default());
        let (kept, length) = match (unit(escape), unit(escape + 6)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => (true, 12),
            (Some(0xD800..=0xDFFF), _) => (false, 6),
            (Some(_), _) => (true, 6),
            (None, _) => (true, 2),
        };
        let end = (escape + length).min(text.len());
        match text.get(escape..end) {
            Some(escaped) if kept => whole.push_str(escaped),
            Some(_) => whole.push('\u{FFFD}'),
            // A backslash before a character of several bytes, which is no escape.
            None => {
                whole.push_str(text.get(escape..).unwrap_or_default());
                break;
            }
        }
        at = end;
    }
    Cow::Owned(whole)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_no_value_can_hold_does_not_fail_the_rest() {
        for (bytes, value) in [
            (
                &br#"{"a":1e400,"b":-1e999,"c":2}"#[..],
                json!({"a": f64::MAX, "b": f64::MIN, "c": 2}),
            ),
            (
                br#"["\ud800","x\udc00\n","\ud83d\ude00","\ud800\\"]"#,
                json!(["\u{FFFD}", "x\u{FFFD}\n", "\u{1F600}", "\u{FFFD}\\"]),
            ),
            (b"[\"a\xffb\",1e400]", json!(["a\u{FFFD}b", f64::MAX])),
            (
                br#"["1e400 \" \ud800",1e400]"#,
                json!(["1e400 \" \u{FFFD}", f64::MAX]),
            ),
        ] {
            assert_eq!(decode::<Value>(bytes).unwrap(), value);
        }
        let long = format!("[{}]", "9".repeat(400));
        assert_eq!(decode::<Value>(long.as_bytes()).unwrap(), json!([f64::MAX]));
    }

    #[test]
    fn what_is_no_json_stays_an_error() {
        for bytes in [
            &b""[..],
            b"<html>",
            b"{\"a\":1e400",
            b"[\"\\",
            b"[\"\\\xc3\xa9",
            b"\"\\ud8",
            b"nul",
        ] {
            assert!(decode::<Value>(bytes).is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn mending_changes_no_text_that_can_be_read(text in ".{0,20}", number in any::<f64>()) {
            let value = json!({"a": text, "b": [number, null]});
            let written = value.to_string();
            prop_assert_eq!(mended(&written), written);
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), text in r#"["\\ud80cef1-]{0,40}"#) {
            let _ = decode::<Value>(&bytes);
            let _ = decode::<Value>(text.as_bytes());
        }
    }
}
