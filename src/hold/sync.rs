//! The atomics of the admission counter, so that a test can put loom's in their place.

pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
