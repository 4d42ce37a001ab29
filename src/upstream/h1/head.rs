//! A response's head as the rest of the gateway has it.
//!
//! Guarantees: the fields are those that came, in their order, with no copy of each of them.

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http1::{Copied, FieldLines, HeadError, Reason, ResponseFraming, ResponseHead};

use crate::upstream::response::InstanceResponse;

/// Fields that the gateway adds to a response.
const ADDED: usize = 4;

/// A response, as far as its head says.
#[derive(Debug)]
pub(in crate::upstream) struct Head {
    pub(in crate::upstream) response: InstanceResponse<()>,
    pub(in crate::upstream) framing: ResponseFraming,
    /// It came before the request's end had been sent. A server that does so may not read that end,
    /// and close the connection behind its response, also where it says that it stays open.
    pub(in crate::upstream) is_early: bool,
}

// === impl Head ===

impl Head {
    /// Of what was read. A name or value that `http` does not take is an error.
    pub(super) fn of(parsed: ResponseHead<'_, '_>) -> Result<Self, HeadError> {
        let fields = match FieldLines::of(parsed.bytes, parsed.fields) {
            Some(lines) => lines.into(),
            None => map(&parsed)?.into(),
        };
        let mut response = InstanceResponse::new(parsed.status, fields, ());
        if Some(parsed.reason) != parsed.status.canonical_reason() {
            let reason = Reason::new(parsed.reason);
            response.extensions_mut().insert(reason);
        }
        Ok(Self {
            response,
            framing: parsed.framing,
            is_early: false,
        })
    }

    /// Whether the connection leaves HTTP with it.
    pub(in crate::upstream) fn is_switch(&self) -> bool {
        self.response.status() == StatusCode::SWITCHING_PROTOCOLS
    }
}

fn map(parsed: &ResponseHead<'_, '_>) -> Result<HeaderMap, HeadError> {
    let copied = Copied::of(parsed.bytes);
    let count = parsed.fields.len();
    let too_many = |_| HeadError::TooManyFields(count);
    let mut headers = HeaderMap::try_with_capacity(count + ADDED).map_err(too_many)?;
    for field in parsed.fields.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(copied.part(field.value));
        match (name, value) {
            (Ok(name), Ok(value)) => headers.try_append(name, value).map_err(too_many)?,
            _ => return Err(HeadError::Value),
        };
    }
    Ok(headers)
}
