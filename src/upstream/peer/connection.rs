//! One connection to another member of the fleet.
//!
//! Guarantees: nothing is sent before both ends have shown who they are and the other has said what
//! it allows; a connection whose other end does not answer a PING, or whose host cannot be reached any
//! more, is closed, and its requests hear why.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::TaskTracker;

use crate::descriptors;
use crate::fleet::identity::ALPN;
use crate::fleet::{Member, PeerIdentity};
use crate::flow::{PeekStream, forward_writes};
use crate::upstream::arrivals::{Arrivals, Frames};
use crate::upstream::h2_peer::UNKNOWN;
use crate::upstream::h2_stream::STREAM_WINDOW;
use crate::upstream::peer_body::Seat;
use crate::upstream::timed_body::Part;

/// How long a look at a member may take: whoever asks for an instance of a host that is away is told
/// so within two seconds.
pub(super) const LOOK: Duration = Duration::from_millis(1700);
/// How long the answer to a PING is waited for before the host of a silent connection is looked for
/// otherwise, and how long that may take.
const ANSWER: Duration = Duration::from_millis(150);
const STILL_THERE: Duration = Duration::from_millis(850);
/// Between two PINGs (RFC 9113 §6.7).
const PING_EVERY: Duration = Duration::from_secs(20);
/// How long the answer to one is waited for.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of requests' bodies that the library keeps for a stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of a response's fields.
const MAX_HEADER_LIST: u32 = 128 * 1024;
/// Streams of a connection, whatever the other end allows: its window has room for what each of their
/// clients has not read.
const STREAMS: u32 = 256;
/// Streams that were broken off of which the library remembers that what still comes of them is to be
/// ignored, and how long: a window of each may be on its way.
const BROKEN_OFF: usize = 1024;
const BROKEN_OFF_REMEMBERED: Duration = Duration::from_secs(30);
/// What small DATA frames that nobody has read may cost, of all streams: for each, what it lacks of 256
/// bytes. One client that reads nothing must not end the connection of the others.
const SMALL_FRAMES: usize = STREAMS as usize * 512 * 1024;
/// How long the other end's first word is waited for, and how much of it is looked at.
const FIRST_WORD: Duration = Duration::from_millis(500);
const FIRST_BYTES: usize = 1024;
/// The name that TLS wants to have; members are known by others.
const SERVER_NAME: &str = "member.wakegate.invalid";

const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// Why there is no connection to a member.
#[derive(Debug, Clone)]
pub(super) enum DialError {
    /// It does not answer.
    Away(Arc<str>),
    /// One side does not believe the other.
    Refused(Arc<str>),
}

/// A connection, which carries many requests at once. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connection {
    sender: SendRequest<Part>,
    state: Arc<State>,
}

/// What is known of a connection.
#[derive(Debug)]
pub(super) struct State {
    began: Instant,
    /// Milliseconds after `began` when something came last.
    heard: AtomicU64,
    streams: Arc<AtomicUsize>,
    /// What has come of those that count to their clients.
    arrivals: Arc<Arrivals>,
    is_closed: AtomicBool,
    /// It takes no new requests; those that it has go on.
    is_leaving: AtomicBool,
    /// Looks in a row that have found nobody.
    missed: AtomicUsize,
    /// Somebody wants to know whether the other end answers, and it has.
    asked: Notify,
    answered: Notify,
    /// Why it was closed, where that is more than its end.
    why: Mutex<Option<DialError>>,
    lost: Notify,
    /// Where its other end listens.
    endpoint: String,
    /// Who has it looks whether the host is still there; when that was done last.
    looking: tokio::sync::Mutex<Option<Instant>>,
}

/// The connection below the library.
struct PeerIo {
    stream: PeekStream<TlsStream<TcpStream>>,
    frames: Frames,
    state: Arc<State>,
}

// === impl State ===

impl State {
    fn new(endpoint: &str) -> Self {
        Self {
            began: Instant::now(),
            heard: AtomicU64::new(0),
            streams: Arc::default(),
            arrivals: Arc::default(),
            is_closed: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            missed: AtomicUsize::new(0),
            asked: Notify::new(),
            answered: Notify::new(),
            why: Mutex::default(),
            lost: Notify::new(),
            endpoint: endpoint.to_owned(),
            looking: tokio::sync::Mutex::default(),
        }
    }

    /// What has come of its streams.
    pub(super) fn arrivals(&self) -> &Arc<Arrivals> {
        &self.arrivals
    }

    /// Why it was closed, where that is more than its end.
    pub(super) fn why(&self) -> Option<DialError> {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.clone()
    }

    /// Closes it, and what is under way on it.
    pub(super) fn close_for(&self, error: DialError) {
        let mut why = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        why.get_or_insert(error);
        self.is_closed.store(true, Ordering::Release);
        self.lost.notify_one();
    }

    /// The other end has said that it takes no more requests, or may be gone: the next request begins
    /// another connection.
    pub(super) fn leave(&self) {
        self.is_leaving.store(true, Ordering::Release);
    }

    fn note_heard(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    fn note_failed(&self, error: &io::Error) {
        if let Some(reason) = refusal(error) {
            self.close_for(DialError::Refused(reason));
        }
    }

    /// Looks whether the host is still there, if nothing has come for `silence`; whether it is away. The
    /// connection itself is asked first; then the host's kernel is, since a busy member is not one that is
    /// away. A host that answers neither gets no new requests on the connection, and twice in a row closes
    /// it. One that refuses is there, and may be draining. One look is for all requests of the connection.
    pub(super) async fn look(&self, silence: Duration) -> bool {
        let mut looked = self.looking.lock().await;
        if self.silent_for() < silence {
            self.missed.store(0, Ordering::Relaxed);
            return false;
        }
        if looked.is_some_and(|looked| looked.elapsed() < silence) {
            return self.is_missed();
        }
        *looked = Some(Instant::now());
        let answered = self.answered.notified();
        self.asked.notify_one();
        if timeout(ANSWER, answered).await.is_ok() {
            self.missed.store(0, Ordering::Relaxed);
            return false;
        }
        let connecting = TcpStream::connect(self.endpoint.as_str());
        // Whether anybody accepts is the kernel's word, and no matter of how busy the member is.
        let failed = match timeout(STILL_THERE, connecting).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.leave();
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("it does not answer".to_owned()),
        };
        let failed = failed.filter(|_| self.silent_for() >= silence);
        let Some(failed) = failed else {
            self.missed.store(0, Ordering::Relaxed);
            return false;
        };
        self.leave();
        if self.missed.fetch_add(1, Ordering::Relaxed) > 0 {
            self.close_for(DialError::Away(failed.into()));
        }
        true
    }

    fn is_missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed) > 0
    }

    /// How long nothing has come.
    fn silent_for(&self) -> Duration {
        let heard = self.began + Duration::from_millis(self.heard.load(Ordering::Relaxed));
        heard.elapsed()
    }
}

// === impl Connection ===

impl Connection {
    /// Connects to a member's first endpoint that answers. Its tasks go on `tasks`.
    pub(super) async fn open(
        identity: &Arc<PeerIdentity>,
        member: &Arc<Member>,
        tasks: &TaskTracker,
    ) -> Result<Self, DialError> {
        let away = |text: &str| DialError::Away(text.into());
        let until = Instant::now() + LOOK;
        let mut left = u32::try_from(member.endpoints.len()).unwrap_or(u32::MAX);
        let (mut last, mut refused) = (away("its record has no endpoint"), None);
        for endpoint in &member.endpoints {
            let part = until.saturating_duration_since(Instant::now()) / left.max(1);
            left = left.saturating_sub(1);
            let stream = match timeout(part, TcpStream::connect(endpoint.as_str())).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    last = away(&format!("{endpoint}: {error}"));
                    continue;
                }
                Err(_) => {
                    last = away(&format!("{endpoint} does not answer"));
                    continue;
                }
            };
            let rest = until.saturating_duration_since(Instant::now());
            // Another machine may have the address by now, so the others are tried, too.
            let part = if left == 0 { rest } else { rest / 2 };
            let greeting = Self::greet(stream, endpoint, identity, member, tasks);
            match timeout(part, greeting).await {
                Ok(Ok(greeted)) => return Ok(greeted),
                Ok(Err(error @ DialError::Refused(_))) => {
                    refused.get_or_insert(error);
                }
                Ok(Err(error @ DialError::Away(_))) => last = error,
                Err(_) => last = away(&format!("{endpoint} accepts and says nothing")),
            }
        }
        Err(refused.unwrap_or(last))
    }

    /// Agrees on TLS and HTTP/2.
    async fn greet(
        stream: TcpStream,
        endpoint: &str,
        identity: &Arc<PeerIdentity>,
        member: &Arc<Member>,
        tasks: &TaskTracker,
    ) -> Result<Self, DialError> {
        let away =
            |error: &dyn std::fmt::Display| DialError::Away(format!("{endpoint}: {error}").into());
        let stream = descriptors::unless_last(stream).map_err(|error| away(&error))?;
        let _slower = stream.set_nodelay(true);
        let _none = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
        let refused = |text: String| DialError::Refused(text.into());
        let config = identity
            .client_config(member)
            .map_err(|error| refused(error.to_string()))?;
        let name = ServerName::try_from(SERVER_NAME).map_err(|error| refused(error.to_string()))?;
        let connecting = TlsConnector::from(config).connect(name, stream);
        let stream = connecting.await.map_err(|error| match refusal(&error) {
            Some(reason) => DialError::Refused(reason),
            None => away(&error),
        })?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(refused(format!("{endpoint} speaks no protocol of members")));
        }
        // The other end judges our certificate now, and says what is wrong with it, or begins to speak.
        // What is sent before that could make the system drop its last word.
        let mut stream = PeekStream::new(stream);
        let first_word = timeout(FIRST_WORD, stream.peek_more(FIRST_BYTES)).await;
        // One that waits for us to speak first is no fault.
        if let Ok(Err(error)) = first_word {
            return Err(match refusal(&error) {
                Some(reason) => DialError::Refused(reason),
                None => away(&error),
            });
        }
        let state = Arc::new(State::new(endpoint));
        let stream = PeerIo {
            stream,
            frames: Frames::default(),
            state: Arc::clone(&state),
        };
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * STREAMS)
            .initial_max_send_streams(UNKNOWN)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_concurrent_reset_streams(BROKEN_OFF)
            .reset_stream_duration(BROKEN_OFF_REMEMBERED)
            .max_local_error_reset_streams(None)
            .data_frame_budget(SMALL_FRAMES);
        let (sender, mut connection) = builder
            .handshake::<_, Part>(stream)
            .await
            .map_err(|error| away(&error))?;
        // What it allows comes first.
        let settling = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Err(ended.err())),
            Poll::Pending if sender.current_max_send_streams() != UNKNOWN => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        });
        if let Err(ended) = settling.await {
            return Err(match (state.why(), ended) {
                (Some(why), _) => why,
                (None, Some(error)) => away(&error),
                (None, None) => away(&"closed at once"),
            });
        }
        let pings = connection.ping_pong();
        let running = Arc::clone(&state);
        tasks.spawn(async move {
            let ended = {
                let mut beating = pin!(beat(pings, &running));
                let mut lost = pin!(running.lost.notified());
                poll_fn(|cx| {
                    if beating.as_mut().poll(cx).is_ready() {
                        let text = "it does not answer a PING";
                        running.close_for(DialError::Away(text.into()));
                        return Poll::Ready(Ok(()));
                    }
                    if lost.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                    Pin::new(&mut connection).poll(cx)
                })
                .await
            };
            running.is_closed.store(true, Ordering::Release);
            if let Err(error) = ended {
                tracing::debug!(endpoint = running.endpoint, %error, "a connection to a member ended");
            }
        });
        Ok(Self { sender, state })
    }

    /// Whether no new request can be sent on it.
    pub(super) fn is_over(&self) -> bool {
        let State {
            is_closed,
            is_leaving,
            ..
        } = &*self.state;
        is_closed.load(Ordering::Acquire) || is_leaving.load(Ordering::Acquire)
    }

    /// The requests that it carries.
    pub(super) fn streams(&self) -> usize {
        self.state.streams.load(Ordering::Acquire)
    }

    /// How many it may have.
    pub(super) fn most(&self) -> usize {
        let allowed = self.sender.current_max_send_streams();
        allowed.min(STREAMS as usize)
    }

    /// A stream of it.
    pub(super) fn take(&self) -> (SendRequest<Part>, Seat) {
        (self.sender.clone(), Seat::of(&self.state.streams))
    }

    /// What is known of it.
    pub(super) fn state(&self) -> &State {
        &self.state
    }
}

/// Sends PINGs, by the clock and whenever somebody asks; ends when one has no answer.
async fn beat(pings: Option<PingPong>, state: &State) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        let _asked = timeout(PING_EVERY, state.asked.notified()).await;
        match timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => state.answered.notify_waiters(),
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Why TLS failed, if one of the sides has said so.
fn refusal(error: &io::Error) -> Option<Arc<str>> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(inner.to_string().into())
}

// === impl PeerIo ===

impl AsyncRead for PeerIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (me, before) = (&mut *self, buffer.filled().len());
        let polled = ready!(Pin::new(&mut me.stream).poll_read(cx, buffer));
        match &polled {
            Ok(()) => {
                me.state.note_heard();
                let come = buffer.filled().get(before..).unwrap_or_default();
                me.frames.pass(come, &me.state.arrivals);
            }
            Err(error) => me.state.note_failed(error),
        }
        Poll::Ready(polled)
    }
}

impl AsyncWrite for PeerIo {
    forward_writes!();
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({} streams)", self.streams())
    }
}
