//! The server that a person talks to, and the way its errors are told.
//!
//! Guarantees: nothing of a server's words reaches a terminal unescaped.

use hypeman::Error as ControlPlaneError;

use crate::cli::output::{Failure, Output};
use crate::telemetry::visible;

/// One run of a command.
pub(in crate::cli) struct Session {
    pub(in crate::cli) client: hypeman::Client,
    pub(in crate::cli) json: bool,
    pub(in crate::cli) output: Output,
}

/// The server's words, with help where a person can put it right.
#[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
pub(in crate::cli) fn failed(error: ControlPlaneError) -> Failure {
    let help = match error.status() {
        Some(401) => "; is HYPEMAN_API_KEY right?",
        _ if error.is_unreachable() => "; give another with `--url`",
        _ => "",
    };
    // A part of it are the server's own words.
    let error = visible(&error.to_string());
    Failure::failed(format_args!("{error}{help}"))
}

/// As the verbs return it.
impl From<ControlPlaneError> for Failure {
    fn from(error: ControlPlaneError) -> Self {
        failed(error)
    }
}
