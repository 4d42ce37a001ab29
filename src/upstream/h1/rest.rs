//! The rest of a request whose response has begun.
//!
//! Guarantees: it is written while the response is read, and by whoever reads it or not; its
//! connection is not used again before all of it has been written; when the client breaks off, the
//! connection is closed, so that the instance does not take a part for the whole.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use super::sending::{SendFailure, Sending};
use crate::upstream::epoch_stream::SendingHalf;

/// All but these: it is being written, or never will be.
const SENT: u8 = 1;
const BROKEN: u8 = 2;

/// Writes the rest of a request; a future for a task of its own.
#[derive(Debug)]
pub(in crate::upstream) struct Rest {
    stream: SendingHalf,
    sending: Sending,
    progress: RestProgress,
}

/// What has become of the rest of a request. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::upstream) struct RestProgress(Arc<AtomicU8>);

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
            Poll::Ready(Ok(())) => me.progress.set(SENT),
            // An instance that wants no more of it may still respond.
            Poll::Ready(Err(SendFailure::Connection)) => {}
            Poll::Ready(Err(SendFailure::Client(_))) => {
                me.progress.set(BROKEN);
                me.stream.close();
            }
        }
        Poll::Ready(())
    }
}

// === impl RestProgress ===

impl RestProgress {
    fn set(&self, state: u8) {
        self.0.store(state, Ordering::Release);
    }

    /// Whether all of the request has been written.
    pub(in crate::upstream) fn is_sent(&self) -> bool {
        self.0.load(Ordering::Acquire) == SENT
    }

    /// Whether the client has broken it off.
    pub(in crate::upstream) fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire) == BROKEN
    }
}
