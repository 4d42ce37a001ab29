//! Bytes both ways between a client and an instance, and the account of them.
//!
//! Guarantees: each byte is counted when it is carried, so that the account is right whenever and
//! however the carrying ends; the account says which side ended it; a half-closed side stays
//! half-closed, for as long as the other says something; nothing is carried beyond the instance's
//! epoch or the gateway's end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// How long nothing may be carried once one side has ended: whoever waits for the other side's
/// last word cannot be told from whoever has vanished, since nothing is read of it any more.
const HALF_CLOSED: Duration = Duration::from_secs(600);

/// Who ended a tunnel or a raw connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EndedBy {
    /// The gateway: it was draining, or cut what was left.
    Gateway = 1,
    /// The client closed its side first, or vanished.
    Client = 2,
    /// The instance closed its side first, or broke the connection off.
    Instance = 3,
    /// The instance's epoch: it went to sleep, or was replaced.
    Sleep = 4,
}

/// The account of what is carried between a client and an instance.
#[derive(Debug)]
pub struct Carried {
    metrics: Arc<Metrics>,
    from_client: AtomicU64,
    to_client: AtomicU64,
    /// The side that ended first, as its [`EndedBy`]; 0 before that.
    ended_by: AtomicU8,
    half_closed: Notify,
    complete: AtomicBool,
}

/// One side of the carrying.
struct Side<'a, S> {
    stream: S,
    carried: &'a Carried,
    /// What it is called when it ends first.
    name: EndedBy,
}

/// Records that the gateway ended the carrying, unless something else did.
struct Cut<'a>(Option<&'a Carried>);

// === impl EndedBy ===

impl EndedBy {
    /// The word of the access line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Client => "client",
            Self::Instance => "instance",
            Self::Sleep => "sleep",
        }
    }
}

// === impl Carried ===

impl Carried {
    /// Nothing has been carried yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            from_client: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            ended_by: AtomicU8::new(0),
            half_closed: Notify::new(),
            complete: AtomicBool::new(false),
        }
    }

    /// The bytes that came from the client.
    pub fn from_client(&self) -> u64 {
        self.from_client.load(Ordering::Relaxed)
    }

    /// The bytes that the client was sent.
    pub fn to_client(&self) -> u64 {
        self.to_client.load(Ordering::Relaxed)
    }

    /// Who ended it.
    pub fn ended_by(&self) -> EndedBy {
        let ended_by = self.ended_by.load(Ordering::Relaxed);
        let all = [EndedBy::Client, EndedBy::Instance, EndedBy::Sleep];
        let mut all = all.into_iter();
        let found = all.find(|one| *one as u8 == ended_by);
        found.unwrap_or(EndedBy::Gateway)
    }

    /// Whether each side was carried to its end.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    /// This side has ended; the first one counts.
    pub(super) fn end(&self, side: EndedBy) {
        let (before, now) = (Ordering::Relaxed, Ordering::Relaxed);
        let _later = self.ended_by.compare_exchange(0, side as u8, before, now);
        self.half_closed.notify_one();
    }

    /// Ends when one side has ended and nothing has been carried for [`HALF_CLOSED`] since.
    async fn is_forsaken(&self) {
        self.half_closed.notified().await;
        let mut carried = None;
        loop {
            let now = (self.from_client(), self.to_client());
            if carried.replace(now) == Some(now) {
                return;
            }
            sleep(HALF_CLOSED).await;
        }
    }

    /// What goes on is cut, whatever side had ended.
    fn cut(&self, by: EndedBy) {
        self.ended_by.store(by as u8, Ordering::Relaxed);
    }

    fn count_from_client(&self, bytes: u64) {
        self.from_client.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.count_bytes(bytes, 0);
    }

    fn count_to_client(&self, bytes: u64) {
        self.to_client.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.count_bytes(0, bytes);
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        if let Some(carried) = self.0 {
            carried.cut(EndedBy::Gateway);
        }
    }
}

/// Carries bytes both ways with so much room for each, until both sides have ended, the instance's
/// epoch is `cut`, or `stop`.
pub async fn carry(
    client: impl AsyncRead + AsyncWrite + Unpin,
    instance: impl AsyncRead + AsyncWrite + Unpin,
    room: usize,
    carried: &Carried,
    cut: &CancellationToken,
    stop: &CancellationToken,
) {
    let mut unless_said = Cut(Some(carried));
    let mut client = Side {
        stream: client,
        carried,
        name: EndedBy::Client,
    };
    let mut instance = Side {
        stream: instance,
        carried,
        name: EndedBy::Instance,
    };
    tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut client, &mut instance, room, room) => {
            unless_said.0 = None;
            match copied {
                Ok(_) => carried.complete.store(true, Ordering::Relaxed),
                Err(error) => tracing::debug!(%error, "a tunnel or connection broke"),
            }
        }
        () = cut.cancelled() => {
            unless_said.0 = None;
            carried.cut(EndedBy::Sleep);
        }
        () = carried.is_forsaken() => {
            unless_said.0 = None;
            tracing::debug!("one side has ended and the other is silent");
        }
        () = stop.cancelled() => {}
    }
}

// === impl Side ===

impl<S> Side<'_, S> {
    fn is_client(&self) -> bool {
        self.name == EndedBy::Client
    }

    /// Takes note of an error of this side's.
    fn checked<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if matches!(polled, Poll::Ready(Err(_))) {
            self.carried.end(self.name);
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Side<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, had_room) = (buffer.filled().len(), buffer.remaining() > 0);
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if matches!(polled, Poll::Ready(Ok(()))) {
            match buffer.filled().len() - before {
                0 if had_room => self.carried.end(self.name),
                count if self.is_client() => self.carried.count_from_client(count as u64),
                _ => {}
            }
        }
        self.checked(polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Side<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &polled
            && self.is_client()
        {
            self.carried.count_to_client(*count as u64);
        }
        self.checked(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.checked(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.checked(polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_tunnel_is_forsaken_after_a_long_silence_and_not_before() {
        let carried = Carried::new(Arc::new(Metrics::new()));
        let day = Duration::from_secs(86_400);
        assert!(
            timeout(day, carried.is_forsaken()).await.is_err(),
            "both sides are open"
        );
        carried.end(EndedBy::Client);
        let began = Instant::now();
        let talking = async {
            for _ in 0..10 {
                sleep(HALF_CLOSED / 2).await;
                carried.count_to_client(1);
            }
        };
        let ((), ()) = tokio::join!(talking, carried.is_forsaken());
        let took = began.elapsed();
        assert!(
            took >= HALF_CLOSED * 6 && took <= HALF_CLOSED * 7,
            "{took:?}"
        );
    }
}
