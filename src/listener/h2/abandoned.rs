//! The streams whose request's body nobody reads any more.
//!
//! Guarantees: they are remembered as long as the library remembers that what still comes of them
//! is to be ignored, the latest first; looking for one costs nothing while there are none.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use h2::StreamId;

/// As many as the library remembers.
pub(super) const MOST: usize = 1024;

/// Their numbers.
#[derive(Debug, Default)]
pub(super) struct Abandoned {
    count: AtomicUsize,
    streams: Mutex<VecDeque<u32>>,
}

// === impl Abandoned ===

impl Abandoned {
    /// Nobody reads this stream any more.
    pub(super) fn add(&self, stream: StreamId) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.len() >= MOST {
            streams.pop_front();
        }
        streams.push_back(stream.as_u32());
        self.count.store(streams.len(), Ordering::Relaxed);
    }

    /// Whether nobody reads this stream any more.
    pub(super) fn has(&self, stream: u32) -> bool {
        if self.count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        // What still comes is most likely of the latest.
        streams.iter().rev().any(|one| *one == stream)
    }
}
