//! Where a server is and how patient a client of it is.
//!
//! Guarantees: printing a configuration shows nothing of its key, and nothing that the URL should
//! not have had in it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

/// An API key, which `Debug` masks.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

/// A client's configuration, as a [`ClientBuilder`](crate::ClientBuilder) makes it. The fields are
/// public for programs that read theirs from a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The base URL, `http` or `https`.
    pub url: String,
    /// The file that has the API key. It is read when the client is made and again after each 401.
    /// It wins over `api_key`.
    pub api_key_file: Option<PathBuf>,
    /// The API key itself.
    pub api_key: Option<ApiKey>,
    /// The longest time to open a connection.
    pub connect_timeout: Duration,
    /// The longest time for a call that reads or holds, repetitions included.
    pub timeout: Duration,
    /// The longest time for a call that changes something, such as a restore. The server itself
    /// gives up after 60 s.
    pub change_timeout: Duration,
    /// The largest number of repetitions of a call that may be repeated.
    pub max_repeats: u32,
    /// The longest answer about one object, and the longest element of a list, in bytes.
    pub max_answer_bytes: usize,
    /// The longest list, in bytes.
    pub max_list_bytes: usize,
    /// The `User-Agent` of the client's requests.
    pub user_agent: String,
}

// === impl ApiKey ===

impl ApiKey {
    /// Wraps a key. White space around it, such as a file's last newline, is dropped.
    pub fn new(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for ApiKey {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for ApiKey {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

// === impl Config ===

impl Config {
    /// The default configuration with what the environment says: `HYPEMAN_BASE_URL`, and
    /// `HYPEMAN_API_KEY` or else `HYPEMAN_BEARER_TOKEN`. An empty variable counts as unset.
    ///
    /// The key belongs to that URL: a program that takes another from somewhere else must not keep
    /// it, or one server learns the key of another.
    pub fn from_env() -> Self {
        let variable = |name| {
            let value = std::env::var_os(name)?.into_string().ok()?;
            (!value.is_empty()).then_some(value)
        };
        let default = Self::default();
        Self {
            url: variable("HYPEMAN_BASE_URL").unwrap_or(default.url),
            api_key: variable("HYPEMAN_API_KEY")
                .or_else(|| variable("HYPEMAN_BEARER_TOKEN"))
                .map(ApiKey::from),
            ..Self::default()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "http://localhost:4973".to_owned(),
            api_key_file: None,
            api_key: None,
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(10),
            change_timeout: Duration::from_secs(58),
            max_repeats: 2,
            max_answer_bytes: 1024 * 1024,
            // The list of fifty thousand instances fits.
            max_list_bytes: 64 * 1024 * 1024,
            user_agent: concat!("hypeman-rs/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A URL with a password is refused when the client is made, and may be printed before.
        let origin = Url::parse(&self.url).map(|url| url.origin().ascii_serialization());
        f.debug_struct("Config")
            .field("url", &origin.as_deref().unwrap_or("not a URL"))
            .field("api_key_file", &self.api_key_file)
            .field("api_key", &self.api_key)
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.timeout)
            .field("change_timeout", &self.change_timeout)
            .field("max_repeats", &self.max_repeats)
            .field("max_answer_bytes", &self.max_answer_bytes)
            .field("max_list_bytes", &self.max_list_bytes)
            .field("user_agent", &self.user_agent)
            .finish()
    }
}
