//! Why the agent of a VM cannot do its work.
//!
//! Guarantees: a message names what is missing, and why.

/// The agent cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The agent was started on a host, which it would reboot.
    #[error("this is the first process of a VM, not for use on a host")]
    NotFirst,
    /// Something of the VM is missing.
    #[error("{what}: {why}")]
    Missing {
        /// The part that is missing.
        what: String,
        /// The reason why it is missing.
        why: String,
    },
}

pub(super) fn missing(what: &str, why: &dyn std::fmt::Display) -> GuestError {
    GuestError::Missing {
        what: what.to_owned(),
        why: why.to_string(),
    }
}
