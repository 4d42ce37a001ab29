//! How advice is given.
//!
//! Guarantees: none without a rule, a key and what to do about it.

/// Takes a rule, a key, a risk and what to do about it.
pub(super) trait Say: FnMut(&'static str, &str, String, &'static str) {}

impl<F: FnMut(&'static str, &str, String, &'static str)> Say for F {}
