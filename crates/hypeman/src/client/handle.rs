//! A client of one server: its connections, its key and its settings.
//!
//! Guarantees: connections are reused; redirects and proxies are not followed, so that the key goes
//! nowhere but to the configured server; neither the key nor the path of the URL is printed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;

use super::config::Config;
use super::error::BuildError;
use super::key::Key;
use super::observer::Observer;

/// A client of one Hypeman server. It is cheap to clone, and clones share their connections.
///
/// The methods are the API's operations, one each. What they have in common (deadlines,
/// repetitions, errors) is described on the [crate's front page](crate).
///
/// ```no_run
/// use std::time::Duration;
///
/// use hypeman::Client;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder("http://localhost:4973")
///     .api_key(std::env::var("HYPEMAN_API_KEY")?)
///     .timeout(Duration::from_secs(5))
///     .build()?;
/// let instance = client.restore_instance(&"web".parse()?).await?;
/// println!("{} is {}", instance.name, instance.state);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

/// What the clones of a client share.
pub(super) struct Inner {
    pub(super) http: reqwest::Client,
    pub(super) base: Url,
    pub(super) key: Key,
    pub(super) timeout: Duration,
    pub(super) change_timeout: Duration,
    pub(super) max_repeats: u32,
    pub(super) max_answer_bytes: usize,
    pub(super) max_list_bytes: usize,
    pub(super) observer: Arc<dyn Observer>,
}

// === impl Client ===

impl Client {
    /// Makes a client: reads the key file, connects to nothing.
    pub(super) fn from_parts(
        config: &Config,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, BuildError> {
        let base = Url::parse(&config.url)?;
        let plain = matches!(base.scheme(), "http" | "https")
            && base.username().is_empty()
            && base.password().is_none()
            && base.query().is_none()
            && base.fragment().is_none();
        if !plain {
            return Err(BuildError::UrlParts);
        }
        let mut http = reqwest::Client::builder();
        if base.scheme() == "http" {
            // It needs no CA certificates, which an otherwise empty container does not have.
            http = http.tls_certs_only([]);
        }
        let http = http
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .connect_timeout(config.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(&config.user_agent)
            .build()?;
        Ok(Self {
            inner: Arc::new(Inner {
                http,
                base,
                key: Key::load(config)?,
                timeout: config.timeout,
                change_timeout: config.change_timeout,
                max_repeats: config.max_repeats,
                max_answer_bytes: config.max_answer_bytes,
                max_list_bytes: config.max_list_bytes,
                observer,
            }),
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.inner.base.origin().ascii_serialization();
        f.debug_struct("Client")
            .field("origin", &origin)
            .finish_non_exhaustive()
    }
}
