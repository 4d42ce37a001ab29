//! A response's body, as it is read from its connection.
//!
//! Guarantees: the connection goes back to its pool with the last byte, when it may be used again
//! and has nothing left on it; otherwise it is closed. One whose response came before its request
//! was over is not used again.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::h1::{Connection, Rest, RestProgress};
use super::leased_stream::LeasedStream;
use super::pool::Pool;
use crate::flow::PeekStream;
use http1::{BodyDecoder, BodyPart, ChunkError};

/// A response's body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BrokenBody {
    /// The connection broke.
    #[error("the connection to the instance broke: {0}")]
    Broke(#[from] io::Error),
    /// The connection's end came before the body's.
    #[error("the instance closed the connection before its response's end")]
    Short,
    /// The body's chunks are not valid.
    #[error(transparent)]
    Chunks(#[from] ChunkError),
    /// The instance's epoch has ended.
    #[error("the instance went to sleep before its response's end")]
    Severed,
    /// The client broke the rest of the request off.
    #[error("the client broke the request off before its end")]
    Request,
}

/// The part of a response's body that has not been read yet.
pub(super) struct H1Body {
    decoder: BodyDecoder,
    /// Of a response that has begun before its request was over.
    rest: Option<RestProgress>,
    /// The connection, until the body's end.
    connection: Option<Box<Connection>>,
    /// The pool that the connection goes back to, if it may be used again.
    pool: Option<Arc<Pool>>,
    /// The most that is read at once.
    at_once: u64,
}

// === impl H1Body ===

impl H1Body {
    /// The body of the response whose head `connection` has read last. `rest` is what was left of
    /// the request then. The connection goes back to `pool` if it may be used again.
    pub(super) fn new(
        connection: Box<Connection>,
        rest: Option<&Rest>,
        pool: Option<Arc<Pool>>,
    ) -> Self {
        let mut body = Self {
            decoder: connection.body(),
            rest: rest.map(Rest::progress),
            connection: Some(connection),
            pool,
            at_once: u64::MAX,
        };
        if body.decoder.is_over() {
            body.finish();
        }
        body
    }

    /// That of a response that switches protocols, which keeps the connection.
    pub(super) fn of_switch(connection: Box<Connection>) -> Self {
        Self {
            decoder: connection.body(),
            rest: None,
            connection: Some(connection),
            pool: None,
            at_once: u64::MAX,
        }
    }

    /// The stream, for the protocol that the response has switched to.
    pub(super) fn take_stream(&mut self) -> Option<PeekStream<LeasedStream>> {
        let connection = self.connection.take();
        connection.and_then(|connection| connection.into_stream())
    }

    /// The stream of a response that may go on for ever, and how the rest of its body is read: one in chunks, whose
    /// request is over; `None` of any other.
    pub(super) fn take_endless(&mut self) -> Option<(PeekStream<LeasedStream>, BodyDecoder)> {
        let decoder = self.decoder;
        let is_known = decoder.exact().is_some() || decoder.ends_with_connection();
        if is_known || self.rest.is_some() {
            return None;
        }
        self.take_stream().map(|stream| (stream, decoder))
    }

    /// From now on no more than so many bytes are read at once.
    pub(super) fn read_at_once(&mut self, bytes: usize) {
        self.at_once = bytes as u64;
    }

    fn finish(&mut self) {
        if let (Some(connection), Some(pool)) = (self.connection.take(), self.pool.take())
            && connection.is_clean()
        {
            pool.put_connection(connection);
        }
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        loop {
            let Some(connection) = &mut self.connection else {
                return Poll::Ready(None);
            };
            let frame = match self.decoder.take(connection.input())? {
                BodyPart::Data(data) => Some(Frame::data(data)),
                BodyPart::Trailers(fields) => Some(Frame::trailers(fields)),
                BodyPart::End => {
                    self.finish();
                    return Poll::Ready(None);
                }
                BodyPart::More => None,
            };
            if let Some(frame) = frame {
                if self.decoder.is_over() {
                    self.finish();
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            let useful = self.decoder.useful().map(|useful| useful.min(self.at_once));
            let Some(more) = ready!(connection.poll_more(useful, cx)) else {
                let is_broken = self.rest.as_ref().is_some_and(RestProgress::is_broken);
                return Poll::Ready(Some(Err(match is_broken {
                    true => BrokenBody::Request,
                    false => BrokenBody::Severed,
                })));
            };
            match more? {
                0 if self.decoder.ends_with_connection() => {
                    self.connection = None;
                    return Poll::Ready(None);
                }
                0 => return Poll::Ready(Some(Err(BrokenBody::Short))),
                _ => {}
            }
        }
    }
}

impl Body for H1Body {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let polled = self.poll_next(cx);
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.connection = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        let exact = self.decoder.exact();
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl fmt::Debug for H1Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "H1Body({:?} left)", self.decoder)
    }
}
