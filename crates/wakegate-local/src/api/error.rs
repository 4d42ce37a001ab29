//! Errors as the API answers them.
//!
//! Guarantees: the contract's two dialects (A.2): handlers use a `snake_case` code, the validator
//! and the router the status' reason phrase; the body is always valid JSON.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::Error;

/// An error as the API answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    status: StatusCode,
    code: String,
    message: String,
}

// === impl ApiError ===

impl ApiError {
    fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
        }
    }

    /// An error in the dialect of the validator and the router.
    fn validator(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(
            status,
            status.canonical_reason().unwrap_or_default(),
            message,
        )
    }

    pub(super) fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Error::invalid(code, message).into()
    }

    /// The error of a request that does not fit the schema.
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::validator(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn unauthorized(why: &str) -> Self {
        let message = format!("security requirements failed: {why}");
        Self::validator(StatusCode::UNAUTHORIZED, message)
    }

    pub(super) fn no_operation() -> Self {
        Self::validator(StatusCode::NOT_FOUND, "no matching operation was found")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::validator(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
    }

    pub(super) fn not_found(message: &str) -> Self {
        Error::NotFound(message.to_owned()).into()
    }

    pub(super) fn log_not_found() -> Self {
        let message = "requested log file does not exist yet";
        Self::new(StatusCode::NOT_FOUND, "log_not_found", message)
    }

    pub(super) fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Error::conflict(code, message).into()
    }

    pub(super) fn internal(message: &str) -> Self {
        Error::internal(message).into()
    }

    pub(super) fn not_implemented(message: &str) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "not_implemented",
            message,
        )
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Invalid { .. } => StatusCode::BAD_REQUEST,
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::Ambiguous | Error::Conflict { .. } => StatusCode::CONFLICT,
            Error::NotSupported(_) => StatusCode::NOT_IMPLEMENTED,
            Error::NoRoom(_) => StatusCode::INSUFFICIENT_STORAGE,
            Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.code(), error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (
            self.status,
            Json(json!({ "code": self.code, "message": self.message })),
        )
            .into_response()
    }
}
