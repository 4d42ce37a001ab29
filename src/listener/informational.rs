//! 1xx responses to clients of HTTP/1.1 (RFC 9110 §15.2).
//!
//! Guarantees: they are written between final responses, never inside one; for a client that does
//! not read them, no more than [`MOST`] bytes are kept.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use ::http::{HeaderMap, StatusCode};
use bytes::BytesMut;
use futures_util::task::AtomicWaker;
use tokio::io::AsyncWrite;

use http1::{InterimSink, write_interim};

use crate::flow::poll_write_whole;

/// Bytes that wait to be written.
const MOST: usize = 64 * 1024;

/// The 1xx responses of one connection. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Interim(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Whether there is anything to write, so that looking costs next to nothing.
    any: AtomicBool,
    waiting: Mutex<BytesMut>,
    connection: AtomicWaker,
}

// === impl Interim ===

impl Interim {
    fn waiting(&self) -> MutexGuard<'_, BytesMut> {
        let waiting = self.0.waiting.lock();
        waiting.unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one as soon as possible; drops it when too much waits already.
    fn send(&self, status: StatusCode, fields: &HeaderMap) {
        let mut message = Vec::new();
        write_interim(&mut message, status, fields);
        let mut waiting = self.waiting();
        if waiting.len() + message.len() > MOST {
            return;
        }
        waiting.extend_from_slice(&message);
        self.0.any.store(true, Ordering::Release);
        drop(waiting);
        self.0.connection.wake();
    }

    /// Asks the client for its request's body (RFC 9110 §15.2.1).
    pub(super) fn ask_for_body(&self) {
        self.send(StatusCode::CONTINUE, &HeaderMap::new());
    }

    /// Drops those that came too late: what waits is of a request that has been answered.
    pub(super) fn forget(&self) {
        if self.has_some() {
            self.waiting().clear();
            self.0.any.store(false, Ordering::Release);
        }
    }

    /// The sink that others send them with.
    pub(super) fn sink(&self) -> InterimSink {
        let interim = self.clone();
        Arc::new(move |status, fields| interim.send(status, fields))
    }

    /// Whether any waits to be written.
    pub(super) fn has_some(&self) -> bool {
        self.0.any.load(Ordering::Acquire)
    }

    /// Writes those that wait. The task is woken when others come.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.connection.register(cx.waker());
        if !self.has_some() {
            return Poll::Ready(Ok(()));
        }
        let mut waiting = self.waiting();
        ready!(poll_write_whole(stream, &mut *waiting, cx))?;
        self.0.any.store(false, Ordering::Release);
        drop(waiting);
        Pin::new(stream).poll_flush(cx)
    }
}

impl fmt::Debug for Interim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interim").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use ::http::HeaderValue;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn they_are_written_in_their_order_to_a_client_that_reads_slowly() {
        let (mut near, mut far) = tokio::io::duplex(16);
        let (interim, mut fields) = (Interim::default(), HeaderMap::new());
        interim.ask_for_body();
        fields.insert("link", HeaderValue::from_static("</a.css>; rel=preload"));
        interim.sink()(StatusCode::EARLY_HINTS, &fields);
        let writing = async {
            poll_fn(|cx| interim.poll_write(&mut near, cx))
                .await
                .unwrap();
            drop(near);
        };
        let mut text = String::new();
        let ((), read) = tokio::join!(writing, far.read_to_string(&mut text));
        read.unwrap();
        let expected = "HTTP/1.1 100 Continue\r\n\r\n\
                        HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn no_more_than_the_limit_is_kept_for_a_client_that_does_not_read() {
        let (interim, mut fields) = (Interim::default(), HeaderMap::new());
        let long = HeaderValue::try_from("x".repeat(10_000)).unwrap();
        fields.insert("link", long);
        for _ in 0..100 {
            interim.send(StatusCode::EARLY_HINTS, &fields);
        }
        assert!(interim.waiting().len() <= MOST);
    }
}
