//! One connection, from one request to the next.
//!
//! Guarantees: a head has its deadline, which an idle connection has, too; a client that leaves is
//! noticed while its request is answered, and what answers it dropped; requests that come before
//! their predecessor's answer wait, in no more than [`ROOM`] bytes; a drain lets an idle connection
//! ask once more.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;

use super::answer::Answer;
use super::head::{self, Head, Limits};
use crate::config::ServerConfig;
use crate::deadline::Deadline;
use crate::drain::Drain;
use crate::listener::informational::{Interim, WithInformational};
use crate::listener::service::{Downstream, Service};

/// The most that is read at once.
const ROOM: usize = 8 * 1024;

/// A connection, and what was read from it and not answered yet.
#[derive(Debug)]
struct Line<I> {
    stream: WithInformational<I>,
    input: BytesMut,
    /// How many bytes of `input` were examined and have no head's end in them.
    examined: usize,
    /// The deadline of the next head; made when a head is first waited for.
    deadline: Option<Deadline>,
    waiting: Waiting,
}

/// How a head is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Not,
    /// Until `header_timeout` after the wait began; no byte of the head resets it.
    Usually,
    /// A drain has begun: until `drain_idle_timeout` after it was noticed, or `header_timeout` if
    /// that is shorter.
    DrainGrace,
}

/// The reason why no head came.
enum Closed {
    /// Something for hyper came.
    NotSimple,
    /// The client has gone, or is let go.
    Over,
    Broken(io::Error),
}

/// Answers requests until the connection ends, or until something comes that is hyper's: then
/// returns the connection and all that was read of it.
pub(in crate::listener) async fn serve<S: Service, I>(
    stream: WithInformational<I>,
    from: &(Downstream, S::ConnectionCache),
    service: &S,
    interim: &Interim,
    config: &ServerConfig,
    drain: &Drain,
) -> io::Result<Option<(WithInformational<I>, BytesMut)>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut line = Line {
        stream,
        input: BytesMut::new(),
        examined: 0,
        deadline: None,
        waiting: Waiting::Not,
    };
    loop {
        let head = match poll_fn(|cx| line.poll_head(config, drain, cx)).await {
            Ok(head) => head,
            Err(Closed::NotSimple) => return Ok(Some((line.stream, line.input))),
            Err(Closed::Over) => return Ok(None),
            Err(Closed::Broken(error)) => return Err(error),
        };
        let to_head = *head.request.method() == Method::HEAD;
        // In a box, which is written to at once: it is large, and an idle connection is to be
        // small.
        let answer = Box::write(Box::new_uninit(), service.call(head.request, from));
        let mut answer = pin!(interim.before(Box::into_pin(answer)));
        let response = poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => line.poll_left(cx).map(|()| None),
        });
        let Some(response) = response.await else {
            return Ok(None);
        };
        let mut answer = Answer::new(response, to_head, head.last || drain.has_begun());
        poll_fn(|cx| {
            let polled = answer.poll_write(&mut line.stream, cx);
            if polled.is_pending() && answer.is_idle() && line.poll_left(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            polled
        })
        .await?;
        if answer.last {
            // TLS has a word for it; in clear, closing says it all.
            if from.0.tls.is_some() {
                line.stream.shutdown().await?;
            }
            return Ok(None);
        }
    }
}

// === impl Line ===

impl<I: AsyncRead + AsyncWrite + Unpin> Line<I> {
    fn poll_head(
        &mut self,
        config: &ServerConfig,
        drain: &Drain,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Closed>> {
        let limits = Limits::of(config);
        loop {
            // A head that comes byte by byte is looked at when it begins, and once for each line.
            let fresh = self.input.get(self.examined..).unwrap_or_default();
            let worth = match self.examined {
                0 => !fresh.is_empty(),
                _ => fresh.contains(&b'\n') || self.input.len() > limits.bytes,
            };
            if worth {
                let blank = head::empty_lines(&self.input);
                self.input.advance(blank);
                match head::read(&self.input, limits) {
                    Ok(None) => self.examined = self.input.len(),
                    Ok(Some(head)) => {
                        self.input.advance(head.length);
                        self.head_done();
                        return Poll::Ready(Ok(head));
                    }
                    Err(head::NotSimple) => return Poll::Ready(Err(Closed::NotSimple)),
                }
            }
            let mut room = [MaybeUninit::uninit(); ROOM];
            let mut room = ReadBuf::uninit(&mut room);
            match Pin::new(&mut self.stream).poll_read(cx, &mut room) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Closed::Broken(error))),
                Poll::Ready(Ok(())) => {}
            }
            let read = room.filled();
            if read.is_empty() {
                return Poll::Ready(Err(Closed::Over));
            }
            // Most heads come whole and alone: they need no buffer.
            if self.input.is_empty()
                && let Ok(Some(head)) = head::read(read, limits)
            {
                let rest = read.get(head.length..).unwrap_or_default();
                self.input.extend_from_slice(rest);
                self.head_done();
                return Poll::Ready(Ok(head));
            }
            self.input.extend_from_slice(read);
        }
        self.poll_over(config, drain, cx).map(Err)
    }

    fn head_done(&mut self) {
        self.examined = 0;
        self.waiting = Waiting::Not;
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Whether the head was waited for long enough.
    fn poll_over(
        &mut self,
        config: &ServerConfig,
        drain: &Drain,
        cx: &mut Context<'_>,
    ) -> Poll<Closed> {
        let (waiting, time_limit) = match (drain.has_begun(), self.waiting) {
            (true, Waiting::Not | Waiting::Usually) => {
                let time_limit = config.drain_idle_timeout.min(config.header_timeout);
                (Waiting::DrainGrace, Some(time_limit))
            }
            (false, Waiting::Not) => (Waiting::Usually, Some(config.header_timeout)),
            (_, waiting) => (waiting, None),
        };
        self.waiting = waiting;
        if let Some(time_limit) = time_limit {
            let due = Instant::now() + time_limit;
            match &mut self.deadline {
                Some(deadline) => deadline.set(due),
                None => self.deadline = Some(Deadline::new(due)),
            }
        }
        if let Some(deadline) = &mut self.deadline {
            ready!(deadline.poll_over(cx));
        }
        Poll::Ready(match waiting {
            Waiting::DrainGrace => Closed::Over,
            Waiting::Not | Waiting::Usually => Closed::Broken(io::ErrorKind::TimedOut.into()),
        })
    }

    /// Whether the client has gone; meanwhile sends it what there is of 1xx answers.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(Err(_)) = self.stream.poll_interim(cx) {
            return Poll::Ready(());
        }
        if !self.input.is_empty() {
            return Poll::Pending;
        }
        let mut room = [MaybeUninit::uninit(); ROOM];
        let mut room = ReadBuf::uninit(&mut room);
        match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room)) {
            Ok(()) if !room.filled().is_empty() => {
                self.input.extend_from_slice(room.filled());
                Poll::Pending
            }
            Ok(()) | Err(_) => Poll::Ready(()),
        }
    }
}
