//! How a client is made.
//!
//! Guarantees: every setting has a default but the URL; nothing is checked or read before `build`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::config::{ApiKey, Config};
use super::error::BuildError;
use super::handle::Client;
use super::observer::{NoObserver, Observer};

/// Makes a [`Client`]. See [`Client::builder`].
#[derive(Clone)]
#[must_use = "a builder makes no client before `build`"]
pub struct ClientBuilder {
    config: Config,
    observer: Arc<dyn Observer>,
}

// === impl Client ===

impl Client {
    /// A builder of a client of the server at `url`.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::from(Config {
            url: url.into(),
            ..Config::default()
        })
    }

    /// Makes a client from a configuration, without an observer. With one:
    /// `ClientBuilder::from(config).observer(..).build()`. This reads the key file and connects to
    /// nothing.
    pub fn new(config: &Config) -> Result<Self, BuildError> {
        ClientBuilder::from(config.clone()).build()
    }
}

// === impl ClientBuilder ===

impl ClientBuilder {
    /// The API key. Without one, only calls that need none succeed.
    pub fn api_key(mut self, key: impl Into<ApiKey>) -> Self {
        self.config.api_key = Some(key.into());
        self
    }

    /// The file that has the API key. It is read by [`build`](Self::build) and again after each
    /// 401, so that a key can be replaced while the program runs.
    pub fn api_key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.api_key_file = Some(path.into());
        self
    }

    /// The longest time to open a connection, 2 s by default.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// The longest time for a call that reads or holds, repetitions included; 10 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout;
        self
    }

    /// The longest time for a call that changes something, such as a restore; 58 s by default. The
    /// server itself gives up after 60 s.
    pub fn change_timeout(mut self, timeout: Duration) -> Self {
        self.config.change_timeout = timeout;
        self
    }

    /// The largest number of repetitions of a call that may be repeated, 2 by default.
    pub fn max_repeats(mut self, repeats: u32) -> Self {
        self.config.max_repeats = repeats;
        self
    }

    /// The longest answer about one object, and the longest element of a list; 1 MiB by default.
    pub fn max_answer_bytes(mut self, bytes: usize) -> Self {
        self.config.max_answer_bytes = bytes;
        self
    }

    /// The longest list, 64 MiB by default. A list is decoded while it arrives.
    pub fn max_list_bytes(mut self, bytes: usize) -> Self {
        self.config.max_list_bytes = bytes;
        self
    }

    /// The `User-Agent` of the client's requests, `hypeman-rs/` and a version by default.
    pub fn user_agent(mut self, text: impl Into<String>) -> Self {
        self.config.user_agent = text.into();
        self
    }

    /// Hears of every attempt; see [`Observer`].
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Arc::new(observer);
        self
    }

    /// Makes the client. This reads the key file and connects to nothing.
    pub fn build(self) -> Result<Client, BuildError> {
        Client::from_parts(&self.config, self.observer)
    }
}

impl From<Config> for ClientBuilder {
    fn from(config: Config) -> Self {
        Self {
            config,
            observer: Arc::new(NoObserver),
        }
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
