//! A response's body, as it is read from its connection.
//!
//! Guarantees: the connection goes back to its pool with the last byte, when it may be used again and has nothing left
//! on it; otherwise it is closed.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::connection::Connection;
use super::framing::{BodyDecoder, ChunkError, Step};
use crate::upstream::pool::Pool;

/// A response broke off.
#[derive(Debug, thiserror::Error)]
pub enum BrokenBody {
    /// The connection.
    #[error("the connection to the instance broke: {0}")]
    Broke(#[from] io::Error),
    /// Its end came too early.
    #[error("the instance closed the connection before its response's end")]
    Short,
    /// Its chunks.
    #[error(transparent)]
    Chunks(#[from] ChunkError),
    /// The instance's epoch has ended.
    #[error("the instance went to sleep before its response's end")]
    Severed,
}

/// What is left of a response.
pub(in crate::upstream) struct Body {
    left: BodyDecoder,
    /// Until the end.
    link: Option<Box<Connection>>,
    /// Where the connection goes afterwards, if it may be used again.
    home: Option<Arc<Pool>>,
}

// === impl Body ===

impl Body {
    pub(in crate::upstream) fn new(
        left: BodyDecoder,
        link: Box<Connection>,
        home: Option<Arc<Pool>>,
    ) -> Self {
        let mut body = Self {
            left,
            link: Some(link),
            home,
        };
        if left == BodyDecoder::Nothing {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let (Some(link), Some(home)) = (self.link.take(), self.home.take())
            && link.is_clean()
        {
            home.put_connection(link);
        }
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        loop {
            let Some(link) = &mut self.link else {
                return Poll::Ready(None);
            };
            match self.left.take(link.input())? {
                Step::Frame(frame) => {
                    if self.left == BodyDecoder::Nothing {
                        self.finish();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Step::Over => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Step::More => {}
            }
            if link.poll_severed(cx).is_ready() {
                return Poll::Ready(Some(Err(BrokenBody::Severed)));
            }
            match ready!(link.poll_more(self.left.wanted(), cx))? {
                0 if self.left == BodyDecoder::UntilClose => {
                    self.link = None;
                    return Poll::Ready(None);
                }
                0 => return Poll::Ready(Some(Err(BrokenBody::Short))),
                _ => {}
            }
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let polled = self.poll_next(cx);
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.link = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.left == BodyDecoder::Nothing
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            BodyDecoder::Nothing => SizeHint::with_exact(0),
            BodyDecoder::Length(left) => SizeHint::with_exact(left),
            BodyDecoder::Chunked(_) | BodyDecoder::UntilClose => SizeHint::default(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({:?} left)", self.left)
    }
}
