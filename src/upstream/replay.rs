//! A request's body that can be sent again from its beginning, as long as little of it was sent.
//!
//! Guarantees: what was taken of the client's body is kept until somebody has certainly got the
//! request, up to [`MOST`] bytes, all of them in the client's budget; only the latest reader gets any
//! of it; past that limit nothing is kept, and the body is sent once.

use std::fmt;
use std::mem::take;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as _, Frame, SizeHint};

use super::request_body::{BodyError, BodyStats, Readable, RequestBody};
use crate::client::ClientBodyError;
use crate::flow::{Buffered, ClientBuffers};

/// Bytes that are kept. Who has not taken a request yet lets a stream's window come, and a part that
/// is on its way besides.
const MOST: usize = 128 * 1024;

/// A body that may be sent again.
#[derive(Clone)]
pub(super) struct Replay(Arc<Mutex<Shared>>);

struct Shared {
    body: RequestBody,
    kept: Vec<Kept>,
    bytes: usize,
    /// The client's part of the budget that they are in.
    held: Option<Buffered>,
    /// Whether `kept` is all that was taken.
    is_whole: bool,
    reader: u32,
    /// How many of the parts that are kept it has had.
    had: usize,
}

enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// One reading of a body.
struct Reading {
    shared: Arc<Mutex<Shared>>,
    number: u32,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Replay ===

impl Replay {
    /// Of a body that nobody has read yet, and whose client has this part of the budget.
    pub(super) fn new(body: RequestBody, buffers: Option<&ClientBuffers>) -> Self {
        Self(Arc::new(Mutex::new(Shared {
            is_whole: true,
            body,
            kept: Vec::new(),
            bytes: 0,
            held: buffers.map(|buffers| buffers.hold(0)),
            reader: 0,
            had: 0,
        })))
    }

    /// The body from its beginning, unless too much of it has been taken. Whoever reads it so far gets
    /// nothing more.
    pub(super) fn again(&self) -> Option<RequestBody> {
        let (number, body_stats) = {
            let mut shared = lock(&self.0);
            if !shared.is_whole {
                return None;
            }
            shared.reader += 1;
            shared.had = 0;
            (shared.reader, shared.body.body_stats())
        };
        let reading = Reading {
            shared: Arc::clone(&self.0),
            number,
        };
        Some(RequestBody::of_reading(
            reading,
            body_stats.unwrap_or_default(),
        ))
    }

    /// Somebody has the request: nothing of it is kept any more, but for what is still to be read.
    pub(super) fn is_taken(&self) {
        let mut shared = lock(&self.0);
        shared.is_whole = false;
        shared.forget_if_read();
    }

    /// The statistics of the client's body.
    pub(super) fn body_stats(&self) -> Option<Arc<BodyStats>> {
        lock(&self.0).body.body_stats()
    }
}

// === impl Shared ===

impl Shared {
    fn forget(&mut self) {
        (self.is_whole, self.had) = (false, 0);
        drop((take(&mut self.kept), self.held.take()));
    }

    /// Lets go of what is kept when it is needed no longer.
    fn forget_if_read(&mut self) {
        if !self.is_whole && self.had >= self.kept.len() {
            self.forget();
        }
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if !self.is_whole {
            return;
        }
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len();
            self.kept.push(Kept::Data(data.clone()));
        } else if let Some(trailers) = frame.trailers_ref() {
            self.kept.push(Kept::Trailers(trailers.clone()));
        }
        if self.bytes > MOST {
            self.forget();
        } else if let Some(held) = &mut self.held {
            held.set(self.bytes);
        }
    }
}

// === impl Reading ===

impl Readable for Reading {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut shared = lock(&self.shared);
        if shared.reader != self.number {
            return Poll::Ready(Some(Err(ClientBodyError::Ended.into())));
        }
        if let Some(kept) = shared.kept.get(shared.had) {
            let frame = match kept {
                Kept::Data(data) => Frame::data(data.clone()),
                Kept::Trailers(trailers) => Frame::trailers(trailers.clone()),
            };
            shared.had += 1;
            shared.forget_if_read();
            return Poll::Ready(Some(Ok(frame)));
        }
        let polled = Pin::new(&mut shared.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            shared.keep(frame);
            shared.had = shared.kept.len();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let shared = lock(&self.shared);
        shared.had >= shared.kept.len() && shared.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let shared = lock(&self.shared);
        let left = shared.kept.iter().skip(shared.had).map(|kept| match kept {
            Kept::Data(data) => data.len() as u64,
            Kept::Trailers(_) => 0,
        });
        let left: u64 = left.sum();
        let exact = shared.body.size_hint().exact();
        exact.map_or_else(SizeHint::new, |exact| SizeHint::with_exact(exact + left))
    }

    fn is_held_back(&self) -> bool {
        lock(&self.shared).body.is_held_back()
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").finish_non_exhaustive()
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reading({})", self.number)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http_body_util::BodyExt as _;

    use super::*;
    use crate::client::BodyFeed;
    use crate::flow::BufferBudget;

    fn body() -> (BodyFeed, RequestBody) {
        let (feed, body) = BodyFeed::new(None);
        (feed, RequestBody::new(Some(body), 0))
    }

    async fn next(body: &mut RequestBody) -> Option<Bytes> {
        let frame = body.frame().await?;
        frame.ok()?.into_data().ok()
    }

    #[tokio::test]
    async fn what_was_sent_is_sent_again_and_only_the_latest_reader_gets_the_rest() {
        let budget = BufferBudget::new(1 << 20);
        let buffers = budget.of(Ipv4Addr::LOCALHOST.into());
        let (feed, whole) = body();
        let replay = Replay::new(whole, Some(&buffers));
        let mut first = replay.again().unwrap();
        feed.give(Some(Ok(Frame::data("abc".into()))), false);
        assert_eq!(next(&mut first).await.unwrap(), "abc");
        assert_eq!(budget.used(), 3);

        let mut second = replay.again().unwrap();
        feed.give(Some(Ok(Frame::data("def".into()))), true);
        assert_eq!(next(&mut first).await, None, "it is the second's");
        assert_eq!(second.collect().await.unwrap().to_bytes(), "abcdef");
        replay.is_taken();
        assert_eq!(budget.used(), 0);
        assert!(replay.again().is_none());
        second = RequestBody::default();
        assert!(second.is_nothing());
    }

    #[tokio::test]
    async fn whoever_takes_it_before_all_of_it_was_sent_again_still_gets_the_rest() {
        let budget = BufferBudget::new(1 << 20);
        let buffers = budget.of(Ipv4Addr::LOCALHOST.into());
        let (feed, whole) = body();
        let replay = Replay::new(whole, Some(&buffers));
        let mut first = replay.again().unwrap();
        for (text, is_last) in [("ab", false), ("cd", false), ("ef", true)] {
            feed.give(Some(Ok(Frame::data(text.into()))), is_last);
            assert_eq!(next(&mut first).await.unwrap(), text);
        }
        let mut second = replay.again().unwrap();
        assert_eq!(next(&mut second).await.unwrap(), "ab");
        // Its response has come early.
        replay.is_taken();
        assert!(!hyper::body::Body::is_end_stream(&second));
        assert_eq!(second.collect().await.unwrap().to_bytes(), "cdef");
        assert_eq!(budget.used(), 0);
        assert!(replay.again().is_none());
    }

    #[tokio::test]
    async fn past_the_limit_nothing_is_kept_and_it_is_sent_once() {
        let (feed, whole) = body();
        let replay = Replay::new(whole, None);
        let mut first = replay.again().unwrap();
        for _ in 0..3 {
            feed.give(Some(Ok(Frame::data(vec![0; MOST / 2].into()))), false);
            assert_eq!(next(&mut first).await.unwrap().len(), MOST / 2);
        }
        assert!(replay.again().is_none());
        feed.give(Some(Ok(Frame::data("end".into()))), true);
        assert_eq!(first.collect().await.unwrap().to_bytes(), "end");
    }
}
