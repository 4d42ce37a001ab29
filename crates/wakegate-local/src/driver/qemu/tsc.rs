//! The rate of this machine's processor counter, which emulated VMs count with, too.
//!
//! Guarantees: where there is no such counter, or it is not steady, nothing is said about it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The time of a measurement: its error is a few millionths, which is what clocks have.
const LONG: Duration = Duration::from_millis(50);
/// Without a steady counter, the clock that `quanta` falls back to counts nanoseconds.
const NANOSECONDS_KHZ: u64 = 1_000_000;

/// The counter's rate in thousands a second.
pub(super) async fn measure() -> Option<u64> {
    let clock = quanta::Clock::new();
    let (began, first) = (Instant::now(), clock.raw());
    sleep(LONG).await;
    let (took, last) = (began.elapsed(), clock.raw());
    let counted = u128::from(last.checked_sub(first)?) * 1_000_000;
    let khz = u64::try_from(counted.checked_div(took.as_nanos())?).ok()?;
    let is_a_clock = khz.abs_diff(NANOSECONDS_KHZ) < NANOSECONDS_KHZ / 1000;
    (!is_a_clock).then_some(khz)
}
