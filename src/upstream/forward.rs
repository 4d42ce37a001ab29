//! Sending one request to one instance.
//!
//! Guarantees: an error says whether the request was certainly not sent, and then has it in hand;
//! whether a response had begun never needs to be guessed, since after its head there is no error
//! from here; a connection is dialled within its own timeout.

use std::fmt;
use std::io;
use std::sync::Arc;

use dashmap::DashMap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::body::{RequestBody, UpstreamBody};
use super::connection::Connection;
use super::pool::{Pool, Sender};
use crate::config::UpstreamConfig;
use crate::telemetry::Metrics;
use crate::wake::{Endpoint, OpenConnection};

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The request got no response. `Q` is the request, or nothing once it has been given up.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError<Q = Request<RequestBody>> {
    /// No connection could be made; nothing was sent.
    #[error("cannot connect to the instance: {source}")]
    Connect {
        /// Why not.
        source: io::Error,
        /// The request, untouched.
        request: Box<Q>,
    },
    /// The connection was closed before it took the request.
    #[error("the connection to the instance was closed before the request")]
    Unsent {
        /// The request, untouched.
        request: Box<Q>,
    },
    /// The connection broke after it had taken some of the request, and before a response.
    #[error("the connection to the instance broke before its response: {0}")]
    Broken(#[source] Cause),
    /// The response is not HTTP.
    #[error("the instance's response is not valid: {0}")]
    Nonsense(#[source] Cause),
    /// No response's head in time.
    #[error("the instance sent no response in time")]
    TimedOut,
    /// The instance went to sleep, or away, under the request.
    #[error("the instance went to sleep before its response")]
    Severed,
}

// === impl ForwardError ===

impl<Q> ForwardError<Q> {
    /// The same, without the request.
    pub fn given_up(self) -> ForwardError<()> {
        match self {
            Self::Connect { source, .. } => ForwardError::Connect {
                source,
                request: Box::new(()),
            },
            Self::Unsent { .. } => ForwardError::Unsent {
                request: Box::new(()),
            },
            Self::Broken(cause) => ForwardError::Broken(cause),
            Self::Nonsense(cause) => ForwardError::Nonsense(cause),
            Self::TimedOut => ForwardError::TimedOut,
            Self::Severed => ForwardError::Severed,
        }
    }
}

/// Connections to all instances.
pub struct Upstream {
    config: UpstreamConfig,
    pools: DashMap<(u64, u16), Arc<Pool>>,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
}

// === impl Upstream ===

impl Upstream {
    /// Connections' tasks go on `tasks`.
    pub fn new(config: UpstreamConfig, tasks: TaskTracker, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            config,
            pools: DashMap::new(),
            tasks,
            metrics,
        })
    }

    /// Sends the request on `given` (the probe's connection), a pooled one, or a new one, in this
    /// order. Returns the response's head; its body holds the connection.
    pub async fn send(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        port: u16,
        given: Option<(TcpStream, OpenConnection)>,
        mut request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, ForwardError> {
        let pool = self.pool(endpoint, port);
        if given.is_none() {
            // A pooled connection that the instance has closed meanwhile costs nothing but a look
            // at the next one.
            while let Some(sender) = pool.take() {
                match self.exchange(endpoint, sender, &pool, request).await {
                    Err(ForwardError::Unsent { request: unsent }) => request = *unsent,
                    result => return result,
                }
            }
        }
        let dialled = match given {
            Some((stream, open)) => self.handshake(endpoint, stream, open).await,
            None => self.dial(endpoint, port).await,
        };
        match dialled {
            Ok(sender) => self.exchange(endpoint, sender, &pool, request).await,
            Err(source) => Err(ForwardError::Connect {
                source,
                request: Box::new(request),
            }),
        }
    }

    async fn exchange(
        &self,
        endpoint: &Endpoint,
        mut sender: Sender,
        pool: &Arc<Pool>,
        request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, ForwardError> {
        let answered = timeout(
            self.config.response_timeout,
            sender.try_send_request(request),
        );
        let answered = tokio::select! {
            answered = answered => answered,
            () = endpoint.severed().cancelled() => return Err(ForwardError::Severed),
        };
        match answered {
            Err(_) => Err(ForwardError::TimedOut),
            Ok(Ok(response)) => Ok(response.map(|body: Incoming| {
                UpstreamBody::new(body, sender, Arc::clone(pool), self.tasks.clone())
            })),
            Ok(Err(mut error)) => match error.take_message() {
                Some(request) => Err(ForwardError::Unsent {
                    request: Box::new(request),
                }),
                None => {
                    let error = error.into_error();
                    Err(match error.is_parse() {
                        true => ForwardError::Nonsense(error.into()),
                        false => ForwardError::Broken(error.into()),
                    })
                }
            },
        }
    }

    async fn dial(&self, endpoint: &Endpoint, port: u16) -> io::Result<Sender> {
        // Counted from before the handshake, which the server counts, too.
        let open = endpoint.open_connection();
        let connect = TcpStream::connect(endpoint.address(port));
        let stream = timeout(self.config.connect_timeout, connect)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.handshake(endpoint, stream, open).await
    }

    async fn handshake(
        &self,
        endpoint: &Endpoint,
        stream: TcpStream,
        open: OpenConnection,
    ) -> io::Result<Sender> {
        let connection = Connection::new(stream, open, Arc::clone(&self.metrics));
        let (sender, task) = http1::handshake(connection)
            .await
            .map_err(io::Error::other)?;
        let severed = endpoint.severed().clone();
        self.tasks.spawn(async move {
            // Its errors reach the request that they concern. A severed connection is dropped.
            let _told = severed.run_until_cancelled(task.with_upgrades()).await;
        });
        Ok(sender)
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
        } = self.config;
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

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({} pools)", self.pools.len())
    }
}
