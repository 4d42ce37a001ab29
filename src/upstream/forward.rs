//! Sending one request to one instance.
//!
//! Guarantees: an error says whether the request was certainly not sent, and then returns it;
//! whether a response had begun never needs to be guessed, since after its head there is no error
//! from here; a connection is dialled within its own timeout; an exchange ends when its epoch is
//! cut.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderMap, Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper::rt::Executor as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::epoch_tasks::EpochTasks;
use super::h1::{Connection, Failure};
use super::h1_body::H1Body;
use super::hop::Hop;
use super::leased_stream::LeasedStream;
use super::outgoing::Outgoing;
use super::pool::{Pool, PoolLimits, Pools, Sender};
use super::request_body::{BodyFailure, RequestBody};
use super::response_body::UpstreamBody;
use super::response_clock::ResponseClock;
use super::return_to::ReturnTo;
use super::timed_body::TimedBody;
use crate::config::{Protocol, UpstreamConfig};
use crate::descriptors;
use crate::flow::ClientBuffers;
use crate::telemetry::{ConnectOutcome, Metrics, UpstreamUse};
use crate::wake::{Endpoint, OpenConnection};

mod h2;

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

    /// Whether the connection failed as one does whose other end is no longer there.
    fn is_of_a_dead_connection(&self) -> bool {
        matches!(self, Self::Unsent | Self::Broken(_))
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
    pools: Arc<Pools>,
    metrics: Arc<Metrics>,
}

// === impl Upstream ===

impl Upstream {
    /// Makes one without connections; the tasks of connections go on `tasks`.
    pub fn new(config: UpstreamConfig, tasks: TaskTracker, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            config: ArcSwap::from_pointee(config),
            pools: Arc::new(Pools {
                tasks,
                ..Pools::default()
            }),
            metrics,
        })
    }

    /// Uses these limits for connections and waits from now on; pools that are there keep theirs.
    pub fn change(&self, config: &UpstreamConfig) {
        self.config.store(Arc::new(config.clone()));
    }

    /// Connections that wait for a request.
    pub fn idle(&self) -> usize {
        self.pools.idle.load(Ordering::Relaxed)
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
        let (response_timeout, read_timeout) = {
            let config = self.config.load();
            (config.response_timeout, config.read_timeout)
        };
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
            let (mut connection, idle_for) = match taken {
                Some(taken) => taken,
                None => {
                    let dialled = Box::pin(self.dial(endpoint, hop, given.take())).await;
                    (dialled.map_err(ForwardError::Connect)?, Duration::ZERO)
                }
            };
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
                    let body = UpstreamBody::of_h1(body).with_read_timeout(read_timeout);
                    return Ok(head.response.map(|()| body));
                }
                Err(failure) => {
                    let error = ForwardError::from(failure);
                    if error.is_of_a_dead_connection() {
                        pool.distrust(idle_for);
                    }
                    // A pooled connection that the instance has closed meanwhile costs nothing but
                    // a look at the next one.
                    if !matches!(error, ForwardError::Unsent) || used != UpstreamUse::Pooled {
                        return Err(error);
                    }
                }
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
        Ok(Box::new(Connection::new(stream, endpoint.cut())))
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
            while let Some((sender, idle_for)) = pool.take(Instant::now()) {
                let return_to = |sender| self.return_to(sender, pool, pooled);
                self.metrics.count_upstream_use(UpstreamUse::Pooled);
                let result = self.exchange(endpoint, sender, request, return_to).await;
                match distrusting(pool, idle_for, result) {
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
            self.tasks_of(endpoint).execute(task.with_upgrades());
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

    fn return_to(&self, sender: Sender, pool: &Arc<Pool>, pooled: bool) -> ReturnTo {
        match pooled {
            true => ReturnTo::Pool(sender, Arc::clone(pool), self.pools.tasks.clone()),
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
        let (response_timeout, read_timeout) = {
            let config = self.config.load();
            (config.response_timeout, config.read_timeout)
        };
        let clock = request.extensions().get::<ResponseClock>();
        let clock = clock.cloned().unwrap_or_else(ResponseClock::new);
        clock.restart();
        let buffers = request.extensions().get::<ClientBuffers>().cloned();
        let request = request.map(|body| TimedBody::new(body, &clock, buffers));
        let answered = tokio::select! {
            biased;
            answered = sender.exchange(request) => Some(answered),
            () = clock.over(response_timeout) => None,
        };
        let error = match answered {
            None => ForwardError::TimedOut,
            Some(Ok(mut response)) => {
                if let Some(body_stats) = body_stats {
                    body_stats.answered();
                }
                // The client's side writes its own version.
                *response.version_mut() = Version::HTTP_11;
                let cut = endpoint.cut().clone();
                return Ok(response.map(|body| {
                    let body = UpstreamBody::new(body, return_to(sender), cut);
                    body.with_read_timeout(read_timeout)
                }));
            }
            Some(Err(mut error)) => match error.take_message() {
                Some(request) => {
                    let request = request.map(TimedBody::into_inner);
                    return Err(Unanswered::unsent(ForwardError::Unsent, request));
                }
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

    /// A connection of its own, for bytes of any kind; it begins with the PROXY header of the hop,
    /// if there is one. Whoever gets it drops it when the epoch is cut; one that is not made by
    /// then is not made.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(TcpStream, OpenConnection)>,
    ) -> io::Result<LeasedStream> {
        let connecting = self.connect_uncut(endpoint, hop, given);
        let connected = endpoint.cut().run_until_cancelled(connecting).await;
        connected.unwrap_or_else(|| {
            let text = "the instance went to sleep before the connection was made";
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, text))
        })
    }

    async fn connect_uncut(
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
                let stream = stream.and_then(descriptors::unless_last);
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

    fn tasks_of(&self, endpoint: &Endpoint) -> EpochTasks {
        EpochTasks {
            tasks: self.pools.tasks.clone(),
            cut: endpoint.cut().clone(),
            stop: self.pools.stop.clone(),
        }
    }

    /// The epoch's pool for one of its ports. Its limits are those of the time when it is made.
    fn pool(&self, endpoint: &Endpoint, port: u16) -> Arc<Pool> {
        endpoint.belongings().get_or_insert(port, || {
            let config = self.config.load();
            // A quarter of the instance's own timeout: then three quarters are left to fall asleep
            // in.
            let quarter = endpoint.idle_timeout().map(|idle| idle / 4);
            let limits = PoolLimits {
                max_idle: config.max_idle,
                idle_timeout: quarter.map_or(config.idle_timeout, |quarter| {
                    config.idle_timeout.min(quarter)
                }),
            };
            Pool::new(endpoint.cut().clone(), limits, Arc::clone(&self.pools))
        })
    }

    /// Ends every idle connection, and all that is left of others: nothing more will be sent.
    pub fn close(&self) {
        self.pools.stop.cancel();
    }
}

/// The result of an exchange on a connection that had been idle for `idle_for`, once the pool knows
/// what it says about the others.
fn distrusting(
    pool: &Pool,
    idle_for: Duration,
    result: Result<Response<UpstreamBody>, Unanswered>,
) -> Result<Response<UpstreamBody>, Unanswered> {
    if let Err(Unanswered(error, _)) = &result
        && error.is_of_a_dead_connection()
    {
        pool.distrust(idle_for);
    }
    result
}

/// A connection's way to a response, in either version of HTTP.
trait Exchange: Send {
    fn exchange(
        &mut self,
        request: Request<TimedBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<TimedBody>>>> + Send;
}

impl Exchange for Sender {
    fn exchange(
        &mut self,
        request: Request<TimedBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<TimedBody>>>> + Send
    {
        self.try_send_request(request)
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({} idle)", self.idle())
    }
}
