//! The time of a response (RFC 9110 §6.6.1).
//!
//! Guarantees: it is right to the second, and written out once a second for each thread.

use std::cell::RefCell;

use ::http::HeaderValue;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

#[derive(Default)]
struct Written {
    second: i64,
    text: String,
    value: Option<HeaderValue>,
}

thread_local! {
    static WRITTEN: RefCell<Written> = RefCell::default();
}

/// Writes the present time.
pub(super) fn write(out: &mut Vec<u8>) {
    with_now(|written| out.extend_from_slice(written.text.as_bytes()));
}

/// The present time as a field has it.
pub(super) fn value() -> Option<HeaderValue> {
    with_now(|written| written.value.clone())
}

fn with_now<T>(use_it: impl FnOnce(&Written) -> T) -> T {
    WRITTEN.with_borrow_mut(|written| {
        let now = Timestamp::now();
        if written.second != now.as_second() || written.text.is_empty() {
            let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&now);
            // A time that cannot be written is not one of this millennium.
            let text = text.unwrap_or_default();
            *written = Written {
                second: now.as_second(),
                value: HeaderValue::from_str(&text).ok(),
                text,
            };
        }
        use_it(written)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_now_in_the_form_of_http() {
        let before = Timestamp::now().as_second();
        let mut out = Vec::new();
        write(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with(" GMT") && text.len() == 29, "{text}");
        let read = jiff::fmt::rfc2822::parse(&text).unwrap().timestamp();
        assert!((before..=Timestamp::now().as_second()).contains(&read.as_second()));
        let value = value().unwrap();
        let read = jiff::fmt::rfc2822::parse(value.to_str().unwrap()).unwrap();
        let read = read.timestamp().as_second();
        assert!((before..=Timestamp::now().as_second()).contains(&read));
    }
}
