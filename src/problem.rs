//! Problem JSON (RFC 9457), as the gateway's own listeners answer it.
//!
//! Guarantees: it has one stable word for programs and one sentence for people.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
#[cfg(test)]
use utoipa::ToSchema;

/// Why an action was not done: problem JSON (RFC 9457).
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct Problem {
    /// What the status is called.
    pub title: String,
    /// The status.
    pub status: u16,
    /// One stable word.
    pub code: String,
    /// One sentence.
    pub detail: String,
    /// After how long it may go better, as the field `Retry-After` says it.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

// === impl Problem ===

impl Problem {
    /// With this status and code.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            code: code.to_owned(),
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// The same, which may go better after so long.
    #[must_use]
    pub fn retry_after(self, pause: Option<Duration>) -> Self {
        Self {
            retry_after: pause,
            ..self
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        // Strings and a number always serialise.
        let body = serde_json::to_string(&self).unwrap_or_default() + "\n";
        let mut response = (status, kind, body).into_response();
        if let Some(pause) = self.retry_after {
            let seconds = pause.as_secs().max(1);
            let fields = response.headers_mut();
            fields.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
