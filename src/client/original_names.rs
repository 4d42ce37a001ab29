//! The letters in which a client has written the names of its fields.
//!
//! Guarantees: nothing is worked out before somebody asks.

use bytes::Bytes;

/// The head of a request as it came over HTTP/1.1: an extension of the request, where a route wants
/// its names as they came.
#[derive(Debug, Clone)]
pub struct OriginalNames(Bytes);

// === impl OriginalNames ===

impl OriginalNames {
    /// Of a whole head.
    pub fn new(head: Bytes) -> Self {
        Self(head)
    }

    /// A name, which is in small letters, as it came first.
    pub fn find(&self, name: &str) -> Option<&str> {
        let lines = self.0.split(|byte| *byte == b'\n').skip(1);
        let mut names = lines.filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            line.get(..colon)
        });
        let original = names.find(|one| one.eq_ignore_ascii_case(name.as_bytes()))?;
        std::str::from_utf8(original).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_as_it_came_first_and_a_value_is_not_one() {
        let head =
            "GET /X-Path: HTTP/1.1\r\nHost: a\r\nSOAPAction: X-No: x\r\nsoapaction: b\r\n\r\n";
        let names = OriginalNames::new(Bytes::from_static(head.as_bytes()));
        for (name, expected) in [
            ("host", Some("Host")),
            ("soapaction", Some("SOAPAction")),
            ("x-no", None),
            ("get /x-path", None),
            ("", None),
        ] {
            assert_eq!(names.find(name), expected, "{name}");
        }
    }
}
