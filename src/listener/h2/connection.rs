//! The requests of a connection of HTTP/2, in one task.
//!
//! Guarantees: a frame that comes and a response that goes on cost a turn of this one task and
//! nothing else; a drain, or a connection that has no request for long, is a GOAWAY, after which
//! requests that were under way are still answered; when a drain is over its tunnels still take leave,
//! for seconds at most.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::Request;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use tokio::time::{Instant, sleep};

use super::abandoned;
use super::activity::{Activity, Busy};
use super::alarm::Alarm;
use super::exchange::Exchange;
use super::flow::{ConnectionFlow, Piece, StreamFlow, WINDOW};
use super::gate::Gate;
use super::keep_alive::KeepAlive;
use crate::config::ServerConfig;
use crate::drain::Drain;
use crate::flow::in_one_task;
use crate::listener::client_stream::ClientStream;
use crate::listener::service::{Downstream, Service};
use crate::listener::settings::ConnectionLimits;

/// The window of a connection, in bytes: what all of its uploads have in memory at most.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of a response that the library keeps.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams that the gateway has reset of which the library remembers that what still comes of them
/// is to be ignored (RFC 9113 §5.1), and how long: a client may have an upload of the whole
/// window's size under way on each. Frames of one that is forgotten end the connection.
const RESET_STREAMS: usize = abandoned::MOST;
const RESET_REMEMBERED: Duration = Duration::from_secs(30);
/// What small DATA frames that nobody has read may cost: for each, what it lacks of 256 bytes. Held
/// requests of one connection may have sent ten thousand small messages; they are bounded by the
/// connection's window, too.
const SMALL_FRAMES: usize = 4 * 1024 * 1024;
/// The same for each stream of another member, which is a client's: what one of them sends must not end
/// the connection for the others.
const MEMBERS_SMALL_FRAMES: usize = 512 * 1024;
/// Streams of a member that have been reset and not looked at, for each that it may have open: many of its
/// clients may leave at once.
const MEMBERS_RESETS: usize = 8;

/// How long tunnels that are cut may take leave: as long as one over HTTP/1.1 does.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long the last frames of a connection may take that has no stream any more.
const LAST_FRAMES: Duration = Duration::from_millis(100);

/// Fields that another member of the fleet adds to those of its client's, by itself and by its routes'
/// rules, and their bytes.
const MEMBERS_FIELDS: usize = 64;
const MEMBERS_BYTES: usize = 32 * 1024;
/// What a field counts for besides its name and value (RFC 9113 §6.5.2).
const FIELD: usize = 32;
/// The largest window of a connection of another member. It has room for each of its streams, so that
/// an upload that is held holds up no other.
const MOST_WINDOW: u32 = 64 * 1024 * 1024;

/// The limits of a connection that depend on whose it is.
struct Limits {
    window: u32,
    max_header_bytes: usize,
    max_headers: usize,
    max_pending_resets: usize,
    /// Streams that the library may reset for what its other end does.
    max_error_resets: Option<usize>,
    small_frames: usize,
}

/// A connection after its preface, and the streams that answer its requests.
struct Serving<I, B, F> {
    connection: Connection<Gate<I>, Piece>,
    /// Begins to answer a request.
    begin: B,
    streams: FuturesUnordered<F>,
    alarm: Alarm,
    keep_alive: Option<KeepAlive>,
    flow: Arc<ConnectionFlow>,
}

/// Serves the requests of a connection, which was accepted at `accepted`, until it ends.
pub(in crate::listener) async fn serve<S: Service, I>(
    (stream, accepted): (I, Instant),
    from: Downstream,
    service: S,
    config: &ServerConfig,
    own: ConnectionLimits,
    drain: &Drain,
) -> io::Result<()>
where
    I: ClientStream,
{
    let activity = Arc::new(Activity::new());
    let limits = Limits::of(config, own.is_of_member);
    let buffers = Some(own.buffers.clone()).filter(|_| !own.is_of_member);
    let from = Downstream { buffers, ..from };
    let flow = ConnectionFlow::new(config.send_timeout, own.buffers, limits.window);
    let flow = Arc::new(match own.is_of_member {
        true => flow.of_many(),
        false => flow,
    });
    let gate = Gate::new(
        (stream, accepted),
        Arc::clone(&flow),
        Arc::clone(&activity),
        config.header_timeout,
    );
    let handshake = limits.builder(config).handshake(gate);
    let connection = tokio::select! {
        biased;
        connection = handshake => connection.map_err(io::Error::other)?,
        () = drain.cut().cancelled() => return Ok(()),
    };
    let from = (from, S::ConnectionCache::default());
    let begin = |request: Request<RecvStream>, respond: SendResponse<Piece>| {
        let (busy, mut stream) = (Busy::new(&activity), StreamFlow::new(&flow));
        if own.is_of_member {
            let client = service.client_of(request.headers(), &from.0);
            let client = client.unwrap_or_else(|| from.0.client.ip());
            stream = stream.for_client(request.body().stream_id().as_u32(), client);
        }
        let (exchange, request) =
            Exchange::begin(request, respond, stream, busy, limits.max_headers);
        exchange.answer(request, &service, &from)
    };
    let mut serving = Serving::new(connection, begin, Arc::clone(&flow));
    tokio::select! {
        biased;
        served = std::future::poll_fn(|cx| serving.poll(cx)) => return served,
        () = drain.begin() => {}
        () = activity.none_for(own.idle_timeout) => {}
    }
    serving.let_finish();
    tokio::select! {
        served = std::future::poll_fn(|cx| serving.poll(cx)) => return served,
        // A client that does not take its GOAWAY has its time.
        () = activity.none_for(config.header_timeout) => return Ok(()),
        () = drain.cut().cancelled() => {}
    }
    // What is left is cut, but for tunnels, which say why they end.
    serving.streams.clear();
    tokio::select! {
        served = std::future::poll_fn(|cx| serving.poll(cx)) => served,
        () = activity.none_for(LAST_FRAMES) => Ok(()),
        () = sleep(FAREWELL) => Ok(()),
    }
}

// === impl Limits ===

impl Limits {
    fn of(config: &ServerConfig, is_of_member: bool) -> Self {
        let (max_header_bytes, max_headers) = (config.max_header_bytes, config.max_headers);
        match is_of_member {
            false => Self {
                window: CONNECTION_WINDOW,
                max_header_bytes,
                max_headers,
                max_pending_resets: config.http2.max_pending_resets,
                max_error_resets: Some(config.http2.max_error_resets),
                small_frames: SMALL_FRAMES,
            },
            true => Self {
                window: WINDOW
                    .saturating_mul(config.http2.max_streams)
                    .min(MOST_WINDOW),
                max_header_bytes: max_headers
                    .saturating_add(MEMBERS_FIELDS)
                    .saturating_mul(FIELD)
                    .saturating_add(max_header_bytes)
                    .saturating_add(MEMBERS_BYTES),
                max_headers: max_headers.saturating_add(MEMBERS_FIELDS),
                // Its clients leave as they like.
                max_pending_resets: config.http2.max_streams as usize * MEMBERS_RESETS,
                max_error_resets: None,
                small_frames: MEMBERS_SMALL_FRAMES * config.http2.max_streams as usize,
            },
        }
    }

    /// The library's settings.
    fn builder(&self, config: &ServerConfig) -> Builder {
        let limits = &config.http2;
        let mut builder = Builder::new();
        builder
            .enable_connect_protocol()
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(u32::try_from(self.max_header_bytes).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(self.max_pending_resets)
            .max_local_error_reset_streams(self.max_error_resets)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(self.window)
            .max_concurrent_reset_streams(RESET_STREAMS)
            .reset_stream_duration(RESET_REMEMBERED)
            .data_frame_budget(self.small_frames)
            .max_send_buffer_size(SEND_BUFFER);
        builder
    }
}

// === impl Serving ===

impl<I, B, F> Serving<I, B, F>
where
    I: ClientStream,
    B: FnMut(Request<RecvStream>, SendResponse<Piece>) -> F,
    F: Future<Output = ()>,
{
    fn new(
        mut connection: Connection<Gate<I>, Piece>,
        begin: B,
        flow: Arc<ConnectionFlow>,
    ) -> Self {
        Self {
            keep_alive: connection.ping_pong().map(KeepAlive::new),
            connection,
            begin,
            streams: FuturesUnordered::new(),
            alarm: Alarm::new(),
            flow,
        }
    }

    /// Sends a GOAWAY; the connection ends when the requests that it has are answered.
    fn let_finish(&mut self) {
        self.connection.graceful_shutdown();
        self.alarm.connection().wake_by_ref();
    }

    /// Serves the connection; ready when it has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let keep_alive = self.keep_alive.as_mut();
        if keep_alive.is_some_and(|client| client.poll_gone(&self.flow, cx).is_ready()) {
            tracing::debug!("a client does not answer a PING");
            self.keep_alive = None;
            self.connection.abrupt_shutdown(Reason::NO_ERROR);
            self.alarm.connection().wake_by_ref();
        }
        let Self {
            connection,
            begin,
            streams,
            alarm,
            flow,
            ..
        } = self;
        alarm.poll(cx, |woken| {
            let mut has_new = false;
            if woken.connection {
                let cx = &mut Context::from_waker(alarm.connection());
                while let Poll::Ready(accepted) = connection.poll_accept(cx) {
                    let Some(accepted) = accepted.transpose().map_err(io::Error::other)? else {
                        return Poll::Ready(Ok(()));
                    };
                    streams.push(begin(accepted.0, accepted.1));
                    has_new = true;
                }
                if !flow.is_blocked() {
                    flow.note_all_written();
                }
            }
            if woken.streams || has_new {
                let cx = &mut Context::from_waker(alarm.streams());
                in_one_task(|| while let Poll::Ready(Some(())) = streams.poll_next_unpin(cx) {});
            }
            Poll::Pending
        })
    }
}

#[cfg(test)]
mod tests;
