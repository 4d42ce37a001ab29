//! The account of what is carried between a client and an instance.
//!
//! Guarantees: each byte is counted when it is carried, so that the account is right whenever and
//! however the carrying ends; the account says who ended it, and is closed once.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::telemetry::{Counted, Metrics, TunnelEnd as EndedBy, TunnelState};

/// How long nothing may be carried once one side has ended: whoever waits for the other side's
/// last word cannot be told from whoever has vanished, since nothing is read of it any more.
const HALF_CLOSED: Duration = Duration::from_secs(600);

/// The account of what is carried between a client and an instance.
#[derive(Debug)]
pub struct Carried {
    metrics: Arc<Metrics>,
    from_client: AtomicU64,
    to_client: AtomicU64,
    /// One more than the place in [`ENDS`] of who ended it first; 0 before that.
    ended_by: AtomicU8,
    half_closed: Notify,
    complete: AtomicBool,
}

/// One side of the carrying.
pub(super) struct Side<'a, S> {
    stream: S,
    carried: &'a Carried,
    /// What it is called when it ends first.
    name: EndedBy,
}

/// A tunnel, or raw connection, for as long as it is open. Whatever drops it without a word was the
/// gateway.
pub struct OpenTunnel<'a> {
    carried: &'a Carried,
    is_ended: bool,
    /// Whether another one goes on with it.
    goes_on: bool,
    _counted: Counted,
}

const ENDS: [EndedBy; 7] = [
    EndedBy::Gateway,
    EndedBy::Client,
    EndedBy::Instance,
    EndedBy::Sleep,
    EndedBy::Idle,
    EndedBy::MaxLife,
    EndedBy::ParkTime,
];

fn place(ended_by: EndedBy) -> u8 {
    let place = ENDS.iter().position(|one| *one == ended_by);
    place.map_or(0, |place| u8::try_from(place + 1).unwrap_or(0))
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
        let place = usize::from(self.ended_by.load(Ordering::Relaxed));
        let ended_by = place.checked_sub(1).and_then(|place| ENDS.get(place));
        ended_by.copied().unwrap_or(EndedBy::Gateway)
    }

    /// Where it is counted.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// It is open from now on, in this state.
    pub fn open(&self, state: TunnelState) -> OpenTunnel<'_> {
        OpenTunnel {
            carried: self,
            is_ended: false,
            goes_on: false,
            _counted: self.metrics.tunnel(state),
        }
    }

    /// Whether each side was carried to its end.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    /// This side has ended; the first one counts.
    pub(super) fn end(&self, side: EndedBy) {
        let (before, now) = (Ordering::Relaxed, Ordering::Relaxed);
        let _later = self.ended_by.compare_exchange(0, place(side), before, now);
        self.half_closed.notify_one();
    }

    /// The instance's side has ended, and is to be another one.
    pub(super) fn forget_end(&self) {
        let (ended, before) = (place(EndedBy::Instance), Ordering::Relaxed);
        let _other = self.ended_by.compare_exchange(ended, 0, before, before);
        let _told = self.half_closed.notified().now_or_never();
    }

    /// Ends when one side has ended and nothing has been carried for [`HALF_CLOSED`] since.
    pub(super) async fn is_forsaken(&self) {
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

    fn count_from_client(&self, bytes: u64) {
        self.from_client.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.count_bytes(bytes, 0);
    }

    fn count_to_client(&self, bytes: u64) {
        self.to_client.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.count_bytes(0, bytes);
    }
}

// === impl OpenTunnel ===

impl OpenTunnel<'_> {
    /// Both sides have been carried to their ends.
    pub(super) fn complete(&mut self) {
        self.is_ended = true;
        self.carried.complete.store(true, Ordering::Relaxed);
    }

    /// It is over, by whom has been said already.
    pub fn over(&mut self) {
        self.is_ended = true;
    }

    /// Its end is that of another, which begins.
    pub fn goes_on(mut self) {
        self.goes_on = true;
    }

    /// What goes on is cut, whatever side had ended.
    pub fn cut(&mut self, by: EndedBy) {
        self.is_ended = true;
        self.carried.ended_by.store(place(by), Ordering::Relaxed);
    }
}

impl fmt::Debug for OpenTunnel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenTunnel({:?})", self.carried)
    }
}

impl Drop for OpenTunnel<'_> {
    fn drop(&mut self) {
        if self.goes_on {
            return;
        }
        if !self.is_ended {
            self.cut(EndedBy::Gateway);
        }
        let metrics = &self.carried.metrics;
        metrics.count_tunnel_end(self.carried.ended_by());
    }
}

// === impl Side ===

impl<'a, S> Side<'a, S> {
    pub(super) fn new(stream: S, carried: &'a Carried, name: EndedBy) -> Self {
        Self {
            stream,
            carried,
            name,
        }
    }

    /// The stream itself.
    pub(super) fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The stream, which is carried no more.
    pub(super) fn into_inner(self) -> S {
        self.stream
    }

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
