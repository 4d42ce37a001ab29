//! How many files this process, and the programs that it starts, may have open.
//!
//! Guarantees: the control plane takes as many as the system lets it have, since each of its
//! instances needs some; a program begins with as many as the control plane began with, since one
//! that uses select(2) breaks when it has more than 1024.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What this process was given, when it has raised that.
static GIVEN: OnceLock<u64> = OnceLock::new();

/// Raises the number of files that this process may have open to what the system allows.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    match set(limit.maximum) {
        Ok(()) => {
            if let Some(given) = limit.current {
                let _set_before = GIVEN.set(given);
            }
        }
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

/// How many files a program may have open to begin with; `None` when that is what we may.
pub(crate) fn given() -> Option<u64> {
    GIVEN.get().copied()
}

/// Changes the number of files that this process may have open; `None` is no limit.
pub(crate) fn set(current: Option<u64>) -> std::io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current, ..limit })?)
}
