//! Bodies as they pass through.
//!
//! Guarantees: a request's body is not touched before it is forwarded, and says afterwards whether
//! it was; trailers that would change a message's framing or routing are dropped; a response's
//! connection goes back to its pool only after a clean end.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRAILER, TRANSFER_ENCODING};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio_util::task::TaskTracker;

use super::h1::{self, BrokenBody};
use super::h2_pool::StreamToken;
use super::min_rate::MinRate;
use super::pool::{Pool, Sender};

/// How long a connection may take to be usable again after its response.
const SETTLE: Duration = Duration::from_millis(500);

/// What became of a request's body, as its request sees it.
#[derive(Debug, Default)]
pub struct BodyStats {
    touched: AtomicBool,
    answered: AtomicBool,
    /// 0, or an [`BodyFailure`].
    failure: AtomicU8,
    bytes: AtomicU64,
}

/// How a client failed to send its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFailure {
    /// It broke off, or was no valid HTTP.
    Broke = 1,
    /// It came more slowly than it may.
    TooSlow = 2,
}

/// A body cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection that it comes from.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// The client sends it too slowly.
    #[error("the request's body came too slowly")]
    TooSlow,
}

/// A client's request body on its way to an instance. In a box: most requests have none, and are moved about.
#[derive(Debug, Default)]
pub struct RequestBody(Option<Box<Streaming>>);

/// A body that there is.
#[derive(Debug)]
struct Streaming {
    source: Source,
    /// Read before it was asked for.
    first: Option<Frame<Bytes>>,
    pace: MinRate,
    body_stats: Arc<BodyStats>,
}

#[derive(Debug)]
enum Source {
    Client(Incoming),
    /// Read beforehand, so that it can be sent again.
    Buffer {
        whole: Bytes,
        sent: bool,
    },
}

/// An instance's response body on its way to a client.
#[derive(Debug)]
pub struct UpstreamBody(Inner);

#[derive(Debug)]
enum Inner {
    Hyper(PooledBody),
    H1(h1::Body),
}

/// What comes over a connection of hyper's.
#[derive(Debug)]
struct PooledBody {
    inner: Incoming,
    return_to: Option<ReturnTo>,
}

/// A response's body cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// Of a connection of hyper's.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// Of one of ours.
    #[error(transparent)]
    H1(#[from] BrokenBody),
}

/// Where the connection of a response goes that came over one of hyper's.
#[derive(Debug)]
pub(super) enum ReturnTo {
    /// Back to its pool, when the end was a clean one.
    Pool(Sender, Arc<Pool>, TaskTracker),
    /// It was for this exchange alone.
    Nowhere(#[allow(dead_code, reason = "the connection lives as long as it")] Sender),
    /// It is shared with others.
    Shared(#[allow(dead_code, reason = "its place is taken as long as it lives")] StreamToken),
}

// === impl BodyStats ===

impl BodyStats {
    /// Whether any of the body was asked for.
    pub fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Acquire)
    }

    /// Bytes that went through.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How it failed, if it did.
    pub fn failure(&self) -> Option<BodyFailure> {
        match self.failure.load(Ordering::Acquire) {
            1 => Some(BodyFailure::Broke),
            2 => Some(BodyFailure::TooSlow),
            _ => None,
        }
    }

    /// Its response has begun: from now on the two sides may talk as slowly as they like.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Release);
    }
}

// === impl RequestBody ===

impl RequestBody {
    /// The client's body, if it has one, which must come at this rate (bytes a second; 0 asks nothing).
    pub fn new(inner: Option<Incoming>, min_rate: usize) -> Self {
        let streaming =
            inner.map(|inner| Streaming::new(Source::Client(inner), Arc::default(), min_rate));
        Self(streaming.map(Box::new))
    }

    /// Whether there is none.
    pub fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it can be sent more than once: there is none, or it was read beforehand.
    pub fn is_repeatable(&self) -> bool {
        let source = self.0.as_ref().map(|streaming| &streaming.source);
        !matches!(source, Some(Source::Client(_)))
    }

    /// The same again, if it is repeatable.
    pub fn again(&self) -> Option<Self> {
        let Some(streaming) = &self.0 else {
            return Some(Self(None));
        };
        match &streaming.source {
            Source::Buffer { whole, .. } => Some(Self::of_buffer(
                whole.clone(),
                Arc::clone(&streaming.body_stats),
            )),
            Source::Client(_) => None,
        }
    }

    fn of_buffer(whole: Bytes, body_stats: Arc<BodyStats>) -> Self {
        let source = Source::Buffer { whole, sent: false };
        Self(Some(Box::new(Streaming::new(source, body_stats, 0))))
    }

    /// Reads it whole when its length is known and at most `limit`; otherwise leaves it as it is.
    pub async fn buffer(self, limit: usize) -> Result<Self, BodyError> {
        let exact = self.size_hint().exact();
        let fits = exact.is_some_and(|length| length <= limit as u64);
        match self.body_stats() {
            Some(body_stats) if fits && !self.is_repeatable() => {
                let whole = self.collect().await?.to_bytes();
                Ok(Self::of_buffer(whole, body_stats))
            }
            _ => Ok(self),
        }
    }

    /// Waits for `other` and meanwhile asks the client for the body's beginning: one that expects
    /// `100 Continue` gets it (RFC 9110 §10.1.1).
    pub async fn begun_during<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        poll_fn(|cx| {
            if let Some(streaming) = &mut self.0
                && streaming.first.is_none()
                && let Source::Client(inner) = &mut streaming.source
                && let Poll::Ready(Some(Ok(frame))) = Pin::new(inner).poll_frame(cx)
            {
                streaming.first = Some(frame);
            }
            other.as_mut().poll(cx)
        })
        .await
    }

    /// What becomes of it, if there is one.
    pub fn body_stats(&self) -> Option<Arc<BodyStats>> {
        self.0
            .as_ref()
            .map(|streaming| Arc::clone(&streaming.body_stats))
    }
}

fn without_unsafe_trailers<B>(frame: Frame<B>) -> Frame<B> {
    match frame.into_trailers() {
        Err(frame) => frame,
        Ok(trailers) => Frame::trailers(clean(trailers)),
    }
}

/// RFC 9110 §6.5.1: nothing that frames, routes or authenticates may stand in a trailer.
fn clean(mut trailers: HeaderMap) -> HeaderMap {
    for name in [
        CONTENT_LENGTH,
        TRANSFER_ENCODING,
        HOST,
        TRAILER,
        AUTHORIZATION,
    ] {
        trailers.remove(name);
    }
    trailers
}

// === impl Streaming ===

impl Streaming {
    fn new(source: Source, body_stats: Arc<BodyStats>, min_rate: usize) -> Self {
        Self {
            source,
            first: None,
            pace: MinRate::new(min_rate),
            body_stats,
        }
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        match &mut self.source {
            Source::Buffer { sent: true, .. } => Poll::Ready(None),
            Source::Client(inner) => {
                let polled = Pin::new(inner).poll_frame(cx);
                polled.map(|frame| frame.map(|frame| frame.map_err(BodyError::Hyper)))
            }
            Source::Buffer { whole, sent } => {
                *sent = true;
                Poll::Ready((!whole.is_empty()).then(|| Ok(Frame::data(whole.clone()))))
            }
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll_source(cx);
        self.body_stats.touched.store(true, Ordering::Release);
        let polled = match polled {
            Poll::Pending if !self.body_stats.answered.load(Ordering::Acquire) => {
                let bytes = self.body_stats.bytes();
                match self.pace.poll_too_slow(bytes, cx) {
                    // It may have been answered meanwhile.
                    Poll::Ready(()) if !self.body_stats.answered.load(Ordering::Acquire) => {
                        Poll::Ready(Some(Err(BodyError::TooSlow)))
                    }
                    Poll::Ready(()) | Poll::Pending => Poll::Pending,
                }
            }
            polled @ (Poll::Ready(_) | Poll::Pending) => {
                self.pace.came();
                polled
            }
        };
        polled.map(|frame| {
            frame.map(|frame| match frame {
                Ok(frame) => {
                    let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                    self.body_stats.bytes.fetch_add(length, Ordering::Relaxed);
                    Ok(without_unsafe_trailers(frame))
                }
                Err(error) => {
                    let failure = match error {
                        BodyError::Hyper(_) => BodyFailure::Broke,
                        BodyError::TooSlow => BodyFailure::TooSlow,
                    };
                    self.body_stats
                        .failure
                        .store(failure as u8, Ordering::Release);
                    Err(error)
                }
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            _ if self.first.is_some() => false,
            Source::Client(inner) => inner.is_end_stream(),
            Source::Buffer { whole, sent } => *sent || whole.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Buffer { sent: true, .. } => SizeHint::with_exact(0),
            Source::Client(inner) => {
                let (mut hint, first) = (inner.size_hint(), self.first.as_ref());
                let ahead = first.and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
                if let Some(exact) = hint.exact() {
                    hint.set_exact(exact + ahead);
                }
                hint
            }
            Source::Buffer { whole, .. } => SizeHint::with_exact(whole.len() as u64),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Some(streaming) => streaming.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|streaming| streaming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.0.as_ref().map(|streaming| streaming.size_hint());
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

// === impl UpstreamBody ===

impl UpstreamBody {
    pub(super) fn new(inner: Incoming, return_to: ReturnTo) -> Self {
        let return_to = Some(return_to);
        Self(Inner::Hyper(PooledBody { inner, return_to }))
    }

    pub(super) fn of_h1(body: h1::Body) -> Self {
        Self(Inner::H1(body))
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let polled = match &mut self.0 {
            Inner::Hyper(pooled) => Pin::new(&mut pooled.inner)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(ResponseError::Hyper))),
            Inner::H1(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(ResponseError::H1))),
        };
        polled.map(|frame| frame.map(|frame| frame.map(without_unsafe_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Hyper(pooled) => pooled.inner.is_end_stream(),
            Inner::H1(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Hyper(pooled) => pooled.inner.size_hint(),
            Inner::H1(body) => body.size_hint(),
        }
    }
}

impl Drop for PooledBody {
    fn drop(&mut self) {
        let Some(ReturnTo::Pool(mut sender, pool, tasks)) = self.return_to.take() else {
            return;
        };
        if !self.inner.is_end_stream() {
            // Dropping the sender closes the connection: the rest of the body is in it.
            return;
        }
        if sender.is_ready() {
            pool.put(sender);
        } else if !sender.is_closed() {
            // The request's own end may still be on its way.
            tasks.spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(SETTLE, sender.ready()).await {
                    pool.put(sender);
                }
            });
        }
    }
}
