//! What a call on this control plane can be refused for.
//!
//! Guarantees: a code is one of the contract's (A.11), and a message is one for the caller. Which
//! status of HTTP that is, the API knows.

/// The refusal of a call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The call asks for something that the contract does not allow.
    #[error("{message}")]
    Invalid {
        /// The contract's code.
        code: &'static str,
        /// A sentence for the caller.
        message: String,
    },
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The text in the path names several things.
    #[error("multiple resources match, use full ID")]
    Ambiguous,
    /// The thing is not in a state for this, or its name is taken.
    #[error("{message}")]
    Conflict {
        /// The contract's code.
        code: &'static str,
        /// A sentence for the caller.
        message: String,
    },
    /// The driver cannot do this.
    #[error("{0}")]
    NotSupported(String),
    /// There is no room on the disk for it.
    #[error("{0}")]
    NoRoom(String),
    /// The control plane could not do what it should.
    #[error("{0}")]
    Internal(String),
}

/// Whether an operation failed for want of room on the disk.
pub(crate) fn is_no_room(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

// === impl Error ===

impl Error {
    pub(crate) fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Invalid { code, message }
    }

    pub(crate) fn not_found() -> Self {
        Self::NotFound("resource not found".to_owned())
    }

    pub(crate) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Conflict { code, message }
    }

    pub(crate) fn not_supported(message: impl Into<String>) -> Self {
        Self::NotSupported(message.into())
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::Internal(message.into())
    }

    /// What the disk refused; the caller learns when that is for want of room.
    pub(crate) fn disk(operation: &str, error: &std::io::Error) -> Self {
        match is_no_room(error) {
            true => Self::NoRoom(format!("{operation}: no space left on the device")),
            false => Self::internal(operation),
        }
    }

    /// The contract's word for it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Invalid { code, .. } | Self::Conflict { code, .. } => code,
            Self::NotFound(_) => "not_found",
            Self::Ambiguous => "ambiguous",
            Self::NotSupported(_) => "not_supported",
            Self::NoRoom(_) => "insufficient_storage",
            Self::Internal(_) => "internal_error",
        }
    }
}
