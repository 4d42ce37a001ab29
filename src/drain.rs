//! The end, in phases.
//!
//! Guarantees: the first phase is published before anything is refused; whoever is being served has
//! until the deadline; then everything is cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The phases of a drain. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    /// The same as the token, without its lock: it is looked at for every request.
    begun: Arc<AtomicBool>,
    draining: CancellationToken,
    cut: CancellationToken,
    served: TaskTracker,
}

// === impl Drain ===

impl Drain {
    /// Cancelled when no new work is taken.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Whether no new work is taken.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Cancelled when what is left is cut.
    pub fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// What a drain waits for: connections and tunnels.
    pub fn served(&self) -> &TaskTracker {
        &self.served
    }

    /// Walks through the phases. Returns whether everything ended by itself.
    pub async fn run(&self, deadline: Duration) -> bool {
        self.begun.store(true, Ordering::Release);
        self.draining.cancel();
        self.served.close();
        let clean = tokio::time::timeout(deadline, self.served.wait())
            .await
            .is_ok();
        self.cut.cancel();
        self.served.wait().await;
        clean
    }
}
