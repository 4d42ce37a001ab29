//! Ids in the form of CUID2: 24 characters of `[a-z0-9]`, the first a letter.
//!
//! Guarantees: unguessable (from the operating system's random source), so an id prefix or a token
//! cannot be foreseen; one rule finds what a text in a path names.

use crate::error::Error;

const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// The operating system gives no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random bytes: {0}")]
pub(crate) struct NoRandom(getrandom::Error);

impl From<NoRandom> for Error {
    fn from(error: NoRandom) -> Self {
        Self::internal(error.to_string())
    }
}

/// What `text` names: an id, else a name, else an unambiguous beginning of an id (contract A.3).
pub(crate) fn resolve<'a, T>(
    all: &'a [T],
    text: &str,
    id: impl Fn(&T) -> String,
    name: impl Fn(&T) -> Option<String>,
) -> Result<&'a T, Error> {
    if let Some(exact) = all.iter().find(|one| id(one) == text) {
        return Ok(exact);
    }
    let mut matching: Vec<&T> = all.iter().collect();
    matching.retain(|one| name(one).as_deref() == Some(text));
    if matching.is_empty() {
        matching = all.iter().filter(|one| id(one).starts_with(text)).collect();
    }
    match matching.as_slice() {
        [] => Err(Error::not_found()),
        [one] => Ok(one),
        _ => Err(Error::Ambiguous),
    }
}

/// A fresh id.
pub(crate) fn new_id() -> Result<String, NoRandom> {
    Ok(format!("{}{}", random_text(1, 26)?, random_text(23, 36)?))
}

/// A fresh bearer token with 200 bits.
pub(crate) fn new_token() -> Result<String, NoRandom> {
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
    fn a_text_names_by_id_then_by_name_then_by_an_unambiguous_beginning() {
        let all = [
            ("aa1", "bb"),
            ("aa2", "aa"),
            ("bb3", "twin"),
            ("cc4", "twin"),
        ];
        let find = |text: &str| {
            let found = resolve(&all, text, |o| o.0.to_owned(), |o| Some(o.1.to_owned()));
            found.map(|o| o.0).map_err(|error| error.code().to_owned())
        };
        assert_eq!(find("aa1").unwrap(), "aa1");
        assert_eq!(find("aa").unwrap(), "aa2", "a name wins over a beginning");
        assert_eq!(find("bb").unwrap(), "aa1");
        assert_eq!(find("bb3").unwrap(), "bb3");
        assert_eq!(find("c").unwrap(), "cc4");
        assert_eq!(find("a").unwrap_err(), "ambiguous");
        assert_eq!(find("twin").unwrap_err(), "ambiguous");
        assert_eq!(find("d").unwrap_err(), "not_found");
    }

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
