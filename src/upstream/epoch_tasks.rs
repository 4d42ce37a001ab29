//! The tasks of hyper's connections.
//!
//! Guarantees: each task of a connection, those that hyper starts for an HTTP/2 connection and its
//! streams included, is on the gateway's tracker and is dropped when the epoch is cut or the
//! gateway ends. Dropping it closes the connection, and ends every exchange on it with an error.
//! Until then the two tokens cost a task two places in their lists, and no poll.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Wake, Waker};

use hyper::rt::Executor;
use tokio::task::AbortHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

/// Runs the tasks of one epoch's connections.
#[derive(Debug, Clone)]
pub(super) struct EpochTasks {
    pub(super) tasks: TaskTracker,
    pub(super) cut: CancellationToken,
    pub(super) stop: CancellationToken,
}

/// A task's places in the lists of what ends it. The task has them, so that they go with it.
#[derive(Default)]
struct Places(Mutex<Vec<Pin<Box<WaitForCancellationFutureOwned>>>>);

/// Ends a task when it is woken.
struct End(AbortHandle);

// === impl EpochTasks ===

impl<F> Executor<F> for EpochTasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let places = Arc::<Places>::default();
        let kept = Arc::clone(&places);
        let handle = self.tasks.spawn(async move {
            // Its errors reach the requests that they concern.
            let _end = task.await;
            drop(kept);
        });
        places.end_on([&self.cut, &self.stop], handle.abort_handle());
    }
}

// === impl Places ===

impl Places {
    fn end_on(&self, tokens: [&CancellationToken; 2], task: AbortHandle) {
        let end = Waker::from(Arc::new(End(task)));
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for token in tokens {
            let mut place = Box::pin(token.clone().cancelled_owned());
            let polled = place.as_mut().poll(&mut Context::from_waker(&end));
            if polled.is_ready() {
                end.wake_by_ref();
            }
            places.push(place);
        }
    }
}

// === impl End ===

impl Wake for End {
    fn wake(self: Arc<Self>) {
        self.0.abort();
    }
}
