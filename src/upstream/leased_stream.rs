//! One connection to an instance.
//!
//! Guarantees: a connection counts, and holds its instance's lease, from its opening to its close.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use socket2::TcpKeepalive;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use crate::instance_tls::InstanceStream;
use crate::telemetry::Metrics;
use crate::wake::OpenConnection;

/// How an instance's kernel is asked.
const ASKING: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(1))
    .with_interval(Duration::from_secs(1));

/// A stream that holds its instance's lease; also after an upgrade has taken it over.
pub struct LeasedStream {
    io: InstanceStream,
    open: OpenConnection,
    last_heard: Instant,
    metrics: Arc<Metrics>,
}

// === impl LeasedStream ===

impl LeasedStream {
    pub(super) fn new(
        stream: InstanceStream,
        mut open: OpenConnection,
        metrics: Arc<Metrics>,
    ) -> Self {
        stream.set_nodelay();
        open.established();
        metrics.upstream_connections.increment(1.0);
        Self {
            io: stream,
            open,
            last_heard: Instant::now(),
            metrics,
        }
    }

    /// A request is sent from `now` on.
    pub(super) fn request_sent(&self, now: Instant) {
        self.open.sent(now);
    }

    /// Something was written just now.
    pub(super) fn note_sent(&self) {
        self.open.sent(Instant::now());
    }

    /// The time when something last came, its end included.
    pub(super) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// Writes some of `bytes`.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    /// Writes some of `slices`.
    pub(super) fn poll_send_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    /// Ready when all that was taken has gone: TLS may keep some.
    pub(super) fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_sent(cx)
    }

    /// Reads as much as there is room for; 0 at the end.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let polled = poll_read_buf(Pin::new(&mut self.io), cx, into);
        if matches!(polled, Poll::Ready(Ok(_))) {
            self.last_heard = Instant::now();
            self.open.heard(self.last_heard);
        }
        polled
    }

    /// Nothing of it has been payload since `payload_at`: it holds no lease, and its kernel leaves
    /// the instance alone.
    pub(super) fn be_quiet(&mut self, payload_at: Instant) {
        self.open.be_quiet(payload_at);
        if let Some(socket) = self.io.socket() {
            // A socket that cannot do this is lost with its first unanswered probe.
            let _lost = (
                socket.set_keepalive(false),
                socket.set_tcp_user_timeout(None),
            );
        }
    }

    /// It has payload again; false where its instance is about to sleep, or sleeps.
    pub(super) fn go_on(&mut self) -> bool {
        self.open.go_on()
    }

    /// It goes on in another epoch of the same instance.
    pub(super) fn attach(&mut self, mut open: OpenConnection) {
        open.established();
        self.open = open;
    }

    /// What the instance does not acknowledge for so long breaks the connection; `None` is the kernel's
    /// own time.
    pub(super) fn expect_answers(&self, within: Option<Duration>) {
        if let Some(socket) = self.io.socket() {
            // Without it a broken connection is found out later.
            let _later = socket.set_tcp_user_timeout(within);
        }
    }

    /// Whether the kernel asks the instance's, as long as nothing else is said, whether that knows the
    /// connection still.
    pub(super) fn ask_kernel(&self, asks: bool) {
        if let Some(socket) = self.io.socket() {
            // Without it a lost connection is found out later.
            let _later = match asks {
                true => socket.set_tcp_keepalive(&ASKING),
                false => socket.set_keepalive(false),
            };
        }
    }

    /// Whether there is something to read, as far as is known without asking the system.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_readable(cx)
    }
}

impl Drop for LeasedStream {
    fn drop(&mut self) {
        self.metrics.upstream_connections.decrement(1.0);
    }
}

impl fmt::Debug for LeasedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedStream").finish_non_exhaustive()
    }
}

impl AsyncRead for LeasedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, into);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.last_heard = Instant::now();
            self.open.heard(self.last_heard);
        }
        polled
    }
}

impl AsyncWrite for LeasedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        if polled.is_ready() {
            self.note_sent();
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        if polled.is_ready() {
            self.note_sent();
        }
        polled
    }
}
