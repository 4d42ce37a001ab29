//! The part of a user agent that is written down.
//!
//! Guarantees: what a client says of itself is never longer than 200 characters in a log, a span
//! or the ledger.

use std::borrow::Cow;

use http::HeaderValue;

/// The characters of a user agent that are kept.
const MAX_CHARACTERS: usize = 200;

/// The text of a `User-Agent`, cut to what is kept.
pub fn agent_text(value: &HeaderValue) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(value.as_bytes());
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => Cow::Owned(text.get(..end).unwrap_or_default().to_owned()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_user_agent_is_cut_at_a_character() {
        let long = "ä".repeat(MAX_CHARACTERS + 1);
        let value = HeaderValue::from_bytes(long.as_bytes()).unwrap();
        assert_eq!(agent_text(&value), "ä".repeat(MAX_CHARACTERS));
        assert_eq!(agent_text(&HeaderValue::from_static("curl/8")), "curl/8");
    }
}
