//! Requests over HTTP/2.
//!
//! Guarantees: as [`super`]'s; besides, a connection is dialled by one request at a time, and what
//! comes of it, a failure too, is shared by those that wait for it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Response, Uri, Version, uri};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};
use hyper::rt::Executor as _;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Exchange, ForwardError, Unanswered, Upstream, distrusting};
use crate::telemetry::UpstreamUse;
use crate::upstream::h2_peer::{Heard, PeerLimits, UNKNOWN};
use crate::upstream::h2_pool::{MAX_STREAMS, Stream};
use crate::upstream::hop::Hop;
use crate::upstream::pool::Pool;
use crate::upstream::request_body::RequestBody;
use crate::upstream::response_body::UpstreamBody;
use crate::upstream::response_clock::ResponseClock;
use crate::upstream::return_to::{ReturnTo, StreamToken};
use crate::upstream::timed_body::TimedBody;
use crate::wake::{Endpoint, OpenConnection};

/// The window of a stream, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;
/// That of a connection. All of its streams together cannot use it up: responses that their clients
/// do not take hold up no others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * (MAX_STREAMS + 1);
/// Bytes of a request's body that the library keeps.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of a response's fields.
const MAX_HEADER_LIST: u32 = 128 * 1024;

/// A connection's side that sends, with the stream that is taken on it.
type Taken = (http2::SendRequest<TimedBody>, StreamToken);

// === impl Upstream ===

impl Upstream {
    /// Any request over HTTP/2.
    pub(super) async fn send_h2(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        mut given: Option<(TcpStream, OpenConnection)>,
        pool: &Arc<Pool>,
        request: Request<RequestBody>,
    ) -> Result<Response<UpstreamBody>, Unanswered> {
        let mut request = to_h2(request);
        let clock = request.extensions().get::<ResponseClock>().cloned();
        let body = clock.filter(|_| !request.body().is_nothing());
        loop {
            let taken = match hop.proxy_header {
                None => pool.take_stream(Instant::now(), body.as_ref()),
                Some(_) => None,
            };
            self.metrics.count_upstream_use(match (&taken, &given) {
                (Some(_), _) => UpstreamUse::Pooled,
                (None, Some(_)) => UpstreamUse::Probe,
                (None, None) => UpstreamUse::New,
            });
            let idle_for = taken
                .as_ref()
                .map_or(Duration::ZERO, |taken| taken.idle_for);
            let stream = match taken {
                Some(stream) => Ok((of_pool(stream, pool), true)),
                None => {
                    self.dial_h2(endpoint, hop, given.take(), pool, body.as_ref())
                        .await
                }
            };
            let ((sender, token), is_pooled) = match stream {
                Ok(stream) => stream,
                Err(error) => {
                    return Err(Unanswered::unsent(ForwardError::Connect(error), request));
                }
            };
            let return_to = |_| ReturnTo::Shared(token);
            let result = self.exchange(endpoint, sender, request, return_to).await;
            match distrusting(pool, idle_for, result) {
                // Closed between the look and the sending; the next is looked at, or dialled.
                Err(Unanswered(ForwardError::Unsent, Some(unsent))) if is_pooled => {
                    request = *unsent;
                }
                result => return result,
            }
        }
    }

    /// A stream of a new connection, or of one that another request has dialled meanwhile; the flag
    /// says which. While one request dials, the others wait for it, and its failure is theirs, too:
    /// they would only fail one after the other.
    async fn dial_h2(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(TcpStream, OpenConnection)>,
        pool: &Arc<Pool>,
        body: Option<&ResponseClock>,
    ) -> io::Result<(Taken, bool)> {
        if hop.proxy_header.is_some() {
            let (sender, _) = self.handshake_h2(endpoint, hop, given).await?;
            return Ok(((sender, StreamToken(None)), false));
        }
        let before = pool.failed_dials.load(Ordering::Acquire);
        let _mine = pool.dialling.lock().await;
        loop {
            if let Some(stream) = pool.take_stream(Instant::now(), body) {
                return Ok((of_pool(stream, pool), true));
            }
            match pool.unsettled() {
                Some(limits) => limits.settled().await,
                None => break,
            }
        }
        if given.is_none() && pool.failed_dials.load(Ordering::Acquire) != before {
            let text = "the connection that this request waited for was not made";
            return Err(io::Error::new(io::ErrorKind::NotConnected, text));
        }
        let dialled = self.handshake_h2(endpoint, hop, given).await;
        let made = dialled.inspect_err(|_| {
            pool.failed_dials.fetch_add(1, Ordering::AcqRel);
        })?;
        Ok((of_pool(pool.add_h2(made, body), pool), false))
    }

    async fn handshake_h2(
        &self,
        endpoint: &Endpoint,
        hop: &Hop,
        given: Option<(TcpStream, OpenConnection)>,
    ) -> io::Result<(http2::SendRequest<TimedBody>, PeerLimits)> {
        let limits = PeerLimits::default();
        let connection = self.connect(endpoint, hop, given).await?;
        let connection = Heard::new(connection, limits.clone());
        let tasks = self.tasks_of(endpoint);
        let mut builder = http2::Builder::new(tasks.clone());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(UNKNOWN)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEADER_LIST);
        let handshake = builder.handshake(connection).await;
        let (sender, mut dispatcher) = handshake.map_err(io::Error::other)?;
        let followed = limits.clone();
        tasks.execute(poll_fn(move |cx| {
            let polled = Pin::new(&mut dispatcher).poll(cx);
            followed.follow(dispatcher.current_max_send_streams(), cx);
            polled
        }));
        Ok((sender, limits))
    }
}

impl Exchange for http2::SendRequest<TimedBody> {
    fn exchange(
        &mut self,
        request: Request<TimedBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<TimedBody>>>> + Send
    {
        self.try_send_request(request)
    }
}

/// A stream of a connection that its pool shares.
fn of_pool(stream: Stream, pool: &Arc<Pool>) -> Taken {
    let token = StreamToken(Some((Arc::clone(pool), stream.connection)));
    (stream.sender, token)
}

/// HTTP/2 names the host in the target, and has no Host (RFC 9113 §8.3.1); it has no options of a
/// connection either, and `TE` needs none (RFC 9113 §8.2.2).
fn to_h2(mut request: Request<RequestBody>) -> Request<RequestBody> {
    request.headers_mut().remove(CONNECTION);
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
