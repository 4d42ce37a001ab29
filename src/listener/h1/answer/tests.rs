//! Responses whose client is slow: what they have in memory, and what is written of one that breaks.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::Ipv4Addr;

use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{Full, StreamBody};
use hyper::body::{Frame, SizeHint};

use super::*;
use crate::flow::BufferBudget;

const MIB: usize = 1 << 20;
const AUDIENCE: Audience = Audience {
    version: Version::HTTP_11,
    is_head: false,
    is_last: false,
};

/// So many bytes, of which as many come at once as may.
struct Long {
    left: usize,
    at_once: usize,
}

impl Body for Long {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let count = self.left.min(self.at_once).min(MIB / 4);
        self.left -= count;
        let frame = (count > 0).then(|| Ok(Frame::data(Bytes::from(vec![b'x'; count]))));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

impl ExtraHeaders for Long {
    fn extra_headers(&self, _add: impl FnMut(&HeaderName, &HeaderValue)) {}
}

impl Backlog for Long {
    fn backlog(&self) -> usize {
        64 * 1024
    }

    fn read_at_once(&mut self, bytes: usize) {
        self.at_once = bytes;
    }
}

fn answer(left: usize) -> Answer<Long> {
    let at_once = usize::MAX;
    Answer::new(Response::new(Long { left, at_once }), AUDIENCE, false)
}

#[tokio::test]
async fn what_a_client_does_not_take_is_in_its_budget_and_what_may_wait_behind_it() {
    let budget = BufferBudget::new(4 * MIB);
    let buffers = budget.of(Ipv4Addr::LOCALHOST.into());
    let (mut near, far) = tokio::io::duplex(1000);
    let mut stuck = answer(MIB);
    let written = poll_fn(|cx| stuck.poll_write(&mut near, &buffers, cx)).now_or_never();
    assert!(written.is_none());
    // A part is being written, another was read ahead; what follows has not been read.
    let (most, least) = (2 * (MIB / 4) + 64 * 1024, MIB / 4 + 64 * 1024 - 1000);
    assert!((least..=most).contains(&budget.used()), "{budget:?}");
    drop((stuck, far));
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn a_response_that_is_taken_at_once_and_a_small_one_are_in_no_budget() {
    let budget = BufferBudget::new(4 * MIB);
    let buffers = budget.of(Ipv4Addr::LOCALHOST.into());
    let mut sink = tokio::io::sink();
    let mut taken = answer(MIB);
    let written = poll_fn(|cx| taken.poll_write(&mut sink, &buffers, cx)).now_or_never();
    assert!(written.unwrap().is_ok() && budget.used() == 0);
    let (mut near, _far) = tokio::io::duplex(10);
    let mut small = Answer::new(Response::new(Full::<Bytes>::from("short")), AUDIENCE, false);
    let written = poll_fn(|cx| small.poll_write(&mut near, &buffers, cx)).now_or_never();
    assert!(written.is_none() && budget.used() == 0);
}

#[tokio::test]
async fn little_is_read_at_once_for_a_client_that_has_its_share() {
    let budget = BufferBudget::new(MIB);
    let buffers = budget.of(Ipv4Addr::LOCALHOST.into());
    let _all = buffers.hold(MIB);
    let (mut near, _far) = tokio::io::duplex(1000);
    let mut stuck = answer(MIB);
    let written = poll_fn(|cx| stuck.poll_write(&mut near, &buffers, cx)).now_or_never();
    assert!(written.is_none());
    assert_eq!(stuck.body.left, MIB - LITTLE);
}

/// Takes all at once, and is slow to flush it: as TLS is.
#[derive(Default)]
struct SlowFlush {
    written: Vec<u8>,
    has_waited: bool,
}

impl AsyncWrite for SlowFlush {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        self.has_waited = false;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::replace(&mut self.has_waited, true) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn broken() -> BoxBody<Bytes, io::Error> {
    let parts = [
        Ok(Frame::data(Bytes::from_static(b"abc"))),
        Err(io::ErrorKind::BrokenPipe.into()),
    ];
    BoxBody::new(StreamBody::new(futures_util::stream::iter(parts)))
}

#[tokio::test]
async fn a_body_that_breaks_is_never_ended_however_slow_its_client_is() {
    let buffers = BufferBudget::new(1 << 20).of(Ipv4Addr::LOCALHOST.into());
    for (version, ends_with_connection) in [(Version::HTTP_11, false), (Version::HTTP_10, true)] {
        let audience = Audience {
            version,
            is_head: false,
            is_last: false,
        };
        let mut answer = Answer::new(Response::new(broken()), audience, false);
        assert_eq!(answer.ends_with_connection(), ends_with_connection);
        let mut stream = SlowFlush::default();
        let written = poll_fn(|cx| answer.poll_write(&mut stream, &buffers, cx)).await;
        assert!(written.is_err(), "{version:?}");
        let text = String::from_utf8(stream.written).unwrap();
        assert!(text.contains("abc"), "{text}");
        assert!(!text.ends_with("0\r\n\r\n"), "{text}");
    }
}
