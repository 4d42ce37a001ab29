//! The folding of the histograms' samples into their buckets.
//!
//! Guarantees: while requests come their samples are folded every quarter of a second, beside the
//! requests and not between two of them; a gateway that nobody asks is left alone, and the first
//! samples after that are folded within seconds.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::telemetry::Metrics;

/// Samples of a busy quarter of a second are folded in a millisecond or two. While there are none,
/// each pause is twice the one before.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(4));

/// Folds them, for ever.
pub(super) async fn fold(metrics: Arc<Metrics>) {
    let mut pauses = PAUSES.pauses();
    loop {
        sleep(pauses.advance(|| 0.0)).await;
        if !metrics.has_samples() {
            continue;
        }
        let metrics = Arc::clone(&metrics);
        if spawn_blocking(move || metrics.upkeep()).await.is_err() {
            return;
        }
        pauses = PAUSES.pauses();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::telemetry::WakeOutcome;

    /// How long a sample waits to be folded.
    async fn wait(metrics: &Metrics) -> Duration {
        let began = Instant::now();
        metrics.count_wake(WakeOutcome::Woken, Duration::from_millis(7));
        while metrics.has_samples() {
            sleep(Duration::from_millis(10)).await;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn samples_are_folded_soon_while_they_come_and_within_seconds_after_a_pause() {
        let metrics = Arc::new(Metrics::new());
        let tasks = TaskTracker::new();
        let folding = tasks.spawn(fold(Arc::clone(&metrics)));
        let soon = Duration::from_millis(300);
        assert!(wait(&metrics).await <= soon);
        assert!(wait(&metrics).await <= soon);
        for _ in 0..3 {
            sleep(Duration::from_secs(61)).await;
            assert!(wait(&metrics).await <= Duration::from_secs(5));
            assert!(wait(&metrics).await <= soon);
        }
        folding.abort();
    }
}
