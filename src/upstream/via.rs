//! `Via`: which ways a message has come (RFC 9110 §7.6.3), and whether one has been here before.
//!
//! Guarantees: the gateway's name in it says nothing about the machine or the instance, nobody can
//! guess it beforehand, and it differs from one gateway to the next and from one destination to the
//! next: a request that comes back to the destination that it came from goes in a circle, one that
//! an instance sends on to another instance, or that a second gateway passes on, does not.

use std::hash::{BuildHasher as _, RandomState};

use http::header::{HeaderMap, HeaderValue, VIA};
use http::{HeaderName, Version};

use super::fields::{append, tokens};
use crate::names::{PlaneIndex, hexadecimal};
use hypeman::InstanceRef;

const NAME: &str = "wakegate-";
/// The version and a space, [`NAME`], and 16 hexadecimal digits.
const LENGTH: usize = 4 + NAME.len() + 16;

/// Makes the names of one gateway, which last as long as its process.
#[derive(Debug, Default)]
pub struct Pseudonyms(RandomState);

/// The gateway's name where one destination is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pseudonym(u64);

/// The gateway's element of `Via`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViaElement([u8; LENGTH]);

// === impl Pseudonyms ===

impl Pseudonyms {
    /// The name for a destination: a control plane, and an instance's name there.
    pub fn of(&self, plane: PlaneIndex, instance: &InstanceRef) -> Pseudonym {
        Pseudonym(self.0.hash_one((plane, instance)))
    }
}

// === impl Pseudonym ===

impl Pseudonym {
    fn text(self) -> [u8; NAME.len() + 16] {
        let mut text = [0; NAME.len() + 16];
        let (name, digits) = text.split_at_mut(NAME.len());
        name.copy_from_slice(NAME.as_bytes());
        let bytes = self.0.to_be_bytes();
        for (digits, bytes) in digits.as_chunks_mut().0.iter_mut().zip(bytes.as_chunks().0) {
            *digits = hexadecimal(*bytes);
        }
        text
    }

    /// Whether a message with these fields has passed the gateway for this destination.
    pub fn is_in(self, headers: &HeaderMap) -> bool {
        let name = self.text();
        // The protocol comes before a name, a comment may come behind it.
        tokens(headers, &VIA).any(|element| {
            let words = element.split(u8::is_ascii_whitespace);
            let received_by = words.filter(|word| !word.is_empty()).nth(1);
            received_by == Some(&name[..])
        })
    }

    /// The element for a message that was received in this version of HTTP.
    pub fn element(self, received: Version) -> ViaElement {
        let version: &[u8; 4] = match received {
            Version::HTTP_10 | Version::HTTP_09 => b"1.0 ",
            Version::HTTP_2 => b"2.0 ",
            Version::HTTP_3 => b"3.0 ",
            _ => b"1.1 ",
        };
        let mut element = [0; LENGTH];
        let (start, name) = element.split_at_mut(version.len());
        start.copy_from_slice(version);
        name.copy_from_slice(&self.text());
        ViaElement(element)
    }
}

// === impl ViaElement ===

impl ViaElement {
    /// The field's name.
    pub const FIELD: HeaderName = VIA;

    /// As a field's value.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds it to those that a message brings.
    pub fn append_to(&self, headers: &mut HeaderMap) {
        append(headers, Self::FIELD, &self.header());
    }

    fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).unwrap_or(HeaderValue::from_static("1.1 wakegate"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(gateway: &Pseudonyms, plane: u16, instance: &str) -> Pseudonym {
        gateway.of(PlaneIndex(plane), &instance.parse().unwrap())
    }

    fn fields(via: &[&str]) -> HeaderMap {
        let values = via.iter().map(|via| (VIA, via.parse().unwrap()));
        values.collect()
    }

    #[test]
    fn a_message_that_was_here_is_known_among_others_and_no_other_is() {
        let (gateway, other) = (Pseudonyms::default(), Pseudonyms::default());
        let name = named(&gateway, 0, "app");
        let element = name.element(Version::HTTP_11);
        let element = element.header().to_str().unwrap().to_owned();
        assert_eq!(element.len(), LENGTH);
        assert!(element.starts_with("1.1 wakegate-"), "{element}");
        let list = format!("1.1 edge,{element} (one of ours), 1.0 inside");
        for here in [&[&*element][..], &[&list], &["1.1 edge", &element]] {
            assert!(name.is_in(&fields(here)), "{here:?}");
        }
        let strangers = [
            (&other, 0, "app"),
            (&gateway, 1, "app"),
            (&gateway, 0, "ap"),
        ];
        for (gateway, plane, instance) in strangers {
            let stranger = named(gateway, plane, instance);
            assert!(!stranger.is_in(&fields(&[&list])));
        }
        assert_eq!(name, named(&gateway, 0, "app"));
        let bare = element.strip_prefix("1.1 ").unwrap();
        for other in ["", "1.1", "1.1 wakegate-", bare] {
            assert!(!name.is_in(&fields(&[other])), "{other}");
        }
        assert!(!name.is_in(&HeaderMap::new()));
        // What a client has put before it is no veil.
        for veil in [&b"\xe9"[..], b"1.1 edge (caf\xe9)"] {
            let mut headers = HeaderMap::from_iter([(VIA, HeaderValue::from_bytes(veil).unwrap())]);
            name.element(Version::HTTP_11).append_to(&mut headers);
            assert!(name.is_in(&headers), "{headers:?}");
        }
    }

    #[test]
    fn the_version_is_that_in_which_a_message_was_received() {
        let name = named(&Pseudonyms::default(), 0, "app");
        for (version, text) in [
            (Version::HTTP_10, "1.0 "),
            (Version::HTTP_11, "1.1 "),
            (Version::HTTP_2, "2.0 "),
        ] {
            assert!(
                name.element(version)
                    .as_bytes()
                    .starts_with(text.as_bytes())
            );
        }
    }

    #[test]
    fn a_name_has_sixteen_digits_whatever_its_number_is() {
        assert_eq!(&Pseudonym(0).text(), b"wakegate-0000000000000000");
        assert_eq!(
            &Pseudonym(0x0123_4567_89ab_cdef).text(),
            b"wakegate-0123456789abcdef"
        );
        assert_eq!(&Pseudonym(u64::MAX).text(), b"wakegate-ffffffffffffffff");
    }
}
