//! Sending one request to one instance.
//!
//! Guarantees: an error says whether the request was certainly not sent, and then returns it;
//! whether a response had begun never needs to be guessed, since after its head there is no error
//! from here; a connection is dialled within its own timeout.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, uri};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::h1::{Connection, Failure};
use super::h1_body::H1Body;
use super::h2_pool::Stream;
use super::hop::Hop;
use super::leased_stream::LeasedStream;
use super::outgoing::Outgoing;
use super::pool::{Pool, ReturnTo, Sender};
use super::request_body::{BodyFailure, RequestBody};
use super::response_body::UpstreamBody;
use crate::config::{Protocol, UpstreamConfig};
use crate::telemetry::{ConnectOutcome, Metrics, UpstreamUse};
use crate::wake::{Endpoint, OpenConnection};

/// HTTP/2: windows and the response's fields, in bytes.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const MAX_HEADER_LIST: u32 = 128 * 1024;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The request got no response.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No connection could be made; nothing was sent.
    #[error("cannot connect to the instance: {0}")]
    Connect(#[source] io::Error),
    /// The connection was closed before it took the request.
    #[error("the connection to the instance was closed before the request")]
    Unsent,
    /// The connection broke after it had taken some of the request, and before a response.
    #[error("the connection to the instance broke before its response: {0}")]
    Broken(#[source] Cause),
    /// The response is not HTTP.
    #[error("the instance's response is not valid: {0}")]
    Malformed(#[source] Cause),
    /// The client did not send its body as it should; the instance is not to blame.
    #[error("the request's body did not come as it should")]
    Client(BodyFailure),
    /// No response's head in time.
    #[error("the instance sent no response in time")]
    TimedOut,
    /// The instance went to sleep, or away, under the request.
    #[error("the instance went to sleep before its response")]
    Severed,
}

/// Why a request that hyper was given got no response, and the request, if nothing of it was sent.
struct Unanswered(ForwardError, Option<Box<Request<RequestBody>>>);

// === impl ForwardError ===

impl ForwardError {
    /// Whether certainly nothing was sent.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Unsent)
    }
}

impl From<Failure> for ForwardError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unsent => Self::Unsent,
            Failure::Closed | Failure::Broke(_) => Self::Broken(failure.into()),
            Failure::Malformed(_) => Self::Malformed(failure.into()),
            Failure::TimedOut => Self::TimedOut,
            Failure::Severed => Self::Severed,
        }
    }
}

// === impl Unanswered ===

impl Unanswered {
    fn unsent(error: ForwardError, request: Request<RequestBody>) -> Self {
        Self(error, Some(Box::new(request)))
    }
}

/// Connections to all instances.
pub struct Upstream {
    config: ArcSwap<UpstreamConfig>,
    pools: DashMap<(u64, u16), Arc<Pool>>,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

// === impl Upstream ===

impl Upstream {
    /// Makes one without connections; the tasks of connections go on `tasks`.
    pub fn new(config: UpstreamConfig, tasks: TaskTracker, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            config: ArcSwap::from_pointee(config),
            pools: DashMap::new(),
            tasks,
            metrics,
        })
    }

    /// Uses these limits for connections and waits from now on; pools that are there keep theirs.
    pub fn change(&self, config: &UpstreamConfig) {
        self.config.store(Arc::new(config.clone()));
    }

    /// Connections that wait for a request.
    pub fn idle(&self) -> usize {
        self.pools.iter().map(|pool| pool.idle()).sum()
    }

    /// Sends the request on `given` (the probe's connection), a pooled one, or a new one, in this
    /// order; `now` is the time. Returns the response's head; its body holds the connection.
    pub async fn send(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(TcpStream, OpenConnection)>,
        request: &mut Outgoing,
        now: Instant,
    ) -> Result<Response<UpstreamBody>, ForwardError> {
        let pool = self.pool(endpoint, hop.port);
        // Servers that speak HTTP/2 without TLS take HTTP/1.1's upgrades at the same port.
        let h2 = hop.protocol == Protocol::H2c && !request.is_upgrade();
        if !h2 && request.body.is_nothing() && !request.is_upgrade() {
            return self
                .send_alone(endpoint, hop, given, &pool, request, now)
                .await;
        }
        let whole = request.give();
        // In boxes, as what is for new connections alone: most requests need none of it.
        let sent = match h2 {
            true => Box::pin(self.send_h2(endpoint, hop, given, &pool, whole)).await,
            false => Box::pin(self.send_h1(endpoint, hop, given, &pool, whole)).await,
        };
        sent.map_err(|Unanswered(error, unsent)| {
            if let Some(unsent) = unsent {
                request.give_back(*unsent);
            }
            error
        })
    }

    /// A request that is a head alone, over HTTP/1.1.
    async fn send_alone(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        mut given: Option<(TcpStream, OpenConnection)>,
        pool: &Arc<Pool>,
        request: &Outgoing,
        mut now: Instant,
    ) -> Result<Response<UpstreamBody>, ForwardError> {
        // A connection that names its client is that client's.
        let pooled = hop.proxy_header.is_none();
        let interim = |status, fields: &HeaderMap| request.pass_interim(status, fields);
        let response_timeout = self.config.load().response_timeout;
        loop {
            let taken = match &given {
                None if pooled => pool.take_connection(now),
                None | Some(_) => None,
            };
            let used = match (&taken, &given) {
                (Some(_), _) => UpstreamUse::Pooled,
                (None, Some(_)) => UpstreamUse::Probe,
                (None, None) => UpstreamUse::New,
            };
            let connection = match taken {
                Some(connection) => Ok(connection),
                None => Box::pin(self.dial(endpoint, hop, given.take())).await,
            };
            let mut connection = connection.map_err(ForwardError::Connect)?;
            self.metrics.count_upstream_use(used);
            if used == UpstreamUse::New {
                // It was dialled meanwhile.
                now = Instant::now();
            }
            connection.begin(request, now, response_timeout);
            match poll_fn(|cx| connection.poll_head(&request.head, &interim, cx)).await {
                Ok(head) => {
                    let return_to = (head.keep_alive && pooled).then(|| Arc::clone(pool));
                    let body = H1Body::new(head.body, connection, return_to);
                    return Ok(head.response.map(|()| UpstreamBody::of_h1(body)));
                }
                // A pooled connection that the instance has closed meanwhile costs nothing but a
                // look at the next one.
                Err(Failure::Unsent) if used == UpstreamUse::Pooled => {}
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    async fn dial(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(TcpStream, OpenConnection)>,
    ) -> io::Result<Box<Connection>> {
        let stream = self.connect(endpoint, hop, given).await?;
        let (connection, cut, gone) = Connection::new(stream);
        let epoch_cut = endpoint.cut().clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = epoch_cut.cancelled() => cut.cut(),
                _ = gone => {}
            }
        });
        Ok(connection)
    }

    /// Any other request over HTTP/1.1.
    async fn send_h1(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(TcpStream, OpenConnection)>,
        pool: &Arc<Pool>,
        mut request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, Unanswered> {
        let probed = given.is_some();
        // A connection that names its client is that client's.
        let pooled = hop.proxy_header.is_none();
        if given.is_none() && pooled {
            // A pooled connection that the instance has closed meanwhile costs nothing but a look
            // at the next one.
            while let Some(sender) = pool.take() {
                let return_to = |sender| self.return_to(sender, pool, pooled);
                self.metrics.count_upstream_use(UpstreamUse::Pooled);
                match self.exchange(endpoint, sender, request, return_to).await {
                    Err(Unanswered(ForwardError::Unsent, Some(unsent))) => request = *unsent,
                    result => return result,
                }
            }
        }
        let dialled = async {
            let connection = self.connect(endpoint, hop, given).await?;
            let (sender, task) = http1::handshake(connection)
                .await
                .map_err(io::Error::other)?;
            self.drive(endpoint, task.with_upgrades());
            Ok(sender)
        };
        match dialled.await {
            Ok(sender) => {
                let return_to = |sender| self.return_to(sender, pool, pooled);
                self.metrics.count_upstream_use(match probed {
                    true => UpstreamUse::Probe,
                    false => UpstreamUse::New,
                });
                self.exchange(endpoint, sender, request, return_to).await
            }
            Err(error) => Err(Unanswered::unsent(ForwardError::Connect(error), request)),
        }
    }

    /// Any request over HTTP/2.
    async fn send_h2(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        mut given: Option<(TcpStream, OpenConnection)>,
        pool: &Pool,
        request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, Unanswered> {
        let mut request = to_h2(request);
        loop {
            let taken = match hop.proxy_header {
                None => pool.h2.take(),
                Some(_) => None,
            };
            self.metrics.count_upstream_use(match (&taken, &given) {
                (Some(_), _) => UpstreamUse::Pooled,
                (None, Some(_)) => UpstreamUse::Probe,
                (None, None) => UpstreamUse::New,
            });
            let stream = match taken {
                Some(stream) => Ok(stream),
                None => self.dial_h2(endpoint, hop, given.take(), pool).await,
            };
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    return Err(Unanswered::unsent(ForwardError::Connect(error), request));
                }
            };
            let (sender, token) = stream.split();
            let return_to = |_| ReturnTo::Shared(token);
            match self.exchange(endpoint, sender, request, return_to).await {
                // Closed between the look and the sending; the next is dialled.
                Err(Unanswered(ForwardError::Unsent, Some(unsent)))
                    if hop.proxy_header.is_none() =>
                {
                    request = *unsent;
                }
                result => return result,
            }
        }
    }

    async fn dial_h2(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(TcpStream, OpenConnection)>,
        pool: &Pool,
    ) -> io::Result<Stream> {
        let _mine = pool.h2.dialling.lock().await;
        if hop.proxy_header.is_none()
            && let Some(stream) = pool.h2.take()
        {
            return Ok(stream);
        }
        let connection = self.connect(endpoint, hop, given).await?;
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADER_LIST);
        let (sender, task) = builder
            .handshake(connection)
            .await
            .map_err(io::Error::other)?;
        self.drive(endpoint, task);
        Ok(match hop.proxy_header {
            None => pool.h2.add(sender),
            Some(_) => Stream::alone(sender),
        })
    }

    fn return_to(&self, sender: Sender, pool: &Arc<Pool>, pooled: bool) -> ReturnTo {
        match pooled {
            true => ReturnTo::Pool(sender, Arc::clone(pool), self.tasks.clone()),
            false => ReturnTo::Nowhere(sender),
        }
    }

    async fn exchange<S: Exchange>(
        &self,
        endpoint: &Endpoint,
        mut sender: S,
        request: Request<RequestBody>,
        return_to: impl FnOnce(S) -> ReturnTo,
    ) -> Result<Response<UpstreamBody>, Unanswered> {
        let body_stats = request.body().body_stats();
        let response_timeout = self.config.load().response_timeout;
        let error = match timeout(response_timeout, sender.exchange(request)).await {
            Err(_) => ForwardError::TimedOut,
            Ok(Ok(mut response)) => {
                if let Some(body_stats) = body_stats {
                    body_stats.answered();
                }
                // The client's side writes its own version.
                *response.version_mut() = Version::HTTP_11;
                return Ok(response.map(|body| UpstreamBody::new(body, return_to(sender))));
            }
            Ok(Err(mut error)) => match error.take_message() {
                Some(request) => return Err(Unanswered::unsent(ForwardError::Unsent, request)),
                None => {
                    let error = error.into_error();
                    match body_stats.and_then(|body_stats| body_stats.failure()) {
                        // A connection that is cut is dropped, which is how its requests end.
                        _ if endpoint.cut().is_cancelled() => ForwardError::Severed,
                        Some(failure) => ForwardError::Client(failure),
                        None if error.is_parse() => ForwardError::Malformed(error.into()),
                        None => ForwardError::Broken(error.into()),
                    }
                }
            },
        };
        Err(Unanswered(error, None))
    }

    /// A connection of its own, for bytes of any kind; it begins with the PROXY header of
    /// the hop, if there is one.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(TcpStream, OpenConnection)>,
    ) -> io::Result<LeasedStream> {
        let (mut stream, open) = match given {
            Some(given) => given,
            None => {
                // Counted from before the handshake, which the server counts, too.
                let open = endpoint.open_connection();
                let connect = TcpStream::connect(endpoint.address(hop.port));
                let stream = timeout(self.config.load().connect_timeout, connect).await;
                let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                self.metrics.count_connect(match &stream {
                    Ok(_) => ConnectOutcome::Ok,
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        ConnectOutcome::Refused
                    }
                    Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                        ConnectOutcome::Timeout
                    }
                    Err(_) => ConnectOutcome::Error,
                });
                (stream?, open)
            }
        };
        if let Some(proxy_header) = &hop.proxy_header {
            // An empty socket buffer takes it whole.
            stream.write_all(&proxy_header.to_bytes()).await?;
        }
        Ok(LeasedStream::new(stream, open, Arc::clone(&self.metrics)))
    }

    /// Runs a connection until its end. Its errors reach the request that they concern.
    fn drive<F: Future<Output: Send> + Send + 'static>(&self, endpoint: &Endpoint, task: F) {
        let epoch_cut = endpoint.cut().clone();
        self.tasks.spawn(async move {
            // A connection that is cut is dropped.
            let _end = epoch_cut.run_until_cancelled(task).await;
        });
    }

    fn pool(self: &Arc<Self>, endpoint: &Endpoint, port: u16) -> Arc<Pool> {
        let key = (endpoint.epoch(), port);
        if let Some(pool) = self.pools.get(&key) {
            return Arc::clone(pool.value());
        }
        let UpstreamConfig {
            max_idle,
            idle_timeout,
            ..
        } = **self.config.load();
        let mut fresh = false;
        let entry = self.pools.entry(key).or_insert_with(|| {
            fresh = true;
            Pool::new(endpoint.clone(), max_idle, idle_timeout)
        });
        let pool = Arc::clone(entry.value());
        drop(entry);
        if fresh {
            let (upstream, sweeping) = (Arc::clone(self), Arc::clone(&pool));
            self.tasks.spawn(async move {
                sweeping.sweep().await;
                upstream.pools.remove(&key);
            });
        }
        pool
    }

    /// Ends every idle connection: nothing more will be sent.
    pub fn close(&self) {
        self.pools.clear();
    }
}

/// A connection's way to a response, in either version of HTTP.
trait Exchange: Send {
    fn exchange(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + Send;
}

impl Exchange for Sender {
    fn exchange(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + Send
    {
        self.try_send_request(request)
    }
}

impl Exchange for http2::SendRequest<RequestBody> {
    fn exchange(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + Send
    {
        self.try_send_request(request)
    }
}

/// HTTP/2 names the host in the target, and has no Host (RFC 9113 §8.3.1).
fn to_h2(mut request: Request<RequestBody>) -> Request<RequestBody> {
    let host = request.headers_mut().remove(HOST);
    let authority = host
        .as_ref()
        .map(HeaderValue::as_bytes)
        .and_then(|host| uri::Authority::try_from(host).ok());
    let mut parts = uri::Parts::default();
    parts.path_and_query = request.uri().path_and_query().cloned();
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.authority = authority;
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_2;
    request
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({} pools)", self.pools.len())
    }
}
