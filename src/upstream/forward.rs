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
use http::{HeaderMap, Request, StatusCode};
use http1::HeadLimits;
use hyper::rt::Executor as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::bound_auth::is_bound_challenge;
use super::epoch_tasks::EpochTasks;
use super::h1::{Connection, Failure, Head, Sending};
use super::h1_body::H1Body;
use super::hop::Hop;
use super::leased_stream::LeasedStream;
use super::outgoing::Outgoing;
use super::pool::{Pool, PoolLimits, Pools, PortPools, SecurePools};
use super::request_body::{BodyFailure, RequestBody};
use super::response::InstanceResponse;
use super::response_body::UpstreamBody;
use crate::config::UpstreamConfig;
use crate::descriptors;
use crate::flow::EndOfTurn;
use crate::instance_tls::{
    Alpn, InstanceStream, TlsHop, Verdict, refusal_of_client_certificate, verdict,
};
use crate::telemetry::{ConnectOutcome, HandshakeOutcome, Metrics, UpstreamUse};
use crate::wake::{Endpoint, OpenConnection};
use crate::workers;

mod h2;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An instance that has taken a connection may take so long to agree on TLS.
const TLS_HANDSHAKE: Duration = Duration::from_secs(5);

/// The request got no response.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No connection could be made; nothing was sent.
    #[error("cannot connect to the instance: {0}")]
    Connect(#[source] io::Error),
    /// TLS with the instance is refused, by the gateway or by the instance, for this reason; nothing
    /// was sent, or nothing that was accepted.
    #[error("{0}")]
    Tls(Arc<str>),
    /// The connection was closed before it took the request.
    #[error("the connection to the instance was closed before the request")]
    Unsent,
    /// The instance has said that it did nothing with the request (RFC 9113 §6.8, §8.7).
    #[error("the instance has refused the request before it did anything with it")]
    Refused,
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
    /// The response's head is large, and its client may have no more in memory.
    #[error("the response's head is more than its client may have in memory now")]
    NoRoom,
    /// The instance went to sleep, or away, under the request.
    #[error("the instance went to sleep before its response")]
    Severed,
}

/// Why a request that hyper was given got no response, and the request, if nothing of it was sent.
struct Unanswered(ForwardError, Option<Box<Request<RequestBody>>>);

// === impl ForwardError ===

impl ForwardError {
    /// Whether the instance has certainly done nothing with the request.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Unsent | Self::Refused)
    }

    /// A connection could not be made.
    pub(super) fn of_connecting(error: io::Error) -> Self {
        match verdict(&error) {
            Some(Verdict::Refused(reason)) => Self::Tls(reason),
            Some(Verdict::WrongProtocol) => Self::Malformed(error.into()),
            None => Self::Connect(error),
        }
    }

    /// A connection broke. With TLS 1.3 an instance may say only then that it does not take the
    /// gateway's certificate.
    fn of_breaking(error: Cause) -> Self {
        match refusal_of_client_certificate(&*error) {
            Some(reason) => Self::Tls(reason),
            None => Self::Broken(error),
        }
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
            Failure::Closed => Self::Broken(failure.into()),
            Failure::Broke(error) => Self::of_breaking(error.into()),
            Failure::Malformed(_) | Failure::EarlySwitch => Self::Malformed(failure.into()),
            Failure::Client(failure) => Self::Client(failure),
            Failure::TimedOut => Self::TimedOut,
            Failure::NoRoom => Self::NoRoom,
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

/// The last hop of one request.
struct LastHop<'a> {
    hop: &'a Hop,
    /// The TLS with the protocol that the request is sent over.
    tls: Option<TlsHop>,
}

impl LastHop<'_> {
    /// Whether a connection is its client's alone, which it names.
    fn is_personal(&self) -> bool {
        self.hop.proxy_header.is_some()
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
    /// How long an instance may owe a response's head.
    pub fn response_timeout(&self) -> Duration {
        self.config.load().response_timeout
    }

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
        given: Option<(InstanceStream, OpenConnection)>,
        request: &mut Outgoing,
        now: Instant,
    ) -> Result<InstanceResponse<UpstreamBody>, ForwardError> {
        // Servers that speak HTTP/2 take HTTP/1.1's upgrades at the same port.
        let is_h2 = hop.protocol.is_h2() && !request.is_upgrade();
        let tls = hop.tls.as_ref().map(|tls| match is_h2 {
            true => tls.speaking(Alpn::H2),
            false => tls.speaking(Alpn::Http1),
        });
        let pool = self.pool(endpoint, hop.port, tls.as_ref());
        let alpn = tls.as_ref().map(TlsHop::alpn);
        let fits = |stream: &InstanceStream| stream.alpn().is_none() || stream.alpn() == alpn;
        let given = given.filter(|(stream, _)| fits(stream));
        let hop = &LastHop { hop, tls };
        if !is_h2 {
            return self
                .send_h1(endpoint, hop, given, &pool, request, now)
                .await;
        }
        let whole = request.give();
        let whole = (whole, request.buffers());
        // In a box: most requests need none of it.
        let sent = Box::pin(self.send_h2(endpoint, hop, given, &pool, whole)).await;
        sent.map(Into::into).map_err(|Unanswered(error, unsent)| {
            if let Some(unsent) = unsent {
                request.give_back(*unsent);
            }
            error
        })
    }

    /// A request over HTTP/1.1.
    async fn send_h1(
        &self,
        endpoint: &Endpoint,
        hop: &LastHop<'_>,
        mut given: Option<(InstanceStream, OpenConnection)>,
        pool: &Arc<Pool>,
        request: &mut Outgoing,
        mut now: Instant,
    ) -> Result<InstanceResponse<UpstreamBody>, ForwardError> {
        let pooled = !hop.is_personal();
        let (response_timeout, read_timeout) = {
            let config = self.config.load();
            (config.response_timeout, config.read_timeout)
        };
        loop {
            let taken = match &given {
                None if pooled => pool.take_connection(now, request.client()),
                None | Some(_) => None,
            };
            let used = match (&taken, &given) {
                (Some(_), _) => UpstreamUse::Pooled,
                (None, Some(_)) => UpstreamUse::Probe,
                (None, None) => UpstreamUse::New,
            };
            let (mut connection, idle_since) = match taken {
                Some((connection, since)) => (connection, Some(since)),
                None => {
                    let dialled = Box::pin(self.dial(endpoint, hop, given.take())).await;
                    let dialled = dialled.map_err(ForwardError::of_connecting)?;
                    (dialled, None)
                }
            };
            self.metrics.count_upstream_use(used);
            if used == UpstreamUse::New {
                // It was dialled meanwhile.
                now = Instant::now();
            }
            let mut sending = request.begin_sending(connection.take_spare());
            connection.begin(now, response_timeout);
            EndOfTurn::default().await;
            let answered = {
                let method = request.head.method();
                let interim = |status, fields: &HeaderMap| request.pass_interim(status, fields);
                let client = || request.buffers().cloned();
                poll_fn(|cx| connection.poll_head(&mut sending, method, &interim, &client, cx))
                    .await
            };
            match answered {
                Ok(head) => {
                    let response = &head.response;
                    let is_challenge = response.status() == StatusCode::UNAUTHORIZED
                        && is_bound_challenge(response.status(), response.headers());
                    if request.has_bound_credentials() || is_challenge {
                        connection.owner = request.client();
                    }
                    let body =
                        self.begun(endpoint, connection, sending, &head, pooled.then_some(pool));
                    return Ok(head.response.map(|()| body.with_read_timeout(read_timeout)));
                }
                Err(failure) => {
                    let error = ForwardError::from(failure);
                    if matches!(error, ForwardError::Unsent) {
                        request.keep_unsent(sending);
                    }
                    if error.is_of_a_dead_connection()
                        && let Some(since) = idle_since
                    {
                        pool.distrust(now.saturating_duration_since(since));
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

    /// The body of a response whose head has come, whether or not the request is over.
    fn begun(
        &self,
        endpoint: &Endpoint,
        mut connection: Box<Connection>,
        sending: Sending,
        head: &Head,
        pool: Option<&Arc<Pool>>,
    ) -> UpstreamBody {
        if head.is_switch() {
            return UpstreamBody::of_h1(H1Body::of_switch(connection));
        }
        let rest = match sending.into_room() {
            Ok(room) => {
                connection.keep_spare(room);
                None
            }
            Err(sending) => Some(connection.rest_of(sending)),
        };
        let is_reusable = head.framing.is_persistent && !head.is_early;
        let pool = pool.filter(|_| is_reusable).cloned();
        let body = H1Body::new(connection, rest.as_ref(), pool);
        if let Some(rest) = rest {
            self.tasks_of(endpoint).execute(rest);
        }
        UpstreamBody::of_h1(body)
    }

    async fn dial(
        &self,
        endpoint: &Endpoint,
        hop: &LastHop<'_>,
        given: Option<(InstanceStream, OpenConnection)>,
    ) -> io::Result<Box<Connection>> {
        let stream = self.connect_as(endpoint, hop, given).await?;
        let limits = {
            let config = self.config.load();
            HeadLimits {
                bytes: config.max_header_bytes,
                fields: config.max_headers,
            }
        };
        Ok(Box::new(Connection::new(stream, endpoint.cut(), limits)))
    }

    /// A connection of its own, for bytes of any kind, in clear; it begins with the PROXY header of
    /// the hop, if there is one. Whoever gets it drops it when the epoch is cut; one that is not made
    /// by then is not made.
    pub async fn connect(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(InstanceStream, OpenConnection)>,
    ) -> io::Result<LeasedStream> {
        let given = given.filter(|(stream, _)| stream.alpn().is_none());
        let hop = LastHop { hop, tls: None };
        self.connect_as(endpoint, &hop, given).await
    }

    /// The same, with the TLS of the hop.
    async fn connect_as(
        &self,
        endpoint: &Endpoint,
        hop: &LastHop<'_>,
        given: Option<(InstanceStream, OpenConnection)>,
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
        LastHop { hop, tls }: &LastHop<'_>,
        given: Option<(InstanceStream, OpenConnection)>,
    ) -> io::Result<LeasedStream> {
        let (mut stream, open) = match given {
            Some((stream, open)) => (adopt(stream)?, open),
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
                (stream?.into(), open)
            }
        };
        if let Some(proxy_header) = &hop.proxy_header {
            // An empty socket buffer takes it whole.
            stream.write_all(&proxy_header.to_bytes()).await?;
        }
        if let Some(tls) = tls.as_ref().filter(|_| stream.alpn().is_none()) {
            let secured = timeout(TLS_HANDSHAKE, tls.secure(stream)).await;
            let secured = secured.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            stream = secured.inspect_err(|_| {
                self.metrics
                    .count_upstream_handshake(HandshakeOutcome::Failed);
            })?;
        }
        match stream.is_resumed() {
            Some(true) => self
                .metrics
                .count_upstream_handshake(HandshakeOutcome::Resumed),
            Some(false) => self
                .metrics
                .count_upstream_handshake(HandshakeOutcome::Full),
            None => {}
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
    /// Each worker has its own.
    fn pool(&self, endpoint: &Endpoint, port: u16, tls: Option<&TlsHop>) -> Arc<Pool> {
        let make = |workers: usize| {
            let config = self.config.load();
            // A quarter of the instance's own timeout: then three quarters are left to fall asleep
            // in.
            let quarter = endpoint.idle_timeout().map(|idle| idle / 4);
            let limits = PoolLimits {
                max_idle: config.max_idle.div_ceil(workers),
                idle_timeout: quarter.map_or(config.idle_timeout, |quarter| {
                    config.idle_timeout.min(quarter)
                }),
            };
            Pool::new(endpoint.cut().clone(), limits, Arc::clone(&self.pools))
        };
        let kept = endpoint.belongings();
        match tls {
            None => kept.get_or_insert(port, PortPools::default).here(make),
            Some(tls) => kept
                .get_or_insert(port, SecurePools::default)
                .here(tls, make),
        }
    }

    /// Ends every idle connection, and all that is left of others: nothing more will be sent.
    pub fn close(&self) {
        self.pools.stop.cancel();
    }
}

/// A connection that another runtime's task has made, as one of this runtime's: nothing else has to
/// run for it.
fn adopt(stream: InstanceStream) -> io::Result<InstanceStream> {
    match workers::here() {
        Some(_) => stream.adopt(),
        None => Ok(stream),
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({} idle)", self.idle())
    }
}
