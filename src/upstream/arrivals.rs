//! What has come of streams from another member, and nobody has read.
//!
//! Guarantees: it is in its client's budget from the head of its frame on, whether anybody reads or
//! not, and until it is read or the stream is given up; streams that were not entered cost a look at
//! their frames' heads; the work for a frame does not depend on its length.
//!
//! The library keeps what has come and tells whoever reads, so a stream whose client takes nothing
//! would have its window in memory and nothing in the budget. That is why the frames are looked at below it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::flow::{Buffered, ClientBuffers};

/// Bytes of a frame's header.
const HEAD: usize = 9;
/// A frame with a part of a body, and its flag for padding (RFC 9113 §6.1).
const DATA: u8 = 0x0;
const PADDED: u8 = 0x8;

/// The streams of one connection whose bytes are counted.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    streams: Mutex<HashMap<u32, Arc<Mutex<Buffered>>>>,
    /// How many there are, to be looked at without the lock.
    count: AtomicUsize,
}

/// What has come of one stream; it is counted for as long as this lives.
#[derive(Debug)]
pub(super) struct Arrived {
    all: Arc<Arrivals>,
    stream: u32,
    unread: Arc<Mutex<Buffered>>,
}

/// The position in the frames of the other end.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD],
    filled: usize,
    /// Bytes of the frame that are still to come.
    left: usize,
    /// The stream of a DATA frame whose next byte is the length of its padding.
    padded: Option<u32>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Arrivals ===

impl Arrivals {
    /// What comes of this stream counts to this client from now on.
    pub(super) fn enter(self: &Arc<Self>, stream: u32, client: &ClientBuffers) -> Arrived {
        let unread = Arc::new(Mutex::new(client.hold(0)));
        let mut streams = lock(&self.streams);
        streams.insert(stream, Arc::clone(&unread));
        self.count.store(streams.len(), Ordering::Release);
        Arrived {
            all: Arc::clone(self),
            stream,
            unread,
        }
    }

    /// The bytes of a stream that nobody has read, if they are counted.
    fn change(&self, stream: u32, change: impl FnOnce(&mut Buffered)) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let unread = lock(&self.streams).get(&stream).cloned();
        if let Some(unread) = unread {
            change(&mut lock(&unread));
        }
    }
}

// === impl Arrived ===

impl Arrived {
    /// So many were read.
    pub(super) fn go(&self, bytes: usize) {
        if bytes > 0 {
            lock(&self.unread).shrink(bytes);
        }
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        let mut streams = lock(&self.all.streams);
        streams.remove(&self.stream);
        self.all.count.store(streams.len(), Ordering::Release);
    }
}

// === impl Frames ===

impl Frames {
    /// These bytes have come next.
    pub(super) fn pass(&mut self, mut bytes: &[u8], arrivals: &Arrivals) {
        while let Some(first) = bytes.first() {
            if self.left > 0 {
                if let Some(stream) = self.padded.take() {
                    let padding = usize::from(*first) + 1;
                    arrivals.change(stream, |unread| unread.shrink(padding));
                }
                let count = self.left.min(bytes.len());
                self.left -= count;
                bytes = bytes.get(count..).unwrap_or_default();
                continue;
            }
            let count = (HEAD - self.filled).min(bytes.len());
            let (part, rest) = bytes.split_at(count);
            if let Some(room) = self.head.get_mut(self.filled..self.filled + count) {
                room.copy_from_slice(part);
            }
            (self.filled, bytes) = (self.filled + count, rest);
            if self.filled == HEAD {
                self.filled = 0;
                self.begin(arrivals);
            }
        }
    }

    fn begin(&mut self, arrivals: &Arrivals) {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if kind == DATA && self.left > 0 {
            let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
            arrivals.change(stream, |unread| unread.grow(self.left));
            self.padded = (flags & PADDED != 0).then_some(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::flow::BufferBudget;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn budget() -> (BufferBudget, ClientBuffers) {
        let budget = BufferBudget::new(1 << 30);
        let client = budget.of(Ipv4Addr::LOCALHOST.into());
        (budget, client)
    }

    #[test]
    fn a_stream_that_is_given_up_has_nothing_and_what_comes_of_it_afterwards_does_not_count() {
        let (budget, client) = budget();
        let (arrivals, mut frames) = (Arc::new(Arrivals::default()), Frames::default());
        let (one, other) = (arrivals.enter(1, &client), arrivals.enter(3, &client));
        frames.pass(&frame(DATA, 0, 1, &[0; 100]), &arrivals);
        frames.pass(&frame(DATA, 0, 3, &[0; 20]), &arrivals);
        frames.pass(&frame(DATA, 0, 5, &[0; 20]), &arrivals);
        assert_eq!(budget.used(), 120);
        drop(one);
        frames.pass(&frame(DATA, 1, 1, &[0; 100]), &arrivals);
        assert_eq!(budget.used(), 20);
        other.go(20);
        assert_eq!(budget.used(), 0);
        drop(other);
        assert!(lock(&arrivals.streams).is_empty());
    }

    #[test]
    fn a_frame_counts_when_its_head_is_there_and_its_padding_does_not() {
        let (budget, client) = budget();
        let (arrivals, mut frames) = (Arc::new(Arrivals::default()), Frames::default());
        let _one = arrivals.enter(1, &client);
        let mut payload = vec![5];
        payload.extend([b'x'; 15]);
        let whole = frame(DATA, PADDED, 1, &payload);
        let (head, rest) = whole.split_at(HEAD);
        frames.pass(head, &arrivals);
        assert_eq!(budget.used(), 16);
        frames.pass(rest, &arrivals);
        assert_eq!(budget.used(), 10);
    }

    proptest! {
        #[test]
        fn what_counts_does_not_depend_on_how_the_bytes_come(
            all in prop::collection::vec((0_u8..4, 1_u32..4, 0_usize..300), 1..20),
            parts in prop::collection::vec(1_usize..50, 1..20),
        ) {
            let (budget, client) = budget();
            let (arrivals, mut frames) = (Arc::new(Arrivals::default()), Frames::default());
            let _one = arrivals.enter(1, &client);
            let (mut bytes, mut expected) = (Vec::new(), 0);
            for (kind, stream, length) in all {
                bytes.extend(frame(kind, 0, stream, &vec![kind; length]));
                expected += if kind == DATA && stream == 1 { length } else { 0 };
            }
            let (mut rest, mut parts) = (&bytes[..], parts.iter().cycle());
            while !rest.is_empty() {
                let (part, after) = rest.split_at(parts.next().unwrap().min(&rest.len()).to_owned());
                frames.pass(part, &arrivals);
                rest = after;
            }
            prop_assert_eq!(budget.used(), expected);
        }
    }
}
