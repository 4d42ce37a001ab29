//! The end of the gateway, in phases.
//!
//! Guarantees: the first phase is published before anything is refused; whoever is being served has
//! until the deadline; then everything is cut.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The phases of a drain. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    /// The same state as the token's, without its lock: every request looks at it.
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

    /// Completes when no new work is taken. For tasks that are woken often: it looks at the token
    /// only when the task has changed.
    pub async fn begin(&self) {
        let (mut waiting, mut registered) = (pin!(self.draining.cancelled()), None::<Waker>);
        poll_fn(|cx| {
            if self.has_begun() {
                return Poll::Ready(());
            }
            match &registered {
                Some(waker) if waker.will_wake(cx.waker()) => Poll::Pending,
                _ => {
                    registered = Some(cx.waker().clone());
                    waiting.as_mut().poll(cx)
                }
            }
        })
        .await;
    }

    /// Cancelled when what is left is cut.
    pub fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    /// The tasks that a drain waits for: connections and tunnels.
    pub fn served(&self) -> &TaskTracker {
        &self.served
    }

    /// Runs the phases: what is being served has until `deadline`, which runs from the call on and
    /// which nothing resets. Returns whether everything ended by itself.
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
