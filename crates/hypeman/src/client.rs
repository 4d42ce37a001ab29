//! How a call is made: address, token, deadline, repetition, errors.
//!
//! Guarantees: connections are reused; redirects and proxies are not followed; each call has a
//! deadline of its own; only a call marked repeatable is repeated (twice at most, with a jittered
//! pause), and only after an error that may pass; after a 401 the key file is read again, and a
//! changed key gets one more try; an answer's body is bounded.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{HeaderValue, Method, header};
use reqwest::{Response, Url};
use serde::de::DeserializeOwned;

use super::config::{ApiKey, Config};
use super::error::ControlPlaneError;
use super::observer::{CallReport, NoObserver, Observer};

/// Longest answer that is read; a list of a hundred thousand instances fits.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;
const MAX_REPEATS: u32 = 2;

/// A client of one control plane. Cheap to clone.
#[derive(Clone)]
pub struct HypemanClient {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    base: Url,
    key: ArcSwapOption<HeaderValue>,
    key_file: Option<PathBuf>,
    quick: Duration,
    slow: Duration,
    observer: Arc<dyn Observer>,
}

/// The client cannot be made from this configuration.
#[derive(Debug, thiserror::Error)]
pub enum ClientBuildError {
    /// The URL does not parse.
    #[error("`url`: {0}")]
    Url(#[from] url::ParseError),
    /// The key file cannot be read.
    #[error("cannot read `api_key_file` {}: {source}", path.display())]
    KeyFile {
        /// The key file's path.
        path: PathBuf,
        /// The reason that the system gives.
        source: std::io::Error,
    },
    /// The key is empty or has characters that no header can carry. Its text is not shown.
    #[error("the API key is empty or has characters that no header can carry")]
    Key,
    /// TLS or the resolver cannot be set up.
    #[error("cannot set up an HTTP client: {0}")]
    Http(#[from] reqwest::Error),
}

/// One call, before it is made.
pub(super) struct Call<'a> {
    pub(super) op: &'static str,
    pub(super) method: Method,
    pub(super) path: &'a [&'a str],
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Option<Vec<u8>>,
    pub(super) timeout: Duration,
    /// Whether the contract makes a repetition harmless.
    pub(super) repeatable: bool,
}

fn bearer(key: &ApiKey) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", key.reveal())).ok()?;
    value.set_sensitive(true);
    (!key.reveal().is_empty()).then_some(value)
}

// === impl HypemanClient ===

impl HypemanClient {
    /// Makes a client; reads the key file, connects to nothing.
    pub fn new(config: &Config) -> Result<Self, ClientBuildError> {
        Self::with_observer(config, Arc::new(NoObserver))
    }

    /// Makes a client whose attempts `observer` hears of.
    pub fn with_observer(
        config: &Config,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ClientBuildError> {
        let base = Url::parse(&config.url)?;
        let key = match &config.api_key_file {
            None => config.api_key.clone(),
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|source| ClientBuildError::KeyFile {
                    path: path.clone(),
                    source,
                })?;
                Some(ApiKey::new(&text))
            }
        };
        let key = match key {
            None => None,
            Some(key) => Some(bearer(&key).ok_or(ClientBuildError::Key)?),
        };
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
                key: ArcSwapOption::new(key.map(Arc::new)),
                key_file: config.api_key_file.clone(),
                quick: config.request_timeout,
                slow: config.restore_timeout,
                observer,
            }),
        })
    }

    /// The deadline of calls that should be quick.
    pub(super) fn quick(&self) -> Duration {
        self.inner.quick
    }

    /// The deadline of calls that move a VM.
    pub(super) fn slow(&self) -> Duration {
        self.inner.slow
    }

    pub(super) fn observer(&self) -> &dyn Observer {
        &*self.inner.observer
    }

    /// Whether the server is up; needs no token.
    pub async fn health(&self) -> Result<(), ControlPlaneError> {
        let call = Call {
            repeatable: false,
            ..self.get_call("health", &["health"])
        };
        self.exchange(&call).await.map(drop)
    }

    pub(super) fn get_call<'a>(&self, op: &'static str, path: &'a [&'a str]) -> Call<'a> {
        let (timeout, repeatable) = (self.quick(), true);
        Call {
            op,
            method: Method::GET,
            path,
            query: Vec::new(),
            body: None,
            timeout,
            repeatable,
        }
    }

    /// A call that changes something: repeated never, with the long deadline.
    pub(super) fn change_call<'a>(
        &self,
        op: &'static str,
        method: Method,
        path: &'a [&'a str],
    ) -> Call<'a> {
        let (timeout, repeatable) = (self.slow(), false);
        Call {
            op,
            method,
            path,
            query: Vec::new(),
            body: None,
            timeout,
            repeatable,
        }
    }

    /// Makes the call and reads its JSON answer.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        call: Call<'_>,
    ) -> Result<T, ControlPlaneError> {
        let bytes = self.exchange(&call).await?;
        serde_json::from_slice(&bytes).map_err(|error| ControlPlaneError::Decode {
            op: call.op,
            // The error names a field and a place, not the text around it.
            reason: error.to_string(),
        })
    }

    /// Makes the call and drops its answer.
    pub(super) async fn nothing(&self, call: Call<'_>) -> Result<(), ControlPlaneError> {
        self.exchange(&call).await.map(drop)
    }

    /// One call with its repetitions; the body of a good answer.
    async fn exchange(&self, call: &Call<'_>) -> Result<Vec<u8>, ControlPlaneError> {
        let mut repeats = 0;
        loop {
            let error = match self.once(call).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            let allowed = call.repeatable && error.is_retryable() && repeats < MAX_REPEATS;
            if !allowed || matches!(error, ControlPlaneError::Timeout { .. }) {
                return Err(error);
            }
            let pause = 50_u64 << repeats;
            tokio::time::sleep(Duration::from_millis(pause + fastrand::u64(0..=pause))).await;
            repeats += 1;
        }
    }

    /// One attempt within the call's deadline, counted.
    async fn once(&self, call: &Call<'_>) -> Result<Vec<u8>, ControlPlaneError> {
        let began = tokio::time::Instant::now();
        let attempt = async {
            let response = self.send(call, Some(call.timeout)).await?;
            read_bounded(call, response).await
        };
        let result = match tokio::time::timeout(call.timeout, attempt).await {
            Ok(result) => result,
            Err(_) => Err(ControlPlaneError::Timeout {
                op: call.op,
                after: call.timeout,
            }),
        };
        self.report(call, &result, began.elapsed());
        result
    }

    /// Tells the observer of an attempt that is over.
    pub(super) fn report<T>(
        &self,
        call: &Call<'_>,
        result: &Result<T, ControlPlaneError>,
        took: Duration,
    ) {
        let outcome = result
            .as_ref()
            .map_or_else(ControlPlaneError::label, |_| "200".to_owned());
        self.inner.observer.call_ended(CallReport {
            operation: call.op,
            outcome,
            took,
        });
    }

    /// Sends, and turns an error status into an error. `timeout` is for the whole answer.
    pub(super) async fn send(
        &self,
        call: &Call<'_>,
        timeout: Option<Duration>,
    ) -> Result<Response, ControlPlaneError> {
        let key = self.inner.key.load_full();
        let mut response = self.send_with(call, timeout, key.as_deref()).await?;
        if response.status() == 401
            && let Some(fresh) = self.reread_key(key.as_deref()).await
        {
            response = self.send_with(call, timeout, Some(&fresh)).await?;
        }
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = read_bounded(call, response).await.unwrap_or_default();
        Err(api_error(call.op, status, &body))
    }

    async fn send_with(
        &self,
        call: &Call<'_>,
        timeout: Option<Duration>,
        key: Option<&HeaderValue>,
    ) -> Result<Response, ControlPlaneError> {
        let mut url = self.inner.base.clone();
        // An http(s) URL always has path segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(call.path);
        }
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        let mut request = self.inner.http.request(call.method.clone(), url);
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        if let Some(key) = key {
            request = request.header(header::AUTHORIZATION, key.clone());
        }
        if let Some(body) = &call.body {
            request = request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        request.send().await.map_err(|error| classify(call, error))
    }

    /// A key file's new content, if it has one that differs from what was just refused.
    async fn reread_key(&self, refused: Option<&HeaderValue>) -> Option<HeaderValue> {
        let path = self.inner.key_file.as_ref()?;
        let text = tokio::fs::read_to_string(path).await.ok()?;
        let fresh = bearer(&ApiKey::new(&text))?;
        if refused == Some(&fresh) {
            return None;
        }
        self.inner.key.store(Some(Arc::new(fresh.clone())));
        Some(fresh)
    }
}

/// Which of our errors a transport error is. The URL is dropped from its text.
pub(super) fn classify(call: &Call<'_>, error: reqwest::Error) -> ControlPlaneError {
    let op = call.op;
    let source = error.without_url();
    if source.is_connect() {
        ControlPlaneError::Connect {
            op,
            source: source.into(),
        }
    } else if source.is_timeout() {
        ControlPlaneError::Timeout {
            op,
            after: call.timeout,
        }
    } else {
        ControlPlaneError::Transport {
            op,
            source: source.into(),
        }
    }
}

async fn read_bounded(
    call: &Call<'_>,
    mut response: Response,
) -> Result<Vec<u8>, ControlPlaneError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| classify(call, error))?
    {
        if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
            let reason = format!("it is longer than {MAX_ANSWER_BYTES} bytes");
            return Err(ControlPlaneError::Decode {
                op: call.op,
                reason,
            });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[derive(serde::Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
}

fn api_error(op: &'static str, status: http::StatusCode, body: &[u8]) -> ControlPlaneError {
    let text = String::from_utf8_lossy(body);
    let (code, message) = match serde_json::from_slice::<ErrorBody>(body) {
        Ok(error) => (error.code, error.message),
        // The validator's dialect does not escape quotes (contract A.2), and a proxy in between may
        // answer anything: keep the text.
        Err(_) => (
            status.canonical_reason().unwrap_or_default().to_owned(),
            text.into_owned(),
        ),
    };
    let message = message.chars().take(500).collect();
    ControlPlaneError::Api {
        op,
        status: status.as_u16(),
        code,
        message,
    }
}

impl fmt::Debug for HypemanClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HypemanClient")
            .field("base", &self.inner.base.as_str())
            .finish_non_exhaustive()
    }
}
