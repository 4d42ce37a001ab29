//! An instance's response on its way to a client.
//!
//! Guarantees: its fields are what [`PassingFields`] says of them, whatever version of HTTP it has come in; those that
//! are still lines at its end go beside the map of what the gateway adds, and not into it.

use std::fmt;

use http::header::{HeaderMap, HeaderName};
use http::{Extensions, Response, StatusCode};
use http1::{FieldLines, PassingFields};

/// An instance's response, as far as its head says; most pass through with their fields as they came.
pub struct InstanceResponse<B> {
    status: StatusCode,
    /// In a box: a response is moved several times.
    fields: Box<PassingFields>,
    extensions: Extensions,
    body: B,
}

// === impl InstanceResponse ===

impl<B> InstanceResponse<B> {
    /// A response with this status and these fields.
    pub fn new(status: StatusCode, fields: PassingFields, body: B) -> Self {
        Self {
            status,
            fields: Box::new(fields),
            extensions: Extensions::default(),
            body,
        }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The status, to be changed.
    pub fn status_mut(&mut self) -> &mut StatusCode {
        &mut self.status
    }

    /// A map of its fields, which may have to be made.
    pub fn headers(&self) -> &HeaderMap {
        self.fields.headers()
    }

    /// A map of its fields, to be changed.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        self.fields.headers_mut()
    }

    /// The lines that its fields are, if they are still lines.
    pub fn lines(&self) -> Option<&FieldLines> {
        self.fields.lines()
    }

    /// The same, to have some left out.
    pub fn lines_mut(&mut self) -> Option<&mut FieldLines> {
        self.fields.lines_mut()
    }

    /// Takes a field away.
    pub fn remove(&mut self, name: &HeaderName) {
        self.fields.remove(name);
    }

    /// What else belongs to it, to be changed.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    /// The body, to be changed.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// The body alone.
    pub fn into_body(self) -> B {
        self.body
    }

    /// The same with another body.
    pub fn map<C>(self, change: impl FnOnce(B) -> C) -> InstanceResponse<C> {
        InstanceResponse {
            status: self.status,
            fields: self.fields,
            extensions: self.extensions,
            body: change(self.body),
        }
    }

    /// The response for the client: `change` gets the body and its fields, if they are still lines, which
    /// are not among those of the head then.
    pub fn pass<C>(self, change: impl FnOnce(B, Option<Box<PassingFields>>) -> C) -> Response<C> {
        let (lines, headers) = match self.fields.lines() {
            Some(_) => (Some(self.fields), None),
            None => (None, self.fields.into_either().err()),
        };
        let mut response = Response::new(change(self.body, lines));
        *response.status_mut() = self.status;
        if let Some(headers) = headers {
            *response.headers_mut() = headers;
        }
        *response.extensions_mut() = self.extensions;
        response
    }
}

impl<B> From<Response<B>> for InstanceResponse<B> {
    fn from(response: Response<B>) -> Self {
        let (head, body) = response.into_parts();
        Self {
            extensions: head.extensions,
            ..Self::new(head.status, head.headers.into(), body)
        }
    }
}

impl<B> fmt::Debug for InstanceResponse<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Fields may be secrets.
        write!(f, "InstanceResponse({})", self.status)
    }
}
