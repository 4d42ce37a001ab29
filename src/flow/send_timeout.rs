//! A deadline for the other side to take some of what is ready for it.
//!
//! Guarantees: a write, flush or shutdown that can do nothing for the whole limit fails with
//! [`io::ErrorKind::TimedOut`]; each byte that goes begins the limit anew; reading is not timed. A
//! stream that takes everything at once has no timer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::deadline::Deadline;

/// A stream whose other side has to take something of what is ready for it within a limit.
#[derive(Debug)]
pub struct SendTimeout<S> {
    stream: S,
    /// The limit in nanoseconds: half of what a [`Duration`] takes.
    limit: u64,
    /// Made when something first waits: most connections never do.
    wait: Option<Box<Wait>>,
}

/// A stream's wait for its other side.
#[derive(Debug)]
struct Wait {
    /// The end of the limit.
    deadline: Deadline,
    /// Whether something waits, so that the deadline counts.
    is_on: bool,
}

// === impl SendTimeout ===

impl<S> SendTimeout<S> {
    /// A stream whose other side may take nothing for `limit` at most.
    pub fn new(stream: S, limit: Duration) -> Self {
        Self {
            stream,
            limit: u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX),
            wait: None,
        }
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The outcome of a step that may wait for the other side.
    fn timed<T>(
        &mut self,
        polled: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            if let Some(wait) = &mut self.wait {
                wait.is_on = false;
            }
            return polled;
        }
        let due = || Instant::now() + Duration::from_nanos(self.limit);
        let wait = self.wait.get_or_insert_with(|| {
            Box::new(Wait {
                deadline: Deadline::new(due()),
                is_on: true,
            })
        });
        if !wait.is_on {
            wait.is_on = true;
            wait.deadline.set(due());
        }
        ready!(wait.deadline.poll_over(cx));
        let text = "the other side takes nothing of what is ready for it";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SendTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SendTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.timed(polled, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.timed(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.timed(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.timed(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::{sleep, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_side_that_takes_nothing_is_given_up_at_the_limit_and_not_before() {
        let (near, _far) = tokio::io::duplex(16);
        let (mut stream, began) = (SendTimeout::new(near, LIMIT), Instant::now());
        let error = stream.write_all(&[0; 17]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), LIMIT);
        // It is over for good.
        assert!(stream.write_all(&[0; 17]).await.is_err());
        assert_eq!(began.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn each_byte_that_goes_begins_the_limit_anew() {
        let (near, mut far) = tokio::io::duplex(1);
        let mut stream = SendTimeout::new(near, LIMIT);
        let reading = async {
            for _ in 0..5 {
                sleep(LIMIT * 9 / 10).await;
                far.read_u8().await.unwrap();
            }
            Instant::now()
        };
        let writing = async {
            let written = stream.write_all(&[0; 7]).await;
            (written.map_err(|error| error.kind()), Instant::now())
        };
        let (last_read, (written, ended)) = tokio::join!(reading, writing);
        assert_eq!(written, Err(io::ErrorKind::TimedOut));
        assert_eq!(ended, last_read + LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_for_which_nothing_is_ready_may_be_silent_for_ever() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut stream = SendTimeout::new(near, LIMIT);
        stream.write_all(b"taken").await.unwrap();
        let mut taken = [0; 5];
        far.read_exact(&mut taken).await.unwrap();
        let waiting = timeout(LIMIT * 100, stream.read_u8()).await;
        assert!(waiting.is_err(), "{waiting:?}");
        stream.write_all(b"goes on").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_nothing_waited_does_not_count() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut stream = SendTimeout::new(near, LIMIT);
        let (began, mut taken) = (Instant::now(), [0; 6]);
        for _ in 0..3 {
            // Waits for a moment, so that there is a timer from now on.
            let reading = async {
                sleep(Duration::from_secs(1)).await;
                far.read_exact(&mut taken).await.unwrap();
            };
            let ((), written) = tokio::join!(reading, stream.write_all(b"morsel"));
            written.unwrap();
            sleep(LIMIT * 2).await;
        }
        assert!(began.elapsed() > LIMIT * 6);
    }
}
