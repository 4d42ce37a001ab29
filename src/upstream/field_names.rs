//! The letters in which an instance is sent the names of fields.
//!
//! Guarantees: only letters change, and only where a route says so: a name means the same in any
//! (RFC 9110 §5.1), but some old servers do not know that.

use std::borrow::Cow;

use crate::client::OriginalNames;
use crate::config::FieldNames;

/// The name of a field, which is in small letters, as the instance is sent it.
pub(super) fn spelled<'n>(
    name: &'n str,
    rule: FieldNames,
    original: Option<&'n OriginalNames>,
) -> Cow<'n, str> {
    match rule {
        FieldNames::Lower => name.into(),
        FieldNames::Title => title(name).into(),
        FieldNames::Original => match original.and_then(|original| original.find(name)) {
            Some(original) => original.into(),
            // The gateway's own, and those that came over HTTP/2.
            None => title(name).into(),
        },
    }
}

/// With a capital letter at the beginning of each word.
fn title(name: &str) -> String {
    let mut begins = true;
    let letters = name.chars().map(|letter| {
        let letter = match begins {
            true => letter.to_ascii_uppercase(),
            false => letter,
        };
        begins = !letter.is_ascii_alphanumeric();
        letter
    });
    letters.collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn names_are_spelled_as_the_route_says() {
        let head = "GET / HTTP/1.1\r\nSOAPAction: a\r\n\r\n";
        let original = OriginalNames::new(Bytes::from_static(head.as_bytes()));
        for (rule, name, expected) in [
            (FieldNames::Lower, "soapaction", "soapaction"),
            (FieldNames::Title, "soapaction", "Soapaction"),
            (FieldNames::Title, "x-forwarded-for", "X-Forwarded-For"),
            (FieldNames::Title, "x_a.b", "X_A.B"),
            (FieldNames::Original, "soapaction", "SOAPAction"),
            (FieldNames::Original, "content-length", "Content-Length"),
        ] {
            assert_eq!(spelled(name, rule, Some(&original)), expected);
        }
        assert_eq!(spelled("te", FieldNames::Original, None), "Te");
    }
}
