//! Errors as the API answers them.
//!
//! Guarantees: the contract's two dialects (A.2): handlers use a `snake_case` code, the validator
//! and the router the status' reason phrase; the body is always valid JSON, whoever has found the
//! error.

use axum::Json;
use axum::body::to_bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::error::Error;

/// The longest text of the framework's that becomes a message.
const LONGEST_TEXT: usize = 4096;

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

    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
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

    /// The error of a caller who may not do this, whatever it shows.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::validator(StatusCode::FORBIDDEN, message)
    }

    pub(super) fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::validator(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
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

    pub(super) fn platform_not_available(platform: &str) -> Self {
        let message = format!("the image is not available for platform {platform}");
        Self::new(StatusCode::NOT_FOUND, "platform_not_available", message)
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
        let body = Json(json!({ "code": self.code, "message": self.message }));
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110 §11.6.1 wants it in every 401.
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// Gives an error that the framework has found (a body that is too long, a path that is no text)
/// the API's form.
pub(super) async fn speak_the_dialect(response: Response) -> Response {
    let status = response.status();
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let text = to_bytes(body, LONGEST_TEXT).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let message = match text.trim() {
        "" => status.canonical_reason().unwrap_or_default(),
        text => text,
    };
    let mut response = ApiError::validator(status, message).into_response();
    // What else was said goes on, such as `Allow`.
    head.headers.remove(header::CONTENT_TYPE);
    head.headers.remove(header::CONTENT_LENGTH);
    response.headers_mut().extend(head.headers);
    response
}
