//! Requests on a connection, in either version of HTTP.
//!
//! Guarantees: see [`super`]; besides, an HTTP/2 connection that has no request for long gets a
//! GOAWAY.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::h1;
use super::h2_flood_guard::FloodGuard;
use super::service::{Downstream, ExtraHeaders, Service};
use crate::client::ClientBody;
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

/// HTTP/1.1 and HTTP/1.0.
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
    let serving = h1::serve(stream, from, service, config, drain);
    tokio::select! {
        biased;
        served = serving => served,
        () = async {
            drain.begin().await;
            // It may have begun after the connection looked whether it had: once more.
            yield_now().await;
            drain.cut().cancelled().await;
        } => Ok(()),
    }
}

fn with_extra_headers<B: ExtraHeaders>(response: Response<B>) -> Response<B> {
    let (mut head, body) = response.into_parts();
    body.extra_headers(|name, value| {
        head.headers.append(name.clone(), value.clone());
    });
    Response::from_parts(head, body)
}

fn unless_empty(body: Incoming) -> Option<ClientBody> {
    Some(body)
        .filter(|body| !body.is_end_stream())
        .map(ClientBody::http2)
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
