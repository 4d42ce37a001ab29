//! What a call can fail with, and what the making of a client can.
//!
//! Guarantees: an answer's status, `code` and `message` are kept, also when the body is not JSON
//! (some of the server's parts do not escape their messages); each text says what happened and what
//! to do; neither a URL nor a key is in any of them.

use std::path::PathBuf;
use std::time::Duration;

use super::observer::Outcome;

/// A call failed.
///
/// Match on [`Error::status`] and [`Error::code`], never on a message: the server's texts are for
/// people and change. `op` in each variant is the operation's name, such as `restore`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server answered with an error.
    #[error("{op}: the Hypeman server answered {status} {code}: {message}")]
    Api {
        /// The operation's name.
        op: &'static str,
        /// The HTTP status, 300-599.
        status: u16,
        /// The body's `code`, or the status' reason phrase when there was none.
        code: String,
        /// The body's `message`, or the body's own text, at most 500 characters.
        message: String,
    },
    /// There is no connection, and nothing was sent.
    #[error("{op}: cannot reach the Hypeman server; check that it runs and that the URL is right")]
    Connect {
        /// The operation's name.
        op: &'static str,
        /// The reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There was no answer in time. The operation may still be going on.
    #[error(
        "{op}: no answer from the Hypeman server within {after:?}; the operation may still be \
         going on: look at the state before asking again"
    )]
    Timeout {
        /// The operation's name.
        op: &'static str,
        /// The time limit that has passed.
        after: Duration,
    },
    /// The connection broke. The operation may have happened.
    #[error(
        "{op}: the connection to the Hypeman server broke; the operation may have happened: look \
         at the state before asking again"
    )]
    Transport {
        /// The operation's name.
        op: &'static str,
        /// The reason.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not what the API says.
    #[error(
        "{op}: the answer is not what the Hypeman API says ({reason}); check that the URL is that \
         of a Hypeman server"
    )]
    Decode {
        /// The operation's name.
        op: &'static str,
        /// The fault in the answer.
        reason: String,
    },
}

/// A client cannot be made from its configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The base URL does not parse.
    #[error("the base URL is not a URL: {0}; write it like `http://localhost:4973`")]
    Url(#[from] url::ParseError),
    /// The base URL has parts that it cannot have.
    #[error(
        "the base URL begins with http:// or https:// and has no user, password, query or \
         fragment; the API key is a setting of its own"
    )]
    UrlParts,
    /// The key file cannot be read.
    #[error("cannot read the API key from {}: {source}", path.display())]
    KeyFile {
        /// The key file's path.
        path: PathBuf,
        /// The reason that the system gives.
        source: std::io::Error,
    },
    /// The key is empty or has characters that no header can carry. Its text is not shown.
    #[error("the API key is empty or has characters that no HTTP header can carry")]
    Key,
    /// TLS or the resolver cannot be set up.
    #[error("cannot set up an HTTP client: {0}")]
    Http(#[from] reqwest::Error),
}

// === impl Error ===

impl Error {
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

    /// The answer's `code`, such as `invalid_state`; empty without an answer.
    pub fn code(&self) -> &str {
        match self {
            Self::Api { code, .. } => code,
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Transport { .. }
            | Self::Decode { .. } => "",
        }
    }

    /// The failure as observers hear of it.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Api { status, .. } => Outcome::Refused { status: *status },
            Self::Connect { .. } => Outcome::Connect,
            Self::Timeout { .. } => Outcome::Timeout,
            Self::Transport { .. } => Outcome::Transport,
            Self::Decode { .. } => Outcome::Decode,
        }
    }

    /// Whether the resource does not exist, as opposed to the operation
    /// (see [`Self::is_missing_operation`]).
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404) && !self.is_missing_operation()
    }

    /// Whether the server is too old for the operation: it answers 405, or 404 with a reason
    /// phrase as its code.
    pub fn is_missing_operation(&self) -> bool {
        self.status() == Some(405) || (self.status() == Some(404) && self.code() == "Not Found")
    }

    /// Whether the key is missing or wrong, or does not allow the operation.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self.status(), Some(401 | 403))
    }

    /// Whether the server could not be reached or broke off. It may be another process afterwards.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Transport { .. })
    }

    /// Whether the same call may succeed a moment later. That is never so for a 409, which tells
    /// of the instance's state.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Api { status, .. } => matches!(status, 408 | 429 | 500..=599),
            Self::Connect { .. } | Self::Timeout { .. } | Self::Transport { .. } => true,
            Self::Decode { .. } => false,
        }
    }
}
