//! What a call can fail with, and what the making of a client can.
//!
//! Guarantees: an answer's status, `code` and `message` are kept, also when the body is not JSON
//! (some of the server's parts do not escape their messages), and whether they are the API's; each
//! text says what happened and what to do; neither a URL nor a key is in any of them.

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
    /// There was an answer, and it is an error.
    #[error("{op}: {} answered {status} {code}: {message}", author(*from_api))]
    Api {
        /// The operation's name.
        op: &'static str,
        /// The HTTP status, 300-599.
        status: u16,
        /// The body's `code`, or the status' reason phrase where the error is not the API's.
        code: String,
        /// The body's `message`, or the body's own text, at most 500 characters.
        message: String,
        /// Whether the API itself has answered; see [`Error::is_from_api`].
        from_api: bool,
        /// The pause that the answer asks for; see [`Error::retry_after`].
        retry_after: Option<Duration>,
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
    /// The answer is longer than one of its kind may be, and was not read to its end.
    #[error(
        "{op}: the answer is longer than {limit} bytes, the limit of the client; check that the \
         URL is that of a Hypeman server, or raise the limit"
    )]
    TooLong {
        /// The operation's name.
        op: &'static str,
        /// The limit in bytes: [`Config::max_answer_bytes`](crate::Config::max_answer_bytes), of a
        /// list [`Config::max_list_bytes`](crate::Config::max_list_bytes).
        limit: usize,
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

/// Who has answered, for a text.
const fn author(from_api: bool) -> &'static str {
    match from_api {
        true => "the Hypeman server",
        false => "something other than the Hypeman API",
    }
}

// === impl Error ===

impl Error {
    /// The error that the API's own answer with this status, `code` and `message` is. It is for
    /// programs that play a server, such as a [`ControlPlane`](crate::ControlPlane) in a test.
    pub fn api(
        op: &'static str,
        status: u16,
        code: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::Api {
            op,
            status,
            code: code.into(),
            message: message.into(),
            from_api: true,
            retry_after: None,
        }
    }

    /// The answer's status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api { status, .. } => Some(*status),
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Transport { .. }
            | Self::Decode { .. }
            | Self::TooLong { .. } => None,
        }
    }

    /// The answer's `code`, such as `invalid_state`; empty without an answer.
    pub fn code(&self) -> &str {
        match self {
            Self::Api { code, .. } => code,
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Transport { .. }
            | Self::Decode { .. }
            | Self::TooLong { .. } => "",
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
            Self::TooLong { .. } => Outcome::TooLong,
        }
    }

    /// Whether the error is the API's own: it came as JSON, with a `code` and a `message`. All else
    /// may be somebody else's, who knows nothing of instances: the page of a proxy, a redirect
    /// (which is never followed), an empty body.
    pub fn is_from_api(&self) -> bool {
        matches!(self, Self::Api { from_api: true, .. })
    }

    /// Whether the API says that the resource does not exist: 404 with the code `not_found`. No
    /// other 404 proves that; see [`Self::is_from_api`] and [`Self::is_missing_operation`].
    pub fn is_not_found(&self) -> bool {
        self.is_from_api() && self.status() == Some(404) && self.code() == "not_found"
    }

    /// Whether the server is too old for the operation: the API says so (404 with the code
    /// `Not Found`, or 405), or a router does with a 405 and no words. A proxy's page is no
    /// evidence.
    pub fn is_missing_operation(&self) -> bool {
        match self {
            Self::Api {
                status: 404,
                code,
                from_api: true,
                ..
            } => code == "Not Found",
            Self::Api {
                status: 405,
                message,
                from_api,
                ..
            } => *from_api || message.is_empty(),
            Self::Api { .. }
            | Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Transport { .. }
            | Self::Decode { .. }
            | Self::TooLong { .. } => false,
        }
    }

    /// The pause that the answer asks for before the next attempt (`Retry-After`), at most a
    /// minute. The client's own repetitions honour it.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Api { retry_after, .. } => *retry_after,
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Transport { .. }
            | Self::Decode { .. }
            | Self::TooLong { .. } => None,
        }
    }

    /// Whether the key is missing or wrong, or does not allow the operation.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self.status(), Some(401 | 403))
    }

    /// Whether there was an answer that cannot be read: it is not what the API says, or too long.
    pub fn is_unreadable(&self) -> bool {
        matches!(self, Self::Decode { .. } | Self::TooLong { .. })
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
            Self::Decode { .. } | Self::TooLong { .. } => false,
        }
    }
}
