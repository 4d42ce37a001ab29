//! Panics: faults of the gateway itself, each of which ends one task.
//!
//! Guarantees: each is counted, and logged with its place in the source; its text is not logged,
//! since it may have a part of a request in it.

use std::panic;
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Panics of this process since [`watch`] was called.
pub(super) fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Counts and logs panics from here on; to be called once, when diagnostics are written.
pub(super) fn watch() {
    panic::set_hook(Box::new(|panic| {
        COUNT.fetch_add(1, Ordering::Relaxed);
        let place = panic.location().map(ToString::to_string);
        tracing::error!(
            place = place.as_deref().unwrap_or("unknown"),
            "a fault in wakegate has ended a task; please report it"
        );
    }));
}
