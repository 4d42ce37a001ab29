//! The atomics of the admission counter and the lock of the gate, so that a test can put loom's in
//! their place.

pub(super) use std::sync::atomic::{AtomicUsize, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard};
