//! Why TLS towards instances cannot be set up.
//!
//! Guarantees: no key is in any message; each message names the file that is at fault.

use std::path::Path;

/// What a route says of TLS cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct TlsSetupError {
    /// The key whose value is at fault.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
}

// === impl TlsSetupError ===

impl TlsSetupError {
    pub(super) fn new(key: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { key, message }
    }

    pub(super) fn of_file(key: &'static str, path: &Path, what: impl std::fmt::Display) -> Self {
        Self::new(key, format!("{}: {what}", path.display()))
    }

    pub(super) fn unreadable(key: &'static str, path: &Path, error: &std::io::Error) -> Self {
        Self::new(key, format!("cannot read {}: {error}", path.display()))
    }
}
