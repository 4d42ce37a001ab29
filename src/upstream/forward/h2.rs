//! Requests over HTTP/2.
//!
//! Guarantees: as [`super`]'s; besides, a connection is dialled by one request at a time, and what
//! comes of it, a failure too, is shared by those that wait for it.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{CONNECTION, HOST};
use http::{HeaderValue, Request, Response, Uri, Version, uri};
use hyper::client::conn::http2;
use hyper::rt::Executor as _;
use hyper_util::rt::TokioTimer;
use tokio::time::Instant;

use super::{ForwardError, LastHop, Unanswered, Upstream};
use crate::flow::ClientBuffers;
use crate::instance_tls::InstanceStream;
use crate::telemetry::UpstreamUse;
use crate::upstream::fields::trim_values;
use crate::upstream::h2_peer::{Heard, PeerLimits, UNKNOWN};
use crate::upstream::h2_pool::{MAX_STREAMS, Stream};
use crate::upstream::h2_stream::StreamToken;
use crate::upstream::h2_windows::WINDOW;
use crate::upstream::pool::Pool;
use crate::upstream::request_body::RequestBody;
use crate::upstream::response_body::UpstreamBody;
use crate::upstream::response_clock::ResponseClock;
use crate::upstream::timed_body::TimedBody;
use crate::wake::{Endpoint, OpenConnection};

/// That of a connection. All of its streams together cannot use it up: responses that their clients
/// do not take hold up no others.
const CONNECTION_WINDOW: u32 = WINDOW * (MAX_STREAMS + 1);
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
        hop: &LastHop<'_>,
        mut given: Option<(InstanceStream, OpenConnection)>,
        pool: &Arc<Pool>,
        (request, buffers): (Request<RequestBody>, Option<&ClientBuffers>),
    ) -> Result<Response<UpstreamBody>, Unanswered> {
        let mut request = to_h2(request, hop.tls.is_some());
        let clock = request.extensions().get::<ResponseClock>().cloned();
        let body = clock.filter(|_| !request.body().is_nothing());
        loop {
            let taken = match hop.is_personal() {
                false => pool.take_stream(Instant::now(), body.as_ref()),
                true => None,
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
                    let error = ForwardError::of_connecting(error);
                    return Err(Unanswered::unsent(error, request));
                }
            };
            let taken = (sender, token);
            let result = self.exchange(endpoint, taken, request, buffers).await;
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
        hop: &LastHop<'_>,
        given: Option<(InstanceStream, OpenConnection)>,
        pool: &Arc<Pool>,
        body: Option<&ResponseClock>,
    ) -> io::Result<(Taken, bool)> {
        if hop.is_personal() {
            let (sender, _) = self.handshake_h2(endpoint, hop, given).await?;
            return Ok(((sender, StreamToken::of_own()), false));
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

    /// An exchange over HTTP/2.
    async fn exchange(
        &self,
        endpoint: &Endpoint,
        (mut sender, mut stream): Taken,
        request: Request<RequestBody>,
        buffers: Option<&ClientBuffers>,
    ) -> Result<Response<UpstreamBody>, Unanswered> {
        let body_stats = request.body().body_stats();
        let (response_timeout, read_timeout) = {
            let config = self.config.load();
            (config.response_timeout, config.read_timeout)
        };
        let clock = request.extensions().get::<ResponseClock>();
        let clock = clock.cloned().unwrap_or_else(ResponseClock::new);
        clock.restart();
        if let Some(buffers) = buffers {
            stream.count_to(buffers);
        }
        let (head, body) = request.into_parts();
        // Others are kept whole until they are answered, or cannot be sent twice.
        let is_spared = body.is_nothing() && !head.method.is_idempotent();
        let spare = is_spared.then(|| head.clone());
        let (body, upload) = TimedBody::new(body, &clock, buffers.cloned());
        let request = Request::from_parts(head, body);
        let answered = tokio::select! {
            biased;
            answered = sender.try_send_request(request) => Some(answered),
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
                trim_values(response.headers_mut());
                let cut = endpoint.cut().clone();
                return Ok(response.map(|body| {
                    let body = UpstreamBody::of_h2(body, (stream, upload), cut);
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
                    if is_unprocessed(&error) {
                        let again =
                            spare.map(|head| Request::from_parts(head, RequestBody::default()));
                        return Err(Unanswered(ForwardError::Refused, again.map(Box::new)));
                    }
                    match body_stats.and_then(|body_stats| body_stats.failure()) {
                        // A connection that is cut is dropped, which is how its requests end.
                        _ if endpoint.cut().is_cancelled() => ForwardError::Severed,
                        Some(failure) => ForwardError::Client(failure),
                        None if error.is_parse() => ForwardError::Malformed(error.into()),
                        None => ForwardError::of_breaking(error.into()),
                    }
                }
            },
        };
        Err(Unanswered(error, None))
    }

    async fn handshake_h2(
        &self,
        endpoint: &Endpoint,
        hop: &LastHop<'_>,
        given: Option<(InstanceStream, OpenConnection)>,
    ) -> io::Result<(http2::SendRequest<TimedBody>, PeerLimits)> {
        let limits = PeerLimits::default();
        let connection = self.connect_as(endpoint, hop, given).await?;
        let connection = Heard::new(connection, limits.clone());
        let tasks = self.tasks_of(endpoint);
        let mut builder = http2::Builder::new(tasks.clone());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
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

/// Whether the instance says that it has done nothing with the request: it refused the stream, or
/// its GOAWAY leaves it out (RFC 9113 §6.8, §8.7).
fn is_unprocessed(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let is_refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (is_refused || error.is_go_away());
        }
        cause = error.source();
    }
    false
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

/// A stream of a connection that its pool shares.
fn of_pool(stream: Stream, pool: &Arc<Pool>) -> Taken {
    let token = StreamToken::of_pool(pool, stream.connection, stream.nth);
    (stream.sender, token)
}

/// HTTP/2 names the host in the target, and has no Host (RFC 9113 §8.3.1); it has no options of a
/// connection either, and `TE` needs none (RFC 9113 §8.2.2).
fn to_h2(mut request: Request<RequestBody>, is_secure: bool) -> Request<RequestBody> {
    request.headers_mut().remove(CONNECTION);
    let host = request.headers_mut().remove(HOST);
    let authority = host
        .as_ref()
        .map(HeaderValue::as_bytes)
        .and_then(|host| uri::Authority::try_from(host).ok());
    let mut parts = uri::Parts::default();
    parts.path_and_query = request.uri().path_and_query().cloned();
    parts.scheme = Some(match is_secure {
        true => uri::Scheme::HTTPS,
        false => uri::Scheme::HTTP,
    });
    parts.authority = authority;
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_2;
    request
}
