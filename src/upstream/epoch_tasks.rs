//! The tasks of hyper's connections.
//!
//! Guarantees: each task of a connection, those that hyper starts for an HTTP/2 connection and its
//! streams included, is on the gateway's tracker and is dropped when the epoch is cut or the
//! gateway ends. Dropping it closes the connection, and ends every exchange on it with an error.

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Runs the tasks of one epoch's connections.
#[derive(Debug, Clone)]
pub(super) struct EpochTasks {
    pub(super) tasks: TaskTracker,
    pub(super) cut: CancellationToken,
    pub(super) stop: CancellationToken,
}

impl<F> Executor<F> for EpochTasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let (cut, stop) = (self.cut.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                // Its errors reach the requests that they concern.
                _end = task => {}
                () = cut.cancelled() => {}
                () = stop.cancelled() => {}
            }
        });
    }
}
