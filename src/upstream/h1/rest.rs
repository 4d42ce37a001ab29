//! The rest of a request whose response has begun.
//!
//! Guarantees: it is written while the response is read, and by whoever reads it or not; when the
//! client breaks off, the connection is closed, so that the instance does not take a part for the
//! whole.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use super::sending::{SendFailure, Sending};
use crate::upstream::epoch_stream::SendingHalf;

/// Writes the rest of a request; a future for a task of its own.
#[derive(Debug)]
pub(in crate::upstream) struct Rest {
    stream: SendingHalf,
    sending: Sending,
    progress: RestProgress,
}

/// Whether the client has broken off the rest of a request. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::upstream) struct RestProgress(Arc<AtomicBool>);

// === impl Rest ===

impl Rest {
    pub(super) fn new(stream: SendingHalf, sending: Sending) -> Self {
        let progress = RestProgress::default();
        Self {
            stream,
            sending,
            progress,
        }
    }

    pub(in crate::upstream) fn progress(&self) -> RestProgress {
        self.progress.clone()
    }
}

impl Future for Rest {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let me = &mut *self;
        me.stream.register(cx);
        let polled = match &mut *me.stream.lock() {
            None => return Poll::Ready(()),
            Some(stream) => {
                let mut progress = false;
                let polled = me.sending.poll_write(stream, &mut progress, cx);
                if progress {
                    stream.note_sent();
                }
                polled
            }
        };
        match polled {
            Poll::Pending => return Poll::Pending,
            // An instance that wants no more of it may still respond.
            Poll::Ready(Ok(()) | Err(SendFailure::Connection)) => {}
            Poll::Ready(Err(SendFailure::Client(_))) => {
                me.progress.0.store(true, Ordering::Release);
                me.stream.close();
            }
        }
        Poll::Ready(())
    }
}

// === impl RestProgress ===

impl RestProgress {
    /// Whether the client has broken it off.
    pub(in crate::upstream) fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
