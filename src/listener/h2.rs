//! Requests on a connection of HTTP/2.
//!
//! Guarantees: see [`super`]; besides, a connection that has no request for long gets a GOAWAY, and
//! is closed when nothing comes of it; a response of which its client takes nothing for
//! `send_timeout` is reset; a connection has no more in memory than its windows and send buffers
//! allow, and all of it is in the gateway's budget.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::TaskTracker;

use super::h2_activity::{Activity, Busy};
use super::h2_flow::{ConnectionFlow, PacedBody, StreamFlow};
use super::h2_gate::Gate;
use super::service::{Downstream, ExtraHeaders, Service};
use super::settings::ConnectionLimits;
use crate::client::ClientBody;
use crate::config::ServerConfig;
use crate::drain::Drain;

/// The window of a stream, in bytes: what one held upload has in memory at most.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The window of a connection, in bytes: what all of its uploads have in memory at most.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of a response that the library keeps.
const SEND_BUFFER: usize = 64 * 1024;
/// The time between the last frame from a client and a PING; each frame starts it again.
const PING_EVERY: Duration = Duration::from_secs(20);
/// The time between a PING and the connection's end; an answer to the PING stops it.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves a connection's requests until it ends.
pub(super) async fn serve<S: Service, I>(
    stream: I,
    from: Downstream,
    service: S,
    config: &ServerConfig,
    own: ConnectionLimits,
    drain: &Drain,
) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Arc::new(Activity::new());
    let flow = Arc::new(ConnectionFlow::new(config.send_timeout, own.buffers));
    let next = Arc::<NextStream>::default();
    let from = Arc::new((from, S::ConnectionCache::default()));
    let answer = {
        let (activity, flow, next) = (Arc::clone(&activity), Arc::clone(&flow), Arc::clone(&next));
        service_fn(move |request: Request<Incoming>| {
            let (service, from) = (service.clone(), Arc::clone(&from));
            // Until its response has ended.
            let busy = Busy::new(&activity);
            let stream = Arc::new(StreamFlow::new(&flow));
            let mut request = request.map(unless_empty);
            if request.body().is_some() {
                // Whoever sends the body on counts what it keeps of it.
                request.extensions_mut().insert(flow.buffers().clone());
            }
            next.put(Arc::clone(&stream));
            async move {
                let answer = Box::write(Box::new_uninit(), service.call(request, &from));
                let response = with_extra_headers(Box::into_pin(answer).await);
                Ok::<_, Infallible>(response.map(|body| PacedBody::new(body, stream, busy)))
            }
        })
    };
    let limits = &config.http2;
    let tasks = drain.served().clone();
    let mut builder = http2::Builder::new(Executor { tasks, next });
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits.max_pending_resets)
        .max_local_error_reset_streams(limits.max_error_resets)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    let requests = {
        let activity = Arc::clone(&activity);
        move || activity.requests()
    };
    let gate = Gate::new(
        stream,
        flow,
        requests,
        config.header_timeout,
        CONNECTION_WINDOW,
    );
    let connection = builder.serve_connection(TokioIo::new(gate), answer);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        result = connection.as_mut() => return result.map_err(io::Error::other),
        () = drain.begin() => {}
        () = activity.none_for(own.idle_timeout) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        result = connection.as_mut() => result.map_err(io::Error::other),
        // A client that does not take its GOAWAY has its time.
        () = activity.none_for(config.header_timeout) => Ok(()),
        () = drain.cut().cancelled() => Ok(()),
    }
}

/// A response with all its fields in its head.
pub(super) fn with_extra_headers<B: ExtraHeaders>(response: Response<B>) -> Response<B> {
    let (mut head, body) = response.into_parts();
    body.extra_headers(|name, value| {
        head.headers.append(name.clone(), value.clone());
    });
    Response::from_parts(head, body)
}

/// A request's body, unless there is nothing in it.
pub(super) fn unless_empty(body: Incoming) -> Option<ClientBody> {
    Some(body)
        .filter(|body| !body.is_end_stream())
        .map(ClientBody::http2)
}

/// The stream whose task is started next: hyper starts it right after it has called the service.
#[derive(Debug, Default)]
struct NextStream(Mutex<Option<Arc<StreamFlow>>>);

// === impl NextStream ===

impl NextStream {
    fn put(&self, stream: Arc<StreamFlow>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
    }

    fn take(&self) -> Option<Arc<StreamFlow>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Puts the tasks of streams on the drain's tracker, like connections, and watches whether they
/// move.
#[derive(Debug, Clone)]
struct Executor {
    tasks: TaskTracker,
    next: Arc<NextStream>,
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, task: F) {
        match self.next.take() {
            Some(stream) => self
                .tasks
                .spawn(async move { drop(stream.watch(task).await) }),
            // An upgrade's, which has a limit of its own.
            None => self.tasks.spawn(async move { drop(task.await) }),
        };
    }
}
