//! Event streams that may be parked (`text/event-stream`): the instance's connection on one side, the
//! response's body on the other.
//!
//! Guarantees: what the instance sends of the body goes to the client once and in order, and is taken of it only
//! as the client takes it; where nothing has come for a while the client gets a comment, and only where a line
//! begins; a body that is cut short ends with an error and not with an end; when nobody reads the body any
//! more, the connection ends.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::PollSender;

use crate::deadline::Deadline;
use crate::upstream::response_body::ResponseError;
use http1::{BodyDecoder, BodyPart};

/// Where nothing has come for so long, a comment goes: "every 15 seconds or so" (HTML Standard §9.2.7).
const SILENCE: Duration = Duration::from_secs(15);
/// A line that is a comment, which whoever reads events takes no notice of (§9.2.5).
const COMMENT: Bytes = Bytes::from_static(b":\n");

/// A part of the body, and whether that is the last.
type Part = (Bytes, bool);

/// The client's side of the tunnel to the instance.
pub struct EventSink {
    decoder: BodyDecoder,
    /// What has come of the instance and was not understood yet.
    input: BytesMut,
    parts: PollSender<Part>,
    /// Ends when nobody reads the body any more.
    reader: oneshot::Receiver<()>,
    /// The whole body has gone, or nobody reads it.
    is_over: bool,
}

/// The response's body.
pub struct EventStream {
    parts: mpsc::Receiver<Part>,
    comment: Deadline,
    /// Whether the client has a part of a line.
    is_in_line: bool,
    /// Whether it has all of the body.
    is_complete: bool,
    is_broken: bool,
    _reads: oneshot::Sender<()>,
}

/// Both ends of a body of which the instance sends what `decoder` reads.
pub fn event_stream(decoder: BodyDecoder) -> (EventSink, EventStream) {
    let ((parts, received), (reads, reader)) = (mpsc::channel(1), oneshot::channel());
    let sink = EventSink {
        decoder,
        input: BytesMut::new(),
        parts: PollSender::new(parts),
        reader,
        is_over: false,
    };
    let stream = EventStream {
        parts: received,
        comment: Deadline::new(Instant::now() + SILENCE),
        is_in_line: false,
        is_complete: false,
        is_broken: false,
        _reads: reads,
    };
    (sink, stream)
}

fn nobody_reads() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

// === impl EventSink ===

impl EventSink {
    /// Takes what the instance has sent; what that is of the body.
    fn decode(&mut self, bytes: &[u8]) -> io::Result<Bytes> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        self.input.extend_from_slice(bytes);
        let mut body = BytesMut::new();
        loop {
            match self.decoder.take(&mut self.input).map_err(invalid)? {
                BodyPart::Data(data) => body.extend_from_slice(&data),
                BodyPart::Trailers(_) => {}
                BodyPart::End | BodyPart::More => break,
            }
        }
        self.is_over = self.decoder.is_over();
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        Ok(body.freeze())
    }
}

impl AsyncRead for EventSink {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Its client has said all that it has to say with the request.
        if !self.reader.is_terminated() {
            let _gone = ready!(Pin::new(&mut self.reader).poll(cx));
        }
        Poll::Ready(Err(nobody_reads()))
    }
}

impl AsyncWrite for EventSink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = &mut *self;
        if me.is_over {
            return Poll::Ready(Err(nobody_reads()));
        }
        if ready!(me.parts.poll_reserve(cx)).is_err() {
            return Poll::Ready(Err(nobody_reads()));
        }
        let body = me.decode(bytes)?;
        if !body.is_empty() || me.is_over {
            let sent = me.parts.send_item((body, me.is_over));
            sent.map_err(|_| nobody_reads())?;
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The instance has ended its side.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.is_over {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        })
    }
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventSink(is_over: {})", self.is_over)
    }
}

// === impl EventStream ===

impl EventStream {
    /// The next part of the body, or a comment.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        if self.is_complete || self.is_broken {
            return Poll::Ready(None);
        }
        let part = match self.parts.poll_recv(cx) {
            Poll::Ready(Some((data, is_last))) => {
                self.is_complete = is_last;
                if data.is_empty() {
                    return Poll::Ready(None);
                }
                self.is_in_line = data.last() != Some(&b'\n');
                data
            }
            Poll::Ready(None) => {
                self.is_broken = true;
                return Poll::Ready(Some(Err(ResponseError::Severed)));
            }
            Poll::Pending if self.is_in_line => return Poll::Pending,
            Poll::Pending => {
                ready!(self.comment.poll_over(cx));
                COMMENT
            }
        };
        self.comment.set(Instant::now() + SILENCE);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    /// Whether the whole body was read.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventStream(is_complete: {})", self.is_complete)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http1::BodyLength;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::timeout;

    use super::*;

    fn chunked() -> (EventSink, EventStream) {
        event_stream(BodyDecoder::new(BodyLength::Chunked))
    }

    async fn next(stream: &mut EventStream) -> Option<Result<Bytes, ResponseError>> {
        let frame = poll_fn(|cx| stream.poll_next(cx)).await?;
        Some(frame.map(|frame| frame.into_data().unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn events_come_once_and_in_order_and_the_end_is_an_end() {
        let (mut sink, mut stream) = chunked();
        let sending = async {
            for part in [&b"8\r\ndata"[..], b": 1\n\r\n1\r\n\n\r\n", b"0\r\n\r\n"] {
                sink.write_all(part).await.unwrap();
            }
            assert!(sink.write_all(b"more").await.is_err(), "it is over");
        };
        let reading = async {
            let mut all = Vec::new();
            while let Some(part) = next(&mut stream).await {
                all.extend_from_slice(&part.unwrap());
            }
            all
        };
        let ((), all) = tokio::join!(sending, reading);
        assert_eq!(all, b"data: 1\n\n");
        assert!(stream.is_complete());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_has_comments_but_not_in_the_middle_of_a_line() {
        let (mut sink, mut stream) = chunked();
        let began = Instant::now();
        for turn in 1..4_u32 {
            assert_eq!(next(&mut stream).await.unwrap().unwrap(), COMMENT);
            assert_eq!(began.elapsed(), SILENCE * turn);
        }
        sink.write_all(b"4\r\ndata\r\n").await.unwrap();
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), "data");
        let waited = timeout(SILENCE * 10, next(&mut stream)).await;
        assert!(waited.is_err(), "in the middle of a line");
        sink.write_all(b"2\r\n:\n\r\n").await.unwrap();
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), ":\n");
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), COMMENT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_cut_short_is_no_whole_response() {
        let (mut sink, mut stream) = chunked();
        sink.write_all(b"2\r\n:\n\r\n").await.unwrap();
        assert!(sink.shutdown().await.is_err(), "its end is missing");
        drop(sink);
        assert_eq!(next(&mut stream).await.unwrap().unwrap(), ":\n");
        let error = next(&mut stream).await.unwrap().unwrap_err();
        assert!(matches!(error, ResponseError::Severed));
        assert!(next(&mut stream).await.is_none() && !stream.is_complete());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_gone_is_heard_of_and_one_that_reads_nothing_holds_the_instance_up() {
        let (mut sink, stream) = chunked();
        sink.write_all(b"2\r\n:\n\r\n").await.unwrap();
        let waited = timeout(SILENCE, sink.write_all(b"2\r\n:\n\r\n")).await;
        assert!(waited.is_err(), "one part waits, and no more");
        let waited = timeout(SILENCE, sink.read_u8()).await;
        assert!(waited.is_err(), "it says nothing");
        drop(stream);
        for _ in 0..2 {
            let error = sink.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
        assert!(sink.write_all(b"2\r\n:\n\r\n").await.is_err());
    }
}
