//! The fields of a head, as they came.
//!
//! Guarantees: order, letter case and repetition are the sender's; names are compared without
//! regard to case (RFC 9110 §5.1); a length is digits and nothing else (RFC 9110 §8.6).

/// One field line. The value has no white space around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'b> {
    /// The name, in the sender's letters.
    pub name: &'b str,
    /// The value's octets.
    pub value: &'b [u8],
}

/// All fields of a head, which borrow its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'t, 'b>(pub(crate) &'t [httparse::Header<'b>]);

// === impl Fields ===

impl<'t, 'b> Fields<'t, 'b> {
    /// The fields in their order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Field<'b>> + use<'t, 'b> {
        self.0.iter().map(|field| Field {
            name: field.name,
            value: field.value,
        })
    }

    /// The number of field lines.
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The values of all fields of this name, in their order.
    pub fn all(self, name: &str) -> impl Iterator<Item = &'b [u8]> + use<'t, 'b, '_> {
        let fields = self.0.iter();
        fields
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
    }
}

/// The elements of a list (RFC 9110 §5.6.1) without those that are empty.
pub fn options(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let elements = value.split(|byte| *byte == b',');
    elements
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Whether a list has this element, in whatever letters.
pub fn has_option(value: &[u8], option: &str) -> bool {
    options(value).any(|element| element.eq_ignore_ascii_case(option.as_bytes()))
}

/// The value of a length field.
pub fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        match digit {
            0..=9 => number.checked_mul(10)?.checked_add(digit.into()),
            _ => None,
        }
    })
}

/// Whether a name is this one, which is in small letters, as most come.
#[inline]
pub(crate) fn is_named<const N: usize>(name: &str, small: &[u8; N]) -> bool {
    name.as_bytes() == small || name.as_bytes().eq_ignore_ascii_case(small)
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
            ("184467440737095516150", None),
            ("00000000000000000000000001", Some(1)),
            ("/", None),
            (":", None),
            ("\u{b2}", None),
        ] {
            assert_eq!(digits(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn an_option_is_a_whole_element_of_the_list() {
        for (list, expected) in [
            ("close", true),
            ("x, Close ,", true),
            ("closed", false),
            ("x-close", false),
            ("", false),
        ] {
            assert_eq!(has_option(list.as_bytes(), "close"), expected, "{list:?}");
        }
    }
}
