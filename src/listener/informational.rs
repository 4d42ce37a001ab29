//! 1xx responses to clients of HTTP/1.1 (RFC 9110 §15.2), which hyper cannot write.
//!
//! Guarantees: they are written between final responses, never inside one: only while there is
//! nothing else to write, and before the final response is there; for a client that does not
//! read them, no more than [`MOST`] bytes are kept.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use ::http::{HeaderMap, StatusCode};
use bytes::{Buf as _, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use http1::{InterimSink, line};

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

/// A connection that writes its 1xx responses.
#[derive(Debug)]
pub(super) struct WithInformational<S> {
    stream: S,
    interim: Interim,
}

// === impl Interim ===

impl Interim {
    fn waiting(&self) -> MutexGuard<'_, BytesMut> {
        let waiting = self.0.waiting.lock();
        waiting.unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one as soon as possible; drops it when too much waits already.
    fn send(&self, status: StatusCode, fields: &HeaderMap) {
        let mut waiting = self.waiting();
        let reason = status.canonical_reason().unwrap_or("");
        let mut message = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        for (name, value) in fields {
            line(&mut message, name.as_str(), value.as_bytes());
        }
        message.extend_from_slice(b"\r\n");
        if waiting.len() + message.len() > MOST {
            return;
        }
        waiting.extend_from_slice(&message);
        self.0.any.store(true, Ordering::Release);
        drop(waiting);
        self.0.connection.wake();
    }

    /// The sink that others send them with.
    pub(super) fn sink(&self) -> InterimSink {
        let interim = self.clone();
        Arc::new(move |status, fields| interim.send(status, fields))
    }

    /// Returns the output of `answer`, once everything before it has been written. Runs in the
    /// connection's own task, which it wakes for each message.
    pub(super) async fn before<T>(&self, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        let answer = poll_fn(|cx| {
            let polled = answer.as_mut().poll(cx);
            if polled.is_pending() {
                self.0.connection.register(cx.waker());
            }
            polled
        })
        .await;
        poll_fn(|cx| {
            if !self.0.any.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            self.0.connection.register(cx.waker());
            // hyper flushes after it has polled this.
            Poll::Pending
        })
        .await;
        answer
    }
}

impl fmt::Debug for Interim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interim").finish_non_exhaustive()
    }
}

// === impl WithInformational ===

impl<S: AsyncWrite + Unpin> WithInformational<S> {
    pub(super) fn new(stream: S, interim: Interim) -> Self {
        Self { stream, interim }
    }

    /// Writes the responses that wait.
    pub(super) fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.interim.0.any.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        let interim = self.interim.clone();
        let mut waiting = interim.waiting();
        while !waiting.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &waiting))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            waiting.advance(count);
        }
        self.interim.0.any.store(false, Ordering::Release);
        self.interim.0.connection.wake();
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WithInformational<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithInformational<S> {
    forward_writes!();

    /// hyper calls it when its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_interim(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_was_sent_first_is_written_first_and_the_answer_waits_for_it() {
        let (near, mut far) = tokio::io::duplex(16);
        let interim = Interim::default();
        let mut stream = WithInformational::new(near, interim.clone());
        let sending = async {
            interim
                .before(async {
                    let mut fields = HeaderMap::new();
                    fields.insert("link", HeaderValue::from_static("</a.css>; rel=preload"));
                    interim.send(StatusCode::EARLY_HINTS, &fields);
                })
                .await;
            "final"
        };
        // As hyper does: the service, then a flush, in one task.
        let driving = async {
            let mut sending = std::pin::pin!(sending);
            let text = poll_fn(|cx| {
                let polled = sending.as_mut().poll(cx);
                let _flushed = Pin::new(&mut stream).poll_flush(cx);
                polled
            })
            .await;
            stream.write_all(text.as_bytes()).await.unwrap();
            drop(stream);
        };
        let mut text = String::new();
        let ((), read) = tokio::join!(driving, far.read_to_string(&mut text));
        read.unwrap();
        let expected = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\nfinal";
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
