//! What is secret in the directory: policies are sealed there where there are keys for it.
//!
//! Guarantees: what is sealed opens under the key of the directory that it was sealed for and under no
//! other; a value that was changed does not open; no key and no secret is in a message. Keys are known by
//! the beginning of their digest.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::records::to_hex;
use crate::config::FleetConfig;

/// Bytes of a key.
const LENGTH: usize = 32;

/// Why keys cannot be used, or a value cannot be opened.
#[derive(Debug, Error)]
pub enum SealError {
    /// The file of keys cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, std::io::Error),
    /// There is none in it.
    #[error("{0} has no key: `openssl rand -base64 32` makes one")]
    Empty(PathBuf),
    /// One of them is none.
    #[error("key {0} of {1} is not base64 of 32 bytes: `openssl rand -base64 32` makes one")]
    NoKey(usize, PathBuf),
    /// Nothing can be opened here.
    #[error("is sealed with the key {0}, and there is no `fleet.key_file`")]
    NoKeys(String),
    /// It is sealed with a key that is not in the file.
    #[error("is sealed with the key {0}, which is not in `fleet.key_file`")]
    UnknownKey(String),
    /// It is not what was sealed.
    #[error(
        "does not open with the key {0}: it was changed, or sealed for another key of the directory"
    )]
    Changed(String),
    /// Anybody could have written it.
    #[error("is not sealed")]
    Plain,
    /// There is no randomness, or nothing can be sealed.
    #[error("cannot be sealed")]
    Seal,
}

/// A sealed value, as the directory has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    sealed: Parts,
}

#[derive(Serialize, Deserialize)]
struct Parts {
    /// Which key it is.
    key: String,
    nonce: String,
    data: String,
}

#[derive(Clone)]
struct Key {
    id: String,
    cipher: Arc<LessSafeKey>,
}

/// The keys, of which the first seals and all open; there may be none.
#[derive(Clone, Default)]
pub struct SealKeys(Vec<Key>);

// === impl SealKeys ===

impl SealKeys {
    /// The keys that the configuration names.
    pub fn of(config: &FleetConfig) -> Result<Self, SealError> {
        let path = config.key_file.as_deref();
        path.map_or_else(|| Ok(Self::default()), Self::load)
    }

    /// The keys of a file, one a line.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| SealError::Read(path.to_owned(), error))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys = lines.enumerate().map(|(index, line)| {
            let key = BASE64_STANDARD
                .decode(line)
                .ok()
                .and_then(|key| Key::of(&key));
            key.ok_or_else(|| SealError::NoKey(index + 1, path.to_owned()))
        });
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        match keys.is_empty() {
            true => Err(SealError::Empty(path.to_owned())),
            false => Ok(Self(keys)),
        }
    }

    /// What the keys are known by.
    fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.id.as_str())
    }

    /// Whether these are the keys of another.
    pub fn is_like(&self, other: &Self) -> bool {
        self.ids().eq(other.ids())
    }

    /// Whether anything can be sealed.
    pub fn can_seal(&self) -> bool {
        !self.0.is_empty()
    }

    /// Seals the value of a key of the directory; as it is, where there are no keys.
    pub fn seal(&self, name: &str, value: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let Some(key) = self.0.first() else {
            return Ok(value);
        };
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SealError::Seal)?;
        let mut data = value;
        let with = Nonce::assume_unique_for_key(nonce);
        let sealing = key
            .cipher
            .seal_in_place_append_tag(with, Aad::from(name), &mut data);
        sealing.map_err(|_| SealError::Seal)?;
        let sealed = Sealed {
            sealed: Parts {
                key: key.id.clone(),
                nonce: BASE64_STANDARD.encode(nonce),
                data: BASE64_STANDARD.encode(&data),
            },
        };
        serde_json::to_vec(&sealed).map_err(|_| SealError::Seal)
    }

    /// Opens the value of a key of the directory; as it is, if it is not sealed.
    pub fn open<'v>(&self, name: &str, value: &'v [u8]) -> Result<Cow<'v, [u8]>, SealError> {
        let Ok(Sealed { sealed }) = serde_json::from_slice(value) else {
            return Ok(Cow::Borrowed(value));
        };
        if self.0.is_empty() {
            return Err(SealError::NoKeys(sealed.key));
        }
        let Some(key) = self.0.iter().find(|key| key.id == sealed.key) else {
            return Err(SealError::UnknownKey(sealed.key));
        };
        let changed = || SealError::Changed(sealed.key.clone());
        let nonce = BASE64_STANDARD
            .decode(&sealed.nonce)
            .map_err(|_| changed())?;
        let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| changed())?;
        let mut data = BASE64_STANDARD
            .decode(&sealed.data)
            .map_err(|_| changed())?;
        let opened = key.cipher.open_in_place(nonce, Aad::from(name), &mut data);
        let length = opened.map_err(|_| changed())?.len();
        data.truncate(length);
        Ok(Cow::Owned(data))
    }

    /// The same for a value that nobody writes unsealed.
    pub fn open_sealed(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, SealError> {
        match self.open(name, value)? {
            Cow::Owned(opened) => Ok(opened),
            Cow::Borrowed(_) => Err(SealError::Plain),
        }
    }

    /// Whether a value is sealed with the key that seals; always, where there are no keys.
    pub fn is_current(&self, value: &[u8]) -> bool {
        let Some(first) = self.0.first() else {
            return true;
        };
        let sealed = serde_json::from_slice::<Sealed>(value);
        sealed.is_ok_and(|value| value.sealed.key == first.id)
    }
}

impl fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

// === impl Key ===

impl Key {
    fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != LENGTH {
            return None;
        }
        let mut id = to_hex(digest(&SHA256, bytes).as_ref());
        id.truncate(8);
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).ok()?);
        let cipher = Arc::new(cipher);
        Some(Self { id, cipher })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> SealKeys {
        SealKeys(
            bytes
                .iter()
                .map(|byte| Key::of(&[*byte; 32]).unwrap())
                .collect(),
        )
    }

    #[test]
    fn a_file_of_keys_is_refused_without_telling_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let key = BASE64_STANDARD.encode([7; 32]);
        let refused = SealKeys::load(&path).unwrap_err().to_string();
        assert!(refused.contains("cannot read"), "{refused}");
        for (text, said) in [
            (" \n".to_owned(), "has no key"),
            ("hunter2".to_owned(), "key 1 of"),
            (
                format!("{key}\n\n{}\n", BASE64_STANDARD.encode([7; 31])),
                "key 2 of",
            ),
        ] {
            std::fs::write(&path, &text).unwrap();
            let refused = SealKeys::load(&path).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
            assert!(
                !refused.contains("hunter2") && !refused.contains(&key),
                "{refused}"
            );
        }
        std::fs::write(&path, format!("{key}\n\n{key}\n")).unwrap();
        let loaded = SealKeys::load(&path).unwrap();
        assert_eq!(loaded.0.len(), 2);
        assert!(!format!("{loaded:?}").contains(&key));
    }

    #[test]
    fn what_was_changed_or_moved_or_sealed_with_another_key_does_not_open() {
        let (own, other, none) = (keys(&[1]), keys(&[2]), SealKeys::default());
        let sealed = own
            .seal("p/a", b"{\"secret\":\"hunter2\"}".to_vec())
            .unwrap();
        let said = |keys: &SealKeys, name: &str, value: &[u8]| {
            let said = keys.open(name, value).unwrap_err().to_string();
            assert!(!said.contains("hunter2"), "{said}");
            said
        };
        assert!(said(&other, "p/a", &sealed).contains("which is not in `fleet.key_file`"));
        assert!(said(&none, "p/a", &sealed).contains("there is no `fleet.key_file`"));
        assert!(said(&own, "p/b", &sealed).contains("does not open"));
        let text = String::from_utf8(sealed).unwrap();
        assert!(!text.contains("hunter2"));
        let parts: Sealed = serde_json::from_str(&text).unwrap();
        for (field, value) in [("data", &parts.sealed.data), ("nonce", &parts.sealed.nonce)] {
            for changed in [
                String::new(),
                "?".to_owned(),
                BASE64_STANDARD.encode([0; 40]),
            ] {
                let text = text.replace(&**value, &changed);
                assert!(
                    said(&own, "p/a", text.as_bytes()).contains("does not open"),
                    "{field}"
                );
            }
        }
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let value = b"{\"a\":1}".to_vec();
        let (old, both) = (keys(&[1]), keys(&[2, 1]));
        let by_old = old.seal("p/a", value.clone()).unwrap();
        let by_new = both.seal("p/a", value.clone()).unwrap();
        assert_ne!(
            by_new,
            both.seal("p/a", value.clone()).unwrap(),
            "never the same twice"
        );
        assert_eq!(both.open("p/a", &by_old).unwrap(), value);
        assert_eq!(both.open("p/a", &by_new).unwrap(), value);
        assert!(old.open("p/a", &by_new).is_err());
        assert_eq!(
            [&by_old, &by_new, &value].map(|sealed| both.is_current(sealed)),
            [false, true, false]
        );
        // Without keys nothing is sealed, and what is not sealed is as it is.
        let none = SealKeys::default();
        assert_eq!(none.seal("p/a", value.clone()).unwrap(), value);
        assert_eq!(both.open("p/a", &value).unwrap(), value);
        assert!(none.is_current(&value) && !none.can_seal());
    }
}
