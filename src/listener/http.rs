//! Requests on a connection, in either version of HTTP.
//!
//! Guarantees: see [`super`]; besides, an HTTP/2 connection that has no request for long gets a
//! GOAWAY.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::header::CONNECTION;
use ::http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::h1;
use super::h2_flood_guard::FloodGuard;
use super::header_read_timer::HeaderReadTimer;
use super::informational::{Interim, WithInformational};
use super::peek::PeekStream;
use super::service::{Downstream, ExtraHeaders, Service};
use crate::config::ServerConfig;
use crate::drain::Drain;

/// HTTP/2: windows and buffers in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
/// The time between the last frame from a client and a PING; each frame starts it again.
const PING_EVERY: Duration = Duration::from_secs(20);
/// The time between a PING and the connection's end; an answer to the PING stops it.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// HTTP/1.1 and HTTP/1.0: our own server side for heads alone, and hyper's from the first other
/// request on.
pub(super) async fn serve_h1<S: Service, I>(
    stream: I,
    from: Downstream,
    service: S,
    config: &ServerConfig,
    drain: &Drain,
) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let interim = Interim::default();
    let stream = WithInformational::new(stream, interim.clone());
    let from = Downstream {
        interim: Some(interim.sink()),
        ..from
    };
    let from = (from, S::ConnectionCache::default());
    let heads = h1::serve(stream, &from, &service, &interim, config, drain);
    let handover = tokio::select! {
        biased;
        handover = heads => handover?,
        () = async {
            drain.begin().await;
            // It may have begun after `heads` looked whether it had: once more.
            yield_now().await;
            drain.cut().cancelled().await;
        } => return Ok(()),
    };
    match handover {
        None => Ok(()),
        Some((stream, peeked)) => {
            let stream = PeekStream::of(stream, peeked);
            let rest = serve_any_h1(stream, from, service, interim, config, drain);
            Box::pin(rest).await.map_err(io::Error::other)
        }
    }
}

/// Serves all of HTTP/1.1 and HTTP/1.0 by hyper.
async fn serve_any_h1<S: Service, I>(
    stream: PeekStream<WithInformational<I>>,
    from: (Downstream, S::ConnectionCache),
    service: S,
    interim: Interim,
    config: &ServerConfig,
    drain: &Drain,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::new((service, from, interim, drain.clone()));
    let answer = service_fn(move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        async move {
            let (service, from, interim, drain) = &*shared;
            let request = request.map(unless_empty);
            // In a box, which is written to at once: it is large, and hyper moves it several times
            // before it is polled.
            let answer = Box::write(Box::new_uninit(), service.call(request, from));
            let mut response = with_extra_headers(interim.before(Box::into_pin(answer)).await);
            if drain.has_begun() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let timer = HeaderReadTimer::new();
    let mut builder = http1::Builder::new();
    builder
        .timer(timer.clone())
        .header_read_timeout(config.header_timeout)
        .max_headers(config.max_headers)
        .max_header_size(config.max_header_bytes);
    let connection = builder.serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection.with_upgrades());
    let served = async {
        tokio::select! {
            // A request that is there already comes before the drain.
            biased;
            result = connection.as_mut() => return result,
            () = drain.begin() => {}
        }
        // Closing an idle connection at once would cross with a request that is on its way: such a
        // request is answered, with `Connection: close`.
        tokio::select! {
            biased;
            result = connection.as_mut() => return result,
            () = sleep(config.drain_idle_timeout) => connection.as_mut().graceful_shutdown(),
            () = drain.cut().cancelled() => return Ok(()),
        }
        tokio::select! {
            result = connection.as_mut() => result,
            () = drain.cut().cancelled() => Ok(()),
        }
    };
    timer.during(served).await
}

fn with_extra_headers<B: ExtraHeaders>(response: Response<B>) -> Response<B> {
    let (mut head, body) = response.into_parts();
    body.extra_headers(|name, value| {
        head.headers.append(name.clone(), value.clone());
    });
    Response::from_parts(head, body)
}

fn unless_empty(body: Incoming) -> Option<Incoming> {
    Some(body).filter(|body| !body.is_end_stream())
}

/// HTTP/2.
pub(super) async fn serve_h2<S: Service, I>(
    stream: I,
    from: Downstream,
    service: S,
    config: &ServerConfig,
    drain: &Drain,
) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::default());
    let counter = Arc::clone(&activity);
    let from = Arc::new((from, S::ConnectionCache::default()));
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, from) = (service.clone(), Arc::clone(&from));
        // Until the response's head; a body that still streams is a stream that hyper waits for.
        let busy = Busy::new(&counter);
        async move {
            let _busy = busy;
            let request = request.map(unless_empty);
            let answer = Box::write(Box::new_uninit(), service.call(request, &from));
            Ok::<_, Infallible>(with_extra_headers(Box::into_pin(answer).await))
        }
    });
    let limits = &config.http2;
    let mut builder = http2::Builder::new(Executor(drain.served().clone()));
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .max_local_error_reset_streams(limits.max_error_resets)
        // A held upload may fill its own window and must not fill the connection's.
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(FloodGuard::new(stream)), answer);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        result = connection.as_mut() => return result.map_err(io::Error::other),
        () = drain.begin() => {}
        () = activity.none_for(limits.idle_timeout) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        result = connection.as_mut() => result.map_err(io::Error::other),
        () = drain.cut().cancelled() => Ok(()),
    }
}

/// How many requests a connection has and has had.
#[derive(Debug, Default)]
struct Activity {
    now: AtomicUsize,
    ever: AtomicUsize,
}

struct Busy(Arc<Activity>);

// === impl Activity ===

impl Activity {
    /// Ends when a whole period has passed without a request.
    async fn none_for(&self, period: Duration) {
        let mut before = None;
        loop {
            let ever = self.ever.load(Ordering::Relaxed);
            if before == Some(ever) && self.now.load(Ordering::Relaxed) == 0 {
                return;
            }
            before = Some(ever);
            sleep(period).await;
        }
    }
}

impl Busy {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.now.fetch_add(1, Ordering::Relaxed);
        activity.ever.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Puts the tasks of streams on the drain's tracker, like connections.
#[derive(Debug, Clone)]
struct Executor(TaskTracker);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

#[cfg(test)]
mod tests;
