//! A request's body in the hands of the library that sends it.
//!
//! Guarantees: it keeps its exchange's clock; each byte of it is in its client's budget until it has
//! been written, and beyond the client's share nothing more is taken from it than a little at a time;
//! the time in which the instance does not take that is the instance's; when its response has ended it
//! ends, too, with an error.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use hyper::body::{Body, Frame, SizeHint};

use super::request_body::{BodyError, RequestBody};
use super::response_clock::ResponseClock;
use crate::flow::{Buffered, ClientBuffers, Place};

/// What may wait of each body in any case, so that each moves.
const FREE: usize = 16 * 1024;

/// The rest of a request's body is not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    /// It cannot be read.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The response has ended, or is not wanted any more.
    #[error("the response has ended before the request")]
    Answered(#[source] h2::Error),
}

/// Lets a request's body be sent for as long as this lives.
#[derive(Debug)]
pub(super) struct UploadGuard(Arc<Upload>);

/// What a body and its response share.
#[derive(Debug, Default)]
struct Upload {
    is_over: AtomicBool,
    sender: AtomicWaker,
}

/// A request's body that keeps its exchange's clock.
#[derive(Debug)]
pub(super) struct TimedBody {
    inner: RequestBody,
    /// `None` of a request without a body.
    kept: Option<Box<Kept>>,
}

#[derive(Debug)]
struct Kept {
    clock: ResponseClock,
    buffers: Option<ClientBuffers>,
    place: Place,
    waiting: Arc<Waiting>,
    upload: Arc<Upload>,
}

/// The bytes of a body that the library has and has not written, and whoever waits until they are few.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    bytes: AtomicUsize,
    sender: AtomicWaker,
}

/// A part of a body that waits to be written.
pub(super) struct Part {
    bytes: Bytes,
    held: Option<(Buffered, Arc<Waiting>)>,
}

// === impl TimedBody ===

impl TimedBody {
    /// A body that keeps this clock, and counts to its client's budget where the client has one;
    /// with a guard, if there is a body.
    pub(super) fn new(
        inner: RequestBody,
        clock: &ResponseClock,
        buffers: Option<ClientBuffers>,
    ) -> (Self, Option<UploadGuard>) {
        let kept = (!inner.is_nothing()).then(|| {
            Box::new(Kept {
                clock: clock.clone(),
                buffers,
                place: Place::default(),
                waiting: Arc::default(),
                upload: Arc::default(),
            })
        });
        let guard = kept
            .as_ref()
            .map(|kept| UploadGuard(Arc::clone(&kept.upload)));
        (Self { inner, kept }, guard)
    }

    pub(super) fn into_inner(self) -> RequestBody {
        self.inner
    }
}

// === impl Kept ===

impl Kept {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &self.buffers {
            Some(buffers) => self.waiting.poll_room(buffers, &mut self.place, cx),
            None => Poll::Ready(()),
        }
    }

    fn part(&self, bytes: Bytes) -> Part {
        match &self.buffers {
            Some(buffers) => Part::counted(bytes, buffers, &self.waiting),
            None => Part::uncounted(bytes),
        }
    }
}

impl Body for TimedBody {
    type Data = Part;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Part>, UploadError>>> {
        let me = &mut *self;
        let Some(kept) = &mut me.kept else {
            return Poll::Ready(None);
        };
        kept.upload.sender.register(cx.waker());
        if kept.upload.is_over.load(Ordering::Acquire) {
            let error = UploadError::Answered(h2::Reason::CANCEL.into());
            return Poll::Ready(Some(Err(error)));
        }
        // The instance has what it is to take: its time goes on.
        ready!(kept.poll_room(cx));
        let polled = Pin::new(&mut me.inner).poll_frame(cx);
        let is_part = matches!(polled, Poll::Ready(Some(Ok(_))));
        kept.clock.set_sending(is_part && !me.inner.is_end_stream());
        match polled.is_pending() {
            true => kept.clock.stop(),
            false => kept.clock.restart(),
        }
        let polled = polled.map_ok(|frame| frame.map_data(|bytes| kept.part(bytes)));
        polled.map_err(UploadError::Body)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for UploadGuard {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Release);
        self.0.sender.wake();
    }
}

// === impl Waiting ===

impl Waiting {
    /// Waits until few are there, or the client may have more in memory.
    pub(super) fn poll_room(
        &self,
        buffers: &ClientBuffers,
        place: &mut Place,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !self.are_few() {
            if buffers.poll_room(place, cx).is_ready() {
                return Poll::Ready(());
            }
            self.sender.register(cx.waker());
            if !self.are_few() {
                return Poll::Pending;
            }
        }
        place.leave();
        Poll::Ready(())
    }

    fn are_few(&self) -> bool {
        self.bytes.load(Ordering::Acquire) < FREE
    }

    fn come(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    fn go(&self, bytes: usize) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if before >= FREE && before - bytes < FREE {
            self.sender.wake();
        }
    }
}

// === impl Part ===

impl Part {
    /// A part that is in nobody's budget.
    pub(super) fn uncounted(bytes: Bytes) -> Self {
        Self { bytes, held: None }
    }

    /// A part that is in its client's budget, and one of those that wait, until it is written.
    pub(super) fn counted(bytes: Bytes, buffers: &ClientBuffers, waiting: &Arc<Waiting>) -> Self {
        waiting.come(bytes.len());
        let held = Some((buffers.hold(bytes.len()), Arc::clone(waiting)));
        Self { bytes, held }
    }

    /// All of these as one; `None` of none.
    pub(super) fn joined(parts: Vec<Self>) -> Option<Self> {
        let mut parts = parts;
        if parts.len() < 2 {
            return parts.pop();
        }
        let length = parts.iter().map(Buf::remaining).sum();
        let mut bytes = BytesMut::with_capacity(length);
        for part in &parts {
            bytes.extend_from_slice(part.chunk());
        }
        let held = parts.iter_mut().find_map(|part| part.held.as_mut());
        let held = held.map(|(held, waiting)| {
            let mut joined = held.split(0);
            joined.grow(length);
            waiting.come(length);
            (joined, Arc::clone(waiting))
        });
        Some(Self {
            bytes: bytes.freeze(),
            held,
        })
    }

    fn note_gone(&mut self, count: usize) {
        if let Some((held, waiting)) = &mut self.held {
            held.shrink(count);
            waiting.go(count);
        }
    }
}

impl Buf for Part {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.note_gone(count);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.note_gone(self.bytes.len());
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Part({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::Ipv4Addr;
    use std::pin::pin;
    use std::time::Duration;

    use tokio::time::{advance, timeout};

    use super::*;
    use crate::client::BodyFeed;
    use crate::flow::BufferBudget;

    #[tokio::test]
    async fn each_part_is_counted_until_it_is_written_and_beyond_the_share_nothing_more_is_taken() {
        let budget = BufferBudget::new(1 << 20);
        let buffers = budget.of(Ipv4Addr::LOCALHOST.into());
        let mut kept = Kept {
            clock: ResponseClock::new(),
            buffers: Some(buffers.clone()),
            place: Place::default(),
            waiting: Arc::default(),
            upload: Arc::default(),
        };
        let others = buffers.hold(1 << 20);
        // A little goes in any case.
        let mut part = kept.part(Bytes::from(vec![0; FREE]));
        assert_eq!(budget.used(), (1 << 20) + FREE);
        let polled = poll_fn(|cx| Poll::Ready(kept.poll_room(cx))).await;
        assert!(polled.is_pending());
        part.advance(FREE - 1);
        assert_eq!(budget.used(), (1 << 20) + 1);
        assert!(
            poll_fn(|cx| Poll::Ready(kept.poll_room(cx)))
                .await
                .is_ready()
        );
        drop((others, part));
        assert_eq!(budget.used(), 0);
        assert_eq!(kept.waiting.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_goes_on_when_what_it_has_given_was_written_though_others_have_all_the_room() {
        let budget = BufferBudget::new(1 << 20);
        let buffers = budget.of(Ipv4Addr::LOCALHOST.into());
        let others = buffers.hold(1 << 20);
        let (clock, limit) = (ResponseClock::new(), Duration::from_secs(60));
        let (feed, body) = BodyFeed::new(None);
        let body = RequestBody::new(Some(body), 0);
        let (mut body, _guard) = TimedBody::new(body, &clock, Some(buffers));
        let feeding = async {
            for number in 1..=2 {
                poll_fn(|cx| match feed.is_wanted(cx) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                })
                .await;
                feed.give(Some(Ok(Frame::data(vec![0; FREE].into()))), number == 2);
            }
        };
        let sending = async {
            let first = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            let mut first = first.unwrap().unwrap().into_data().unwrap();
            let mut waiting = pin!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)));
            let polled = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
            // An instance that leaves it has its time, and no more.
            advance(limit).await;
            assert!(clock.is_over(limit));
            let writing = async { first.advance(FREE) };
            let (second, ()) = tokio::join!(waiting, writing);
            assert_eq!(
                second.unwrap().unwrap().into_data().unwrap().remaining(),
                FREE
            );
        };
        let both = async { tokio::join!(sending, feeding) };
        timeout(limit * 2, both).await.expect("it stands still");
        drop((others, body));
        assert_eq!(budget.used(), 0);
    }
}
