//! 1xx responses to requests of HTTP/2 (RFC 9110 §15.2, RFC 9113 §8.1).
//!
//! Guarantees: those of a request go before its final response and in their order; while the client
//! does not read them, no more than [`MOST`] bytes of a connection's are kept, besides each
//! request's `100 Continue`.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use ::http::{HeaderMap, Response, StatusCode};
use futures_util::task::AtomicWaker;

/// Bytes of interim responses that a connection keeps for a client that does not read.
const MOST: usize = 64 * 1024;
/// What a field takes besides its name and value (RFC 9113 §6.5.2), and a frame besides its fields.
const OVERHEAD: usize = 32;

/// The interim responses of one request that wait to be handed to the library.
#[derive(Default)]
pub(super) struct InterimQueue {
    /// Whether there is any, so that looking costs next to nothing.
    any: AtomicBool,
    waiting: Mutex<Vec<Response<()>>>,
    /// The task that answers the request.
    task: AtomicWaker,
}

/// The bytes of interim responses that a connection may still have in memory.
#[derive(Debug, Default)]
pub(super) struct InterimBytes(AtomicUsize);

// === impl InterimBytes ===

impl InterimBytes {
    /// All of them were written.
    pub(super) fn clear(&self) {
        if self.0.load(Ordering::Relaxed) > 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    fn has_room(&self, fields: &HeaderMap) -> bool {
        let lengths = fields
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + OVERHEAD);
        let bytes = lengths.sum::<usize>() + OVERHEAD;
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let fits = before + bytes <= MOST;
        if !fits {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }
}

// === impl InterimQueue ===

impl InterimQueue {
    /// Sends one as soon as possible; drops it when too much waits already.
    pub(super) fn send(&self, status: StatusCode, fields: &HeaderMap, kept: &InterimBytes) {
        if kept.has_room(fields) {
            self.push(status, fields.clone());
        }
    }

    /// Asks the client for its request's body (RFC 9110 §15.2.1).
    pub(super) fn ask_for_body(&self) {
        self.push(StatusCode::CONTINUE, HeaderMap::new());
    }

    /// Those that wait. The task is woken when others come.
    pub(super) fn take(&self, task: &Waker) -> Vec<Response<()>> {
        self.task.register(task);
        match self.any.swap(false, Ordering::AcqRel) {
            true => std::mem::take(&mut *self.lock()),
            false => Vec::new(),
        }
    }

    fn push(&self, status: StatusCode, fields: HeaderMap) {
        let mut response = Response::new(());
        (*response.status_mut(), *response.headers_mut()) = (status, fields);
        self.lock().push(response);
        self.any.store(true, Ordering::Release);
        self.task.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Response<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for InterimQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterimQueue").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;

    use super::*;

    #[test]
    fn they_keep_their_order() {
        let (queue, kept) = (InterimQueue::default(), InterimBytes::default());
        assert!(queue.take(Waker::noop()).is_empty());
        queue.ask_for_body();
        queue.send(StatusCode::EARLY_HINTS, &HeaderMap::new(), &kept);
        let statuses: Vec<_> = queue
            .take(Waker::noop())
            .iter()
            .map(Response::status)
            .collect();
        assert_eq!(statuses, [StatusCode::CONTINUE, StatusCode::EARLY_HINTS]);
        assert!(queue.take(Waker::noop()).is_empty());
    }

    #[test]
    fn a_connection_keeps_no_more_than_the_limit_until_it_has_written_them() {
        let (queue, kept) = (InterimQueue::default(), InterimBytes::default());
        let mut fields = HeaderMap::new();
        fields.insert("link", HeaderValue::try_from("x".repeat(10_000)).unwrap());
        for _ in 0..100 {
            queue.send(StatusCode::EARLY_HINTS, &fields, &kept);
        }
        assert_eq!(queue.take(Waker::noop()).len(), 6);
        queue.send(StatusCode::EARLY_HINTS, &fields, &kept);
        assert!(queue.take(Waker::noop()).is_empty());
        kept.clear();
        queue.send(StatusCode::EARLY_HINTS, &fields, &kept);
        assert_eq!(queue.take(Waker::noop()).len(), 1);
    }
}
