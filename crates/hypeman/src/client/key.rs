//! The API key that a client sends, and its file.
//!
//! Guarantees: the key is marked sensitive, so that no log of headers shows it; a file that cannot
//! be read later leaves the key that there is.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::HeaderValue;

use super::config::{ApiKey, Config};
use super::error::BuildError;

/// The current key and the file that it came from.
pub(super) struct Key {
    current: ArcSwapOption<HeaderValue>,
    file: Option<PathBuf>,
}

impl Key {
    /// Reads the key file, if the configuration has one.
    pub(super) fn load(config: &Config) -> Result<Self, BuildError> {
        let key = match &config.api_key_file {
            None => config.api_key.clone(),
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|source| BuildError::KeyFile {
                    path: path.clone(),
                    source,
                })?;
                Some(ApiKey::new(&text))
            }
        };
        let header = match key {
            None => None,
            Some(key) => Some(Arc::new(bearer(&key).ok_or(BuildError::Key)?)),
        };
        Ok(Self {
            current: ArcSwapOption::new(header),
            file: config.api_key_file.clone(),
        })
    }

    /// The `Authorization` field to send.
    pub(super) fn current(&self) -> Option<Arc<HeaderValue>> {
        self.current.load_full()
    }

    /// The key file's new content, if it differs from what was just refused.
    pub(super) async fn reread(&self, refused: Option<&HeaderValue>) -> Option<Arc<HeaderValue>> {
        let path = self.file.as_ref()?;
        let text = tokio::fs::read_to_string(path).await.ok()?;
        let fresh = bearer(&ApiKey::new(&text))?;
        if refused == Some(&fresh) {
            return None;
        }
        let fresh = Arc::new(fresh);
        self.current.store(Some(Arc::clone(&fresh)));
        Some(fresh)
    }
}

fn bearer(key: &ApiKey) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", key.reveal())).ok()?;
    value.set_sensitive(true);
    (!key.reveal().is_empty()).then_some(value)
}
