//! Why the agent of a VM cannot do its work.

/// The agent cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// It would mount and reboot.
    #[error("this is the first process of a VM, not for use on a host")]
    NotFirst,
    /// Something of the VM is missing.
    #[error("{what}: {why}")]
    Missing {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
}

pub(super) fn missing(what: &str, why: &dyn std::fmt::Display) -> GuestError {
    GuestError::Missing {
        what: what.to_owned(),
        why: why.to_string(),
    }
}
