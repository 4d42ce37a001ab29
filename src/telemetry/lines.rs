//! Lines for a writer that may be slow, written by a thread of their own.
//!
//! Guarantees: who has a line never waits for the writer; a line without room is dropped and
//! counted; what was queued before the guard is dropped is written, unless the writer stands still
//! for a second; the queue takes memory only for the lines that are in it.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait.
const ROOM: usize = 128_000;
/// How long the end waits for the last lines.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where lines are put. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Lines(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    sender: Sender<Entry>,
    waiting: Arc<AtomicUsize>,
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// Nothing comes after this; the sender hears when everything before it is written.
    End(SyncSender<()>),
}

/// Keeps the writing going; dropping it writes what is still queued.
#[must_use]
#[derive(Debug)]
pub(super) struct LinesGuard(Lines);

/// Lines to `writer`, from a thread called `name`.
pub(super) fn lines(writer: impl Write + Send + 'static, name: &str) -> (Lines, LinesGuard) {
    let (sender, receiver) = channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&waiting);
    let thread = thread::Builder::new().name(name.to_owned());
    let started = thread.spawn(move || write_all(&receiver, &left, writer));
    if let Err(error) = started {
        // Nobody receives, so that every line counts as dropped.
        tracing::error!(%error, thread = name, "a thread that writes lines cannot be started");
    }
    let lines = Lines(Arc::new(Queue {
        sender,
        waiting,
        dropped: AtomicU64::new(0),
    }));
    (lines.clone(), LinesGuard(lines))
}

fn write_all(receiver: &Receiver<Entry>, waiting: &AtomicUsize, mut writer: impl Write) {
    while let Ok(first) = receiver.recv() {
        for entry in std::iter::once(first).chain(receiver.try_iter()) {
            match entry {
                Entry::Line(line) => {
                    // There is nowhere to say that nobody reads.
                    let _written = writer.write_all(&line);
                    waiting.fetch_sub(1, Ordering::Relaxed);
                }
                Entry::End(done) => {
                    let _flushed = writer.flush();
                    // Whoever asked may have gone.
                    let _heard = done.try_send(());
                    return;
                }
            }
        }
        let _flushed = writer.flush();
    }
}

// === impl Lines ===

impl Lines {
    /// Queues a line, or drops and counts it.
    pub(super) fn put(&self, line: Vec<u8>) {
        let queue = &*self.0;
        // Lines that come together may find the same last room; some more do no harm.
        if queue.waiting.load(Ordering::Relaxed) < ROOM {
            queue.waiting.fetch_add(1, Ordering::Relaxed);
            if queue.sender.send(Entry::Line(line)).is_ok() {
                return;
            }
            queue.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        queue.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines dropped so far.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

// === impl LinesGuard ===

impl Drop for LinesGuard {
    fn drop(&mut self) {
        let (done, written) = sync_channel(1);
        if self.0.0.sender.send(Entry::End(done)).is_ok() {
            let _in_time = written.recv_timeout(GOODBYE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_was_queued_is_written_in_its_order_when_the_guard_goes() {
        let written = Shared::default();
        let (queue, guard) = lines(written.clone(), "lines");
        let mut expected = Vec::new();
        for number in 0..1000 {
            let line = format!("{number}\n").into_bytes();
            expected.extend_from_slice(&line);
            queue.put(line);
        }
        drop(guard);
        assert_eq!(*written.0.lock().unwrap(), expected);
        assert_eq!(queue.dropped(), 0);
        // Nobody writes any more.
        for _ in 0..1000 {
            queue.put(b"late\n".to_vec());
        }
        assert!(queue.dropped() > 0);
        assert_eq!(*written.0.lock().unwrap(), expected);
    }
}
