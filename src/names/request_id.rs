//! The id that ties a response, its log line and its error body together.
//!
//! Guarantees: 1-128 characters of a set that is safe in a header, a log line and JSON. A client's
//! own id is kept only when it is in that set; else a fresh 128-bit random one is made.

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;

use super::hexadecimal;

/// A request's id. Always a valid header value.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

// === impl RequestId ===

impl RequestId {
    /// A fresh id: 32 hexadecimal digits. Unguessability is not needed, uniqueness is.
    pub fn generate() -> Self {
        let random = fastrand::u128(..).to_be_bytes();
        let mut text = [0; 32];
        let eights = text.as_chunks_mut().0.iter_mut();
        for (digits, bytes) in eights.zip(random.as_chunks().0) {
            *digits = hexadecimal(*bytes);
        }
        // Shared from the start: the instance's request says it, too.
        let value = HeaderValue::from_maybe_shared(Bytes::from_owner(text));
        Self::of(value.unwrap_or_else(|_| HeaderValue::from_static("0")))
    }

    fn of(mut value: HeaderValue) -> Self {
        // HTTP/2's tables of fields (RFC 7541 §6.2.3) leave it out then: a value that never comes
        // again would push out those that do, and be compared with all of its kind.
        value.set_sensitive(true);
        Self(value)
    }

    /// Keeps what the client sent when it is safe to repeat, else makes a fresh one.
    pub fn adopt_or_generate(offered: Option<&HeaderValue>) -> Self {
        match offered {
            Some(value) if is_safe(value.as_bytes()) => Self::of(value.clone()),
            _ => Self::generate(),
        }
    }

    /// The same in memory of its own.
    pub fn copied(&self) -> Self {
        match HeaderValue::from_bytes(self.as_bytes()) {
            Ok(value) => Self::of(value),
            Err(_) => self.clone(),
        }
    }

    /// As a header value.
    pub fn header(&self) -> &HeaderValue {
        &self.0
    }

    /// As a header value's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

fn is_safe(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes.len() <= 128
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'='))
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_2_is_told_not_to_remember_an_id() {
        let value = HeaderValue::from_static("req-1");
        for id in [
            RequestId::generate(),
            RequestId::adopt_or_generate(Some(&value)),
        ] {
            assert!(id.header().is_sensitive(), "{id}");
        }
    }

    #[test]
    fn an_unsafe_client_id_is_replaced() {
        for offered in ["", "a b", "<script>", "\"", &"x".repeat(129)] {
            let value = HeaderValue::from_str(offered).unwrap();
            let id = RequestId::adopt_or_generate(Some(&value));
            assert_eq!(id.as_str().len(), 32, "{offered:?}");
        }
        let value = HeaderValue::from_static("req-1:a_b.c=");
        assert_eq!(
            RequestId::adopt_or_generate(Some(&value)).as_str(),
            "req-1:a_b.c="
        );
    }

    #[test]
    fn generated_ids_differ() {
        assert_ne!(RequestId::generate(), RequestId::generate());
    }
}
