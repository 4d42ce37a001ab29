//! The end, in phases.
//!
//! Guarantees: the first phase is published before anything is refused; whoever is being served has
//! until the deadline; then everything is cut.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
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

    /// Ends when no new work is taken. For tasks that are woken often: it looks at the token only
    /// when the task has changed.
    pub fn begin(&self) -> impl Future<Output = ()> + '_ {
        let (mut waiting, mut known) = (Box::pin(self.draining.cancelled()), None::<Waker>);
        poll_fn(move |cx| {
            if self.has_begun() {
                return Poll::Ready(());
            }
            match &known {
                Some(waker) if waker.will_wake(cx.waker()) => Poll::Pending,
                _ => {
                    known = Some(cx.waker().clone());
                    waiting.as_mut().poll(cx)
                }
            }
        })
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
