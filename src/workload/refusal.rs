//! Why the door refuses, and what it answers then.
//!
//! Guarantees: each refusal has a status, a stable word and a sentence that says what to do; an
//! instance is told nothing about another.

use axum::http::header::{CONNECTION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::holds::HoldError;
use super::host::AskError;
use crate::problem::Problem;
use crate::telemetry::DoorOutcome;

/// A refusal.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("No control plane says that an instance runs at this address.")]
    Stranger,
    #[error(
        "Another instance, or none, is at this address since this connection was made. Make a new one."
    )]
    Moved,
    #[error(
        "Several control planes have an instance at this address, so it cannot be told which this is."
    )]
    Ambiguous,
    #[error("A link-local address says nothing about who has it. Come from another one.")]
    OfALink,
    #[error("{0}. Try again.")]
    Ask(#[from] AskError),
    #[error("The control plane took too long to say whose address this is. Try again.")]
    AskedTooLong,
    #[error("There is nothing at this path; there are /holds, /holds/{{task}}, /idle and /self.")]
    Path,
    #[error("This path does not have this method.")]
    Method,
    #[error(
        "A task's name has 1 to 128 visible ASCII characters; others are written as %20 and so on."
    )]
    Task,
    #[error("The body must be JSON such as {{\"for\": \"10m\"}}: {0}.")]
    Body(String),
    #[error("The body is longer than 4 KiB.")]
    BodyTooLong,
    #[error("The body did not come in time.")]
    BodyLate,
    #[error("The body ended before its end.")]
    BodyBroken,
    #[error("The instance changes its holds too often. Try again in a second.")]
    TooOften,
    #[error("{0}.")]
    Hold(#[from] HoldError),
    #[error("This instance has no hold of this name.")]
    UnknownHold,
    #[error("Holds keep the instance awake: {0}. Take them back first.")]
    HoldsStand(String),
}

// === impl Refusal ===

impl Refusal {
    fn describe(&self) -> (StatusCode, &'static str, DoorOutcome) {
        match self {
            Self::Stranger | Self::Moved | Self::OfALink => (
                StatusCode::FORBIDDEN,
                "not_an_instance",
                DoorOutcome::Stranger,
            ),
            Self::Ambiguous => (
                StatusCode::FORBIDDEN,
                "ambiguous_address",
                DoorOutcome::Stranger,
            ),
            Self::Ask(_) | Self::AskedTooLong => (
                StatusCode::SERVICE_UNAVAILABLE,
                "control_plane_unavailable",
                DoorOutcome::Unavailable,
            ),
            Self::Path => (StatusCode::NOT_FOUND, "no_such_path", DoorOutcome::Invalid),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                DoorOutcome::Invalid,
            ),
            Self::Task => (StatusCode::BAD_REQUEST, "bad_task", DoorOutcome::Invalid),
            Self::Body(_) | Self::BodyBroken | Self::Hold(HoldError::TooLong(_)) => {
                (StatusCode::BAD_REQUEST, "bad_hold", DoorOutcome::Invalid)
            }
            Self::BodyLate => (
                StatusCode::REQUEST_TIMEOUT,
                "bad_hold",
                DoorOutcome::Invalid,
            ),
            Self::BodyTooLong => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                DoorOutcome::Invalid,
            ),
            Self::TooOften | Self::Hold(HoldError::TooMany(_) | HoldError::Full) => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_holds",
                DoorOutcome::Conflict,
            ),
            Self::Hold(HoldError::NotKept(_) | HoldError::Resting) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "hold_not_kept",
                DoorOutcome::Unavailable,
            ),
            Self::UnknownHold => (StatusCode::NOT_FOUND, "unknown_hold", DoorOutcome::Unknown),
            Self::HoldsStand(_) => (StatusCode::CONFLICT, "holds_stand", DoorOutcome::Conflict),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code, outcome) = self.describe();
        let mut response = Problem::new(status, code, self.to_string()).into_response();
        let fields = response.headers_mut();
        let is_later = matches!(
            self,
            Self::Ask(_)
                | Self::AskedTooLong
                | Self::TooOften
                | Self::Hold(HoldError::NotKept(_) | HoldError::Resting)
        );
        if is_later {
            fields.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        // What else such a connection has sent is not read.
        let is_over = matches!(self, Self::Stranger | Self::Moved)
            || matches!(self, Self::Ambiguous | Self::OfALink)
            || matches!(self, Self::BodyTooLong | Self::BodyLate | Self::BodyBroken);
        if is_over {
            fields.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(outcome);
        response
    }
}
