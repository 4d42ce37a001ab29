//! A request's body on its way to an instance.
//!
//! Guarantees: a body is not touched before it is forwarded, and its statistics say afterwards
//! whether it was; one that was read beforehand is in its client's budget for as long as any of it
//! is kept; a client that sends it more slowly than it may gets an error.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Extensions;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};

use super::min_rate::MinRate;
use super::trailers::{TrailerRules, without_unsafe_trailers};
use crate::client::{ClientBody, ClientBodyError};
use crate::flow::{Buffered, ClientBuffers};

/// The statistics of a request's body, for whoever handles the request.
#[derive(Debug, Default)]
pub struct BodyStats {
    touched: AtomicBool,
    answered: AtomicBool,
    /// 0, or a [`BodyFailure`].
    failure: AtomicU8,
    bytes: AtomicU64,
}

/// How a client failed to send its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFailure {
    /// It broke off, or was no valid HTTP.
    Broke = 1,
    /// It came more slowly than the minimum rate.
    TooSlow = 2,
}

/// The rest of a request's body cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client's connection broke, or the client broke the rules of HTTP.
    #[error(transparent)]
    Client(#[from] ClientBodyError),
    /// The client sends it too slowly.
    #[error("the request's body came too slowly")]
    TooSlow,
}

/// A client's request body on its way to an instance. In a box, because most requests have none and
/// each request is moved several times.
#[derive(Debug, Default)]
pub struct RequestBody(Option<Box<Streaming>>);

/// A body that others read, and that keeps its own account.
pub(super) trait Readable: fmt::Debug + Send + Sync {
    /// The next part.
    fn poll_frame(&mut self, cx: &mut Context<'_>)
    -> Poll<Option<Result<Frame<Bytes>, BodyError>>>;

    /// Whether nothing more comes.
    fn is_end_stream(&self) -> bool;

    /// How much comes.
    fn size_hint(&self) -> SizeHint;

    /// Whether its client could not send more if it wanted to.
    fn is_held_back(&self) -> bool;
}

/// The body of a request that has one.
#[derive(Debug)]
struct Streaming {
    source: Source,
    /// The first frame, when it was read before the instance was ready for it.
    first: Option<Result<Frame<Bytes>, BodyError>>,
    min_rate: MinRate,
    body_stats: Arc<BodyStats>,
    trailer_rules: TrailerRules,
}

/// A body that was read as a whole, with its part of its client's budget.
struct Counted {
    whole: Bytes,
    _held: Buffered,
}

#[derive(Debug)]
enum Source {
    Client(ClientBody),
    /// A body that was read as a whole beforehand, so that it can be sent again.
    Buffer {
        whole: Bytes,
        sent: bool,
    },
    /// One reading of a client's body, which keeps its own account.
    Reading(Box<dyn Readable>),
}

// === impl BodyStats ===

impl BodyStats {
    /// Whether any of the body was read.
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

    /// The response has begun: from now on the minimum rate does not apply.
    pub(super) fn answered(&self) {
        self.answered.store(true, Ordering::Release);
    }
}

// === impl RequestBody ===

impl RequestBody {
    /// The client's body, if it has one, which must come at `min_rate` bytes a second or faster (0
    /// sets no rate).
    pub fn new(inner: Option<ClientBody>, min_rate: usize) -> Self {
        let streaming =
            inner.map(|inner| Streaming::new(Source::Client(inner), Arc::default(), min_rate));
        Self(streaming.map(Box::new))
    }

    /// Its trailers are to obey these rules.
    pub fn obey(&mut self, rules: TrailerRules) {
        if let Some(streaming) = &mut self.0 {
            streaming.trailer_rules = rules;
        }
    }

    /// Whether there is none.
    pub fn is_nothing(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it can be sent more than once: there is none, or it was read beforehand.
    pub fn is_repeatable(&self) -> bool {
        let source = self.0.as_ref().map(|streaming| &streaming.source);
        !matches!(source, Some(Source::Client(_) | Source::Reading(_)))
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
            Source::Client(_) | Source::Reading(_) => None,
        }
    }

    /// A reading of a body with these statistics.
    pub(super) fn of_reading(reading: impl Readable + 'static, body_stats: Arc<BodyStats>) -> Self {
        let source = Source::Reading(Box::new(reading));
        Self(Some(Box::new(Streaming::new(source, body_stats, 0))))
    }

    /// Whether the client could not send more if it wanted to.
    pub(super) fn is_held_back(&self) -> bool {
        let streaming = self.0.as_ref();
        streaming.is_some_and(|streaming| streaming.is_held_back())
    }

    fn of_buffer(whole: Bytes, body_stats: Arc<BodyStats>) -> Self {
        let source = Source::Buffer { whole, sent: false };
        Self(Some(Box::new(Streaming::new(source, body_stats, 0))))
    }

    /// Reads it whole when its length is known and at most `limit`, and its client may have so much
    /// in memory, whose part of the budget is among the request's extensions; otherwise leaves it
    /// as it is.
    pub async fn buffer(self, limit: usize, extensions: &Extensions) -> Result<Self, BodyError> {
        let buffers = extensions.get::<ClientBuffers>();
        let exact = self.size_hint().exact();
        let length = exact.and_then(|length| usize::try_from(length).ok());
        let fits = |length: &usize| {
            let has_room = buffers.is_none_or(|buffers| buffers.has_room(*length));
            *length <= limit && has_room
        };
        match (self.body_stats(), length.filter(fits)) {
            (Some(body_stats), Some(length)) if !self.is_repeatable() => {
                let held = buffers.map(|buffers| buffers.hold(length));
                let whole = self.collect().await?.to_bytes();
                let whole = match held {
                    Some(held) => Bytes::from_owner(Counted { whole, _held: held }),
                    None => whole,
                };
                Ok(Self::of_buffer(whole, body_stats))
            }
            _ => Ok(self),
        }
    }

    /// Waits for `other` and meanwhile reads the body's first frame: a client that expects
    /// `100 Continue` gets it (RFC 9110 §10.1.1).
    pub async fn begun_during<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = pin!(other);
        poll_fn(|cx| {
            if let Some(streaming) = &mut self.0
                && streaming.first.is_none()
                && let Source::Client(inner) = &mut streaming.source
                && let Poll::Ready(Some(frame)) = Pin::new(inner).poll_frame(cx)
            {
                // An error is the body's, too: after it there would only be an end.
                streaming.first = Some(frame.map_err(BodyError::Client));
            }
            other.as_mut().poll(cx)
        })
        .await
    }

    /// The statistics of the body, if there is one.
    pub fn body_stats(&self) -> Option<Arc<BodyStats>> {
        self.0
            .as_ref()
            .map(|streaming| Arc::clone(&streaming.body_stats))
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.whole
    }
}

// === impl Streaming ===

impl Streaming {
    fn new(source: Source, body_stats: Arc<BodyStats>, min_rate: usize) -> Self {
        Self {
            source,
            first: None,
            min_rate: MinRate::new(min_rate),
            body_stats,
            trailer_rules: TrailerRules::default(),
        }
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        match &mut self.source {
            Source::Buffer { sent: true, .. } => Poll::Ready(None),
            Source::Client(inner) => {
                let polled = Pin::new(inner).poll_frame(cx);
                polled.map(|frame| frame.map(|frame| frame.map_err(BodyError::Client)))
            }
            Source::Buffer { whole, sent } => {
                *sent = true;
                Poll::Ready((!whole.is_empty()).then(|| Ok(Frame::data(whole.clone()))))
            }
            Source::Reading(reading) => reading.poll_frame(cx),
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.poll_source(cx);
        if matches!(self.source, Source::Reading(_)) {
            let rules = &self.trailer_rules;
            let clean = |frame| without_unsafe_trailers(frame, rules);
            return polled.map(|frame| frame.map(|frame| frame.map(clean)));
        }
        self.body_stats.touched.store(true, Ordering::Release);
        let polled = match polled {
            Poll::Pending if self.is_held_back() => {
                self.min_rate.stand_still();
                Poll::Pending
            }
            Poll::Pending if !self.body_stats.answered.load(Ordering::Acquire) => {
                let bytes = self.body_stats.bytes();
                match self.min_rate.poll_too_slow(bytes, cx) {
                    // It may have been answered meanwhile.
                    Poll::Ready(()) if !self.body_stats.answered.load(Ordering::Acquire) => {
                        Poll::Ready(Some(Err(BodyError::TooSlow)))
                    }
                    Poll::Ready(()) | Poll::Pending => Poll::Pending,
                }
            }
            polled @ (Poll::Ready(_) | Poll::Pending) => {
                self.min_rate.stand_still();
                polled
            }
        };
        polled.map(|frame| {
            frame.map(|frame| match frame {
                Ok(frame) => {
                    let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                    self.body_stats.bytes.fetch_add(length, Ordering::Relaxed);
                    Ok(without_unsafe_trailers(frame, &self.trailer_rules))
                }
                Err(error) => {
                    let failure = match error {
                        BodyError::Client(_) => BodyFailure::Broke,
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

    /// Whether the client could not send more if it wanted to.
    fn is_held_back(&self) -> bool {
        match &self.source {
            Source::Client(body) => body.is_held_back(),
            Source::Buffer { .. } => false,
            Source::Reading(reading) => reading.is_held_back(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            _ if self.first.is_some() => false,
            Source::Client(inner) => inner.is_end_stream(),
            Source::Buffer { whole, sent } => *sent || whole.is_empty(),
            Source::Reading(reading) => reading.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Buffer { sent: true, .. } => SizeHint::with_exact(0),
            Source::Client(inner) => {
                let (mut hint, first) = (inner.size_hint(), self.first.as_ref());
                let first = first.and_then(|first| first.as_ref().ok());
                let ahead = first.and_then(Frame::data_ref).map_or(0, Bytes::len) as u64;
                if let Some(exact) = hint.exact() {
                    hint.set_exact(exact + ahead);
                }
                hint
            }
            Source::Buffer { whole, .. } => SizeHint::with_exact(whole.len() as u64),
            Source::Reading(reading) => reading.size_hint(),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::client::ClientBodySource;

    /// A body of which nothing comes.
    struct Nothing {
        is_held_back: bool,
    }

    impl Body for Nothing {
        type Data = Bytes;
        type Error = ClientBodyError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
            Poll::Pending
        }
    }

    impl ClientBodySource for Nothing {
        fn is_held_back(&self) -> bool {
            self.is_held_back
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_may_not_send_is_not_too_slow_and_one_that_may_is() {
        for is_held_back in [true, false] {
            let body = ClientBody::of_source(Nothing { is_held_back });
            let mut body = RequestBody::new(Some(body), 1000);
            let frame = timeout(Duration::from_secs(3600), body.frame()).await;
            let is_too_slow = matches!(frame, Ok(Some(Err(BodyError::TooSlow))));
            assert_eq!(is_too_slow, !is_held_back);
        }
    }
}
