//! What a call to a control plane can fail with.
//!
//! Guarantees: an answer's status, `code` and `message` are kept, also when the body is not JSON
//! (the server's validator does not escape its messages); neither a URL nor a token is in any text.

use std::time::Duration;

/// A call failed. `op` is the operation's name in the metrics.
#[derive(Debug, thiserror::Error)]
pub enum ControlPlaneError {
    /// The server answered with an error.
    #[error("{op}: the control plane answered {status} {code}: {message}")]
    Api {
        /// Which operation.
        op: &'static str,
        /// HTTP status, 300-599.
        status: u16,
        /// The body's `code`, or the status' reason phrase when there was none.
        code: String,
        /// The body's `message`, or the body's own text, at most 500 characters.
        message: String,
    },
    /// No connection: nothing was sent.
    #[error("{op}: cannot reach the control plane; is it running, and is `hypeman.url` right?")]
    Connect {
        /// Which operation.
        op: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time. The operation may still be going on.
    #[error("{op}: no answer from the control plane within {after:?}")]
    Timeout {
        /// Which operation.
        op: &'static str,
        /// The limit that passed.
        after: Duration,
    },
    /// The connection broke. The operation may have happened.
    #[error("{op}: the connection to the control plane broke")]
    Transport {
        /// Which operation.
        op: &'static str,
        /// How.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not what the contract says.
    #[error("{op}: the control plane's answer cannot be understood: {reason}")]
    Decode {
        /// Which operation.
        op: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

// === impl ControlPlaneError ===

impl ControlPlaneError {
    /// The answer's status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api { status, .. } => Some(*status),
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Transport { .. }
            | Self::Decode { .. } => None,
        }
    }

    /// The answer's `code`, or "" without one.
    pub fn code(&self) -> &str {
        match self {
            Self::Api { code, .. } => code,
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Transport { .. }
            | Self::Decode { .. } => "",
        }
    }

    /// The metric label: the status, or one word.
    pub fn label(&self) -> String {
        match self {
            Self::Api { status, .. } => status.to_string(),
            Self::Connect { .. } => "connect".to_owned(),
            Self::Timeout { .. } => "timeout".to_owned(),
            Self::Transport { .. } => "transport".to_owned(),
            Self::Decode { .. } => "decode".to_owned(),
        }
    }

    /// The resource is not there (as opposed to the operation, see [`Self::is_missing_operation`]).
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404) && !self.is_missing_operation()
    }

    /// An older server does not have this operation: 405, or 404 in the router's dialect, whose
    /// code is a reason phrase (contract A.2).
    pub fn is_missing_operation(&self) -> bool {
        self.status() == Some(405) || (self.status() == Some(404) && self.code() == "Not Found")
    }

    /// The token is missing, wrong, or may not do this.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self.status(), Some(401 | 403))
    }

    /// The server could not be reached, or broke off: it may be another process from now on.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Transport { .. })
    }

    /// Whether the same call may succeed a moment later. Never true for a 409, which is
    /// information about the state and not a failure.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Api { status, .. } => matches!(status, 408 | 429 | 500..=599),
            Self::Connect { .. } | Self::Timeout { .. } | Self::Transport { .. } => true,
            Self::Decode { .. } => false,
        }
    }
}
