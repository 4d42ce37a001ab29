//! Where a control plane is and how patient a client of it is.
//!
//! Guarantees: printing a configuration shows nothing of its key.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// An API key, which `Debug` masks.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Wraps a key; surrounding white space (a file's last newline) is dropped.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How to reach a control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Base URL, `http` or `https`.
    pub url: String,
    /// The file that the API key is read from, again after each 401. It wins over `api_key`.
    pub api_key_file: Option<PathBuf>,
    /// The API key itself.
    pub api_key: Option<ApiKey>,
    /// Longest time to open a connection.
    pub connect_timeout: Duration,
    /// Longest time for a call that should be quick.
    pub request_timeout: Duration,
    /// Longest time for a call that moves a VM; the server itself gives up at 60 s.
    pub restore_timeout: Duration,
    /// What the client calls itself.
    pub user_agent: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:4973".to_owned(),
            api_key_file: None,
            api_key: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            restore_timeout: Duration::from_secs(58),
            user_agent: concat!("hypeman-rs/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}
