//! Errors as the API answers them.
//!
//! Guarantees: the contract's two dialects (A.2): handlers use a `snake_case` code, the validator and
//! the router the status' reason phrase; the body is always valid JSON.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
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

    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// In the dialect of the validator and the router.
    fn validator(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(
            status,
            status.canonical_reason().unwrap_or_default(),
            message,
        )
    }

    pub(crate) fn bad_request(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// The request does not fit the schema.
    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::validator(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn unauthorized(why: &str) -> Self {
        let message = format!("security requirements failed: {why}");
        Self::validator(StatusCode::UNAUTHORIZED, message)
    }

    pub(crate) fn no_operation() -> Self {
        Self::validator(StatusCode::NOT_FOUND, "no matching operation was found")
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::validator(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
    }

    pub(crate) fn not_found(message: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn log_not_found() -> Self {
        let message = "requested log file does not exist yet";
        Self::new(StatusCode::NOT_FOUND, "log_not_found", message)
    }

    pub(crate) fn ambiguous() -> Self {
        Self::conflict("ambiguous", "multiple resources match, use full ID")
    }

    pub(crate) fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    pub(crate) fn internal(message: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    pub(crate) fn not_implemented(message: &str) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "not_implemented",
            message,
        )
    }

    pub(crate) fn not_supported(message: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "not_supported", message)
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
