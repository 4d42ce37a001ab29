//! The environment, as the loader sees it.
//!
//! Guarantees: only variables of ours and of Hypeman's are kept; an empty one counts as unset; one
//! that is not UTF-8 is remembered by its name, so that it is a problem and not forgotten.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

/// The prefix of our own variables.
pub(super) const PREFIX: &str = "WAKEGATE_";
/// The prefix of variables that Hypeman's own programs read, too.
const HYPEMAN: &str = "HYPEMAN_";

/// The environment; a test passes its own.
#[derive(Clone, Default)]
pub struct Variables {
    readable: BTreeMap<String, String>,
    /// The names of variables that are not UTF-8.
    unreadable: Vec<String>,
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) || name.starts_with(HYPEMAN)
}

/// Whether it is read here: others of Hypeman's may be anything.
fn is_read(name: &str) -> bool {
    name.starts_with(PREFIX) || name.starts_with("HYPEMAN_API_KEY") || name == "HYPEMAN_BASE_URL"
}

// === impl Variables ===

impl Variables {
    /// The process's own `WAKEGATE_…` and `HYPEMAN_…` variables.
    pub fn from_process() -> Self {
        Self::of(std::env::vars_os())
    }

    fn of(pairs: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut all = Self::default();
        for (name, value) in pairs {
            let name = name.to_string_lossy();
            if !is_ours(&name) {
                continue;
            }
            match value.into_string() {
                Ok(value) if value.is_empty() => {}
                Ok(value) => drop(all.readable.insert(name.into_owned(), value)),
                Err(_) if is_read(&name) => all.unreadable.push(name.into_owned()),
                Err(_) => {}
            }
        }
        all
    }

    /// A variable's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.readable.get(name).map(String::as_str)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.readable.contains_key(name)
    }

    /// Names and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.readable.iter();
        pairs.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The names of those that are not UTF-8.
    pub(super) fn unreadable(&self) -> &[String] {
        &self.unreadable
    }
}

impl fmt::Debug for Variables {
    /// Their names: a value may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.readable.keys()).finish()
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter();
        Self::of(pairs.map(|(name, value)| (name.into(), value.into())))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn an_empty_variable_is_unset_and_one_that_is_not_text_is_not_forgotten() {
        let pair = |name: &str, value: &[u8]| (name.into(), OsString::from_vec(value.to_vec()));
        let variables = Variables::of([
            pair("WAKEGATE_A", b"a"),
            pair("WAKEGATE_B", b""),
            pair("WAKEGATE_C", b"\xff"),
            pair("HYPEMAN_D", b"d"),
            pair("HYPEMAN_OTHER", b"\xff"),
            pair("OTHER", b"\xff"),
        ]);
        let pairs: Vec<_> = variables.iter().collect();
        assert_eq!(pairs, [("HYPEMAN_D", "d"), ("WAKEGATE_A", "a")]);
        assert!(!variables.has("WAKEGATE_B"));
        let printed = format!("{variables:?}");
        assert_eq!(printed, r#"{"HYPEMAN_D", "WAKEGATE_A"}"#);
        assert_eq!(variables.unreadable(), ["WAKEGATE_C"]);
    }
}
