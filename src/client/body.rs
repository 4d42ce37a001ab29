//! A request's body on its way from its connection to whoever reads it.
//!
//! Guarantees: the connection reads no further than the reader has asked for: one part is under way
//! at a time; a feed that is dropped before the body's end is an error for the reader.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// The rest of a client's body cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ClientBodyError {
    /// The connection ended in the middle of it.
    #[error("the connection ended before the body")]
    Ended,
    /// Its chunks are not valid.
    #[error(transparent)]
    Malformed(#[from] http1::ChunkError),
    /// An HTTP/2 stream broke.
    #[error("the stream broke: {0}")]
    Http2(#[source] h2::Error),
    /// Its trailers are larger than a head may be.
    #[error("the trailers are too large")]
    LargeTrailers,
}

/// The body of a client's request.
#[derive(Debug)]
pub struct ClientBody(Source);

/// A body that a connection lets others read: an HTTP/2 stream's.
pub trait ClientBodySource: Body<Data = Bytes, Error = ClientBodyError> {
    /// Whether it is the gateway that keeps the client from sending more, so that the time is not
    /// the client's.
    fn is_held_back(&self) -> bool;
}

enum Source {
    Fed(FedBody),
    Read(Pin<Box<dyn ClientBodySource + Send + Sync>>),
}

/// A body of which as much comes as its client sends.
struct Unhindered<B>(Pin<Box<B>>);

/// The reader's end.
struct FedBody(Arc<Mutex<Shared>>);

/// The connection's end of a body.
pub struct BodyFeed(Arc<Mutex<Shared>>);

struct Shared {
    part: Option<Result<Frame<Bytes>, ClientBodyError>>,
    /// Nothing comes after `part`.
    is_over: bool,
    is_wanted: bool,
    /// Nobody will read any more.
    is_abandoned: bool,
    /// Bytes that have not been read, where that is known.
    left: Option<u64>,
    reader: Option<Waker>,
    feeder: Option<Waker>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl BodyFeed ===

impl BodyFeed {
    /// A body, of `length` bytes where that is known, and its feed.
    pub fn new(length: Option<u64>) -> (Self, ClientBody) {
        let shared = Arc::new(Mutex::new(Shared {
            part: None,
            is_over: false,
            is_wanted: false,
            is_abandoned: false,
            left: length,
            reader: None,
            feeder: None,
        }));
        let body = ClientBody(Source::Fed(FedBody(Arc::clone(&shared))));
        (Self(shared), body)
    }

    /// Whether the reader waits for the next part; if not, the task is woken when it does, or when
    /// nobody will read any more.
    pub fn is_wanted(&self, cx: &Context<'_>) -> bool {
        let mut shared = lock(&self.0);
        if !shared.is_wanted {
            shared.feeder = Some(cx.waker().clone());
        }
        shared.is_wanted && shared.part.is_none()
    }

    /// Whether nobody will read any more.
    pub fn is_abandoned(&self) -> bool {
        lock(&self.0).is_abandoned
    }

    /// Hands the next part over, or the error that there is instead; `is_over` says that nothing
    /// comes after it.
    pub fn give(&self, part: Option<Result<Frame<Bytes>, ClientBodyError>>, is_over: bool) {
        let mut shared = lock(&self.0);
        shared.part = part;
        shared.is_over = is_over;
        shared.is_wanted = false;
        if let Some(reader) = shared.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for BodyFeed {
    fn drop(&mut self) {
        let is_over = lock(&self.0).is_over;
        if !is_over {
            self.give(Some(Err(ClientBodyError::Ended)), true);
        }
    }
}

impl fmt::Debug for BodyFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyFeed").finish_non_exhaustive()
    }
}

// === impl FedBody ===

impl FedBody {
    fn poll_frame(&self, cx: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        let mut shared = lock(&self.0);
        if let Some(part) = shared.part.take() {
            if let Ok(Some(data)) = part.as_ref().map(Frame::data_ref) {
                let length = data.len() as u64;
                shared.left = shared.left.map(|left| left.saturating_sub(length));
            }
            return Poll::Ready(Some(part));
        }
        if shared.is_over {
            return Poll::Ready(None);
        }
        shared.is_wanted = true;
        shared.reader = Some(cx.waker().clone());
        if let Some(feeder) = shared.feeder.take() {
            feeder.wake();
        }
        Poll::Pending
    }
}

impl Drop for FedBody {
    fn drop(&mut self) {
        let mut shared = lock(&self.0);
        shared.is_abandoned = true;
        shared.part = None;
        if let Some(feeder) = shared.feeder.take() {
            feeder.wake();
        }
    }
}

impl fmt::Debug for FedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FedBody").finish_non_exhaustive()
    }
}

// === impl Unhindered ===

impl<B: Body<Data = Bytes, Error = ClientBodyError>> Body for Unhindered<B> {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        self.0.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl<B: Body<Data = Bytes, Error = ClientBodyError>> ClientBodySource for Unhindered<B> {
    fn is_held_back(&self) -> bool {
        false
    }
}

// === impl ClientBody ===

impl ClientBody {
    /// A body whose client is never held back.
    pub fn of<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error = ClientBodyError> + Send + Sync + 'static,
    {
        Self::of_source(Unhindered(Box::pin(body)))
    }

    /// A body that is read where it comes from.
    pub fn of_source<B>(body: B) -> Self
    where
        B: ClientBodySource + Send + Sync + 'static,
    {
        Self(Source::Read(Box::pin(body)))
    }

    /// Whether it is the gateway that keeps the client from sending more.
    pub fn is_held_back(&self) -> bool {
        match &self.0 {
            Source::Fed(_) => false,
            Source::Read(body) => body.is_held_back(),
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        match &mut self.0 {
            Source::Fed(body) => body.poll_frame(cx),
            Source::Read(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Fed(body) => {
                let shared = lock(&body.0);
                shared.is_over && shared.part.is_none()
            }
            Source::Read(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Fed(body) => lock(&body.0)
                .left
                .map_or_else(SizeHint::new, SizeHint::with_exact),
            Source::Read(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fed(_) => "Fed",
            Self::Read(_) => "Read",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::BodyExt as _;

    use super::*;

    async fn wanted(feed: &BodyFeed) {
        poll_fn(|cx| match feed.is_wanted(cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    #[tokio::test]
    async fn a_part_is_fed_when_it_is_asked_for_and_the_end_is_an_end() {
        let (feed, mut body) = BodyFeed::new(Some(6));
        let feeding = async {
            for (part, is_over) in [("abc", false), ("def", true)] {
                wanted(&feed).await;
                feed.give(Some(Ok(Frame::data(part.into()))), is_over);
            }
        };
        let reading = async {
            let first = body.frame().await.unwrap().unwrap();
            assert_eq!(first.into_data().unwrap(), "abc");
            assert_eq!(body.size_hint().exact(), Some(3));
            body.collect().await.unwrap().to_bytes()
        };
        let ((), rest) = tokio::join!(feeding, reading);
        assert_eq!(rest, "def");
    }

    #[tokio::test]
    async fn a_connection_that_ends_is_an_error_of_the_body() {
        let (feed, mut body) = BodyFeed::new(None);
        drop(feed);
        let ended = body.frame().await.unwrap();
        assert!(matches!(ended, Err(ClientBodyError::Ended)));
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn the_connection_hears_that_nobody_reads_any_more() {
        let (feed, body) = BodyFeed::new(None);
        drop(body);
        assert!(feed.is_abandoned());
    }
}
