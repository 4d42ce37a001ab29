//! The people who watch the dashboard.
//!
//! Guarantees: no more than [`MOST_WATCHERS`] at once; whoever leaves is no longer counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The most that may watch at once.
pub(super) const MOST_WATCHERS: usize = 64;

/// Counts who watches.
#[derive(Debug, Clone, Default)]
pub struct Watchers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    count: AtomicUsize,
    came: Notify,
}

/// One who watches, until it is dropped.
pub(super) struct Watching(Watchers);

// === impl Watchers ===

impl Watchers {
    /// Whether there is anybody.
    pub fn any(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) > 0
    }

    /// Ends when somebody begins to watch.
    pub async fn came(&self) {
        self.0.came.notified().await;
    }

    pub(super) fn enter(&self) -> Option<Watching> {
        let more = |count| (count < MOST_WATCHERS).then_some(count + 1);
        let (set, fetch) = (Ordering::AcqRel, Ordering::Acquire);
        self.0.count.fetch_update(set, fetch, more).ok()?;
        self.0.came.notify_one();
        Some(Watching(self.clone()))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.0.count.fetch_sub(1, Ordering::AcqRel);
    }
}
