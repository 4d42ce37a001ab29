//! Ids in the form of CUID2: 24 characters of `[a-z0-9]`, the first a letter.
//!
//! Guarantees: unguessable (from the operating system's random source), so an id prefix or a token
//! cannot be foreseen.

const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// The operating system gives no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random bytes: {0}")]
pub(super) struct NoRandom(getrandom::Error);

/// A fresh id.
pub(super) fn new_id() -> Result<String, NoRandom> {
    Ok(format!("{}{}", random_text(1, 26)?, random_text(23, 36)?))
}

/// A fresh bearer token with 200 bits.
pub(super) fn new_token() -> Result<String, NoRandom> {
    Ok(format!("local_{}", random_text(39, 36)?))
}

/// `length` characters, evenly from the first `choices` of the alphabet.
fn random_text(length: usize, choices: usize) -> Result<String, NoRandom> {
    let mut text = String::with_capacity(length);
    let mut bytes = [0_u8; 64];
    // Bytes past the last whole multiple would favour the first letters.
    let limit = 256 / choices * choices;
    while text.len() < length {
        getrandom::fill(&mut bytes).map_err(NoRandom)?;
        let fair = bytes.iter().map(|b| usize::from(*b)).filter(|b| *b < limit);
        let letters = fair.filter_map(|b| LETTERS.get(b % choices).map(|b| char::from(*b)));
        text.extend(letters.take(length - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_form_of_cuid2_and_differ() {
        let (a, b) = (new_id().unwrap(), new_id().unwrap());
        assert_ne!(a, b);
        for id in [a, b] {
            assert_eq!(id.len(), 24);
            assert!(id.starts_with(|c: char| c.is_ascii_lowercase()), "{id}");
            assert!(
                id.chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()),
                "{id}"
            );
        }
    }
}
